"""The runs of a suite: what state each is in, how it is started or continued, how long it will take."""

import csv
import fcntl
import fnmatch
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import outcomes
from benchmarks.processes import ROOT
from benchmarks.suite_file import Entry, Suite
from ddpg_tf import files
from ddpg_tf.config import FIELDS
from ddpg_tf.envs import factory
from ddpg_tf.errors import UsageError
from ddpg_tf.storage import run_dir

OPEN, RUNNING, BUSY, FINISHED, PUBLISHED, FAILED, DIVERGED = (
    "open", "running", "in use", "finished", "published", "failed", "diverged")


class SuiteRun:
    """One training.

    Attributes:
      name: <entry>-<seed>; path: its run directory; log: what it last printed.
      state: OPEN may be (re)started; BUSY is trained in by another process; PUBLISHED has results in
        benchmarks/results, which is enough; DIVERGED would diverge again.
      problem: why it failed.
    """

    def __init__(self, suite: Suite, entry: Entry, seed: int, runs_dir: Path):
        self.entry, self.seed, self.name = entry, seed, f"{entry.name}-{seed}"
        self.config = entry.seed_config(seed)
        self.path = runs_dir / suite.name / self.name
        self.log = self.path.with_name(f"{self.name}.log")
        self.problem = ""
        self._published = outcomes.folder(suite.name, entry.name)
        self.state = OPEN
        self.look()

    def look(self) -> str:
        """`state`, seen anew."""
        if self.state not in (RUNNING, FAILED):
            self.state = self._state()
        return self.state

    def _state(self) -> str:
        if (self.path / outcomes.DIVERGED).exists():
            self.problem = (self.path / outcomes.DIVERGED).read_text()
            return DIVERGED
        if outcomes.is_finished(self.path, self.config.total_steps):
            return FINISHED
        if outcomes.has(self._published, self.config):
            return PUBLISHED
        return BUSY if _is_locked(self.path) else OPEN

    def check(self):
        """Raises UsageError when the directory holds a run of other flags."""
        if not (self.path / "flags.txt").exists():
            return
        saved = run_dir.read_config(self.path)
        for name, field in FIELDS.items():
            if not field.metadata["resumable"] and getattr(saved, name) != getattr(self.config, name):
                raise UsageError(f"{self.path} was run with --{name}={getattr(saved, name)}, and the suite says "
                                 f"{getattr(self.config, name)}: delete it, or give the entry another name")
        if saved.total_steps > self.config.total_steps:
            raise UsageError(f"{self.path} was run for {saved.total_steps} steps, and the suite says "
                             f"{self.config.total_steps}: delete it, or give the entry another name")

    def command(self) -> list[str]:
        """What starts or continues it."""
        begun = (self.path / "flags.txt").exists()
        if not begun:
            shutil.rmtree(self.path, ignore_errors=True)  # killed before it became a run
        return [sys.executable, str(ROOT / "train.py"), *self.entry.arguments,
                f"--seed={self.seed}", f"--run_dir={self.path.absolute()}", *["--resume"] * begun]

    def started(self):
        self.state = RUNNING

    def ended(self, status: int):
        """Its process has ended."""
        self.state = OPEN
        if self.look() != OPEN or status in (130, 143, -15):
            return
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.strip()] or [f"exit status {status}"]
        self.state, self.problem = FAILED, said[-1].removeprefix("error: ")
        if "training diverged" in self.problem:
            self.state = DIVERGED
            files.write_atomically(self.path / outcomes.DIVERGED, lambda file: file.write(self.problem.encode()))

    @property
    def progress(self) -> tuple[int, float]:
        """(step, seconds of wall time) so far, as metrics.csv has it."""
        row = _last_row(self.path / "metrics.csv")
        return (int(row["step"]), float(row["seconds"])) if row else (0, 0.0)

    @property
    def last_evaluation(self) -> float | None:
        scores = outcomes.read_scores(self.path / "evaluations.csv")
        return list(scores.values())[-1] if scores else None

    @property
    def steps_per_second(self) -> float | None:
        step, seconds = self.progress
        return step / seconds if seconds else None


