"""Small runs of train.py that are disturbed at some moments, resumed, and compared with an undisturbed one."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.processes import ROOT
from benchmarks.serving.kills import is_complete
from ddpg_tf.errors import UserError
from ddpg_tf.files import read_rows
from ddpg_tf.storage import checkpoint

PATIENCE = 300  # seconds: a training that takes longer hangs
POLL_SECONDS = 0.001
_TRACEBACK = re.compile(r"^Traceback ", re.MULTILINE)
_PARTIAL = re.compile(r"\.[0-9a-f]{32}$")  # names that files.write_atomically gives to what is not whole yet


@dataclasses.dataclass(frozen=True)
class Task:
    """A small run: flags of train.py; `exports`: each better policy is published beside it."""

    flags: tuple[str, ...]
    exports: bool = False


class Session:
    """A train.py process: starts the run in `run`, or resumes it when there is one. What it says goes to `log`.

    Args:
      before: a command that train.py is run by.
    """

    def __init__(self, task: Task, run: Path, log: Path, before: tuple[str, ...] = ()):
        self.task, self.run, self.log, self.before = task, run, log, before
        flags = [*task.flags, *([f"--export_dir={exports_of(run)}"] if task.exports else [])]
        argv = ["--resume"] if (run / "flags.txt").is_file() else flags
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [*before, sys.executable, "train.py", *argv, f"--run_dir={run}"],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "SDL_VIDEODRIVER": "offscreen,dummy"},
            )
        self.began = time.monotonic()

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Its exit status. One that hangs is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        if self.status is None:
            self.kill()
        return self._process.returncode

    def kill(self):
        self._process.kill()
        self._process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def failed_well(self) -> bool:
        """Whether it ended with status 1 or 2 and one line that says why."""
        lines = self.said.splitlines()
        return self.status in (1, 2) and sum(line.startswith("error: ") for line in lines) == 1

    def until(self, seconds: float) -> bool:
        """Waits until it has run for so long. False: it ended before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self.began + seconds - time.monotonic()))
        return self.status is None

    def until_writing(self, nth: int) -> bool:
        """Waits until files become written, in the run's directory or its checkpoints, for the nth time."""
        seen: set[str] = set()
        while self.status is None:
            seen |= set(half_written(self.run)) | set(half_written(self.run / "checkpoints"))
            if len(seen) >= nth:
                return True
            time.sleep(POLL_SECONDS)
        return False


def exports_of(run: Path) -> Path:
    return run.with_name(f"{run.name}-exports")


def half_written(directory: Path) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if _PARTIAL.search(name)]
    except FileNotFoundError:
        return []


def checkpoints(run: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run / "checkpoints").glob("[0-9]*.npz"))


@dataclasses.dataclass
class Tally:
    """What came of the runs of a kind.

    Attributes:
      disturbed: disturbances.
      resumed: of these, how many the run came to its end after.
      seen: what else was counted, by name.
      never: the same, of what should not happen.
      notes: a line for each thing that should not be.
    """

    disturbed: int = 0
    resumed: int = 0
    runs: int = 0
    equal: int = 0
    unusable: int = 0
    tracebacks: int = 0
    unclear: int = 0
    left: int = 0
    seen: dict[str, int] = dataclasses.field(default_factory=dict)
    never: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def count(self, what: str, found: object = True):
        self.seen[what] = self.seen.get(what, 0) + bool(found)

    def look_at(self, session: Session):
        """Counts the tracebacks of a session that has ended, and a failure without a clear line."""
        if found := len(_TRACEBACK.findall(session.said)):
            self.tracebacks += found
            self.notes.append(f"{session.log.name}: {session.said.strip().splitlines()[-1][:300]}")
        if session.status not in (0, -signal.SIGKILL) and not session.failed_well:
            self.unclear += 1
            self.notes.append(f"{session.log.name}: exit status {session.status}, {session.said[-300:]!r}")


Strike = Callable[[Session, Tally], Session | None]  # what goes on, None if it has ended; the directory is mended
Moment = Callable[[Session], bool]  # waits for it; False if the session ended before


