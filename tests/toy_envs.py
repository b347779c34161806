"""Tiny environments for the tests, registered by importing this module: --env=tests.toy_envs:ToyCounter-v0.

Imports no TensorFlow, so that vector workers can load it.
"""

import itertools
import os
import signal
import threading
import time

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.spaces import Box, Dict, Discrete, Tuple

LOW = np.array([-1, 0, 2], np.float32)  # bounds that differ in every way bounds can
HIGH = np.array([3, 10, 2.5], np.float32)


def unbounded(size: int, dtype=np.float64) -> Box:
    return Box(-np.inf, np.inf, (size,), dtype)


class Toy(gym.Env):
    """Two observations, three asymmetric actions, never ends; the others change some of it."""

    action_space = Box(LOW, HIGH)
    observation_space = unbounded(2)
    render_mode = None

    def __init__(self, render_mode=None):
        assert render_mode is None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.start = 0, int(self.np_random.integers(2**20))
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), 1.0, False, False, {}

    def observe(self):
        return np.array([self.t, self.start + self.t], np.float64)


class Counter(Toy):
    """Counts its steps; an episode is 1 to 7 steps, and terminates or is truncated. Rewards are 1, 2, 3, ..."""

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.length, self.terminates = int(self.np_random.integers(1, 8)), bool(self.np_random.integers(2))
        return found

    def step(self, action):
        self.t += 1
        over = self.t == self.length
        return self.observe(), float(self.t), over and self.terminates, over and not self.terminates, {}


class CannotRender(Toy):
    """Takes no render_mode, as many people's own environments do not."""

    def __init__(self):
        super().__init__()


class Echo(Toy):
    """Observes the action it has executed; reset to zeros."""

    observation_space = unbounded(3, np.float32)
    executed = np.zeros(3, np.float32)

    def reset(self, *, seed=None, options=None):
        self.executed = np.zeros(3, np.float32)
        return super().reset(seed=seed)

    def step(self, action):
        self.executed = np.array(action)
        return super().step(action)

    def observe(self):
        return self.executed.copy()


class Steered(Counter):
    """What it observes depends on the seed and on every action of the episode."""

    def reset(self, *, seed=None, options=None):
        self.position = 0.0
        return super().reset(seed=seed)

    def step(self, action):
        self.position = np.sin(self.position + float(np.sum(action)))
        return super().step(action)

    def observe(self):
        return np.array([self.position, self.start + self.t])


class SameBuffer(Toy):
    """Returns one and the same array every time, changed in place."""

    observation_space = unbounded(2, np.float32)
    buffer = None

    def observe(self):
        if self.buffer is None:
            self.buffer = np.zeros(2, np.float32)
        self.buffer[:] = super().observe()
        return self.buffer


class ScalesInPlace(Toy):
    """Writes into the action it is given, as careless environments do."""

    def step(self, action):
        action *= 0.5
        return super().step(action)


class Forgetful(Counter):
    """Does not repeat itself where the seed says so: half of the episodes start elsewhere each time."""

    visits = itertools.count(2**21)

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.length = 50
        if self.np_random.integers(2):
            self.start = next(self.visits)
            return self.observe(), {}
        return found


class Interrupted(Counter):
    """Ctrl-C, or another signal, at step `at` of the process, while the environment steps."""

    def __init__(self, at: int = 10, number: int = signal.SIGINT, render_mode=None):
        super().__init__(render_mode)
        self.left, self.number = at, number

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return super().step(action)


class Nested(Toy):
    """Dict in Tuple in Dict, out of alphabetical order, with every kind of leaf that flattens to numbers."""

    observation_space = Dict(
        {
            "velocity": unbounded(2),
            "joint angle": unbounded(1, np.float32),
            "arm": Tuple([Dict({"z": Box(-1, 1, (2, 2)), "a": Box(0, 9, (), np.int64)}), unbounded(3)]),
        }
    )

    def observe(self):
        self.observation_space.seed(self.start + self.t)
        return self.observation_space.sample()


