"""Signals that end a training, with everything saved."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddpg_tf.cli import train_command

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal is closed
_ONE_WISH = 1.0  # seconds; when a terminal is closed, kernel and shell each send SIGHUP


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP came; a checkpoint has been written."""

    def __init__(self, signal_number: int, run: Path):
        super().__init__(f"interrupted; continue with: {train_command('--resume', f'--run_dir={run}')}")
        self.status = 128 + signal_number


@contextlib.contextmanager
def collected() -> Iterator[list[int]]:
    """Collects _SIGNALS in the list it yields; one more, a second later, ends the process whatever it is doing.

    A SIGHUP that is ignored, as below nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the caller's business
        yield []
        return
    received: list[int] = []
    ours = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in ours}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_end_at_a_repeat, args=(reader, ours), daemon=True).start()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield received
    finally:
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_a_repeat(reader: int, signals: Sequence[int]):
    """Reads the signals that come. Python's handlers wait while TensorFlow or an environment works; this does not."""
    first = math.inf
    while number := os.read(reader, 1):
        if number[0] in signals:
            if time.monotonic() > first + _ONE_WISH:
                os._exit(128 + number[0])
            first = min(first, time.monotonic())
    os.close(reader)
