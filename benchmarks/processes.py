"""Commands of the project, and servers, in processes of their own."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddpg_tf.errors import UserError

ROOT = Path(__file__).parents[1]
_START_SECONDS = 60
_PR_SET_PDEATHSIG = 1


def run(command: list) -> str:
    """What a command prints.

    Raises:
      UserError: it failed; with the end of what it complained.
    """
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[1]} failed: {done.stderr[-2000:]}")
    return done.stdout


def available_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def start_training(
    command: list[str], log: Path, cores: list[int], environ: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """A training in the background: at the lowest priority, on `cores` (empty: all); it writes to `log`.

    It gets SIGTERM, at which it writes a checkpoint, when this process dies.
    """

    def settle():
        os.nice(19)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores or available_cores())  # TensorFlow makes a thread for each of them
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    with open(log, "wb") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=settle,
        )


class Server:
    """A `python -m serve.local` process that answers."""

    def __init__(self, log: Path, *options: str):
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serve.local", "--rest_api_port=0", *options],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not (found := re.search(r"^serving .* on (http://\S+)$", self.output, re.MULTILINE)):
            if not self.alive or time.monotonic() > deadline:
                self.stop()
                raise UserError(f"the server did not start: {self.output[-2000:]}")
            time.sleep(0.05)
        self.url = found[1]

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def resident_megabytes(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if self.alive else None
        return int(found[1]) / 1024 if found else np.nan

    def stop(self):
        self._process.kill()
        self._process.wait()
