"""Pixels: an environment seen through stacked frames, and rendered where that is possible.

Does not import TensorFlow: what renders MuJoCo runs without it.
"""

import contextlib
import os
import re
import sys
from collections import deque

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from PIL import Image

from ddpg_tf.cli import UserError
from ddpg_tf.config import Config

NO_GL = ("cannot render with MuJoCo ({}): without a display it needs the packages libegl1 and libgl1-mesa-dri, and the "
         "environment variable MUJOCO_GL=egl (set by itself where there is no DISPLAY)")


class Frames(gym.Wrapper):
    """Observes uint8 [H, W, frame_stack x channels], frames oldest first; holds each action for action_repeat steps.

    An episode begins with its first frame repeated. Rewards of the steps an action was held for are summed. With
    frame_source=substeps the frames are those of one action (Lillicrap et al. section 7), else of the last actions.

    Args:
      env: made with render_mode="rgb_array" where `config.pixels`; else its observations are images.
    """

    def __init__(self, env: gym.Env, config: Config):
        super().__init__(env)
        shape = env.observation_space.shape or ()
        if not config.pixels and shape[2:] not in ((), (1,), (3,)):
            raise UserError(f"{config.env} has images of shape {shape}: ddpg_tf takes [H, W], [H, W, 1] and [H, W, 3]")
        self._config, self._frames = config, deque(maxlen=config.frame_stack)
        channels = (1 if config.grayscale else 3) * config.frame_stack
        self.observation_space = Box(0, 255, (config.frame_size, config.frame_size, channels), np.uint8)

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([self._frame(observation)] * self._config.frame_stack)
        return np.concatenate(self._frames, axis=2), info

    def step(self, action):
        config, total = self._config, 0.0
        seen = config.frame_stack if config.frame_source == "substeps" else 1  # frames of one action
        for k in range(config.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(np.array(action))  # it may write into it
            total += float(reward)
            over = terminated or truncated
            if over or k >= config.action_repeat - seen:
                self._frames.append(self._frame(observation))
            if over:
                break
        return np.concatenate(self._frames, axis=2), total, terminated, truncated, info

    def _frame(self, observation) -> np.ndarray:
        """uint8 [H, W, channels] of the environment's state."""
        if self._config.pixels:
            picture = _rendered(self.env)
        else:
            picture = self.env.picture() if isinstance(self.env, DrawnWhenSeen) else observation
        size = self._config.frame_size
        image = Image.fromarray(picture.squeeze(2) if picture.shape[2:] == (1,) else picture)
        image = image.convert("L" if self._config.grayscale else "RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BOX)  # the mean of the area
        return np.asarray(image).reshape(size, size, -1)


class DrawnWhenSeen(gym.Wrapper):
    """CarRacing whose steps do not draw what they return: drawing takes a hundred times as long as the physics.

    Observations are meaningless; `picture` gives the true one. Of the steps that an action is held for most are not
    looked at.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._draw, env.unwrapped._render = env.unwrapped._render, self._draw_later
        self._blank = np.zeros(env.observation_space.shape, np.uint8)
        self._score = 0.0

    def _draw_later(self, mode: str):
        if mode != "state_pixels":
            return self._draw(mode)
        self._score = self.unwrapped.reward  # the picture shows it before the step's own cost
        return self._blank

    def picture(self) -> np.ndarray:
        """uint8 [96, 96, 3], what the last reset or step would have returned."""
        env = self.unwrapped
        reward, env.reward = env.reward, self._score
        try:
            return self._draw("state_pixels")
        finally:
            env.reward = reward


def render_arguments(env: gym.Env, size: int) -> dict:
    """Arguments of gymnasium.make that have `env` render frames of `size` by itself; others are resized."""
    if hasattr(env.unwrapped, "mujoco_renderer"):
        return {"width": size, "height": size}
    if hasattr(env.unwrapped, "render_kwargs"):  # dm_control, through shimmy
        return {"render_kwargs": {"width": size, "height": size, "camera_id": 0,
                                  "render_flag_overrides": {"shadow": False, "reflection": False}}}
    return {}


def renders_with_gl(env: gym.Env) -> bool:
    """Whether `env` renders with OpenGL, which may not happen beside TensorFlow."""
    return hasattr(env.unwrapped, "mujoco_renderer") or hasattr(env.unwrapped, "render_kwargs")


def simplify_rendering(env: gym.Env):
    """Turns off what makes software rendering slow and teaches nothing: shadows and reflections."""
    inner = env.unwrapped
    model = inner._env.physics.model if hasattr(inner, "render_kwargs") else inner.model
    model.vis.quality.shadowsize = 0
    model.mat_reflectance[:] = 0


def _rendered(env: gym.Env) -> np.ndarray:
    try:
        return env.render()
    except Exception as error:
        if not renders_with_gl(env):
            raise
        raise UserError(NO_GL.format(error)) from None


class Isolated(gym.Env):
    """The environment that `make` makes, in a process of its own.

    Mesa's software renderer and TensorFlow in one process end in a segmentation fault.

    Args:
      make: makes the environment; called here too, to learn its spaces, and must not render by itself.
    """

    def __init__(self, make):
        try:
            with without_main():
                self._env = AsyncVectorEnv([make], context="spawn", autoreset_mode=AutoresetMode.DISABLED)
        except (EOFError, ConnectionError):
            raise UserError(NO_GL.format("the process that renders has died")) from None
        self.observation_space, self.action_space = self._env.single_observation_space, self._env.single_action_space
        self.metadata = self._env.metadata

    def reset(self, *, seed=None, options=None):
        with self._errors():
            observation, _ = self._env.reset(seed=None if seed is None else [seed], options=options)
        return observation[0], {}

    def step(self, action):
        with self._errors():
            observation, reward, terminated, truncated, _ = self._env.step(np.array(action)[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def close(self):
        self._env.close()

    @contextlib.contextmanager
    def _errors(self):
        """Gymnasium logs the traceback of a worker's error before it raises the error here."""
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1
        try:
            yield
        except (EOFError, ConnectionError):
            self._env.closed = True  # or it would wait for the dead
            raise UserError(NO_GL.format("the process that renders has died")) from None
        finally:
            gym.logger.min_level = level


@contextlib.contextmanager
def without_main():
    """Processes spawned meanwhile do not import this one's main module, which may import TensorFlow."""
    main = sys.modules["__main__"]
    kept = {name: main.__dict__.pop(name) for name in ("__spec__", "__file__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


def is_about_gl(error: Exception) -> bool:
    """Whether `error` is that of a missing GL library: they come as all kinds of exceptions."""
    return re.search(r"\bgl[A-Z]|\begl[A-Z]|OpenGL|EGL|OSMesa", str(error)) is not None


def use_display_or_egl():
    """Chooses MuJoCo's renderer; to be called before MuJoCo is imported."""
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
