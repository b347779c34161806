"""Runs a module of this package in a process of its own, wherever the parent was started."""

import os
import subprocess
import sys
from pathlib import Path


def run(module: str, *argv: object, **environment: str) -> subprocess.CompletedProcess:
    """`python -m module argv...` with `environment` added; waits, and captures what it prints.

    In its own session: Ctrl-C at the terminal reaches the training, not a film or a publication half-way.
    """
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, argv)],
        capture_output=True,
        text=True,
        errors="replace",  # drivers and libraries write what they like
        env={**os.environ, "PYTHONPATH": path, **environment},
        start_new_session=True,
    )


def failure(module: str, *argv: object, **environment: str) -> str:
    """As `run`; returns why it failed, in one line: a signal, its last line, or what the system said. Empty if not."""
    try:
        done = run(module, *argv, **environment)
    except OSError as error:  # no memory for a process, no more processes, ...
        return str(error)
    if done.returncode < 0:
        return f"signal {-done.returncode} ended it (out of memory?)"
    return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1] if done.returncode else ""
