"""Steps per second beside SBX (JAX) and Stable-Baselines3 (PyTorch): the same work, in turn, on this machine.

    python -m benchmarks.speed.throughput [NAME ...] [--rounds=5] [--steps=5000]

NAME is update_per_step, blocks, paper, wide, humanoid, seeds or solve; default all. The peers get an environment of
their own (--peers; made at the first call from benchmarks/peers/requirements.txt). Each library runs its own training
loop in a process of its own, environment included; the clock runs between two steps of it, so that neither imports nor
compilation count, except in `solve`. Rounds take turns in who comes first. Writes --out, the same as csv, and every
single figure (-rounds.csv); parts that are not named keep theirs. Exit status 1 if a ratio is not as wanted.
"""

import concurrent.futures
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from benchmarks.peers import peer_runs
from benchmarks.processes import ROOT, available_cores, run
from benchmarks.report import Part, Row, chosen, installed, show, write
from ddpg_tf import cli
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.files import read_rows, write_rows

OURS, LIBRARIES = "ddpg_tf", ("ddpg_tf", "sbx", "sb3")
FIRST_MARK = 2000  # warm-up is 1,000 random steps; then everything is compiled
SOLVED = -200.0
_PATIENCE_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Work:
    """What every library does alike: plain DDPG, learning rates 1e-3, tau 0.005, Gaussian noise 0.1."""

    env: str = "HalfCheetah-v5"
    hidden_units: tuple[int, ...] = (256, 256)
    batch_size: int = 256
    update_every: int = 1  # and as many updates then
    replay_capacity: int = 1_000_000
    warmup_steps: int = 1000
    eval_every: int = 0
    eval_episodes: int = 10
    total_steps: int = FIRST_MARK
    log_every: int = FIRST_MARK // 2
    seed: int = 0

    def ours(self, run_dir: Path) -> list[str]:
        """The command that trains with this project."""
        settings = dataclasses.asdict(self) | {
            "hidden_units": ",".join(map(str, self.hidden_units)),
            "checkpoint_every": 0,
            "eval_episodes": self.eval_episodes if self.eval_every else 1,
            "run_dir": run_dir,
        }
        return [sys.executable, "train.py", "--preset=none", *(f"--{name}={value}" for name, value in settings.items())]

    def theirs(self, python: Path, library: str, run_dir: Path) -> list[str]:
        """The command that trains with a peer."""
        settings = {
            "net_arch": self.hidden_units,
            "batch_size": self.batch_size,
            "buffer_size": self.replay_capacity,
            "learning_starts": self.warmup_steps,
            "train_freq": self.update_every,
            "gradient_steps": self.update_every,
            "gamma": 0.99,
            "tau": 0.005,
            "learning_rate": 1e-3,
        }
        return peer_runs.command(python, peer_runs.Peer(library, "DDPG", settings), run_dir, self)

    def command(self, library: str, python: Path | None, run_dir: Path) -> list[str]:
        return self.ours(run_dir) if library == OURS else self.theirs(python, library, run_dir)


class Setting(NamedTuple):
    """What is measured: `runs` of `work` at a time, their steps/s added up; at least `wanted` times a peer's."""

    work: Work
    about: str
    wanted: dict[str, float]
    runs: int = 1


_CORES = available_cores()
SETTINGS = {
    "update_per_step": Setting(
        Work(), "One update per step, 256-256, batch 256, HalfCheetah-v5.", {"sbx": 1.25, "sb3": 2.0}
    ),
    "blocks": Setting(Work(update_every=50), "50 updates every 50 steps, otherwise the same.", {"sbx": 1.2}),
    "paper": Setting(
        Work(hidden_units=(400, 300), batch_size=64),
        "The paper's sizes: 400-300, batch 64, one update per step.",
        {"sbx": 1.1},
    ),
    "wide": Setting(
        Work(update_every=50, hidden_units=(512, 512), batch_size=1024), "As blocks, but 512-512, batch 1,024.", {}
    ),
    "humanoid": Setting(Work(env="Humanoid-v5", update_every=50), "As blocks, but Humanoid-v5: 348 observations.", {}),
    "seeds": Setting(
        Work(update_every=50),
        f"As blocks, {len(_CORES)} seeds at once, each on a core of its own: the sum of their steps/s.",
        {"sbx": 1.25},
        len(_CORES),
    ),
}


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.integer("rounds", 5, "how often each library is measured", lower_bound=1)
    define.integer("steps", 5000, "environment steps that the clock runs, a multiple of 1000", lower_bound=1000)
    define.integer("seeds", 5, "seeds of `solve`", lower_bound=1)
    peer_runs.define_flag(values)
    define.string("out", "benchmarks/results/throughput.md", "file for the results")
    parts = {name: _compare for name in SETTINGS} | {"solve": _solve}
    names = chosen(cli.parse(argv, values, __doc__, positional=True), parts)
    if values.steps % 1000:
        raise UsageError("--steps must be a multiple of 1000")
    python = peer_runs.python_of(Path(values.peers))
    out, done = Path(values.out), {}
    rounds = out.with_name(f"{out.stem}-rounds.csv")
    figures = [list(row.values()) for row in read_rows(rounds) if row["part"] not in names]  # those stay
    out.parent.mkdir(parents=True, exist_ok=True)
    versions = installed("tensorflow", "keras", "numpy", "gymnasium", "mujoco") | peer_runs.versions(python)
    own = [argument for argument in argv if not argument.startswith("--peers=")]  # it is a path of this machine
    for name in names:
        done[name] = parts[name](name, values, python, figures)
        write(
            out,
            "Throughput",
            "Whole training loops beside other libraries, the same work in turn",
            own,
            done,
            versions,
        )
        write_rows(rounds, ["part", "round", "library", "what", "measured"], figures)
    return show(out, done)