def campaign(
    task: Task,
    folder: Path,
    whole: Path,
    strikes: int,
    moment: Moment,
    strike: Strike,
    *,
    place: Path | None = None,
    before: tuple[str, ...] = (),
) -> Tally:
    """Runs of `task`, disturbed and resumed until they end, as many as it takes for so many `strikes`.

    Args:
      folder, place: where the logs and the runs go, the latter by default to the former.
      before: a command that train.py is run by.
    """
    tally, sessions, place = Tally(), [], place or folder
    place.mkdir(exist_ok=True)
    while tally.disturbed < strikes:
        run, already = place / f"run-{tally.runs}", tally.disturbed
        while True:
            session = Session(task, run, folder / f"{len(sessions):03d}.log", before)
            sessions.append(session)
            if tally.disturbed < strikes and moment(session):
                session = strike(session, tally)
                if session is None:
                    continue
            if session.wait() == 0:
                break
            tally.unusable += 1
            tally.notes.append(f"{session.log.name}: {run.name} is not resumed: {session.said.strip()[-300:]}")
            break
        tally.runs += 1
        if session.status == 0:
            tally.resumed += tally.disturbed - already
            differing, left = differences(run, whole), left_behind(run, whole)
            tally.equal += not differing
            tally.left += len(left)
            tally.notes += [f"{run.name}: {what} differs" for what in differing]
            tally.notes += [f"{run.name}: {name} is left" for name in left]
        print(f"  {folder.name}: {tally.disturbed} of {strikes} after {tally.runs} runs", flush=True)
    for session in sessions:  # only now: processes that outlive a killed one speak later
        tally.look_at(session)
    return tally


def undisturbed(task: Task, folder: Path) -> tuple[Path, float]:
    """A run that nothing happens to, and how many seconds it took."""
    session = Session(task, folder / "whole", folder / "whole.log")
    if session.wait():
        raise UserError(f"the undisturbed run failed: {session.said[-2000:]}")
    return session.run, time.monotonic() - session.began


# --- Looking at what is left --------------------------------------------------------------------------------------


def differences(run: Path, whole: Path) -> list[str]:
    """What of a finished run is not as in `whole`, the clock apart; and publications that are not whole."""
    found = [
        name for name in ("evaluations.csv", "values.csv") if (run / name).read_bytes() != (whole / name).read_bytes()
    ]
    if _timeless(run / "metrics.csv") != _timeless(whole / "metrics.csv"):
        found.append("metrics.csv")
    (arrays, meta), (others, other_meta) = (checkpoint.load(path / "checkpoints") for path in (run, whole))
    if (meta["step"], meta["scores"]) != (other_meta["step"], other_meta["scores"]):
        found.append("step or scores")
    if not same_arrays(arrays, others):
        found.append("last checkpoint")
    if exports_of(whole).is_dir():
        published, others = _published(run), _published(whole)
        found += [f"publication: {part}" for part in published | others if published.get(part) != others.get(part)]
    return found


def same_arrays(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one checkpoint that is whole."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "meta.json"}


def _timeless(path: Path) -> list[dict[str, str]]:
    clocks = ("seconds", "steps_per_second")
    return [{name: value for name, value in row.items() if name not in clocks} for row in read_rows(path)]


def _published(run: Path) -> dict[str, object]:
    """The newest version: its step, score and weights; versions that lack a part."""
    from ddpg_tf._tf import tf  # takes long, and only publications need it
    from ddpg_tf.export.versions import versions

    exports = exports_of(run)
    found = {f"version {n}": "not whole" for n in versions(exports) if not is_complete(exports / str(n))}
    newest = exports / str(max(versions(exports), default=0))
    card = json.loads((newest / "assets.extra" / "policy.json").read_text())
    reader = tf.train.load_checkpoint(str(newest / "variables" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("variables/")]
    weights = {name: reader.get_tensor(name).tolist() for name in names}
    return found | {"step": card["step"], "score": card["score"], "weights": weights}


def left_behind(run: Path, whole: Path) -> list[str]:
    """Names of files that the run has and `whole` has not, TensorBoard's apart."""
    names = [
        {str(file.relative_to(path)) for file in path.rglob("*") if "tfevents" not in file.name}
        for path in (run, whole)
    ]
    return sorted(names[0] - names[1])
