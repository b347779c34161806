"""Deterministic episodes on environments of their own, reset with seeds 10000, 10001, ..."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpg_tf.config import Config
from ddpg_tf.envs import factory
from ddpg_tf.errors import UserError

FIRST_SEED = 10_000
_TOGETHER = 10  # episodes stepped side by side, for one call of the policy
_TOGETHER_PIXELS = 2  # each may be a process that renders


class Episode(NamedTuple):
    episode_return: float
    length: int
    actions: np.ndarray  # [length, A], enough to replay the episode from its seed
    rewards: np.ndarray  # float64 [length]
    first_observation: np.ndarray
    terminated: bool  # or else cut by a time limit

    def discounted_return(self, gamma: float) -> float:
        """The sum of gamma^t reward_t, from the first step to where the episode ended or was cut."""
        return float(self.rewards @ gamma ** np.arange(self.length))


class Evaluator:
    """Runs episodes with a policy as it is: no noise, nothing learnt, nothing counted.

    Args:
      config: names the environment.
      episodes: how many `run` makes; episode i is reset with seed `first_seed` + i.
    """

    def __init__(self, config: Config, episodes: int, first_seed: int = FIRST_SEED):
        self._episodes, self._first_seed = episodes, first_seed
        together = _TOGETHER_PIXELS if config.pixels else _TOGETHER
        self._envs = [factory.make_flat_env(config) for _ in range(min(episodes, together))]

    def run(self, policy: Callable[[np.ndarray], np.ndarray]) -> list[Episode]:
        """`policy` maps observations [N, ...] to actions float32 [N, A]; N is the same at every call."""
        episodes: list[Episode] = []
        while len(episodes) < self._episodes:
            count = min(len(self._envs), self._episodes - len(episodes))
            episodes += self._run_together(policy, self._first_seed + len(episodes), count)
        return episodes

    def _run_together(self, policy, first_seed: int, count: int) -> list[Episode]:
        observations = np.stack([env.reset(seed=first_seed + i)[0] for i, env in enumerate(self._envs)])
        if observations.dtype != np.uint8:
            observations = observations.astype(np.float32)
        first, returns = observations.copy(), np.zeros(count)
        actions, rewards = [[] for _ in range(count)], [[] for _ in range(count)]
        ended_itself, running = [False] * count, list(range(count))
        while running:
            chosen = policy(observations)
            if not np.isfinite(chosen).all():
                raise UserError("the policy's action is not finite: training diverged")
            for i in list(running):
                observation, reward, terminated, truncated, _ = self._envs[i].step(chosen[i].copy())
                observations[i] = observation
                returns[i] += reward
                rewards[i].append(reward)
                actions[i].append(chosen[i])
                if terminated or truncated:
                    ended_itself[i] = bool(terminated)
                    running.remove(i)
        return [
            Episode(
                float(returns[i]),
                len(actions[i]),
                np.array(actions[i], np.float32),
                np.array(rewards[i], np.float64),
                first[i],
                ended_itself[i],
            )
            for i in range(count)
        ]

    def close(self):
        for env in self._envs:
            env.close()