class Goal(Toy):
    """A point that each action moves by a tenth of itself, to be brought near a goal; what is `odd` is told apart."""

    def __init__(self, odd: str = "", render_mode=None):
        super().__init__(render_mode)
        self.odd, self.asked = odd, 0
        self.action_space = Box(-1, 1, (2,))
        goal = unbounded(2)
        self.observation_space = Dict({"observation": unbounded(1), "achieved_goal": goal, "desired_goal": goal})
        if odd == "images":
            image = Box(0, 255, (8, 8, 3), np.uint8)
            self.observation_space = Dict({"observation": goal, "achieved_goal": image, "desired_goal": image})
        if odd == "two shapes":
            self.observation_space = Dict(self.observation_space.spaces | {"desired_goal": unbounded(3)})

    def reset(self, *, seed=None, options=None):
        self.position = self.wanted = np.zeros(2)
        super().reset(seed=seed)
        self.wanted = self.np_random.uniform(-0.3, 0.3, 2)
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        self.position = self.position + 0.1 * np.asarray(action, np.float64)
        reward = float(self.compute_reward(self.position, self.wanted, {})) - 5 * (
            self.odd == "crashes" and self.t == 10
        )
        over = bool(self.compute_terminated(self.position, self.wanted, {}))
        info = {} if self.odd == "silent" else {"is_success": reward == 0}
        return self.observe(), reward, over, self.t == 10 and not over, info

    def observe(self):
        return {
            "observation": np.array([self.t], np.float64),
            "achieved_goal": self.position.copy(),
            "desired_goal": self.wanted.copy(),
        }

    def distance(self, achieved, desired):
        return np.linalg.norm(np.asarray(achieved) - desired, axis=None if self.odd == "two at a time" else -1)

    def compute_reward(self, achieved, desired, info):
        if self.odd == "raises":
            return info["distance"]
        self.asked += np.ndim(achieved) == 2 and len(achieved) > 1
        if self.odd == "tires" and self.asked > 3:
            raise RuntimeError("tired")
        far = self.distance(achieved, desired) > 0.1
        if self.odd == "not a number":
            return np.where(far, np.nan, 0)
        return np.zeros(2) if self.odd == "two rewards" else -np.float32(far)

    def compute_terminated(self, achieved, desired, info):
        return self.distance(achieved, desired) < 0.02


class SlashAndUnderscore(Toy):
    observation_space = Dict({"a/b": unbounded(1), "a_b": unbounded(1)})


class KeyAcrossLevels(Toy):
    observation_space = Dict({"a": Dict({"b": unbounded(1)}), "a_b": unbounded(1)})


class KeyAction(Toy):
    observation_space = Dict({"action": unbounded(1)})


class DiscreteAction(Toy):
    action_space = Discrete(3)


class IntegerAction(Toy):
    action_space = Box(0, 5, (2,), np.int64)


class UnboundedAction(Toy):
    action_space = Box(np.array([-1, -np.inf]), np.array([1, 1]), dtype=np.float64)


class MatrixAction(Toy):
    action_space = Box(-1, 1, (2, 2))


class DeepImage(Toy):
    observation_space = Box(0, 255, (8, 8, 9), np.uint8)


class Picture(Counter):
    """Counter's episodes as pictures: a square as bright as the step, a red one below it, the start behind them."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, length=None, native=16):
        self.render_mode, self.fixed, self.native = render_mode, length, native

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.length = self.fixed or self.length
        return found

    def render(self):
        picture = np.full((self.native, self.native, 3), self.start % 200, np.uint8)
        picture[:4, :4] = 8 * self.t
        picture[4:8, :4] = [250, 0, 0]
        return picture


class TornPicture(Picture):
    """Every episode fails at its second step."""

    def step(self, action):
        if self.t == 1:
            raise FloatingPointError("unstable")
        return super().step(action)


class PictureObservation(Picture):
    observation_space = Box(0, 255, (16, 16, 3), np.uint8)

    def observe(self):
        return self.render()


class OddPicture(Toy):
    """Renders what `picture` names."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, picture="nothing"):
        self.render_mode, self.picture = render_mode, picture

    def render(self):
        return {
            "nothing": None,
            "list": [np.zeros((16, 16, 3), np.uint8)],
            "float64": np.zeros((16, 16, 3)),
            "channels first": np.zeros((3, 16, 16), np.uint8),
            "grey": np.zeros((16, 20), np.uint8),
            "blue": np.full((16, 16, 3), np.uint8([0, 0, 255])),
            "dotted": np.arange(256, dtype=np.uint8).reshape(16, 16),
            "transparent": np.zeros((16, 16, 4), np.uint8),
            "error": {},
        }[self.picture or 1 / 0]


