"""Replay: a ring of transitions on memory-mapped files -> tf.data blocks of minibatches.

The ring keeps one-step rows in arrays [T, N, ...] (time, environment) with an episode-end bit; n-step returns are put
together when sampling. Images are kept once each and stacked when sampling. A draw of minibatches is a function of
(seed, its number) and of the rows that were there one draw earlier: prefetching, interrupting and resuming cannot
change it.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.replay.hindsight import Hindsight, Relabelled
from ddpg_tf.replay.observations import Layout, at, store_for
from ddpg_tf.replay.ring import open_ring

_MOST_REDRAWS = 1000  # of failed steps: then there is hardly anything else


class Batch(NamedTuple):
    """K minibatches of B transitions; every array is float32, but for images: uint8 [K, B, H, W, C].

    The target is `reward + discount * Q'(next_observation)`: termination, truncation and n-step are all in `discount`,
    gamma^n x (1 - terminated).
    """

    observation: np.ndarray  # [K, B, O]
    action: np.ndarray  # [K, B, A], environment units, as executed
    reward: np.ndarray  # [K, B], summed and discounted over up to n steps
    discount: np.ndarray  # [K, B]
    next_observation: np.ndarray  # [K, B, O], n steps later or the episode's last


def layout_of(
    num_envs: int,
    observation_shape: int | tuple[int, ...],
    action_size: int,
    frame_stack: int = 1,
    hindsight: bool = False,
) -> Layout:
    """{array: (shape of a row, dtype)} of the ring of a ReplayBuffer."""
    return {
        **store_for(num_envs, observation_shape, frame_stack).layout,
        "action": ((num_envs, action_size), np.float32),
        "reward": ((num_envs,), np.float32),
        "terminated": ((num_envs,), np.uint8),
        "ended": ((num_envs,), np.uint8),
        **(Hindsight.layout(num_envs) if hindsight else {}),
    }


class ReplayBuffer:
    """The newest `capacity` transitions of N environments, and `slack` older ones that only a resume needs.

    Args:
      capacity: transitions that `sample` draws from; of images, frames that these may lie in (`FrameStore`).
      observation_shape: O, or (H, W, C) of images.
      action_size: A.
      frame_stack: frames that an image is made of: its newest C / frame_stack channels are new at each step.
      num_envs: N; one `add` is a row of N transitions.
      n_step, gamma: rewards summed and discount per step of the sampled transitions.
      hindsight: gives transitions other goals when sampling; for vectors.
      slack: further transitions kept. A checkpoint stores only how many rows there were, so what it may sample must
        survive until the checkpoint after next.
      directory: where the files live; None keeps the ring in memory.
      rows: vector rows already written, when reopening.
    Attributes:
      failure: what a draw of `blocks` raised; its reader, in TensorFlow, gets the text only.
    Raises:
      UsageError: capacity is less than num_envs.
      UserError: the disk has no room (with the sizes).
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: int | tuple[int, ...],
        action_size: int,
        *,
        num_envs: int = 1,
        n_step: int = 1,
        gamma: float = 0.99,
        frame_stack: int = 1,
        hindsight: Hindsight | None = None,
        slack: int = 0,
        directory: str | os.PathLike | None = None,
        rows: int = 0,
    ):
        if capacity < num_envs:
            raise UsageError(f"capacity ({capacity}) must be at least num_envs ({num_envs})")
        self._capacity = capacity // num_envs
        self._num_envs, self._n_step, self._gamma = num_envs, n_step, gamma
        self._store = store_for(num_envs, observation_shape, frame_stack)
        self._hindsight, self.rows = hindsight, rows
        self.failure: Exception | None = None
        layout = layout_of(num_envs, observation_shape, action_size, frame_stack, hindsight is not None)
        length = self._capacity + -(-slack // num_envs)
        if directory is None:
            self._ring = {name: np.zeros((length, *shape), dtype) for name, (shape, dtype) in layout.items()}
        else:
            self._ring = open_ring(Path(directory), layout, length, rows)
        self._length = len(self._ring["reward"])
        self._action_size = action_size

    def __len__(self) -> int:
        """Transitions that are kept for sampling, failed steps too."""
        return min(self.rows, self._capacity) * self._num_envs

    def add(self, observation, action, reward, next_observation, terminated, truncated):
        """Appends one transition per environment; copies, so the caller may reuse its arrays.

        Args:
          observation, next_observation: [N, ...]; next_observation is the true successor, also when an episode ends.
          action: [N, A]; terminated, truncated: bool [N].
          reward: [N]; nan where the step failed: it is never drawn, and n-step returns end with the step before.
        """
        slot, ring = self.rows % self._length, self._ring
        self._store.add(ring, self.rows, observation, next_observation)
        ring["action"][slot] = action
        ring["reward"][slot] = reward
        ring["terminated"][slot] = terminated
        ended = np.logical_or(terminated, truncated)
        if self._hindsight:
            self._hindsight.add(ring, self.rows, ended)
        ring["ended"][slot] = ended
        self.rows += 1

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...], rows: int | None = None) -> Batch:
        """Transitions drawn uniformly, with replacement, from the newest `capacity` of the first `rows` rows.

        Args:
          shape: leading shape of every array, say (updates, batch_size).
          rows: how much of the past to see; default all of it.
        Raises:
          UsageError: nothing has been added.
          UserError: nearly all steps in sight failed.
        """
        if not self.rows:
            raise UsageError("nothing has been added yet: there is nothing to draw from")
        return self._finished(np, self._draw(rng, shape, self.rows if rows is None else rows))

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...], rows: int) -> Batch:
        """As `sample`, observations as they lie in the ring."""
        ring = self._ring
        first, env = self._choose(rng, shape, rows)
        relabelled = self._hindsight and self._hindsight.draw(rng, ring, first, env, rows)
        reward, terminated, ended = self._outcome(first, env, relabelled)
        total, last, going = reward.astype(np.float64), first, True
        for k in range(1, self._n_step):  # cut at the episode's end and at the ring's head
            going = going & (ended == 0) & self._followed(last, env, rows)
            last = last + going
            reward, terminated, ended = self._outcome(last, env, relabelled)
            total += np.where(going, self._gamma**k * reward, 0)
        discount = self._gamma ** (last - first + 1.0) * (terminated == 0)
        slot = first % self._length
        observation, next_observation = self._store.gather(ring, slot, last % self._length, env)
        if relabelled:
            relabelled.observe(observation, next_observation)
        return Batch(
            observation,
            at(ring["action"], slot, env),
            total.astype(np.float32),
            discount.astype(np.float32),
            next_observation,
        )

    def _choose(self, rng: np.random.Generator, shape: tuple[int, ...], rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(row, environment) of transitions, drawn uniformly; failed steps are none."""
        n = self._num_envs
        oldest = self._store.oldest(self._ring, rows, max(0, rows - self._capacity), self._capacity)
        first, env = np.divmod(rng.integers(oldest * n, rows * n, size=shape), n)
        for _ in range(_MOST_REDRAWS):
            failed = self._failed(first, env)
            if not failed.any():
                return first, env
            again = rng.integers(oldest * n, rows * n, size=np.count_nonzero(failed))
            first[failed], env[failed] = np.divmod(again, n)
        raise UserError("nearly every step of the replay has failed: there is nothing to learn from")

    def _failed(self, row: np.ndarray, env: np.ndarray) -> np.ndarray:
        return np.isnan(at(self._ring["reward"], row % self._length, env))

    def _followed(self, row: np.ndarray, env: np.ndarray, rows: int) -> np.ndarray:
        """Whether the next row can be seen and did not fail."""
        return (row + 1 < rows) & ~self._failed(row + 1, env)

    def _outcome(self, row: np.ndarray, env: np.ndarray, relabelled: Relabelled | None):
        """(reward, terminated, ended) of the steps in rows `row` of environments `env`, by the goals they have."""
        slot = row % self._length
        reward, terminated, ended = (at(self._ring[name], slot, env) for name in ("reward", "terminated", "ended"))
        if relabelled:
            relabelled.outcome(slot, env, reward, terminated)
            ended |= terminated
        return reward, terminated, ended

    def _finished(self, np_or_tf, batch: Batch) -> Batch:
        return batch._replace(
            observation=self._store.finish(np_or_tf, batch.observation),
            next_observation=self._store.finish(np_or_tf, batch.next_observation),
        )

    def blocks(
        self, shape: tuple[int, int, int], seed: int, rows: Callable[[int], int], first: int = 0
    ) -> Iterator[Batch]:
        """Blocks `first`, `first` + 1, ... of minibatches, as tensors, through tf.data, one draw ahead.

        Args:
          shape: (blocks of a draw, updates of a block, batch size).
          seed: draw d is a function of (seed, d) and the rows it may see.
          rows: of draw d, how many of the rows ever added it may see; they must be there when draw d - 1 is begun, and
            must not be overwritten before d is made.
        """
        from ddpg_tf._tf import tf

        observation = (self._store.dtype, self._store.gathered)
        kinds = Batch(observation, (np.float32, (self._action_size,)), (np.float32, ()), (np.float32, ()), observation)

        def sample(draw):
            rng = np.random.Generator(np.random.Philox(key=np.array([seed, draw], np.uint64)))
            try:
                return self._draw(rng, shape, rows(int(draw)))
            except Exception as error:
                self.failure = error
                raise

        def tensors(draw):
            batch = Batch(*tf.numpy_function(sample, [draw], [dtype for dtype, _ in kinds], stateful=True))
            for array, (_, tail) in zip(batch, kinds, strict=True):
                array.set_shape((*shape, *tail))
            return self._finished(tf, batch)  # TensorFlow transposes faster than NumPy

        options = tf.data.Options()
        options.autotune.enabled = False
        first_draw, skipped = divmod(first, shape[0])
        draws = tf.data.Dataset.counter(first_draw).map(tensors).prefetch(1)
        return iter(draws.unbatch().skip(skipped).with_options(options))

    def end_episodes(self, mask: np.ndarray):
        """Ends the episodes of the environments in `mask` (bool [N]) with the newest row, as a truncation would."""
        self._ring["ended"][(self.rows - 1) % self._length, mask] = 1
        if self._hindsight:
            self._hindsight.end(self._ring, self.rows - 1, mask)

    def flush(self):
        """Writes the ring through to its files."""
        for array in self._ring.values():
            if isinstance(array, np.memmap):
                array.flush()
