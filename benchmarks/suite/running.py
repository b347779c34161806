"""The runs of a suite: what state each is in, how it is started or continued, how long it will take."""

import fnmatch
import math
import signal
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import outcomes
from benchmarks.peers import peer_runs
from benchmarks.processes import ROOT
from benchmarks.suite.entries import Entry, Suite
from ddpg_tf.errors import UsageError
from ddpg_tf.files import hold, partials, read_rows, write_text

OPEN, RUNNING, BUSY, FINISHED, PUBLISHED, FAILED, DIVERGED = (
    "open",
    "running",
    "in use",
    "finished",
    "published",
    "failed",
    "diverged",
)


class SuiteRun:
    """One training.

    Attributes:
      name: <entry>-<seed>; path: its run directory; log: what it last printed.
      state: OPEN may be (re)started; BUSY is trained in by another process; PUBLISHED has results in
        benchmarks/results, which is enough; DIVERGED would diverge again.
      problem: why it failed.
    """

    def __init__(self, suite: Suite, entry: Entry, seed: int, runs_dir: Path, peers: Path):
        self.entry, self.seed, self.name = entry, seed, f"{entry.name}-{seed}"
        self.config = entry.seed_config(seed)
        self.path = runs_dir / suite.name / self.name
        self.log = self.path.with_name(f"{self.name}.log")
        self.problem, self._peers = "", peers
        self._published = outcomes.folder(suite.name, entry.name)
        self.state = OPEN
        self.look()

    def look(self) -> str:
        """`state`, seen anew."""
        if self.state in (OPEN, BUSY):  # the others are final, or told by `ended`
            self.state = self._state()
        return self.state

    def _state(self) -> str:
        if (self.path / outcomes.DIVERGED).exists():
            self.problem = (self.path / outcomes.DIVERGED).read_text()
            return DIVERGED
        if outcomes.is_finished(self.path, self.config.total_steps):
            return FINISHED
        if outcomes.has(self._published, self.config, self.entry.peer):
            return PUBLISHED
        return BUSY if is_locked(self.path) else OPEN

    def check(self):
        """Raises UsageError when the directory holds something else, or a run of other flags."""
        if not (self.path / "flags.txt").exists():
            if self.path.exists() and set(self.path.iterdir()) - set(partials(self.path)):
                raise UsageError(f"{self.path} holds something that is no run: move it away")
            return
        outcomes.require_same(self.path, self.config, self.entry.peer, may_be_shorter=True)

    def command(self) -> list[str]:
        """What starts or continues it; a peer's training begins anew."""
        if peer := self.entry.peer:
            python, config = peer_runs.python_of(self._peers), self.config
            return peer_runs.command(python, peer, self.path.absolute(), config, config.to_flags())
        begun = (self.path / "flags.txt").exists()
        return [
            sys.executable,
            str(ROOT / "train.py"),
            # A run that goes on has its settings, and takes no preset.
            *(argument for argument in self.entry.arguments if not (begun and argument.startswith("--preset="))),
            f"--seed={self.seed}",
            f"--total_steps={self.config.total_steps}",
            f"--run_dir={self.path.absolute()}",
            *["--resume"] * begun,
        ]

    def started(self):
        self.state = RUNNING

    def ended(self, status: int, interrupted: bool):
        """Its process has ended; `interrupted`: because it was told to."""
        self.state = OPEN
        if self.look() != OPEN or (interrupted and status in (130, 143, -15)):
            return
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        killed = [f"killed by {signal.Signals(-status).name}"] if status < 0 else []
        self.state, self.problem = FAILED, [*(lines or [f"exit status {status}"]), *errors, *killed][-1]
        if "training diverged" in self.problem:
            self.state = DIVERGED
            write_text(self.path / outcomes.DIVERGED, self.problem)

    @property
    def progress(self) -> tuple[int, float]:
        """(step, seconds of wall time) so far, as metrics.csv has it."""
        rows = read_rows(self.path / "metrics.csv")
        return (int(rows[-1]["step"]), float(rows[-1]["seconds"])) if rows else (0, 0.0)

    @property
    def last_evaluation(self) -> float | None:
        scores = outcomes.read_scores(self.path / "evaluations.csv")
        return list(scores.values())[-1] if scores else None

    @property
    def steps_per_second(self) -> float | None:
        step, seconds = self.progress
        return step / seconds if seconds else None


