"""Deterministic episodes on environments of their own, reset with seeds 10000, 10001, ..."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from ddpg_tf.config import Config
from ddpg_tf.envs import factory, goals
from ddpg_tf.envs.checked import FAILED
from ddpg_tf.errors import UserError

Act = Callable[[np.ndarray], np.ndarray]
FIRST_SEED = 10_000
_MOST_PIXELS = 2  # environments: each may be a process that renders


class Episode(NamedTuple):
    """What happened between a reset and the end; rewards, and so the return, in the environment's units."""

    episode_return: float
    length: int
    actions: np.ndarray  # float32 [length, A], environment units: enough to replay the episode from its seed
    rewards: np.ndarray  # float64 [length]
    first_observation: np.ndarray  # float32 [O], or uint8 [H, W, C]
    terminated: bool  # or else cut by a time limit
    success: float  # 1 or 0, whether the goal was reached at the end; nan where the environment does not say
    failed: bool = False  # cut because the environment could not go on: its return says nothing

    def discounted_return(self, gamma: float) -> float:
        """The sum of gamma^t reward_t, from the first step to where the episode ended or was cut."""
        return float(self.rewards @ gamma ** np.arange(self.length))


class Evaluator:
    """Runs episodes with a policy as it is: no noise, nothing learnt, nothing counted.

    Args:
      config: names the environment.
      episodes: how many `run` makes; episode i is reset with seed `first_seed` + i.
      lent: an environment to use, instead of any of its own.
    Raises:
      UserError: an environment cannot be made.
    """

    def __init__(self, config: Config, episodes: int, first_seed: int = FIRST_SEED, lent: gym.Env | None = None):
        self._episodes, self._first_seed = episodes, first_seed
        together = min(episodes, config.eval_envs or 1, _MOST_PIXELS if config.pixels else episodes)
        self._own: list[gym.Env] = []
        try:
            while lent is None and len(self._own) < together:
                self._own.append(factory.make_flat_env(config))
        except UserError:
            self.close()
            raise
        self._envs = self._own if lent is None else [lent]
        self._name, self._starts, self._told = config.env, None, False
        factory.warn_of_no_limit(self._envs[0], config.env)

    def run(self, policy: Act, stopped: Callable[[], bool] = lambda: False) -> list[Episode] | None:
        """The episodes, or None if it was stopped.

        Args:
          policy: maps observations [N, ...] to actions float32 [N, A]; N is the same at every call.
          stopped: asked before each step.
        Raises:
          UserError: an action is not finite.
        """
        episodes: list[Episode] = []
        while len(episodes) < self._episodes:
            count = min(len(self._envs), self._episodes - len(episodes))
            together = self._run_together(policy, stopped, self._first_seed + len(episodes), count)
            if together is None:
                return None
            episodes += together
        self._compare_starts([episode.first_observation for episode in episodes])
        return episodes

    def _compare_starts(self, starts: list[np.ndarray]):
        """Warns, once, where the same seeds do not begin the same episodes; pixels may be a shade different."""
        shade = 2.0 if starts[0].dtype == np.uint8 else 1e-4
        before, self._starts = self._starts or starts, starts
        alike = all(np.allclose(one, other, 1e-3, shade) for one, other in zip(starts, before, strict=True))
        if not alike and not self._told:
            self._told = True
            warnings.warn(
                f"{self._name} does not begin the same episode when it is reset with the same seed: evaluations differ "
                "by chance, and a resumed run cannot go on with its unfinished episodes",
                stacklevel=3,
            )

    def _run_together(self, policy: Act, stopped, first_seed: int, count: int) -> list[Episode] | None:
        observations = np.stack([env.reset(seed=first_seed + i)[0] for i, env in enumerate(self._envs)])
        if observations.dtype != np.uint8:
            observations = observations.astype(np.float32)
        first, returns = observations.copy(), np.zeros(count)
        actions, rewards = [[] for _ in range(count)], [[] for _ in range(count)]
        ended_itself, success, running = [False] * count, [np.nan] * count, list(range(count))
        failed = [False] * count
        while running:
            if stopped():
                return None
            chosen = policy(observations)
            if not np.isfinite(chosen).all():
                raise UserError("the policy's action is not finite: training diverged")
            for i in list(running):
                observation, reward, terminated, truncated, info = self._envs[i].step(chosen[i].copy())
                if FAILED in info:
                    failed[i] = True
                    warnings.warn(f"{info[FAILED]} of an evaluation: its return ends there", stacklevel=3)
                observations[i] = observation
                returns[i] += reward
                rewards[i].append(reward)
                actions[i].append(chosen[i])
                if terminated or truncated:
                    ended_itself[i], success[i] = bool(terminated), goals.success(info)
                    running.remove(i)
        return [
            Episode(
                float(returns[i]),
                len(actions[i]),
                np.array(actions[i], np.float32),
                np.array(rewards[i], np.float64),
                first[i],
                ended_itself[i],
                success[i],
                failed[i],
            )
            for i in range(count)
        ]

    def close(self):
        for env in self._own:
            env.close()


def play(config: Config, policy: Act, episodes: int, first_seed: int = FIRST_SEED) -> list[Episode]:
    """Episodes of a policy that is not in training; arguments and errors as Evaluator's."""
    evaluator = Evaluator(config, episodes, first_seed)
    try:
        return evaluator.run(policy)
    finally:
        evaluator.close()
