"""Replay: a ring of transitions on memory-mapped files -> tf.data blocks of minibatches.

The ring keeps one-step rows in arrays [T, N, ...] (time, environment) with an episode-end bit; n-step returns are put
together when sampling. Images are kept once each and stacked when sampling. A draw of minibatches is a function of
(seed, its number) and of the rows that were there one draw earlier: prefetching, interrupting and resuming cannot
change it.
"""

import bisect
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpg_tf.replay.ring import layout_of, open_ring


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


class ReplayBuffer:
    """The newest `capacity` transitions of N environments, and `slack` older ones that only a resume needs.

    Of images, rows hold only where they are: environment i's frames are slots 0, 1, ... of a ring of their own, one for
    each step and one for what follows an episode's last. The ring of frames has as many slots as there are rows, so
    each episode's end takes one transition out of the past.

    Args:
      capacity: transitions that `sample` draws from; of images, slots that these may lie in.
      observation_shape: O, or (H, W, C) of images.
      action_size: A.
      frame_stack: slots that an image is made of: its newest C / frame_stack channels are new at each step.
      num_envs: N; one `add` is a row of N transitions.
      n_step, gamma: rewards summed and discount per step of the sampled transitions.
      slack: further transitions kept. A checkpoint stores only how many rows there were, so what it may sample must
        survive until the checkpoint after next.
      directory: where the files live; None keeps the ring in memory.
      rows: vector rows already written, when reopening.
    Raises:
      UserError: the disk has no room (with the sizes).
    """

    def __init__(self, capacity: int, observation_shape: int | tuple[int, ...], action_size: int, *, num_envs: int = 1,
                 n_step: int = 1, gamma: float = 0.99, frame_stack: int = 1, slack: int = 0,
                 directory: str | os.PathLike | None = None, rows: int = 0):
        self._capacity = max(capacity // num_envs, 1)
        self._num_envs, self._n_step, self._gamma = num_envs, n_step, gamma
        self._layout = layout_of(num_envs, observation_shape, action_size, frame_stack)
        self.image, self._frame_stack = "frame" in self._layout, frame_stack
        self.rows = rows
        length = self._capacity + -(-slack // num_envs)
        if directory is None:
            self._length = length
            self._ring = {name: np.zeros((length, *shape), dtype) for name, (shape, dtype) in self._layout.items()}
        else:
            self._length, self._ring = open_ring(Path(directory), self._layout, length, rows)

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return min(self.rows, self._capacity) * self._num_envs

    def add(self, observation, action, reward, next_observation, terminated, truncated):
        """Appends one transition per environment; copies, so the caller may reuse its arrays.

        Args:
          observation, next_observation: [N, ...]; next_observation is the true successor, also when an episode ends.
          action: [N, A]; reward: [N]; terminated, truncated: bool [N].
        """
        slot, ring = self.rows % self._length, self._ring
        if self.image:
            self._add_frames(slot, observation, next_observation)
        else:
            ring["observation"][slot] = observation
            ring["next_observation"][slot] = next_observation
        ring["action"][slot] = action
        ring["reward"][slot] = reward
        ring["terminated"][slot] = terminated
        ring["ended"][slot] = np.logical_or(terminated, truncated)
        self.rows += 1

    def _add_frames(self, slot: int, observation, next_observation):
        """The successor's newest frame; at the start of an episode also the observation's."""
        ring, every_env = self._ring, np.arange(self._num_envs)
        before = (self.rows - 1) % self._length
        begins = ring["ended"][before] != 0 if self.rows else np.ones(self._num_envs, bool)
        frame = ring["frame"][before] + 1 + begins if self.rows else np.zeros(self._num_envs, np.int64)
        age = np.minimum(ring["age"][before] + 1, self._frame_stack - 1)
        new = ring["pixels"].shape[-1]
        ring["pixels"][frame[begins] % self._length, every_env[begins]] = observation[begins][..., -new:]
        ring["pixels"][(frame + 1) % self._length, every_env] = next_observation[..., -new:]
        ring["frame"][slot], ring["age"][slot] = frame, np.where(begins, 0, age)

    def _stacks(self, slot, env, successor: bool) -> np.ndarray:
        """uint8 [..., frame_stack, H, W, c], the frames of the observations in `slot` or of what followed them."""
        ring, stack = self._ring, self._frame_stack
        newest, age = ring["frame"][slot, env] + successor, np.minimum(ring["age"][slot, env] + successor, stack - 1)
        back = np.minimum(np.arange(stack - 1, -1, -1), age[..., None])  # an episode begins with its frame repeated
        return ring["pixels"][(newest[..., None] - back) % self._length, env[..., None]]

    def _read_ahead(self, slot, end, env):
        """Has the system read the frames of a draw that are not in memory together, not each in its turn."""
        pixels = self._ring["pixels"]
        if not isinstance(pixels, np.memmap):
            return
        size, frame = pixels[0].nbytes, self._ring["frame"]
        firsts = (frame[slot, env] - self._frame_stack + 1) % self._length
        lasts = (frame[end, env] + 1) % self._length
        for first, last in zip(firsts.ravel().tolist(), lasts.ravel().tolist(), strict=True):
            start = first * size // mmap.PAGESIZE * mmap.PAGESIZE
            stop = (last + 1 if first <= last else self._length) * size  # at the ring's end the rest has to wait
            pixels.base.madvise(mmap.MADV_WILLNEED, start, stop - start)

    def _oldest(self, rows: int) -> int:
        """The first of the first `rows` rows that may be drawn."""
        oldest = max(0, rows - self._capacity)
        if not self.image or not rows:
            return oldest
        ring = self._ring
        first_frame = ring["frame"][(rows - 1) % self._length] + 2 - self._capacity  # [N]

        def whole(row):
            slot = row % self._length
            return bool((ring["frame"][slot] - ring["age"][slot] >= first_frame).all())

        return bisect.bisect_left(range(rows), True, lo=max(oldest, rows - self._length), key=whole)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...], rows: int | None = None) -> Batch:
        """Transitions drawn uniformly, with replacement, from the newest `capacity` of the first `rows` rows.

        Args:
          shape: leading shape of every array, say (updates, batch_size).
          rows: how much of the past to see; default all of it.
        """
        batch = self._draw(rng, shape, rows)
        if not self.image:
            return batch
        return batch._replace(observation=_stacked(np, batch.observation),
                              next_observation=_stacked(np, batch.next_observation))

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...], rows: int | None) -> Batch:
        """As `sample`, but frames are not yet stacked: [..., frame_stack, H, W, c]."""
        rows = self.rows if rows is None else rows
        oldest, ring, n_envs = self._oldest(rows), self._ring, self._num_envs
        draw = rng.integers(oldest * n_envs, rows * n_envs, size=shape)
        first, env = np.divmod(draw, n_envs)
        slot = first % self._length
        reward = ring["reward"][slot, env].astype(np.float64)
        going = np.logical_and(ring["ended"][slot, env] == 0, first + 1 < rows)
        last = first
        for k in range(1, self._n_step):  # cut at the episode's end and at the ring's head
            last = last + going
            following = last % self._length
            reward += np.where(going, self._gamma**k * ring["reward"][following, env], 0)
            going = going & (ring["ended"][following, env] == 0) & (last + 1 < rows)
        end = last % self._length
        discount = self._gamma ** (last - first + 1.0) * (ring["terminated"][end, env] == 0)
        if self.image:
            self._read_ahead(slot, end, env)
            observation, next_observation = self._stacks(slot, env, False), self._stacks(end, env, True)
        else:
            observation, next_observation = ring["observation"][slot, env], ring["next_observation"][end, env]
        return Batch(observation, ring["action"][slot, env], reward.astype(np.float32), discount.astype(np.float32),
                     next_observation)

    def blocks(self, shape: tuple[int, int, int], seed: int, rows: Callable[[int], int], first: int = 0
               ) -> Iterator[Batch]:
        """Blocks `first`, `first` + 1, ... of minibatches, as tensors, through tf.data, one draw ahead.

        Args:
          shape: (blocks of a draw, updates of a block, batch size).
          seed: draw d is a function of (seed, d) and the rows it may see.
          rows: of draw d, how many of the rows ever added it may see; they must be there when draw d - 1 is begun, and
            must not be overwritten before d is made.
        """
        from ddpg_tf._tf import tf

        def sample(draw):
            rng = np.random.Generator(np.random.Philox(key=np.array([seed, draw], np.uint64)))
            return self._draw(rng, shape, rows(int(draw)))

        picture = (self._frame_stack, *self._layout["pixels"][0][1:]) if self.image else None

        def tensors(draw):
            kinds = [tf.uint8 if picture and "observation" in name else tf.float32 for name in Batch._fields]
            batch = Batch(*tf.numpy_function(sample, [draw], kinds, stateful=True))
            for name, array in batch._asdict().items():
                tail = picture if picture and "observation" in name else self._layout.get(name, ((0,),))[0][1:]
                array.set_shape((*shape, *tail))
            if picture:  # TensorFlow transposes faster than NumPy
                batch = batch._replace(observation=_stacked(tf, batch.observation),
                                       next_observation=_stacked(tf, batch.next_observation))
            return batch

        options = tf.data.Options()
        options.autotune.enabled = False
        first_draw, skipped = divmod(first, shape[0])
        draws = tf.data.Dataset.counter(first_draw).map(tensors).prefetch(1)
        return iter(draws.unbatch().skip(skipped).with_options(options))

    def end_episodes(self, mask: np.ndarray):
        """Ends the episodes of the environments in `mask` (bool [N]) with the newest row, as a truncation would."""
        self._ring["ended"][(self.rows - 1) % self._length, mask] = 1

    def flush(self):
        """Writes the ring through to its files."""
        for array in self._ring.values():
            if isinstance(array, np.memmap):
                array.flush()


def _stacked(np_or_tf, frames):
    """[..., S, H, W, c] -> [..., H, W, S x c], the oldest frame first."""
    *lead, stack, height, width, channels = frames.shape
    axes = [*range(len(lead)), *(len(lead) + axis for axis in (1, 2, 0, 3))]
    return np_or_tf.reshape(np_or_tf.transpose(frames, axes), [*lead, height, width, stack * channels])