def cropped_car_racing(**arguments):
    """CarRacing without its score; what is not a Gymnasium wrapper of its own must still see every picture."""
    from gymnasium.envs.box2d.car_racing import CarRacing

    return gym.wrappers.TransformObservation(
        CarRacing(**arguments), lambda picture: picture[:84], Box(0, 255, (84, 96, 3), np.uint8)
    )


class Dies(Toy):
    """Its process is killed in the third step, as for want of memory."""

    def step(self, action):
        if self.t == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class SamePicture(PictureObservation):
    """Gives the same array every time, and draws over it."""

    def render(self):
        self.canvas = getattr(self, "canvas", np.zeros((self.native, self.native, 3), np.uint8))
        self.canvas[:] = super().render()
        return self.canvas


class Look(Toy):
    """Pays minus the distance between the action and where the picture's bar stands; ten steps."""

    metadata = {"render_modes": ["rgb_array"]}
    action_space = Box(-1, 1, (1,))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.wanted = self.np_random.uniform(-1, 1)
        return found

    def step(self, action):
        self.t += 1
        reward = -abs(self.wanted - float(action[0]))
        self.wanted = self.np_random.uniform(-1, 1)
        return self.observe(), reward, False, self.t == 10, {}

    def render(self):
        picture = np.zeros((16, 16, 3), np.uint8)
        left = int(6 * (1 + self.wanted))  # 0 to 12
        picture[:, left : left + 4] = 255
        return picture


class DictWithImage(Toy):
    observation_space = Dict({"camera": Box(0, 255, (8, 8, 3), np.uint8), "speed": unbounded(1)})


class DiscreteObservation(Toy):
    observation_space = Discrete(5)


class DictWithDiscrete(Toy):
    observation_space = Dict({"gear": Discrete(5), "speed": unbounded(1)})


class Float64Bounds(Toy):
    """Bounds that float32 does not have."""

    action_space = Box(np.array([-0.1, 1 / 3, -1e300]), np.array([0.1, 2 / 3, 1e300]), dtype=np.float64)


class OfItsProcess(Toy):
    """Each process has bounds of its own."""

    def __init__(self):
        self.observation_space = Box(-1, os.getpid(), (2,))


class Picky(Toy):
    """Rejects its arguments with whatever `error` names: environments raise all kinds of things."""

    def __init__(self, error: str, render_mode=None):
        raise {"ValueError": ValueError, "AssertionError": AssertionError, "OSError": OSError}[error]("size too small")


DTYPES = {"double actions": np.float64, "half actions": np.float16}


