"""Replay: a ring of transitions on memory-mapped files -> tf.data blocks of minibatches.

The ring keeps one-step rows in arrays [T, N, ...] (time, environment) with an episode-end bit; n-step returns are put
together when sampling. A draw of minibatches is a function of (seed, its number) and of the rows that were there one
draw earlier: prefetching, interrupting and resuming cannot change it.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpg_tf.cli import UserError
from ddpg_tf.config import Config

_DRAWN_AHEAD = 10  # steps: an element of tf.data costs more than drawing a minibatch (benchmarks/results/profile.md)


class Batch(NamedTuple):
    """K minibatches of B transitions; every array is float32.

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

    Args:
      capacity: transitions that `sample` draws from.
      observation_size, action_size: O and A.
      num_envs: N; one `add` is a row of N transitions.
      n_step, gamma: rewards summed and discount per step of the sampled transitions.
      slack: further transitions kept. A checkpoint stores only how many rows there were, so what it may sample must
        survive until the checkpoint after next.
      directory: where the files live; None keeps the ring in memory.
      rows: vector rows already written, when reopening.
    Raises:
      UserError: the disk has no room (with the sizes).
    """

    def __init__(self, capacity: int, observation_size: int, action_size: int, *, num_envs: int = 1, n_step: int = 1,
                 gamma: float = 0.99, slack: int = 0, directory: str | os.PathLike | None = None, rows: int = 0):
        self._capacity = max(capacity // num_envs, 1)
        self._num_envs, self._n_step, self._gamma = num_envs, n_step, gamma
        self._layout = _layout(num_envs, observation_size, action_size)
        self.rows = rows
        length = self._capacity + -(-slack // num_envs)
        if directory is None:
            self._length = length
            self._ring = {name: np.zeros((length, *shape), dtype) for name, (shape, dtype) in self._layout.items()}
        else:
            self._length, self._ring = _open_ring(Path(directory), self._layout, length, rows)

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return min(self.rows, self._capacity) * self._num_envs

    def add(self, observation, action, reward, next_observation, terminated, truncated):
        """Appends one transition per environment; copies, so the caller may reuse its arrays.

        Args:
          observation, next_observation: [N, O]; next_observation is the true successor, also when an episode ends.
          action: [N, A]; reward: [N]; terminated, truncated: bool [N].
        """
        slot, ring = self.rows % self._length, self._ring
        ring["observation"][slot] = observation
        ring["action"][slot] = action
        ring["reward"][slot] = reward
        ring["next_observation"][slot] = next_observation
        ring["terminated"][slot] = terminated
        ring["ended"][slot] = np.logical_or(terminated, truncated)
        self.rows += 1

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...], rows: int | None = None) -> Batch:
        """Transitions drawn uniformly, with replacement, from the newest `capacity` of the first `rows` rows.

        Args:
          shape: leading shape of every array, say (updates, batch_size).
          rows: how much of the past to see; default all of it.
        """
        rows = self.rows if rows is None else rows
        oldest, ring, n_envs = max(0, rows - self._capacity), self._ring, self._num_envs
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
        return Batch(ring["observation"][slot, env], ring["action"][slot, env], reward.astype(np.float32),
                     discount.astype(np.float32), ring["next_observation"][end, env])

    def blocks(self, config: Config, first_block: int = 0) -> Iterator[Batch]:
        """Blocks `first_block`, `first_block` + 1, ... of minibatches, as tensors, through tf.data.

        Block b is due at step learning_starts + (b + 1) x update_every. Small blocks are drawn some at a time. A draw
        sees the rows that were there when the first block of the draw before it was due: the prefetch makes it while
        that one is learnt from and the environments go on.
        """
        from ddpg_tf._tf import tf

        together = _blocks_per_draw(config)
        shape = (together, config.updates_per_block, config.batch_size)

        def sample(draw):
            blocks_before = max(0, (int(draw) - 1) * together + 1)
            rows = (config.learning_starts + blocks_before * config.update_every) // self._num_envs
            rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, draw], np.uint64)))
            return self.sample(rng, shape, rows)

        def tensors(draw):
            batch = Batch(*tf.numpy_function(sample, [draw], [tf.float32] * len(Batch._fields), stateful=True))
            for name, array in batch._asdict().items():
                tail = self._layout[name][0][1:] if name in self._layout else ()
                array.set_shape((*shape, *tail))
            return batch

        options = tf.data.Options()
        options.autotune.enabled = False
        first_draw, skipped = divmod(first_block, together)
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


def ring_slack(config: Config) -> int:
    """Transitions to keep beyond replay_capacity so that either of the two kept checkpoints can be resumed."""
    interval = config.checkpoint_every or config.total_steps
    oldest_draw = (2 * _blocks_per_draw(config) - 1) * config.update_every
    return min(2 * interval + oldest_draw, max(0, config.total_steps - config.replay_capacity))


def _blocks_per_draw(config: Config) -> int:
    return max(1, _DRAWN_AHEAD // config.update_every)


def ring_bytes(config: Config, observation_size: int, action_size: int) -> int:
    """Bytes on disk of the ring of `config`."""
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize
              for shape, dtype in _layout(config.num_envs, observation_size, action_size).values())
    steps = min(config.replay_capacity, config.total_steps) + ring_slack(config)
    return row * -(-steps // config.num_envs)


def require_disk(directory: Path, needed: int):
    """Raises UserError, with the sizes, when `needed` bytes do not fit where `directory` is or will be."""
    place = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(f"the replay needs {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free: lower "
                        "--replay_capacity or choose a --run_dir elsewhere")


def _layout(num_envs: int, observation_size: int, action_size: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """{array: (shape of a row, dtype)}"""
    return {"observation": ((num_envs, observation_size), np.float32), "action": ((num_envs, action_size), np.float32),
            "reward": ((num_envs,), np.float32), "next_observation": ((num_envs, observation_size), np.float32),
            "terminated": ((num_envs,), np.uint8), "ended": ((num_envs,), np.uint8)}


def _open_ring(directory: Path, layout, length: int, rows: int) -> tuple[int, dict[str, np.memmap]]:
    """The ring in `directory`/ring-<length>, made or, when a resumed run needs a longer one, regrown."""
    existing = sorted((path for path in directory.glob("ring-*") if path.name[5:].isdigit()),
                      key=lambda path: int(path.name[5:]))
    if rows and not existing:
        raise UserError(f"{directory} holds no replay: the run cannot be resumed")
    if rows and int(existing[-1].name[5:]) >= length:
        length = int(existing[-1].name[5:])
    else:
        _make_ring(directory, layout, length, existing[-1] if rows else None, rows)
    home = directory / f"ring-{length}"
    for stale in existing:
        if stale != home:
            shutil.rmtree(stale)
    ring = {name: np.memmap(home / name, dtype, "r+", shape=(length, *shape))
            for name, (shape, dtype) in layout.items()}
    return length, ring


def _make_ring(directory: Path, layout, length: int, source: Path | None, rows: int):
    """Reserves the files of a new ring, copies what `source` holds of the first `rows` rows, renames it into place."""
    sizes = {name: length * int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (shape, dtype) in layout.items()}
    partial, home = directory / "partial", directory / f"ring-{length}"
    for stale in (partial, home):  # of a run that was killed before its first checkpoint
        shutil.rmtree(stale, ignore_errors=True)
    require_disk(directory, sum(sizes.values()))
    partial.mkdir(parents=True)
    for name, (shape, dtype) in layout.items():
        with open(partial / name, "wb") as file:
            # Reserved now: under a sparse file, a full disk kills the process later without a word.
            os.posix_fallocate(file.fileno(), 0, sizes[name])
        if source:
            old_length = int(source.name[5:])
            old = np.memmap(source / name, dtype, "r", shape=(old_length, *shape))
            new = np.memmap(partial / name, dtype, "r+", shape=(length, *shape))
            kept = np.arange(max(0, rows - old_length), rows)
            new[kept % length] = old[kept % old_length]
            new.flush()
    partial.rename(home)
