"""Exploration: warm-up actions and action noise, drawn from tensorflow-probability distributions.

Every draw is addressed, not consumed: row t of a stream is a function of (seed, stream, t) alone, so nothing random
needs saving. The only state is the Ornstein-Uhlenbeck process's position.
"""

import warnings
import zlib

import numpy as np

from ddpg_tf._tf import lean_imports, tf, tfp

with lean_imports(), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tf-keras, which tensorflow-probability loads, uses retired names
    distributions = tfp.distributions
    Distribution = distributions.Distribution  # the first look loads it

_BLOCK = 1024  # rows drawn at a time: an eager draw costs 1.4 ms, a row of a block microseconds


class Stream:
    """Row t of an endless [T, ...] table of independent samples of `distribution`.

    Args:
      distribution: a tfp distribution; its batch and event shape are the row's shape.
      seed: the run's seed.
      name: what the stream is for; streams of different names are independent.
    """

    def __init__(self, distribution: Distribution, seed: int, name: str):
        self._key = tf.constant([seed, zlib.crc32(name.encode()) & 0x7FFFFFFF], tf.int32)
        self._distribution = distribution
        self._at, self._block = -1, np.empty(0)

    def __getitem__(self, t: int) -> np.ndarray:
        if t // _BLOCK != self._at:
            self._at = t // _BLOCK
            # Not jitted: XLA would give other numbers for the same seed.
            seed = tf.random.experimental.stateless_fold_in(self._key, self._at)
            self._block = self._distribution.sample(_BLOCK, seed=seed).numpy()
        return self._block[t % _BLOCK]


class WarmupActions:
    """Uniform actions over the action space.

    Args:
      low, high: [A], action bounds in environment units.
      num_envs: of the whole run.
      place: the numbers of the N of them that are acted in; default all.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, num_envs: int, seed: int, place: range | None = None):
        self._low, self._high, self._rows = low, high, _rows(place or range(num_envs))
        unit = distributions.Uniform(tf.zeros([num_envs, len(low)]), tf.ones([num_envs, len(low)]))
        self._unit = Stream(unit, seed, "warmup")

    def __call__(self, t: int) -> np.ndarray:
        """float32 [N, A] in environment units, for vector step `t`."""
        u = self._unit[t][self._rows]
        return np.clip(self._low * (1 - u) + self._high * u, self._low, self._high)


class RandomShare:
    """Where a uniformly random action takes the policy's place (Andrychowicz et al. 2017, section A).

    Args:
      share: of the steps, 0 to 1.
      num_envs: of the whole run.
      place: the numbers of the N of them that are acted in; default all.
    """

    def __init__(self, share: float, num_envs: int, seed: int, place: range | None = None):
        self._share, self._rows = share, _rows(place or range(num_envs))
        unit = distributions.Uniform(tf.zeros([num_envs, 1]), tf.ones([num_envs, 1]))
        self._unit = Stream(unit, seed, "random_share")

    def __call__(self, t: int) -> np.ndarray:
        """bool [N, 1], for vector step `t`."""
        return self._unit[t][self._rows] < self._share


class ActionNoise:
    """Noise of one kind for N environments, in units of each action dimension's half-range.

    An environment's noise depends on its number in the run, not on who acts in the others.

    Args:
      num_envs: of the whole run.
      place: the numbers of the N of them that are acted in; default all.
      kind: "gaussian" (independent), "ou" (x <- x - theta x dt + sigma sqrt(dt) N(0, 1), one process per environment;
        Lillicrap et al. section 7, dt explicit) or "none".
      sigma, theta, dt: parameters of the process; theta and dt matter to "ou" only.
      final_sigma, decay: sigma goes linearly to final_sigma over the first `decay` vector steps; 0: it stays.
    """

    def __init__(
        self,
        kind: str,
        num_envs: int,
        action_size: int,
        seed: int,
        *,
        sigma: float,
        theta: float,
        dt: float,
        final_sigma: float = 0.0,
        decay: float = 0.0,
        place: range | None = None,
    ):
        self._kind, self._theta, self._dt = kind, theta, dt
        place = place or range(num_envs)
        self._rows = _rows(place)
        self._sigma, self._final_sigma, self._decay = sigma, final_sigma, decay
        shape = [num_envs, action_size]
        self._innovations = Stream(distributions.Normal(tf.zeros(shape), tf.ones(shape)), seed, "noise")
        self.x = np.zeros([len(place), action_size], np.float32)  # the "ou" process; its only state

    def __call__(self, t: int) -> np.ndarray:
        """float32 [N, A], the noise of vector step `t`; advances the "ou" process."""
        if self._kind == "none":
            return np.zeros_like(self.x)
        innovation = self._innovations[t][self._rows]
        sigma = self._sigma_at(t)
        if self._kind == "gaussian":
            return np.float32(sigma) * innovation
        self.x = self.x - np.float32(self._theta * self._dt) * self.x + np.float32(sigma * self._dt**0.5) * innovation
        return self.x

    def _sigma_at(self, t: int) -> float:
        if not self._decay:
            return self._sigma
        return self._sigma + min(1.0, t / self._decay) * (self._final_sigma - self._sigma)

    def reset(self, mask: np.ndarray):
        """Sets the processes of the environments in `mask` (bool [N]) to zero: a new episode."""
        self.x = np.where(mask[:, None], np.float32(0), self.x)


def _rows(place: range) -> slice:
    return slice(place.start, place.stop)
