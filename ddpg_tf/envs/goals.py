"""What an environment gives for goals that are not its episode's own: hindsight replay asks it."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from ddpg_tf.config import Config
from ddpg_tf.envs import factory
from ddpg_tf.envs.spaces import GOALS, Spaces
from ddpg_tf.errors import UserError

_EXAMPLES = 3  # episodes, whose goals show how the environment's functions behave


class Goals:
    """Rewards and terminations by any goals, from compute_reward and, where there is one, compute_terminated.

    The convention is Gymnasium-Robotics'; the functions' third argument, info, is an empty dict.

    Args:
      env: with its own, unflattened observations; is reset.
      name: of the environment, for messages.

    Attributes:
      achieved, desired: where in a flattened observation [O] the goals lie, [G] each.

    Raises:
      UserError: a function raises, or does not give one finite number for a pair of goals.
    """

    def __init__(self, env: gym.Env, spaces: Spaces, name: str):
        self.achieved, self.desired = (spaces.part(goal) for goal in GOALS)
        shape = spaces.leaves[GOALS[0]]
        if not env.has_wrapper_attr("compute_reward"):
            raise UserError(f"{name} has no compute_reward: --hindsight needs the rewards of other goals")
        pairs = _pairs(env)
        self._reward = _OfManyGoals(env.get_wrapper_attr("compute_reward"), f"{name}.compute_reward", shape, pairs)
        self._env, self._name, self._terminated, self._differing = env, name, None, 0
        if env.has_wrapper_attr("compute_terminated"):
            function = env.get_wrapper_attr("compute_terminated")
            self._terminated = _OfManyGoals(function, f"{name}.compute_terminated", shape, pairs)

    def close(self):
        self._env.close()

    def reward(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        """float32 [n], the rewards of steps that led to `achieved` [n, G] where `desired` [n, G] was wanted."""
        rewards = self._reward(achieved, desired).astype(np.float32)
        if not np.isfinite(rewards).all():
            raise UserError(f"{self._name}.compute_reward gave {rewards[~np.isfinite(rewards)][0]}, not a number")
        return rewards

    def watch(self, reward: np.ndarray, observation: np.ndarray):
        """Warns, once, where steps' rewards [N] are not those of the goals in the observations they led to [N, O].

        One such step is not enough: its goal may lie just where the reward changes.

        Raises:
          UserError: as `reward`.
        """
        if self._differing > 1:
            return
        expected = self.reward(observation[:, self.achieved], observation[:, self.desired])
        differs = np.isfinite(reward) & ~np.isclose(reward, expected, 1e-3, 1e-4)
        self._differing += differs.sum()
        if self._differing > 1:
            warnings.warn(
                f"{self._name} gave a reward of {reward[differs][0]:.4g} for goals of which compute_reward says "
                f"{expected[differs][0]:.4g}: hindsight does not see what else is in its rewards",
                stacklevel=2,
            )

    def terminated(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray | None:
        """bool [n], whether such a step ends its episode; None where goals end none."""
        return self._terminated and self._terminated(achieved, desired).astype(bool)


class _OfManyGoals:
    """An environment's function of two goals, for many at once; row by row, with a warning, where it takes only two."""

    def __init__(self, function: Callable, name: str, shape: tuple[int, ...], pairs: tuple[np.ndarray, np.ndarray]):
        self._function, self._name, self._shape = function, name, shape
        expected, self._at_once = self._rows(*pairs), True
        try:
            self._at_once = np.allclose(self(*pairs), expected, 1e-5, 1e-6, equal_nan=True)
        except Exception:  # whatever its author did not think of
            self._at_once = False
        if not self._at_once:
            warnings.warn(
                f"{name} does not take many goals at once, so hindsight asks it row by row: that is slow", stacklevel=4
            )

    def __call__(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        achieved, desired = (goals.reshape(-1, *self._shape) for goals in (achieved, desired))
        if self._at_once:
            return np.broadcast_to(self._asked(achieved, desired), len(achieved))
        return self._rows(achieved, desired)

    def _asked(self, achieved: np.ndarray, desired: np.ndarray) -> Any:
        try:
            return self._function(achieved, desired, {})
        except Exception as error:
            raise UserError(
                f"{self._name} raised {type(error).__name__}: {error}; --hindsight gives it an empty info"
            ) from None

    def _rows(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        found = [self._asked(*pair) for pair in zip(achieved, desired, strict=True)]
        if any(np.size(value) != 1 for value in found):
            raise UserError(f"{self._name} gives {np.shape(found[0])} for a pair of goals, not one number")
        return np.array(found).reshape(-1)


def _pairs(env: gym.Env) -> tuple[np.ndarray, np.ndarray]:
    """Goals of some episodes as (achieved [n, ...], desired [n, ...]), in each combination: some pairs are equal."""
    seen = [env.reset(seed=seed)[0] for seed in range(_EXAMPLES)]
    goals = np.array([observation[goal] for observation in seen for goal in GOALS], np.float32)
    first, second = np.divmod(np.arange(len(goals) ** 2), len(goals))
    return goals[first], goals[second]


def success(info: Mapping[str, Any]) -> float:
    """1 where a step's `info` says that the goal is reached (is_success, or success), 0 that not; nan: it is silent."""
    try:
        return float(np.mean(info.get("is_success", info.get("success", np.nan))))
    except (TypeError, ValueError):  # it means something else by the name
        return float("nan")


def goals_of(config: Config, spaces: Spaces) -> Goals | None:
    """The goals of the environment of `config` where its replay relabels them, else None.

    Raises:
      UserError: it has none, or as `Goals`.
    """
    if config.hindsight == "none":
        return None
    if not spaces.has_goals:
        raise UserError(
            f"{config.env} has no goals to learn from in hindsight: --hindsight needs observations, not images, that "
            "are a Dict with achieved_goal and desired_goal, arrays of one shape (not Dicts)"
        )
    return Goals(factory.make_checked_env(config), spaces, config.env)
