"""Everything with state, saved atomically in one file a checkpoint, restored exactly."""

import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_tf.errors import UserError
from ddpg_tf.files import sync, write_atomically

KEPT = 2


def save(directory: Path, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]):
    """Writes checkpoint `step`, then deletes all but it and the one before.

    Checkpoints of later steps go too: they are those that `load` could not read.
    """
    directory.mkdir(exist_ok=True)
    sync(directory.parent)
    text = np.frombuffer(json.dumps({"step": step, "arrays": len(arrays), **meta}).encode(), np.uint8)
    write_atomically(directory / f"{step:012d}.npz", lambda file: np.savez(file, **{"meta.json": text}, **arrays))
    paths = _newest_first(directory)
    now = [int(path.stem) for path in paths].index(step)
    for gone in paths[:now] + paths[now + KEPT :]:
        gone.unlink()


class Checkpoint(NamedTuple):
    """What `save` was given; the step is in `meta` too."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def load(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read, None where there is none.

    A damaged one is passed over with a warning.

    Raises:
      UserError: all are damaged.
    """
    paths = _newest_first(directory)
    for path in paths:
        try:
            return _read(path)
        except Exception as error:  # one wrong byte, and zipfile raises nearly anything
            warnings.warn(f"checkpoint {path} is damaged ({error}): falling back to the one before", stacklevel=2)
    if paths:
        raise UserError(f"no checkpoint in {directory} can be read: delete that directory to train from step 0 again")
    return None


def newest_step(directory: Path) -> int | None:
    """The step of the newest checkpoint, None where there is none."""
    return max((int(path.stem) for path in _newest_first(directory)), default=None)


def select(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below `prefix`/, without it."""
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def _newest_first(directory: Path) -> list[Path]:
    return sorted((path for path in directory.glob("*.npz") if path.stem.isdecimal()), reverse=True)


def _read(path: Path) -> Checkpoint:
    with zipfile.ZipFile(path) as archive:  # whole members: only then are checksums compared
        arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    meta = json.loads(arrays.pop("meta.json").tobytes())
    if meta.pop("arrays") != len(arrays):  # a wrong byte in the archive's table of contents
        raise ValueError("arrays are missing")
    return Checkpoint(arrays, meta)
