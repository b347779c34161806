"""Runs of a suite on a Ray cluster, whose machines share the project's folder and the runs' under the same names."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import start_training
from benchmarks.suite import running
from benchmarks.suite.running import SuiteRun
from ddpg_tf.collect.cluster import ONE_CPU, join

_HELD_SECONDS = 60.0
_MOST_LOSSES = 10  # of one run's place, until it counts as failed


class Trainer:
    """What Ray runs: one training in `path`, as a process, on a CPU of its own."""

    def __init__(self, argv: list[str], log: str, path: str):
        deadline = time.monotonic() + _HELD_SECONDS
        while running.is_locked(Path(path)) and time.monotonic() < deadline:
            time.sleep(0.5)  # the run's last process still writes its checkpoint
        self._process = start_training([sys.executable, *argv], Path(log), [], os.environ | ONE_CPU)

    def status(self) -> int | None:
        return self._process.poll()

    def stop(self):
        self._process.terminate()


class Placed:
    """A training that Ray finds a place for, and another one when its machine goes; speaks as subprocess.Popen does."""

    def __init__(self, ray: Any, make: Callable[[], Any]):
        self._ray, self._make, self._losses = ray, make, 0
        self.returncode: int | None = None
        self._begin()

    def _begin(self):
        self._trainer = self._make()
        self._asked, self._began = self._trainer.status.remote(), False

    def poll(self) -> int | None:
        if self.returncode is None and self._ray.wait([self._asked], timeout=0)[0]:
            try:
                self.returncode, self._began = self._ray.get(self._asked), True
                self._asked = self._trainer.status.remote()
            except self._ray.exceptions.RayError:  # the run is resumed from its checkpoint
                self._ray.kill(self._trainer)  # it may be out of reach only
                self._losses += 1
                if self._losses < _MOST_LOSSES:
                    self._begin()
                else:
                    self.returncode = 1
            if self.returncode is not None:
                self._ray.kill(self._trainer)
        return self.returncode

    def send_signal(self, number: int):
        """Whatever the number, SIGTERM: a checkpoint; one that still waits for a place waits no longer."""
        if self._began:
            self._trainer.stop.remote()
        else:
            self._ray.kill(self._trainer)
            self.returncode = -number

    def terminate(self):
        self._ray.kill(self._trainer)  # the training gets SIGTERM


def launcher(address: str) -> tuple[Callable[[SuiteRun, list[int]], Placed], Callable[[], None]]:
    """(what starts a run on the cluster at `address`, what leaves the cluster)."""
    ray, leave = join(address, 1, "")
    trainer = ray.remote(Trainer).options(num_cpus=1)

    def start(run: SuiteRun, _: list[int]) -> Placed:
        return Placed(ray, lambda: trainer.remote(run.command()[1:], str(run.log.absolute()), str(run.path.absolute())))

    return start, leave
