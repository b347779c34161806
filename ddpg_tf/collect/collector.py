"""Environments + acting policy -> transitions. Knows nothing of learning."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from ddpg_tf.collect.noise import ActionNoise, RandomShare, WarmupActions
from ddpg_tf.config import Config
from ddpg_tf.envs import factory
from ddpg_tf.envs.checked import FAILED
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.errors import UserError

RECORDED = 100_000  # actions of an unfinished episode: a longer one cannot be re-entered, and starts anew on resume
_MOST_FAILURES = 10  # of episodes in a row
Act = Callable[[np.ndarray], np.ndarray]  # observations [N, ...] -> actions float32 [N, A]


class Transitions(NamedTuple):
    """One step of N environments, as ReplayBuffer.add takes it; float32 but for images and the two masks."""

    observation: np.ndarray  # [N, O], or uint8 [N, H, W, C]; what was acted on
    action: np.ndarray  # [N, A], environment units, exactly what the environment executed
    reward: np.ndarray  # [N]; nan where the step failed: what it would have led to is not known
    next_observation: np.ndarray  # as observation, the true successor; where a step failed, the last good one
    terminated: np.ndarray  # bool [N]
    truncated: np.ndarray  # bool [N]


class Collector:
    """Steps N environments with policy plus noise; uniformly random actions while warming up.

    A run split among several collectors meets the same episodes and the same noise.

    Args:
      config: names the environments, the noise and the seed.
      spaces: the environments' spaces.
      place: the numbers of these N among the run's environments; default all of them.

    Attributes:
      problem: why it is no use to go on, once ten episodes in a row of an environment were cut by its failures.
    """

    def __init__(self, config: Config, spaces: Spaces, place: range | None = None):
        place = self._place = place or range(config.num_envs)
        n, self._n_run = len(place), config.num_envs
        self._n = n
        self._seed, self._warmup_steps = config.seed, config.warmup_steps
        self._low, self._high = spaces.low, spaces.high
        self._half_range = spaces.high / 2 - spaces.low / 2
        self._warmup = WarmupActions(spaces.low, spaces.high, config.num_envs, config.seed, place)
        share = config.random_share
        self._random = RandomShare(share, config.num_envs, config.seed, place) if share else None
        self._noise = ActionNoise(
            config.noise,
            config.num_envs,
            spaces.action_size,
            config.seed,
            place=place,
            sigma=config.noise_sigma,
            theta=config.noise_theta,
            dt=config.noise_dt,
            final_sigma=config.noise_final_sigma,
            decay=config.noise_decay_steps / config.num_envs,
        )
        self._envs = factory.make_vector_env(config, n)
        self._episode = np.zeros(n, np.int64)
        self._return, self._length = np.zeros(n), np.zeros(n, np.int64)
        self._actions: list[list[np.ndarray]] = [[] for _ in range(n)]  # of the unfinished episodes
        self._failures = np.zeros(n, np.int64)  # of episodes in a row
        self.problem = ""
        self._observation = np.zeros([n, *spaces.observation_shape], spaces.observation_dtype)
        self._reset(np.ones(n, bool))

    @property
    def observation(self) -> np.ndarray:
        """float32 [N, O] or uint8 [N, H, W, C], what the next step's actions answer to."""
        return self._observation

    def step(self, t: int, policy: Act) -> tuple[Transitions, list[tuple[float, int]]]:
        """Vector step `t`, counted from 0 over the whole run.

        Returns:
          (the N transitions, [(return, length)] of the episodes that ended with it).
        Raises:
          UserError: the policy's action is not finite.
        """
        observation, action = self._observation, self._choose(t, policy)
        successor, reward, terminated, truncated, info = self._envs.step(action.copy())  # they may write into it
        successor = successor.astype(observation.dtype)
        self._observation = successor
        self._return += reward
        self._length += 1
        for recorded, made in zip(self._actions, action, strict=True):
            if len(recorded) < RECORDED:
                recorded.append(made)
        failed = info.get(f"_{FAILED}", np.zeros(self._n, bool))
        reward = np.where(failed, np.nan, reward).astype(np.float32)
        transitions = Transitions(observation, action, reward, successor, terminated, truncated)
        ended, finished = np.logical_or(terminated, truncated), []
        if ended.any():
            finished = [(float(self._return[i]), int(self._length[i])) for i in np.flatnonzero(ended)]
            self._note_failures(ended, failed, info)
            self._next_episode(ended)
        return transitions, finished

    def _note_failures(self, ended: np.ndarray, failed: np.ndarray, info: dict):
        self._failures = np.where(ended, np.where(failed, self._failures + 1, 0), self._failures)
        for i in np.flatnonzero(failed):
            if self.problem:
                return  # the run ends when it looks; until then there is nothing new to tell
            told, count = info[FAILED][i], self._failures[i]
            warnings.warn(f"{told}: the episode ends there, {count} in a row", stacklevel=2)
            if count >= _MOST_FAILURES:
                self.problem = f"{told}, and so ended {count} episodes in a row"

    def _choose(self, t: int, policy: Act) -> np.ndarray:
        if t * self._n_run < self._warmup_steps:
            return self._warmup(t)
        action = policy(self._observation)
        if not np.isfinite(action).all():
            raise UserError(
                f"the policy's action is not finite at step {t * self._n_run}: training diverged or the "
                "environment gave an observation that is not finite; try --normalize_observations or "
                "smaller learning rates"
            )
        action = np.clip(action + self._half_range * self._noise(t), self._low, self._high)
        return np.where(self._random(t), self._warmup(t), action) if self._random else action

    def _next_episode(self, mask: np.ndarray):
        self._episode[mask] += 1
        self._reset(mask)
        self._noise.reset(mask)

    def _reset(self, mask: np.ndarray, actions=()):
        """Resets the environments in `mask` to their episode's seed and steps `actions` [L, A] there."""
        seeds = [episode_seed(self._seed, i, int(k)) for i, k in zip(self._place, self._episode, strict=True)]
        observation, _ = self._envs.reset(seed=seeds, options={"reset_mask": mask, "actions": actions})
        self._observation = self._observation.copy()  # transitions hold the old one
        self._observation[mask] = observation[mask]
        for i in np.flatnonzero(mask):
            self._return[i], self._length[i] = 0, len(actions)
            self._actions[i] = list(actions)

    def counts(self) -> dict[str, np.ndarray]:
        """The small parts of `state`."""
        return {
            "episode": self._episode.copy(),
            "noise": self._noise.x,
            "return": self._return.copy(),
            "length": self._length.copy(),
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything `load_state` needs; unfinished episodes as their number and actions so far."""
        return {
            **self.counts(),
            "observation": self._observation,
            **{
                f"actions_{i}": np.array(actions, np.float32).reshape(len(actions), len(self._low))
                for i, actions in enumerate(self._actions)
            },
        }

    def load_state(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Re-enters the unfinished episodes by their seed and actions.

        Returns:
          bool [N], where the environment came out elsewhere: there, a new episode has begun, with a warning.
        """
        self._episode[:] = state["episode"]
        too_long = state["length"] > RECORDED
        for i in range(self._n):
            self._reset(np.arange(self._n) == i, () if too_long[i] else state[f"actions_{i}"])
        self._noise.x, self._return[:] = state["noise"], state["return"]
        differs = (self._observation != state["observation"]).reshape(self._n, -1).any(axis=1)
        not_repeated = "the environment does not repeat an episode from its seed and actions"
        for there, why in (
            (differs & ~too_long, not_repeated),
            (too_long, f"an unfinished episode has more than {RECORDED} steps"),
        ):
            if there.any():
                warnings.warn(
                    f"{why}: it starts anew, and the resumed run will differ from an uninterrupted one", stacklevel=2
                )
        anew = differs | too_long
        if anew.any():
            self._next_episode(anew)
        return anew

    def lend(self) -> gym.Env:
        """The only environment, for something else to step; `take_back` afterwards."""
        (env,) = self._envs.envs
        return env

    def take_back(self) -> np.ndarray:
        """Begins a new episode after `lend`. Returns bool [1], where one was cut: everywhere."""
        self._next_episode(np.ones(1, bool))
        return np.ones(1, bool)

    def close(self):
        self._envs.close()


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The reset seed of episode `episode` of the run's environment number `env`."""
    return int(np.random.SeedSequence([seed, env, episode]).generate_state(1)[0] >> 1)
