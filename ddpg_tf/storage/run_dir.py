"""A run directory: made, checked, locked, read back."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import ddpg_tf
from ddpg_tf import files
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.flags import flags_file, read_flags
from ddpg_tf.storage import checkpoint

_OF_A_RUN = (
    *("flags.txt", "versions.json", "metrics.csv", "evaluations.csv", "values.csv", "events.out.tfevents.*"),
    *("learning_curve.png", "observation.png", "snapshot-*.npz", "checkpoints", "replay", "videos"),
)
_PACKAGES = (
    *("tensorflow", "keras", "tensorflow-probability", "numpy"),
    *("gymnasium", "mujoco", "dm_control", "gymnasium-robotics"),
)


def default_path(name: str) -> Path:
    """runs/NAME-TIME; `name` may hold an environment's id."""
    return Path("runs") / f"{name.replace('/', '-').replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"


def create(path: Path, run_config: Config):
    """Makes the directory of a new run; flags.txt first, for it says that this is a run.

    A run that ended before its first checkpoint and evaluation is taken over: the start that failed must not block the
    mended one.

    Raises:
      UsageError: it is there, with something in it.
      UserError: another process trains in it.
    """
    flags, begun = path / "flags.txt", files.partials(path)
    if flags.is_file() and not _has_results(path):
        with lock(path):
            left = {file for pattern in _OF_A_RUN for file in path.glob(pattern)}
            left |= {file for file in begun if file.parent == path}
            if left == set(path.iterdir()):  # nothing else lies there
                for file in sorted(left, key=lambda file: file == flags):  # last: without it this is no run
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
    elif begun and begun == list(path.iterdir()):  # killed while it wrote flags.txt
        for file in begun:
            file.unlink(missing_ok=True)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a directory: choose another --run_dir")
    if path.exists() and any(path.iterdir()):
        raise UsageError(f"{path} is not empty: continue that run with --resume, or choose another --run_dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        files.sync(path.parent)
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}") from None
    write_flags(path, run_config)


def _has_results(path: Path) -> bool:
    evaluated = bool(files.read_rows(path / "evaluations.csv"))
    return evaluated or checkpoint.newest_step(path / "checkpoints") is not None


def write_flags(path: Path, run_config: Config):
    files.write_text(path / "flags.txt", run_config.to_flags())


def write_versions(path: Path, device: str, step: int = 0):
    """versions.json: the run's random name, what it began on, and what else it went on with, each from which step.

    A start that left no checkpoint is forgotten: nothing of it is in the run.
    """
    file, now = path / "versions.json", {"device": device, **package_versions()}
    told = _read_json(file) if file.exists() else {}
    resumed = [start for start in told.pop("resumed", []) if start["step"] < step]
    first = told if told and step else {"run": told.get("run") or uuid.uuid4().hex, **now}
    if not now.items() <= [first, *resumed][-1].items():
        resumed.append({"step": step, **now})
    files.write_text(file, json.dumps(first | {"resumed": resumed}, indent=1))


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and the run can be resumed") from None


def read_versions(path: Path) -> dict[str, str]:
    """The run's random name and what it ran on: "2.20.0, 2.21.0" of what was another one when it was resumed."""
    first = _read_json(path / "versions.json")
    starts = [first, *first.pop("resumed", [])]
    names = {name: None for start in starts for name in start if name != "step"}
    return {name: ", ".join(dict.fromkeys(start[name] for start in starts if name in start)) for name in names}


def read_config(path: str | os.PathLike) -> Config:
    """The Config of the run in `path`.

    Raises:
      UsageError: there is no run.
    """
    return read_flags(flags_file(path))


@contextlib.contextmanager
def lock(path: Path, message: str = "another process is training in {}") -> Iterator[None]:
    """Holds a directory, say a run's, against a second process.

    Raises:
      UserError: another process holds it; `message` says so, with the directory for its {}.
      OSError: as `files.hold`.
    """
    with files.hold(path) as ours:
        if not ours:
            raise UserError(message.format(path))
        yield


def identity(path: Path) -> str:
    """The run's own random name, by which published versions know it."""
    return read_versions(path)["run"]


def package_versions() -> dict[str, str]:
    """What runs here; with the commit of this project, if it runs from a checkout."""
    found = {"python": platform.python_version(), "ddpg_tf": ddpg_tf.__version__}
    if commit := _commit(Path(ddpg_tf.__file__).parents[1]):
        found["commit"] = commit
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _commit(checkout: Path) -> str:
    """Its commit, with -dirty where files differ from it; empty where `checkout` is none, or git is not there."""
    if not (checkout / ".git").exists():  # git would go on to the checkout that holds, say, a virtual environment
        return ""
    command = ["git", "-C", checkout, "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
