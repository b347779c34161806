"""Other libraries' trainings, to compare with: their Python, and the command that runs `train` in it."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.processes import ROOT, run
from ddpg_tf import cli
from ddpg_tf.evaluation.evaluator import FIRST_SEED

DIRECTORY = "benchmarks/.peers"
LIBRARIES, ALGORITHMS = ("sbx", "sb3"), ("DDPG", "TD3")
PACKAGES = ("stable-baselines3", "torch", "sbx-rl", "jax")
WORK = ("env", "seed", "total_steps", "log_every", "eval_every", "eval_episodes")  # flags that hold for peers too


@dataclasses.dataclass(frozen=True)
class Peer:
    """Who trains instead of this project.

    Attributes:
      library: one of LIBRARIES.
      algorithm: its class, one of ALGORITHMS.
      settings: the class's arguments, and net_arch.
    """

    library: str
    algorithm: str
    settings: Mapping[str, Any]


def define_flag(values: flags.FlagValues):
    cli.definers(values).string(
        "peers",
        DIRECTORY,
        "virtual environment of the other libraries; made when it is first needed, from "
        "benchmarks/peers/requirements.txt",
    )


def command(python: Path, peer: Peer, run_dir: Path, work: Any, flags_txt: str = "") -> list[str]:
    """What trains; `work` has an attribute for each of WORK, `flags_txt` is what the run directory's file will hold."""
    job = {
        **{name: getattr(work, name) for name in WORK},
        "peer": dataclasses.asdict(peer),
        "run_dir": str(run_dir),
        "flags": flags_txt,
        "first_seed": FIRST_SEED,
        "packages": ("gymnasium", "mujoco", *PACKAGES),
    }
    return [str(python), str(ROOT / "benchmarks/peers/train.py"), json.dumps(job)]


def python_of(directory: Path) -> Path:
    """The Python that has the peers, in the virtual environment `directory`."""
    python = (ROOT / directory / "bin" / "python").absolute()
    if not (ROOT / directory / "complete").exists():
        print(f"installing the peers in {directory} ...", flush=True)
        run([sys.executable, "-m", "venv", "--clear", str(ROOT / directory)])
        run([str(python), "-m", "pip", "install", "--quiet", "-r", "benchmarks/peers/requirements.txt"])
        (ROOT / directory / "complete").touch()
    return python


def versions(python: Path) -> dict[str, str]:
    """Of each of PACKAGES."""
    script = "import importlib.metadata as m, json; print(json.dumps({name: m.version(name) for name in %s}))"
    return json.loads(subprocess.check_output([python, "-c", script % (PACKAGES,)], text=True))
