"""The replay's arrays as memory-mapped files: which there are, opened, regrown, and whether the disk has room."""

import os
import shutil
from pathlib import Path
from typing import IO

import numpy as np

from ddpg_tf.errors import UserError
from ddpg_tf.files import sync
from ddpg_tf.replay.observations import Layout

_COPIED_AT_ONCE = 4096  # rows


def open_ring(directory: Path, layout: Layout, length: int, rows: int) -> dict[str, np.memmap]:
    """The ring in `directory`/ring-<length>, made or, when a resumed run needs a longer one, regrown.

    Args:
      rows: vector rows already written; 0 for a new run.
    Returns:
      Its arrays by name, [length, N, ...]; a ring that is there may be longer.
    Raises:
      UserError: there should be a ring and is none, or a part of one, or the disk has no room.
    """
    existing = sorted((path for path in directory.glob("ring-*") if path.name[5:].isdigit()), key=_length)
    if rows and not existing:
        raise UserError(f"{directory} holds no replay: the run cannot be resumed")
    if rows:
        _require_whole(existing[-1], layout)
    if rows and _length(existing[-1]) >= length:
        length = _length(existing[-1])
    else:
        _make_ring(directory, layout, length, existing[-1] if rows else None, rows)
    home = directory / f"ring-{length}"
    for stale in existing:
        if stale != home:
            shutil.rmtree(stale)
    return {
        name: np.memmap(home / name, dtype, "r+", shape=(length, *shape)) for name, (shape, dtype) in layout.items()
    }


def _sizes(layout: Layout, length: int) -> dict[str, int]:
    """Bytes of each file."""
    return {name: length * int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (shape, dtype) in layout.items()}


def _require_whole(home: Path, layout: Layout):
    """NumPy would make a file that is too short longer, with zeros."""
    for name, size in _sizes(layout, _length(home)).items():
        found = (home / name).stat().st_size if (home / name).exists() else 0
        if found != size:
            raise UserError(f"{home / name} has {found} bytes instead of {size}: the run cannot be resumed")


def _length(home: Path) -> int:
    """Of the ring in `home`, ring-LENGTH."""
    return int(home.name[5:])


def _make_ring(directory: Path, layout: Layout, length: int, source: Path | None, rows: int):
    """Reserves the files of a new ring, copies what `source` holds of the first `rows` rows, renames it into place."""
    sizes = _sizes(layout, length)
    partial, home = directory / "partial", directory / f"ring-{length}"
    for stale in (partial, home):  # of a run that was killed before its first checkpoint
        shutil.rmtree(stale, ignore_errors=True)
    require_disk(directory, sum(sizes.values()))
    partial.mkdir(parents=True)
    for name, (shape, dtype) in layout.items():
        with open(partial / name, "wb") as file:
            _reserve(file, sizes[name])
        if source:
            old_length = _length(source)
            old = np.memmap(source / name, dtype, "r", shape=(old_length, *shape))
            new = np.memmap(partial / name, dtype, "r+", shape=(length, *shape))
            for env in range(shape[0]):
                number = rows  # of the slots ever written
                if name == "pixels":
                    frames = np.memmap(source / "frame", np.int64, "r", shape=(old_length, shape[0]))
                    number = int(frames[(rows - 1) % old_length, env]) + 2
                for start in range(max(0, number - old_length), number, _COPIED_AT_ONCE):
                    kept = np.arange(start, min(start + _COPIED_AT_ONCE, number))
                    new[kept % length, env] = old[kept % old_length, env]
            new.flush()
    partial.rename(home)
    # Before a shorter ring goes, and a checkpoint counts on this one.
    for folder in (
        home,
        directory,
        directory.parent,
    ):  # before a shorter ring goes
        sync(folder)


def _reserve(file: IO[bytes], size: int):
    """Takes the disk space now: under a sparse file, a full disk kills the process later without a word."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = bytes(1 << 20)  # macOS
    for start in range(0, size, len(zeros)):
        file.write(zeros[: size - start])


def require_disk(directory: Path, needed: int):
    """Raises UserError, with the sizes, when `needed` bytes do not fit where `directory` is or will be."""
    place = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"the replay needs {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free: lower "
            "--replay_capacity or choose a directory elsewhere"
        )