def plan(suite: Suite, runs_dir: Path, only: str = "*", peers: Path = Path(peer_runs.DIRECTORY)) -> list[SuiteRun]:
    """The runs of `suite` that match `only`: every entry's first seed, then the second ones.

    Args:
      peers: the virtual environment of other libraries, if they are to train.
    Raises:
      UsageError: none matches, or a directory holds a run of other flags.
    """
    runs = [
        SuiteRun(suite, entry, entry.seeds[i], runs_dir, peers)
        for i in range(max(len(e.seeds) for e in suite.entries))
        for entry in suite.entries
        if i < len(entry.seeds)
    ]
    chosen = [run for run in runs if fnmatch.fnmatchcase(run.name, only)]
    if not chosen:
        raise UsageError(f"no run matches --only={only}; there are {', '.join(run.name for run in runs)}")
    for run in chosen:
        if run.state != PUBLISHED:
            run.check()
    return chosen


def require_disk(runs: Sequence[SuiteRun]):
    """Raises UserError when the replays of the runs that have not begun do not fit on the disk."""
    from ddpg_tf.envs import factory
    from ddpg_tf.replay import ring
    from ddpg_tf.training import schedule

    needed, spaces = 0, {}
    new = (run for run in runs if run.state == OPEN and not run.entry.peer and not (run.path / "replay").exists())
    for run in new:
        if run.entry.name not in spaces:
            spaces[run.entry.name] = factory.spaces_of(run.config)
        of_entry = spaces[run.entry.name]
        needed += schedule.ring_bytes(run.config, of_entry.observation_shape, of_entry.action_size)
    if needed:
        ring.require_disk(runs[0].path, needed)


def dry_run(runs: Sequence[SuiteRun], jobs: int) -> str:
    """The runs, and how long they will take at the speed of those that ran: of the same entry, or of any."""
    speeds: dict[str, list[float]] = {}
    for run in runs:
        if run.steps_per_second:
            speeds.setdefault(run.entry.name, []).append(run.steps_per_second)
    any_speed = statistics.median([speed for found in speeds.values() for speed in found]) if speeds else None
    lines, hours = [], [0.0]
    for run in runs:
        left = 0 if run.state in (FINISHED, PUBLISHED, DIVERGED) else run.config.total_steps - run.progress[0]
        speed = statistics.median(speeds[run.entry.name]) if run.entry.name in speeds else any_speed
        hours += [left / speed / 3600] if speed else [float("nan")] * bool(left)
        about = f", about {hours[-1]:.1f} h" if left and speed else ""
        lines.append(f"{run.name}: {run.state}, {left:,} of {run.config.total_steps:,} steps left{about}")
    total = max(sum(hours) / jobs, max(hours))
    known = f"about {total:.1f} h with {jobs} at once"
    if math.isnan(total):
        known = "none has run yet, so the time is not known"
    return "\n".join([*lines, f"{len(runs)} runs, {known if any(hours) else 'nothing is left to run'}"])


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
        found.add_row(
            run.name,
            f"{step:,}",
            f"{run.config.total_steps:,}",
            f"{speed:.0f}" if speed else "",
            "" if score is None else f"{score:.1f}",
            "" if left is None else f"{left:.0f} min",
        )
    return found


def is_locked(path: Path) -> bool:
    """Whether a process trains there."""
    try:
        with hold(path) as free:
            return not free
    except FileNotFoundError:
        return False
