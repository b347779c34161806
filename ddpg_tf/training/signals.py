"""Signals that end a training, with everything saved."""

import contextlib
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal is closed


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP came; a checkpoint has been written."""

    def __init__(self, signal_number: int, run: Path):
        command = shlex.join(["python", "train.py", "--resume", f"--run_dir={run}"])
        super().__init__(f"interrupted; continue with: {command}")
        self.status = 128 + signal_number


@contextlib.contextmanager
def collected() -> Iterator[list[int]]:
    """Collects _SIGNALS in the list it yields; a second one acts at once."""
    received: list[int] = []

    def note(number, _):
        if received:
            os._exit(128 + number)
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in _SIGNALS}
    except ValueError:  # not in the main thread: signals are the caller's business
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
