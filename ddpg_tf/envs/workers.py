"""Environments in processes of their own: many at once, or one that must not share a process with TensorFlow."""

import contextlib
import multiprocessing.connection
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from ddpg_tf.envs import rendering
from ddpg_tf.envs.checked import FAILED
from ddpg_tf.errors import UserError

Make = Callable[[], gym.Env]


def _failure(info: dict) -> dict:
    """Of what a step tells only why an episode was cut: the rest need not fit together, nor into a pipe."""
    return {FAILED: info[FAILED]} if FAILED in info else {}


class InThisProcess(SyncVectorEnv):
    """Environments stepped one after the other; of infos only failures."""

    def _add_info(self, vector_infos, env_info, env_num):
        return super()._add_info(vector_infos, _failure(env_info), env_num)


class _TellsFailuresOnly(gym.Wrapper):
    """In a worker: what its infos hold besides failures is not sent."""

    def reset(self, **arguments):
        return super().reset(**arguments)[0], {}

    def step(self, action):
        *found, info = super().step(action)
        return *found, _failure(info)


class Workers(AsyncVectorEnv):
    """A process for each environment, autoreset disabled; of infos only failures. One that dies is a UserError.

    Spawned, not forked: TensorFlow's threads do not survive a fork, and rendering hangs after one.

    Args:
      makes: make the environments, in their processes; the first is called here too, to learn its spaces, and must
        not render by itself then.
      name: of the environment, for messages.
      draws: they draw, so their processes do not import this one's main module, which may import TensorFlow.
    """

    def __init__(self, makes: Sequence[Make], name: str, *, draws: bool = False):
        self._name = name
        self._hint = f"; {rendering.NO_GL.format('perhaps')}" if draws else ""  # until the first observation
        parent = os.getpid()
        with self._explained(), _without_main() if draws else contextlib.nullcontext():
            super().__init__(
                [_Making(make, name, parent) for make in makes],
                context="spawn",
                worker=_work,
                autoreset_mode=AutoresetMode.DISABLED,
            )

    def reset(self, **arguments):
        with self._explained():
            found = super().reset(**arguments)
        self._hint = ""
        return found

    def step(self, actions):
        with self._explained():
            return super().step(actions)

    def close(self, **arguments):
        try:
            super().close(**arguments)
        except (EOFError, ConnectionError):  # there is nobody to say goodbye to
            self._state = AsyncState.DEFAULT
            super().close(terminate=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a death into a UserError."""
        try:
            yield
        except (EOFError, ConnectionError):
            ended = multiprocessing.connection.wait([process.sentinel for process in self.processes], timeout=10)
            for process in self.processes:
                if process.sentinel in ended:  # its pipes close a moment before it has an exit status
                    process.join(10)
            codes = [process.exitcode for process in self.processes if process.exitcode is not None]
            self._state = AsyncState.DEFAULT
            self.close(terminate=True)
            raise UserError(
                f"a process of {self._name} has died (exit status {', '.join(map(str, codes))}){self._hint}"
            ) from None

    def _raise_if_errors(self, successes):
        """Has Gymnasium log a worker's traceback only of what is no UserError."""
        log, logged = gym.logger.error, []
        gym.logger.error = lambda message, *_: logged.append(message)
        try:
            super()._raise_if_errors(successes)
        except UserError:
            raise
        except Exception:
            for message in logged:
                log(message)
            raise
        finally:
            gym.logger.error = log


def _work(*arguments):
    """Gymnasium's worker, which says nothing when the process that it works for has been killed."""
    try:
        _async_worker(*arguments)
    except (EOFError, ConnectionError):  # at the other end of the pipe there is nobody
        sys.exit(1)


class _Making:
    """Makes an environment in a worker, of which `parent` is not the process id."""

    def __init__(self, make: Make, name: str, parent: int):
        self._make, self._name, self._parent = make, name, parent

    def __call__(self) -> gym.Env:
        if os.getpid() == self._parent:
            return self._make()
        os.setsid()  # Ctrl-C and SIGTERM to the group are for the parent, which still needs its workers
        rendering.use_display_or_egl()
        try:
            return _TellsFailuresOnly(self._make())
        except Exception as error:  # Gymnasium would print a traceback here, and only say there that the pipe is closed
            print(f"warning: {self._name} cannot be made in a process of its own: {error}", file=sys.stderr, flush=True)
            os._exit(1)


class InOwnProcess(gym.Env):
    """The environment that `make` makes, in a process of its own without TensorFlow; of infos only why it failed."""

    def __init__(self, make: Make, spec: EnvSpec):
        self.spec = spec
        self._env = Workers([make], spec.id, draws=True)
        self.observation_space, self.action_space = self._env.single_observation_space, self._env.single_action_space
        self.metadata = self._env.metadata

    def reset(self, *, seed=None, options=None):
        observation, _ = self._env.reset(seed=None if seed is None else [seed], options=options)
        return observation[0], {}

    def step(self, action):
        observation, reward, terminated, truncated, info = self._env.step(np.array(action)[None])
        told = {FAILED: info[FAILED][0]} if FAILED in info else {}
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), told

    def close(self):
        self._env.close()


@contextlib.contextmanager
def _without_main():
    main = sys.modules["__main__"]
    kept = {name: main.__dict__.pop(name) for name in ("__spec__", "__file__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)
