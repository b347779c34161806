"""What an environment gives, held against what it promised: mistakes are told where they arise, in one line.

An environment that fails in the middle of an episode, by an error or by numbers that are none, loses that episode only.
"""

import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from ddpg_tf.errors import UserError, located

_FIVE = "observation, reward, terminated, truncated, info"
_OLD = ": it speaks Gym's old API"
_NUMBERS = "biuf"  # NumPy's letters for bool, int, unsigned int and float
_PAUSES = (1.0, 5.0)  # seconds before the second and the third attempt to reset
_USABLE = 1e18  # its square is still a float32
FAILED = "ddpg_tf.failed"  # the key in `info` of what an episode was cut for


class _Failure(Exception):
    """An environment cannot go on with this episode."""


class Checked(gym.Wrapper):
    """Observations of the space's shape and finite, numbers as numbers, Gymnasium's API; actions of the space's dtype.

    What is unambiguous is accepted: arrays of one element for a reward or a flag, integers of another size. Where
    `step` raises, or gives numbers that float32 cannot work with, the episode is truncated at its last good
    observation, with reward 0, and `info[FAILED]` says why. A `reset` that fails in these ways is tried twice
    more, unless it is the first.

    Args:
      name: of the environment, for messages.
      observed: whether anybody looks at its observations, and not at pictures of it only.
    Raises:
      UserError: `reset` fails three times in a row, or the first time, or something has another shape or number of
        parts than promised.
    """

    def __init__(self, env: gym.Env, name: str, *, observed: bool = True):
        super().__init__(env)
        self._name, self._observed, self._t, self._last = name, observed, 0, None
        self._thread, self._bound = threading.get_ident(), True  # to the thread that made it, for all we know

    def reset(self, *, seed=None, options=None):
        self._t = 0
        for pause in (*(_PAUSES if self._last is not None else ()), None):
            try:
                found = self._reset(seed, options)
                self._last = _copy(found[0])
                return found
            except UserError:
                raise
            except (Exception, SystemExit) as error:
                why = str(error) if isinstance(error, _Failure) else f"raised {located(error)}"
                if pause is None:
                    raise UserError(f"{self._name}.reset {why}") from None
                warnings.warn(f"{self._name}.reset {why}: trying it again", stacklevel=2)
                time.sleep(pause)

    def _reset(self, seed, options):
        try:
            found = self.env.reset(seed=seed, options=options)
        except TypeError as error:
            if "unexpected keyword argument" in str(error):
                raise UserError(
                    f"{self._name}.reset does not take seed and options, as Gymnasium's must: {error}"
                ) from None
            raise
        if not (isinstance(found, tuple) and len(found) == 2):
            raise UserError(f"{self._name}.reset returns {type(found).__name__}, not (observation, info){_OLD}")
        return self._checked(found[0], self.observation_space, ""), self._dict(found[1])

    def step(self, action):
        self._t += 1
        try:
            found = self._step(np.asarray(action, self.action_space.dtype))
        except UserError:
            raise
        except _Failure as failure:
            return self._cut(str(failure))
        except (Exception, SystemExit) as error:
            if self._bound and threading.get_ident() != self._thread:
                raise UserError(
                    f"{self._name}.step raised {located(error)}, in another thread than the one that made it: if it is "
                    "bound to its thread, --vectorization=async gives it a process of its own"
                ) from None
            return self._cut(f"raised {located(error)}")
        self._bound &= threading.get_ident() == self._thread
        self._last = _copy(found[0])
        return found

    def _cut(self, why: str):
        return self._last, 0.0, False, True, {FAILED: f"{self._name} {why} at step {self._t} of an episode"}

    def _step(self, action):
        try:
            found = self.env.step(action)
        except (TypeError, ValueError) as error:
            if "unpack" in str(error) and "gymnasium" in traceback.extract_tb(error.__traceback__)[-1].filename:
                raise UserError(f"{self._name}.step does not return {_FIVE}{_OLD}") from None  # a wrapper wanted five
            raise
        if not isinstance(found, tuple | list):
            raise UserError(f"{self._name}.step returns {type(found).__name__}, not {_FIVE}")
        if len(found) != 5:
            raise UserError(f"{self._name}.step returns {len(found)} values, not {_FIVE}{_OLD}")
        observation, reward, terminated, truncated, info = found
        reward = float(self._one(reward, "reward"))
        observation = self._checked(observation, self.observation_space, "")
        if not abs(reward) < _USABLE:
            raise _Failure(f"gave a reward of {reward}")
        return (
            observation,
            reward,
            bool(self._one(terminated, "terminated")),
            bool(self._one(truncated, "truncated")),
            self._dict(info),
        )

    def _one(self, value: Any, what: str) -> Any:
        if isinstance(value, float | bool | np.bool_ | np.floating):
            return value
        array = np.asarray(value)
        if array.size != 1:
            raise UserError(
                f"{self._name} gave a {what} of shape {array.shape}, not one value: wrap it so that it gives one number"
            )
        if array.dtype.kind not in _NUMBERS:
            raise UserError(f"{self._name} gave {value!r} for the {what}, not a number")
        return array.item()

    def _dict(self, info: Any) -> dict:
        if not isinstance(info, dict):
            raise UserError(f"{self._name} gave {type(info).__name__} for info, not a dict")
        return info

    def _checked(self, observation: Any, space: gym.Space, key: str) -> Any:
        """`observation`, with integers in the space's dtype."""
        if not self._observed:
            return None
        if isinstance(space, Dict):
            if missing := [part for part in space if not isinstance(observation, Mapping) or part not in observation]:
                raise UserError(f"{self._name} gave an observation{key} without {missing[0]!r}")
            return {part: self._checked(observation[part], of, f"{key} {part!r}") for part, of in space.items()}
        if isinstance(space, Tuple):
            if not isinstance(observation, tuple | list) or len(observation) != len(space):
                raise UserError(f"{self._name} gave an observation{key} that is no tuple of {len(space)}")
            return tuple(self._checked(observation[i], of, f"{key} {i!r}") for i, of in enumerate(space))
        if isinstance(space, Box):
            array = self._numbers(observation, key)
            if array.shape != space.shape:
                raise UserError(
                    f"{self._name} gave an observation{key} of shape {array.shape}, and its space says {space.shape}"
                )
            if space.dtype != np.uint8 and not (np.abs(array) < _USABLE).all():
                where = tuple(np.argwhere(~(np.abs(array) < _USABLE))[0].tolist())
                raise _Failure(f"gave an observation{key} with {array[where]} at {list(where)}")
            return array if space.dtype.kind == "f" else self._as_integers(array, space.dtype, key)
        return observation

    def _numbers(self, observation: Any, key: str) -> np.ndarray:
        try:
            array = np.asarray(observation)
            if array.dtype.kind in _NUMBERS:
                return array
        except ValueError:  # lists of several lengths
            pass
        raise UserError(f"{self._name} gave an observation{key} that is no array of numbers: {observation!r:.80}")

    def _as_integers(self, array: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
        found = array.astype(dtype, copy=False)
        if found is not array and not (found == array).all():
            raise UserError(
                f"{self._name} gave an observation{key} of {array.dtype}, and its space says {dtype}, which does not "
                "hold these values"
            )
        return found


def _copy(observation: Any) -> Any:
    """A copy of what an environment observes: it may draw over its own."""
    if isinstance(observation, dict):
        return {key: _copy(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(_copy(part) for part in observation)
    return np.array(observation)
