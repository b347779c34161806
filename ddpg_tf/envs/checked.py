"""What an environment gives, held against what it promised: mistakes are told where they arise, in one line."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from ddpg_tf.errors import UserError

_FIVE = "observation, reward, terminated, truncated, info"
_OLD = ": it speaks Gym's old API"


class Checked(gym.Wrapper):
    """Observations of the space's shape and finite, numbers as numbers, Gymnasium's API; actions of the space's dtype.

    What is unambiguous is accepted: arrays of one element for a reward or a flag.

    Args:
      name: of the environment, for messages.
    """

    def __init__(self, env: gym.Env, name: str):
        super().__init__(env)
        self._name, self._t = name, 0

    def reset(self, *, seed=None, options=None):
        self._t = 0
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
        return self._observation(found[0]), found[1]

    def step(self, action):
        self._t += 1
        try:
            found = self.env.step(np.asarray(action, self.action_space.dtype))
        except ValueError as error:
            if "values to unpack" in str(error):  # a wrapper of Gymnasium's wanted five
                raise UserError(f"{self._name}.step does not return {_FIVE}{_OLD}") from None
            raise
        if len(found) != 5:
            raise UserError(f"{self._name}.step returns {len(found)} values, not {_FIVE}{_OLD}")
        observation, reward, terminated, truncated, info = found
        reward = float(self._one(reward, "reward"))
        if not math.isfinite(reward):
            raise UserError(f"{self._name} gave a reward of {reward} at step {self._t} of an episode")
        return (
            self._observation(observation),
            reward,
            bool(self._one(terminated, "terminated")),
            bool(self._one(truncated, "truncated")),
            info,
        )

    def _one(self, value: Any, what: str) -> Any:
        if isinstance(value, float | bool | np.bool_ | np.floating):
            return value
        if np.size(value) != 1:
            raise UserError(f"{self._name} gave a {what} of shape {np.shape(value)}, not one value")
        return value.item() if isinstance(value, np.ndarray) else value

    def _observation(self, observation: Any) -> Any:
        self._check(observation, self.observation_space, "")
        return observation

    def _check(self, observation: Any, space: gym.Space, key: str):
        if isinstance(space, Dict | Tuple):
            parts = space.items() if isinstance(space, Dict) else enumerate(space)
            for part, part_space in parts:
                self._check(observation[part], part_space, f"{key} {part!r}")
        elif isinstance(space, Box):
            if np.shape(observation) != space.shape:
                raise UserError(
                    f"{self._name} gave an observation{key} of shape {np.shape(observation)}, and its "
                    f"space says {space.shape}"
                )
            if space.dtype != np.uint8 and not np.isfinite(observation).all():
                array = np.asarray(observation)
                where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
                raise UserError(
                    f"{self._name} gave an observation{key} with {array[where]} at {list(where)}, at step "
                    f"{self._t} of an episode"
                )
