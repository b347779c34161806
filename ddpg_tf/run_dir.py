"""A run directory: made, checked, locked, read back."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import platform
import time
import uuid
from pathlib import Path

import numpy as np

import ddpg_tf
from ddpg_tf import checkpoint, config, envs
from ddpg_tf.cli import UsageError, UserError
from ddpg_tf.config import Config

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "gymnasium", "mujoco", "dm_control")


def default_path(run_config: Config) -> Path:
    env = run_config.env.replace("/", "-").replace(":", "-")
    return Path("runs") / f"{env}-{run_config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def create(path: Path, run_config: Config):
    """Makes the directory of a new run; flags.txt first, for it says that this is a run.

    Raises:
      UsageError: it is there and not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is not empty: continue that run with --resume, or choose another --run_dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}") from None
    write_flags(path, run_config)


def write_flags(path: Path, run_config: Config):
    checkpoint.write_atomically(path / "flags.txt", lambda file: file.write(run_config.to_flags().encode()))


def write_versions(path: Path):
    """versions.json, with the run's random name; one that is there stays."""
    if not (path / "versions.json").exists():
        text = json.dumps({"run": uuid.uuid4().hex, **package_versions()}, indent=1)
        checkpoint.write_atomically(path / "versions.json", lambda file: file.write(text.encode()))


def read_config(path: Path) -> Config:
    """The Config of the run in `path`.

    Raises:
      UsageError: there is no run.
    """
    return config.read_flags(config.flags_file(path))


def lock(path: Path) -> int:
    """Holds the run against a second process until this one ends.

    Raises:
      UserError: another process trains in it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"another process is training in {path}") from None
    return descriptor


def identity(path: Path) -> str:
    """The run's own random name, by which published versions know it."""
    return json.loads((path / "versions.json").read_text())["run"]


def package_versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "ddpg_tf": ddpg_tf.__version__}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@dataclasses.dataclass(frozen=True)
class Policy:
    """A trained policy, read from a run directory.

    Attributes:
      agent: DDPG with the chosen actor and critic.
      step: environment step of the weights.
      score: mean return of the evaluation at that step; None for the latest weights, which may have had none. Before
        the first evaluation the best weights are the latest.
    """

    config: Config
    spaces: envs.Spaces
    agent: "ddpg_tf.DDPG"
    step: int
    score: float | None
    run: str


def load_policy(path: Path, which: str = "best") -> Policy:
    """The `best` or `latest` policy of the run in `path`.

    Raises:
      UserError: no run, no checkpoint, or one that does not fit its flags; `which` is neither.
    """
    if which not in ("best", "latest"):
        raise UsageError(f"checkpoint must be best or latest, not {which!r}")
    run_config = read_config(path)
    found = checkpoint.load(path / "checkpoints")
    if found is None:
        raise UserError(f"{path} has no checkpoint yet: train it first")
    arrays, meta = found
    if which == "best" and meta["best_step"] is not None:
        return restore_policy(run_config, checkpoint.select(arrays, "best"), meta["best_step"], meta["best_score"],
                              identity(path))
    latest = ddpg_tf.DDPG.policy_part(checkpoint.select(arrays, "agent"))
    return restore_policy(run_config, latest, meta["step"], None, identity(path))


def restore_policy(run_config: Config, state: dict[str, np.ndarray], step: int, score: float | None,
                   run: str) -> Policy:
    """A Policy from DDPG.policy_state."""
    spaces = read_spaces(run_config)
    agent = ddpg_tf.DDPG(run_config, spaces.observation_shape, spaces.low, spaces.high)
    try:
        agent.load_policy_state(state)
    except ValueError as error:
        raise UserError(f"incompatible checkpoint: {error}; was flags.txt edited, or does {run_config.env} differ?"
                        ) from None
    return Policy(run_config, spaces, agent, step, score, run)


def read_spaces(run_config: Config) -> envs.Spaces:
    env = envs.make_policy_env(run_config, isolate=False)
    try:
        return envs.read_spaces(env, run_config.env)
    finally:
        env.close()
