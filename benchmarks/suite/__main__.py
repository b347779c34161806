"""Runs a suite of trainings, several at once, as often as it takes.

    python -m benchmarks.suite benchmarks/suites/NAME.toml [--jobs=2] [--only=PATTERN] [--dry_run] [--ray_address=auto]

A run's directory is runs/NAME/<entry>-<seed>. Ctrl-C (or SIGTERM) has every run write a checkpoint; the same command
goes on from there, also after kill -9 or a restart of the machine. Runs that are finished, or whose results are
published already, are skipped. `python -m benchmarks.results` publishes.
"""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags

from benchmarks.peers import peer_runs
from benchmarks.processes import available_cores, start_training
from benchmarks.suite import on_ray, running
from benchmarks.suite.entries import Suite, read
from benchmarks.suite.running import BUSY, DIVERGED, FAILED, OPEN, SuiteRun
from ddpg_tf import cli
from ddpg_tf.errors import UsageError
from ddpg_tf.storage import run_dir

_LOOK_SECONDS = 2.0
_TELL_SECONDS = 600.0  # between tables where they cannot be drawn in place


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.integer(
        "jobs",
        None,
        "runs at once, each on its own share of the cores; default one a core: two runs "
        "with a thread each do more than one with two (benchmarks/results/jobs.md)",
        lower_bound=1,
    )
    define.string("only", "*", "run only what matches, <entry>-<seed>; * and ? as in file names")
    define.boolean("dry_run", False, "list the runs and the hours they will take, and run nothing")
    define.string("runs_dir", "runs", "where the run directories are made")
    define.string(
        "ray_address",
        "",
        "Ray cluster to run on, a CPU each: auto, HOST:PORT or ray://HOST:PORT; its machines share this folder and "
        "runs_dir; jobs is then as many as there are runs",
    )
    peer_runs.define_flag(values)
    paths = cli.parse(argv, values, __doc__, positional=True)
    if len(paths) != 1:
        raise UsageError("name one suite file. See --help.")
    suite = read(Path(paths[0]))
    runs = running.plan(suite, Path(values.runs_dir), values.only, Path(values.peers))
    if values.ray_address and any(run.entry.peer for run in runs):
        raise UsageError("other libraries train on this machine only: leave out --ray_address, or these runs by --only")
    if values.ray_address:
        cores = list(range(values.jobs or len(runs)))  # places in the queue
    elif (values.jobs or 1) > len(cores := available_cores()):
        raise UsageError(f"--jobs={values.jobs}: this process may use {len(cores)} cores")
    jobs = values.jobs or len(cores)
    if values.dry_run:
        print(running.dry_run(runs, jobs))
        return 0
    running.require_disk(runs)
    if any(run.entry.peer and run.state == OPEN for run in runs):
        peer_runs.python_of(Path(values.peers))  # made now, if need be, and not while others train
    directory = Path(values.runs_dir) / suite.name
    directory.mkdir(parents=True, exist_ok=True)
    with run_dir.lock(directory, "another process runs this suite in {}"), contextlib.ExitStack() as stack:
        launch = _launch
        if values.ray_address:
            launch, leave = on_ray.launcher(values.ray_address)
            stack.callback(leave)
        return _Runner(suite, runs, [cores[i::jobs] for i in range(jobs)], launch).run()


@dataclasses.dataclass
class _Job:
    run: SuiteRun
    process: subprocess.Popen | on_ray.Placed
    cores: list[int]
    told: bool = False  # to stop


class _Runner:
    """Works off `runs`, at most one on each share of the cores."""

    def __init__(self, suite: Suite, runs: Sequence[SuiteRun], shares: list[list[int]], launch: Callable):
        self._suite, self._runs, self._shares, self._launch = suite, runs, shares, launch
        self._jobs: list[_Job] = []
        self._tried: set[Path] = set()
        self._interrupted = 0

    def run(self) -> int:
        before = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with _table() as show:
                while self._start() or self._jobs:
                    show(running.table(self._suite, self._runs))
                    self._wait(_LOOK_SECONDS)
                show(running.table(self._suite, self._runs), last=True)
        finally:
            for job in self._jobs:  # only an error of our own leaves any
                job.process.terminate()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._interrupted:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 128 + self._interrupted
        failed = [run for run in self._runs if run.state in (FAILED, DIVERGED)]
        for run in failed:
            print(f"{run.state}: {run.name}: {run.problem}", file=sys.stderr)
        return int(bool(failed))

    def _interrupt(self, number, _):
        self._interrupted = number

    def _start(self) -> bool:
        """Starts what there is room for. Returns whether anything is still to be started."""
        if self._interrupted:
            return False
        waiting = [run for run in self._runs if run.path not in self._tried and run.look() in (OPEN, BUSY)]
        for run in waiting:
            taken = {tuple(job.cores) for job in self._jobs}
            free = [share for share in self._shares if tuple(share) not in taken]
            if free and run.state == OPEN and not self._interrupted:
                self._tried.add(run.path)
                self._jobs.append(_Job(run, self._launch(run, free[0]), free[0]))
                run.started()
        return bool(waiting)

    def _wait(self, seconds: float):
        """Until a run ends, but not longer than that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for job in self._jobs:
                if self._interrupted and not job.told:  # once: at a second signal a training ends without a checkpoint
                    job.process.send_signal(signal.SIGTERM)
                    job.told = True
            ended = [job for job in self._jobs if job.process.poll() is not None]
            for job in ended:
                self._jobs.remove(job)
                job.run.ended(job.process.returncode, job.told)
            if ended:
                return
            time.sleep(0.05)


def _launch(run: SuiteRun, cores: list[int]) -> subprocess.Popen:
    return start_training(run.command(), run.log, cores)


@contextlib.contextmanager
def _table() -> Iterator:
    """A function that shows a table: in place on a terminal, now and then elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda table, last=False: live.update(table, refresh=True)
        return
    told = -_TELL_SECONDS

    def show(table, last=False):
        nonlocal told
        if last or time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            console.print(table)

    yield show


if __name__ == "__main__":
    cli.run(main)