def _compare(name: str, values: flags.FlagValues, python: Path, figures: list) -> Part:
    work, about, wanted, runs = SETTINGS[name]
    works = [dataclasses.replace(work, total_steps=FIRST_MARK + values.steps, seed=seed) for seed in range(runs)]
    rates: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    for i in range(values.rounds):
        for library in LIBRARIES[i % 3 :] + LIBRARIES[: i % 3]:
            seconds = side_by_side(works, library, python)
            rates[library].append(sum(values.steps / each for each in seconds))
            figures.append([name, i, library, "steps_per_second", round(rates[library][-1], 2)])
            print(f"{name}, round {i}, {library}: {rates[library][-1]:.0f} steps/s", flush=True)
    rows = [Row(f"{library}: steps/s", statistics.median(found)) for library, found in rates.items()]
    return Part(about, rows + _ratios(rates, wanted, ">="))


def _ratios(figures: dict[str, list[float]], wanted: dict[str, float], relation: str) -> list[Row]:
    """Ratio of medians, and the spread of the rounds' own ratios."""
    rows = []
    for library in figures.keys() - {OURS}:
        each = [ours / theirs for ours, theirs in zip(figures[OURS], figures[library], strict=True)]
        ratio = statistics.median(figures[OURS]) / statistics.median(figures[library])
        bound = (relation, wanted[library]) if library in wanted else ()
        rows.append(Row(f"{OURS} / {library} (rounds: {min(each):.2f} to {max(each):.2f})", ratio, *bound))
    return sorted(rows, key=lambda row: row.what)


def _solve(name: str, values: flags.FlagValues, python: Path, figures: list) -> Part:
    work = Work(env="Pendulum-v1", update_every=50, eval_every=500, total_steps=20_000, replay_capacity=100_000)
    contestants = {
        "ddpg_tf": (OURS, work),
        "sbx, blocks": ("sbx", work),
        "sb3, blocks": ("sb3", work),
        "sbx, update per step": ("sbx", dataclasses.replace(work, update_every=1)),
    }
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for seed in range(values.seeds):
        for contestant, (library, its_work) in contestants.items():
            seconds = _seconds_to_solve(dataclasses.replace(its_work, seed=seed), library, python)
            times[contestant].append(seconds)
            figures.append([name, seed, contestant, "seconds", round(seconds, 2)])
            print(f"{name}, seed {seed}, {contestant}: {seconds:.1f} s", flush=True)
    rows = [Row(f"{contestant}: s", statistics.median(found)) for contestant, found in times.items()]
    about = f"""Pendulum-v1 from the start of the process to the first evaluation of at least {SOLVED:g} (10 episodes
        every 500 steps), imports, compilation and evaluations included: wall time, median over seeds. Blocks of 50
        updates every 50 steps, and for SBX its own default too."""
    return Part(about, rows + _ratios(times, {"sbx, blocks": 0.9}, "<="))


# --- Running one -----------------------------------------------------------------------------------------------------


def side_by_side(works: Sequence[Work], library: str = OURS, python: Path | None = None) -> list[float]:
    """Seconds from step FIRST_MARK to the last of each of `works`, run at once; the cores are shared out.

    Args:
      python: the peers'; without it there is only this project.
    """
    cores = available_cores()

    def seconds(work: Work, share: list[int]) -> float:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, share)  # of this thread, and of the process that it starts
        with tempfile.TemporaryDirectory(prefix="throughput-") as directory:
            run_dir = Path(directory) / "run"
            run(work.command(library, python, run_dir))
            at = {int(row["step"]): float(row["seconds"]) for row in read_rows(run_dir / "metrics.csv")}
        return at[work.total_steps] - at[FIRST_MARK]

    with concurrent.futures.ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(seconds, works, [cores[i :: len(works)] for i in range(len(works))]))


def _seconds_to_solve(work: Work, library: str, python: Path) -> float:
    """From the process's start to the evaluation that solves; the process is then stopped."""
    with tempfile.TemporaryDirectory(prefix="throughput-") as directory:
        run_dir = Path(directory) / "run"
        started = time.monotonic()
        process = subprocess.Popen(
            work.command(library, python, run_dir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for score in _scores(run_dir, process):
                if score >= SOLVED:
                    return time.monotonic() - started
        finally:
            process.kill()
            process.wait()
    raise UserError(f"{library} did not solve {work.env} in {work.total_steps} steps")


def _scores(run_dir: Path, process: subprocess.Popen) -> Iterator[float]:
    """Mean returns, as they appear in evaluations.csv."""
    path, seen, deadline = run_dir / "evaluations.csv", 0, time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        returns = [float(row["return"]) for row in read_rows(path)]
        for first in range(seen, len(returns) - 9, 10):  # an evaluation is written at once
            seen += 10
            yield statistics.fmean(returns[first : first + 10])
        if ended:
            return
        time.sleep(0.01)


if __name__ == "__main__":
    cli.run(main)