class Odd(Toy):
    """Does one thing otherwise than Gymnasium's API says."""

    def __init__(self, kind, render_mode=None):
        super().__init__(render_mode)
        self.kind = kind
        if kind in DTYPES:
            dtype = DTYPES[kind]
            self.action_space = Box(LOW.astype(dtype), HIGH.astype(dtype), dtype=dtype)

    def reset(self, *, seed=None, options=None):
        if self.kind == "no simulator":
            raise OSError("no simulator")
        found = super().reset(seed=seed)
        return found[0] if self.kind == "old reset" else found

    def step(self, action):
        if self.kind == "raises" and self.t == 2:
            raise ArithmeticError("unstable")
        if self.kind in DTYPES:  # a float64 Box contains a float32 too
            assert self.action_space.contains(action) and action.dtype == self.action_space.dtype, action
        observation, reward, terminated, truncated, info = super().step(action)
        if self.kind == "old step":
            return observation, reward, terminated, info
        if self.t == 3:
            observation = {
                "column": observation[:, None],
                "longer": np.append(observation, 0.0),
                "nan": np.array([observation[0], np.nan]),
            }.get(self.kind, observation)
            reward = {"nan reward": np.nan, "huge reward": 1e25, "two rewards": np.ones(2)}.get(self.kind, reward)
        if self.kind == "arrays of one":
            return observation, np.array([reward]), np.array([terminated]), np.array([truncated]), info
        return observation, reward, terminated, truncated, info


class Alone(Counter):
    """Only one may exist at a time, as of a simulator that binds a port."""

    taken = False

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        if Alone.taken:
            raise OSError("Address already in use")
        Alone.taken = True

    def close(self):
        Alone.taken = False


class BoundToItsThread(Counter):
    """Works only in the thread that made it."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.thread = threading.get_ident()

    def step(self, action):
        if threading.get_ident() != self.thread:
            raise RuntimeError("wrong thread")
        return super().step(action)


class Weary(Counter):
    """Unstable from a step of its life on: every later episode fails at its second step."""

    def __init__(self, after: int, render_mode=None):
        super().__init__(render_mode)
        self.left = after

    def step(self, action):
        self.left -= 1
        if self.left < 0 and self.t == 1:
            raise FloatingPointError("unstable")
        return super().step(action)


class Chatty(Counter):
    """Tells in its infos what has another shape, or another kind, than what it told before, or cannot be pickled."""

    def reset(self, **arguments):
        return super().reset(**arguments)[0], {"lock": threading.Lock()}

    def step(self, action):
        *found, _ = super().step(action)
        more = {"t": self.t} if self.t % 2 else self.t
        return *found, {"contacts": np.zeros(self.t), "more": more, "lock": threading.Lock()}


class Endless(Toy):
    """Never ends an episode; sends a signal to its own process at step `at` of an evaluation."""

    def __init__(self, at: int = 0, render_mode=None):
        super().__init__(render_mode)
        self.at = at

    def reset(self, *, seed=None, options=None):
        self.evaluated = seed == 10_000
        return super().reset(seed=seed)

    def step(self, action):
        if self.evaluated and self.t == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(action)


class OldReset(Toy):
    """Takes no seed."""

    def reset(self):
        return super().reset()


class Unhurried(PendulumEnv):
    """Pendulum that leaves the processor to others for 2 ms each step, as an environment outside the computer would."""

    def step(self, action):
        time.sleep(0.002)
        return super().step(action)


for toy in (
    Toy,
    CannotRender,
    Counter,
    Echo,
    Steered,
    SameBuffer,
    ScalesInPlace,
    Forgetful,
    Interrupted,
    Nested,
    Goal,
    SlashAndUnderscore,
    KeyAcrossLevels,
    KeyAction,
    DiscreteAction,
    IntegerAction,
    UnboundedAction,
    MatrixAction,
    DeepImage,
    Picture,
    TornPicture,
    PictureObservation,
    SamePicture,
    OddPicture,
    Dies,
    Look,
    DictWithImage,
    DiscreteObservation,
    DictWithDiscrete,
    Float64Bounds,
    OfItsProcess,
    Picky,
    Unhurried,
    Odd,
    OldReset,
    Alone,
    BoundToItsThread,
    Weary,
    Chatty,
    Endless,
):
    name = "Toy-v0" if toy is Toy else f"Toy{toy.__name__}-v0"
    gym.register(name, entry_point=f"{toy.__module__}:{toy.__name__}")
gym.register("ToyCroppedCarRacing-v0", entry_point=cropped_car_racing)
# A package that keeps two versions: v1 is retired, v3 runs.
gym.register("ToyVersioned-v3", entry_point=f"{__name__}:Toy")
