"""How observations are kept in the ring and gathered from it: vectors whole, images as frames kept once each.

Both stores speak alike, so that the buffer chooses rows and does not know what it keeps:

    layout          {array: (shape of a row, dtype)} of what the store needs in the ring
    add             one row's observations
    oldest          the first row whose observations are still whole
    gather          observations of some rows, as they lie in the ring
    finish          what was gathered -> what the networks take
"""

import bisect
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

Layout = Mapping[str, tuple[tuple[int, ...], type]]
Ring = Mapping[str, np.ndarray]


def store_for(num_envs: int, observation_shape: int | tuple[int, ...], frame_stack: int) -> "VectorStore | FrameStore":
    """What keeps observations of this shape: O, or (H, W, C) of images."""
    shape = (observation_shape,) if isinstance(observation_shape, int) else tuple(observation_shape)
    return VectorStore(num_envs, shape) if len(shape) == 1 else FrameStore(num_envs, shape, frame_stack)


def at(array: np.ndarray, slot: np.ndarray, env: np.ndarray) -> np.ndarray:
    """`array`[slot, env] of an array [T, N, ...] of the ring; NumPy is faster with one index than with two."""
    array = np.asarray(array)  # or NumPy would make memory maps of a memory map
    return array.reshape(-1, *array.shape[2:]).take(slot * array.shape[1] + env, axis=0)


class VectorStore:
    """Observation and successor side by side in each row, float32 [N, O]."""

    dtype = np.float32

    def __init__(self, num_envs: int, shape: tuple[int, ...]):
        self.layout: Layout = {name: ((num_envs, *shape), np.float32) for name in ("observation", "next_observation")}
        self.gathered = shape

    def add(self, ring: Ring, row: int, observation: np.ndarray, next_observation: np.ndarray):
        slot = row % len(ring["reward"])
        ring["observation"][slot], ring["next_observation"][slot] = observation, next_observation

    def oldest(self, ring: Ring, rows: int, oldest: int, capacity: int) -> int:
        return oldest

    def gather(self, ring: Ring, slot: np.ndarray, end: np.ndarray, env: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return at(ring["observation"], slot, env), at(ring["next_observation"], end, env)

    def finish(self, np_or_tf: Any, gathered: Any) -> Any:
        return gathered


class FrameStore:
    """Rows hold only where an image's frames are: environment i's are slots 0, 1, ... of a ring of their own.

    One slot for each step, and one for what follows an episode's last. The ring of frames has as many slots as there
    are rows, so each episode's end takes one transition out of the past.

    Args:
      shape: (H, W, C) of images, whose newest C / frame_stack channels are new at each step.
      frame_stack: slots that an image is made of.
    """

    dtype = np.uint8

    def __init__(self, num_envs: int, shape: tuple[int, ...], frame_stack: int):
        frame = (*shape[:2], shape[2] // frame_stack)
        # Where an observation's newest frame is, and how many of the episode's lie before it, at most frame_stack - 1.
        self.layout: Layout = {
            "pixels": ((num_envs, *frame), np.uint8),
            "frame": ((num_envs,), np.int64),
            "age": ((num_envs,), np.uint8),
        }
        self.gathered = (frame_stack, *frame)
        self._stack, self._num_envs = frame_stack, num_envs

    def add(self, ring: Ring, row: int, observation: np.ndarray, next_observation: np.ndarray):
        """The successor's newest frame; at the start of an episode also the observation's."""
        length, every_env = len(ring["reward"]), np.arange(self._num_envs)
        slot, before = row % length, (row - 1) % length
        begins = ring["ended"][before] != 0 if row else np.ones(self._num_envs, bool)
        frame = ring["frame"][before] + 1 + begins if row else np.zeros(self._num_envs, np.int64)
        age = np.minimum(ring["age"][before] + 1, self._stack - 1)
        new = ring["pixels"].shape[-1]
        ring["pixels"][frame[begins] % length, every_env[begins]] = observation[begins][..., -new:]
        ring["pixels"][(frame + 1) % length, every_env] = next_observation[..., -new:]
        ring["frame"][slot], ring["age"][slot] = frame, np.where(begins, 0, age)

    def oldest(self, ring: Ring, rows: int, oldest: int, capacity: int) -> int:
        length = len(ring["reward"])
        first_frame = ring["frame"][(rows - 1) % length] + 2 - capacity  # [N]

        def whole(row):
            slot = row % length
            return bool((ring["frame"][slot] - ring["age"][slot] >= first_frame).all())

        return bisect.bisect_left(range(rows), True, lo=oldest, key=whole)

    def gather(self, ring: Ring, slot: np.ndarray, end: np.ndarray, env: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._read_ahead(ring, slot, end, env)
        return self._stacks(ring, slot, env, False), self._stacks(ring, end, env, True)

    def _stacks(self, ring: Ring, slot, env, successor: bool) -> np.ndarray:
        """uint8 [..., frame_stack, H, W, c], the frames of the observations in `slot` or of what followed them."""
        newest = ring["frame"][slot, env] + successor
        age = np.minimum(ring["age"][slot, env] + successor, self._stack - 1)
        back = np.minimum(np.arange(self._stack - 1, -1, -1), age[..., None])  # an episode begins with a frame repeated
        return ring["pixels"][(newest[..., None] - back) % len(ring["reward"]), env[..., None]]

    def _read_ahead(self, ring: Ring, slot, end, env):
        """Has the system read the frames of a draw that are not in memory together, not each in its turn."""
        pixels, frame, length = ring["pixels"], ring["frame"], len(ring["reward"])
        if not isinstance(pixels, np.memmap):
            return
        size = pixels[0].nbytes
        firsts = (frame[slot, env] - self._stack + 1) % length
        lasts = (frame[end, env] + 1) % length
        for first, last in zip(firsts.ravel().tolist(), lasts.ravel().tolist(), strict=True):
            start = first * size // mmap.PAGESIZE * mmap.PAGESIZE
            stop = (last + 1 if first <= last else length) * size  # at the ring's end the rest has to wait
            pixels.base.madvise(mmap.MADV_WILLNEED, start, stop - start)

    def finish(self, np_or_tf: Any, gathered: Any) -> Any:
        """[..., S, H, W, c] -> [..., H, W, S x c], the oldest frame first."""
        *lead, stack, height, width, channels = gathered.shape
        axes = [*range(len(lead)), *(len(lead) + axis for axis in (1, 2, 0, 3))]
        return np_or_tf.reshape(np_or_tf.transpose(gathered, axes), [*lead, height, width, stack * channels])