def plan(suite: Suite, runs_dir: Path, only: str = "*") -> list[SuiteRun]:
    """The runs of `suite` that match `only`: every entry's first seed, then the second ones.

    Raises:
      UsageError: none matches, or a directory holds a run of other flags.
    """
    runs = [SuiteRun(suite, entry, entry.seeds[i], runs_dir) for i in range(max(len(e.seeds) for e in suite.entries))
            for entry in suite.entries if i < len(entry.seeds)]
    chosen = [run for run in runs if fnmatch.fnmatchcase(run.name, only)]
    if not chosen:
        raise UsageError(f"no run matches --only={only}; there are {', '.join(run.name for run in runs)}")
    for run in chosen:
        if run.state != PUBLISHED:
            run.check()
    return chosen


def require_disk(runs: Sequence[SuiteRun]):
    """Raises UserError when the replays of the runs that have not begun do not fit on the disk."""
    from ddpg_tf.replay import ring
    from ddpg_tf.training import schedule

    needed, spaces = 0, {}
    for run in (run for run in runs if run.state == OPEN and not (run.path / "replay").exists()):
        config = run.config
        key = (config.env, config.env_kwargs, config.pixels)
        if key not in spaces:
            spaces[key] = factory.spaces_of(config)
        needed += schedule.ring_bytes(config, spaces[key].observation_shape, spaces[key].action_size)
    if needed:
        ring.require_disk(runs[0].path, needed)


def dry_run(runs: Sequence[SuiteRun], jobs: int) -> str:
    """The runs, and how long they will take at the speed of those that ran: of the same entry, or of any."""
    speeds: dict[str, list[float]] = {}
    for run in runs:
        if run.steps_per_second:
            speeds.setdefault(run.entry.name, []).append(run.steps_per_second)
    any_speed = statistics.median([speed for found in speeds.values() for speed in found]) if speeds else None
    lines, hours = [], 0.0
    for run in runs:
        left = 0 if run.state in (FINISHED, PUBLISHED, DIVERGED) else run.config.total_steps - run.progress[0]
        speed = statistics.median(speeds[run.entry.name]) if run.entry.name in speeds else any_speed
        estimate = left / speed / 3600 if speed else 0.0
        hours += estimate
        about = f", about {estimate:.1f} h" if left and speed else ""
        lines.append(f"{run.name}: {run.state}, {left:,} of {run.config.total_steps:,} steps left{about}")
    total = f"about {hours / jobs:.1f} h with {jobs} at once" if any_speed or not hours else "none has run yet"
    return "\n".join([*lines, f"{len(runs)} runs, {total}" if any_speed else f"{len(runs)} runs; none has run yet, so "
                      "the time is not known"])


def table(suite: Suite, runs: Sequence[SuiteRun]):
    """What runs now, line by line, and how many of the others are in which state."""
    from rich.table import Table

    others = {state: sum(run.state == state for run in runs) for state in dict.fromkeys(run.state for run in runs)}
    others.pop(RUNNING, None)
    found = Table(title=suite.name, caption=", ".join(f"{count} {state}" for state, count in others.items()))
    for column in ("run", "step", "of", "steps/s", "last evaluation", "left"):
        found.add_column(column, justify="left" if column == "run" else "right")
    for run in (run for run in runs if run.state in (RUNNING, FAILED, DIVERGED)):
        if run.state != RUNNING:
            found.add_row(run.name, run.state, "", "", "", "")
            continue
        (step, _), speed, score = run.progress, run.steps_per_second, run.last_evaluation
        left = (run.config.total_steps - step) / speed / 60 if speed else None
        found.add_row(run.name, f"{step:,}", f"{run.config.total_steps:,}", f"{speed:.0f}" if speed else "",
                      "" if score is None else f"{score:.1f}", "" if left is None else f"{left:.0f} min")
    return found


def _last_row(path: Path) -> dict[str, str] | None:
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return None
    return rows[-1] if rows else None


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
