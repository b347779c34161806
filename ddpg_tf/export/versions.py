"""The versions below an export directory: numbered, published whole, pruned; what belongs to which run.

A version in the making is a directory whose name no integer parser takes, so TensorFlow Serving does not see it. Its
maker holds a lock on it: what nobody holds has been left by a process that is gone.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddpg_tf import files
from ddpg_tf._tf import os_errors
from ddpg_tf.errors import UserError
from ddpg_tf.export import runtimes

_PARTIAL = "partial-"
_FORMATS = ("saved_model.pb", *(known.file for known in runtimes.FORMATS.values()))


@contextlib.contextmanager
def exporting_to(export_dir: Path) -> Iterator[None]:
    """Makes `export_dir`, for the block to write below.

    Raises:
      UserError: in one line, what the system denies the block: the disk is full, the directory is read-only, ...
    """
    if special := re.search(r"[][*?\\]", str(export_dir)):
        raise UserError(f"cannot export to {export_dir}: TensorFlow reads no paths with {special[0]} in them")
    try:
        with os_errors():
            export_dir.mkdir(parents=True, exist_ok=True)
            if not os.access(export_dir, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            yield
    except OSError as error:  # TensorFlow's name a file that is gone again
        reason = error.strerror or str(error).rpartition("; ")[2]
        if isinstance(error, FileExistsError):
            reason = "it is not a directory"
        raise UserError(f"cannot export to {export_dir}: {reason}") from None


def versions(export_dir: Path) -> list[int]:
    """The version numbers in `export_dir`, as TF Serving would see them."""
    return sorted(int(path.name) for path in export_dir.glob("*") if path.name.isdecimal())


def published(export_dir: Path, run: str) -> dict[int, int]:
    """{version: training step} of what training in the run named `run` has published in `export_dir`."""
    cards = {version: _card(export_dir, version) for version in versions(export_dir)}
    return {version: card["step"] for version, card in cards.items() if card.get("run") == run and card.get("live")}


def _card(export_dir: Path, version: int) -> dict[str, Any]:
    """A version's policy.json; empty where it has none."""
    try:
        return json.loads((export_dir / str(version) / "assets.extra" / "policy.json").read_text())
    except (OSError, ValueError):
        return {}


def prune(export_dir: Path, run: str, keep: int):
    """Deletes all but the newest `keep` versions that training in the run named `run` has published."""
    for version in sorted(published(export_dir, run))[:-keep]:
        with in_the_making(export_dir) as trash:
            (export_dir / str(version)).rename(trash / "version")  # a version is there whole, or not at all


def require_above(export_dir: Path, version: int | None):
    """Raises UserError when `version` is not above all that are there."""
    newest = max(versions(export_dir), default=0)
    if version is not None and version <= newest:
        raise UserError(
            f"version {version} is not above the newest in {export_dir}, {newest}: servers would not take it up"
        )


def require_no_better(export_dir: Path, card: Mapping[str, Any]):
    """Raises UserError when servers answer with another run's policy that scored more than the one of `card`.

    In the same environment, with the same arguments and time limit: scores in two cannot be compared. So a run that
    begins anew, say from the flags of one that is done, does not take its place before it has learnt as much.
    """
    newest = max(versions(export_dir), default=0)
    there = _card(export_dir, newest)
    alike = _environment(there) == _environment(card)
    if alike and there.get("run") != card["run"] and there.get("score") is not None and there["score"] > card["score"]:
        raise UserError(
            f"it scores {card['score']:.1f}, and version {newest} in {export_dir}, of another run, {there['score']:.1f}"
        )


def _environment(card: Mapping[str, Any]) -> tuple:
    return card.get("environment"), card.get("env_kwargs"), card.get("flags", {}).get("max_episode_steps")


def require_format(export_dir: Path, file: str):
    """Raises UserError when there is a version of another format than `file` is of: a server follows the newest."""
    for version in versions(export_dir):
        found = [name for name in _FORMATS if (export_dir / str(version) / name).exists()]
        if found and file not in found:
            raise UserError(f"version {version} in {export_dir} is {found[0]}: choose another directory for {file}")


@contextlib.contextmanager
def in_the_making(export_dir: Path) -> Iterator[Path]:
    """A directory beside the versions, on their filesystem; gone at the end. Those of dead processes go too."""
    for path in export_dir.glob(f"{_PARTIAL}*"):
        with _lock(path) as free:
            if free:
                shutil.rmtree(path, ignore_errors=True)
    path = export_dir / f"{_PARTIAL}{uuid.uuid4().hex}"
    with contextlib.ExitStack() as held:
        while not (path.exists() and held.enter_context(_lock(path))):  # another process may clear it before the lock
            path.mkdir(exist_ok=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether the lock on a directory was free; it is held meanwhile. A directory that is gone has none."""
    with contextlib.ExitStack() as stack:
        try:
            ours = stack.enter_context(files.hold(path))
        except (FileNotFoundError, PermissionError):
            ours = False
        yield ours and path.exists()


def rename_to_version(complete: Path, export_dir: Path, version: int | None) -> Path:
    """Makes the directory `complete` the given version, or the one above the newest. Returns the version's path."""
    for path in [*complete.rglob("*"), complete]:
        files.sync(path)
    while True:
        target = export_dir / str(version or max(versions(export_dir), default=0) + 1)
        try:
            complete.rename(target)
        except OSError:
            if version is not None or not target.exists():
                raise
            continue  # another process has just published this number
        files.sync(export_dir)
        return target
