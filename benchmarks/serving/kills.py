"""Killing publishers, and watching what a server says meanwhile."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.processes import ROOT
from serve.client import PolicyClient, PolicyError

_POLL_SECONDS = 0.02


def kill_after(command: list[str], seconds: float) -> bool:
    """Whether the command was still running then."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return running


def is_complete(version: Path) -> bool:
    """Whether everything that export.py writes is in a version's directory."""
    parts = (
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets.extra/policy.json",
        "assets.extra/tf_serving_warmup_requests",
    )
    return all((version / part).is_file() for part in parts)


class Watch:
    """Asks for the status and an action again and again, in a thread.

    Attributes:
      answers: how many answers there were.
      longest: seconds that the slowest of them took.
      states: each version's states as they were first seen.
      problems: a line for each thing that should not be.
    """

    def __init__(self, url: str, model: str):
        self.answers, self.longest = 0, 0.0
        self.states: dict[str, list[str]] = {}
        self.problems: list[str] = []
        self._client = PolicyClient(url, model, retries=0)
        self._expected: np.ndarray | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._look_at_status()  # what was loading at the last look may be loaded by now
        self._client.close()
        self.problems += [
            f"version {version} was {' then '.join(states)}"
            for version, states in self.states.items()
            if "AVAILABLE" not in states
        ]

    def _work(self):
        while not self._stop.wait(_POLL_SECONDS):
            try:
                for look in (self._look_at_status, self._look_at_action):
                    asked = time.monotonic()
                    look()
                    self.answers += 1
                    self.longest = max(self.longest, time.monotonic() - asked)
            except PolicyError as error:
                self.problems.append(f"{error.status}: {error.message}")

    def _look_at_status(self):
        listed = self._client.status()["model_version_status"]
        newest = max((int(item["version"]) for item in listed if item["state"] == "AVAILABLE"), default=0)
        for item in listed:
            states = self.states.setdefault(item["version"], [])
            if item["state"] not in states:
                states.append(item["state"])
            left_early = item["state"] in ("UNLOADING", "END") and int(item["version"]) >= newest
            if left_early or item["status"]["error_code"] != "OK":
                self.problems.append(f"listed: {item}")

    def _look_at_action(self):
        action = self._client.act([1.0, 0.0, 0.0])
        if self._expected is None:
            self._expected = action
        if not np.allclose(action, self._expected, rtol=0, atol=1e-5):  # every version has the same weights
            self.problems.append(f"answered {action}, not {self._expected}")
