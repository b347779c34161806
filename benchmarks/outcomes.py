"""What finished runs came to, kept in a folder of results: everything that tables and pictures are made from.

flags.txt       what the runs had in common, a flagfile
seed-N.csv      evaluations.csv of seed N
values-N.csv    values.csv of seed N: what the critic expected, and what followed
runs.csv        a row a run: how it ended, how long it took, its last weights on many episodes, versions
peer.json       who trained, where it was not this project
scatter.csv     what the critic expected at single steps, and what followed; where it was asked for
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import scoring
from benchmarks.peers import peer_runs
from benchmarks.peers.peer_runs import Peer
from ddpg_tf.config import FIELDS, Config
from ddpg_tf.errors import UsageError
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.files import read_rows, write_rows, write_text
from ddpg_tf.flags import read_flags
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.checkpoint import newest_step

RESULTS = Path("benchmarks/results")
DIVERGED = "diverged.txt"  # in a run directory: the line that ended it
VERSIONS = (  # what runs.csv keeps of versions.json
    *("commit", "device", "gymnasium", "mujoco", "dm_control", "gymnasium-robotics", "tensorflow", "keras"),
    *peer_runs.PACKAGES,
)
_PEER = "peer.json"  # in a run directory and in a folder of results
_COLUMNS = ("seed", "run", "ended", "steps_per_second", "rescored", "episodes", *VERSIONS, "success", "best")
_OWN = ("seed", "run_dir", "export_dir")  # flags in which the runs of a folder differ


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A run that ended.

    Attributes:
      ended: "finished", or "diverged at step N".
      scores: {step: mean return of the evaluation}.
      q_bias: {step: (Q(s0, mu(s0)) - discounted return) / |discounted return|}, where there was a return.
      rescored: mean return of the last weights over `episodes` episodes; None where they were not scored again.
      success: share of successes of the last weights on these episodes; None where there are no goals.
      best: mean return of the best evaluation's weights over as many other episodes; None where it was not asked for.
      steps_per_second: median of the rows of metrics.csv with updates in them.
    """

    seed: int
    ended: str
    scores: dict[int, float]
    q_bias: dict[int, float]
    rescored: float | None
    episodes: int
    steps_per_second: float | None
    versions: dict[str, str]
    success: float | None = None
    best: float | None = None

    def last(self, count: int) -> float:
        """Mean of the last `count` evaluations; of fewer than twice as many, of the second half."""
        return float(np.mean(list(self.scores.values())[-self.count(count) :]))

    def count(self, most: int) -> int:
        """How many evaluations `last` takes."""
        return min(most, -(-len(self.scores) // 2))

    @property
    def area(self) -> float:
        """Mean of all evaluations: the area under the curve in units of the return."""
        return float(np.mean(list(self.scores.values())))

    @property
    def last_q_bias(self) -> float | None:
        """Mean of the last five."""
        return float(np.mean(list(self.q_bias.values())[-5:])) if self.q_bias else None


@dataclasses.dataclass(frozen=True)
class Results:
    """A folder of results, read back; outcomes in the order of their seeds."""

    path: Path
    config: Config
    outcomes: tuple[Outcome, ...]
    peer: Peer | None = None


def folder(suite: str, entry: str) -> Path:
    return RESULTS / suite / entry


def is_finished(path: Path, total_steps: int) -> bool:
    """Whether the run in `path` made its last evaluation, and the checkpoint after it (a peer: its model)."""
    saved = (newest_step(path / "checkpoints") or 0) >= total_steps or (path / "model.zip").exists()
    return saved and total_steps in read_scores(path / "evaluations.csv")


def read_peer(path: Path) -> Peer | None:
    """Who trained the run, or the runs of the folder, in `path`; None: this project."""
    return Peer(**json.loads((path / _PEER).read_text())) if (path / _PEER).exists() else None


def require_same(run: Path, config: Config, peer: Peer | None, *, may_be_shorter: bool = False):
    """Raises UsageError unless `peer` trained the run in directory `run` with `config`, or for fewer steps of it."""
    saved, steps = run_dir.read_config(run), config.total_steps
    name = difference(dataclasses.replace(saved, total_steps=steps), config)
    if saved.total_steps > steps or (saved.total_steps < steps and not may_be_shorter):
        name = name or "total_steps"
    if name:
        raise UsageError(
            f"{run} was run with --{name}={getattr(saved, name)}, and the suite says "
            f"{getattr(config, name)}: delete it, or give the entry another name"
        )
    if read_peer(run) != peer:
        raise UsageError(f"{run} was trained by another library, or with other settings: delete it")


def has(path: Path, config: Config, peer: Peer | None) -> bool:
    """Whether the results in `path` have a run of `config`."""
    return _is_of(path, config, peer) and any(int(row["seed"]) == config.seed for row in read_rows(path / "runs.csv"))


def collect(run: Path, path: Path, episodes: int, *, scatter: bool = False, best: bool = False):
    """Adds the run in directory `run` to the results in `path`; results of other flags make way.

    Args:
      episodes: on which the last weights are scored again, unless they have been on as many or more.
      scatter: whether the critic's estimates are noted too.
      best: whether the best evaluation's weights are scored too.
    Raises:
      UsageError: the run is not finished, or another one of its seed is published.
    """
    require_ended(run)
    config, diverged, peer = run_dir.read_config(run), (run / DIVERGED).exists(), read_peer(run)
    ended = _divergence(run) if diverged else "finished"
    same_flags = _is_of(path, config, peer)
    rows = {int(row["seed"]): row for row in read_rows(path / "runs.csv")} if same_flags else {}
    versions = run_dir.read_versions(run)
    row = rows.get(config.seed)
    if row and row["run"] != versions["run"]:
        raise UsageError(f"{path} has another run of seed {config.seed}: take it out of runs.csv, if this is to count")
    known = row and row["ended"] == ended
    episodes = max(episodes, int(row["episodes"])) if known else episodes
    if peer or diverged:
        episodes, scatter = 0, False  # there are no weights, or they cannot be played here
    best = bool(best or (known and row.get("best"))) and episodes > 0
    if (
        known
        and int(row["episodes"]) == episodes
        and (row.get("best") or not best)
        and (not scatter or any(int(point["seed"]) == config.seed for point in read_rows(path / "scatter.csv")))
    ):
        return
    told = {"seed": config.seed, "run": versions["run"], "ended": ended, "episodes": episodes}
    rows[config.seed] = told | {name: versions.get(name, "") for name in VERSIONS} | _measured(run, episodes, best)
    points = scoring.estimates(run) if scatter else []
    if not same_flags:  # only now: scoring takes minutes, and may be interrupted
        clear(path)
    path.mkdir(parents=True, exist_ok=True)
    if peer:
        shutil.copyfile(run / _PEER, path / _PEER)
    write_text(path / "flags.txt", shared_flags(config))
    shutil.copyfile(run / "evaluations.csv", path / f"seed-{config.seed}.csv")
    if (run / "values.csv").exists():
        shutil.copyfile(run / "values.csv", path / f"values-{config.seed}.csv")
    if scatter:
        _add_scatter(path / "scatter.csv", config.seed, points)
    write_rows(path / "runs.csv", _COLUMNS, [[rows[seed].get(name, "") for name in _COLUMNS] for seed in sorted(rows)])


def _measured(run: Path, episodes: int, best: bool) -> dict[str, float | str]:
    """Speed and scores of the run in directory `run`; empty where they were not asked for."""
    speeds = [float(row["steps_per_second"]) for row in read_rows(run / "metrics.csv") if row["updates"] != "0"]
    again, success = scoring.score(run, "latest", episodes) if episodes else ("", "")
    return {
        "steps_per_second": round(float(np.median(speeds)), 1) if speeds else "",
        "rescored": again,
        "success": success,
        "best": scoring.score(run, "best", episodes)[0] if best else "",
    }


def _add_scatter(path: Path, seed: int, points: Sequence[tuple[float, float]]):
    """Puts the points of a seed in the place of those that it had."""
    columns = ("seed", "q", "discounted_return")
    others = [[row[name] for name in columns] for row in read_rows(path) if int(row["seed"]) != seed]
    write_rows(path, columns, [*others, *([seed, *point] for point in points)])


def require_ended(run: Path):
    """Raises UsageError unless the run in directory `run` is finished, or diverged."""
    steps = run_dir.read_config(run).total_steps
    if not (run / DIVERGED).exists() and not is_finished(run, steps):
        scores = read_scores(run / "evaluations.csv")
        raise UsageError(f"{run} is not finished: its last evaluation is at step {max(scores, default=0)} of {steps}")


def _divergence(run: Path) -> str:
    found = re.search(r"\bsteps? (\d+)", (run / DIVERGED).read_text())
    return f"diverged at step {found[1]}" if found else "diverged"


def clear(path: Path):
    """Removes what `collect` has written to `path`."""
    for file in (
        *path.glob("seed-*.csv"),
        *path.glob("values-*.csv"),
        *(path / name for name in ("flags.txt", "runs.csv", "scatter.csv", _PEER)),
    ):
        file.unlink(missing_ok=True)


def read(path: Path) -> Results:
    """The results in `path`.

    Raises:
      UsageError: there are none.
    """
    rows = read_rows(path / "runs.csv")
    if not rows:
        raise UsageError(f"{path} holds no results: no runs.csv")
    return Results(path, _config(path), tuple(_outcome(path, row) for row in rows), read_peer(path))


def read_scores(path: Path) -> dict[int, float]:
    """{step: mean return} of an evaluations.csv; empty where there is none."""
    return {step: float(np.mean(returns)) for step, returns in read_evaluations(path).items()}


def shared_flags(config: Config) -> str:
    """What the runs of a folder have in common, as a flagfile."""
    own = tuple(f"--{name}=" for name in _OWN)
    return "\n".join(line for line in config.to_flags().splitlines() if not line.startswith(own)) + "\n"


def difference(one: Config, other: Config) -> str | None:
    """A flag in which two configs differ, though the runs of a folder may not; None where there is none."""
    return next((name for name in FIELDS if name not in _OWN and getattr(one, name) != getattr(other, name)), None)


def _is_of(path: Path, config: Config, peer: Peer | None) -> bool:
    return (path / "flags.txt").exists() and difference(_config(path), config) is None and read_peer(path) == peer


def _config(path: Path) -> Config:
    return read_flags(path / "flags.txt")


def _outcome(path: Path, row: dict[str, str]) -> Outcome:
    seed = int(row["seed"])
    values = read_rows(path / f"values-{seed}.csv")
    return Outcome(
        seed,
        row["ended"],
        read_scores(path / f"seed-{seed}.csv"),
        {int(value["step"]): float(value["q_bias"]) for value in values if float(value["discounted_return"])},
        float(row["rescored"]) if row["rescored"] else None,
        int(row["episodes"]),
        float(row["steps_per_second"]) if row["steps_per_second"] else None,
        {name: row[name] for name in VERSIONS if row.get(name)},
        *(float(row[name]) if row.get(name) else None for name in ("success", "best")),
    )
