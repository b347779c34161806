"""How many trainings at once use this machine's cores best: what `benchmarks.suite --jobs` should be.

    python -m benchmarks.jobs [--rounds=3] [--steps=4000] [--out=benchmarks/results/jobs.md]

HalfCheetah-v5 in blocks of 50 updates, 256-256, batch 256; the cores are shared out as `benchmarks.suite` does.
"""

import contextlib
import shlex
import statistics
import subprocess
import tempfile
from pathlib import Path

from absl import flags

from benchmarks.processes import ROOT, available_cores
from benchmarks.report import Part, Row, installed, write
from benchmarks.suite import settle
from benchmarks.throughput import FIRST_MARK, Work, seconds_between_marks
from ddpg_tf import cli
from ddpg_tf.errors import UsageError, UserError


def main(argv):
    values = flags.FlagValues()
    flags.DEFINE_integer("rounds", 3, "how often each number of runs is measured", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "steps", 4000, "environment steps that the clock runs, a multiple of 1000", lower_bound=1000, flag_values=values
    )
    flags.DEFINE_string("out", "benchmarks/results/jobs.md", "file for the results", flag_values=values)
    cli.parse(argv, values, __doc__)
    if values.steps % 1000:
        raise UsageError(f"--steps={values.steps} must be a multiple of 1000")
    cores = available_cores()
    counts = [count for count in (1, 2, 4, 8, 16, len(cores)) if count <= len(cores)]
    rates: dict[int, list[float]] = {count: [] for count in dict.fromkeys(counts)}
    for i in range(values.rounds):
        for count, found in rates.items():
            found.append(_steps_per_second([cores[j::count] for j in range(count)], values.steps))
            print(f"round {i}, {count} at once: {found[-1]:.0f} steps/s", flush=True)
    rows = [
        Row(f"{count} at once, {len(cores) // count} threads each: steps/s, summed", statistics.median(found))
        for count, found in rates.items()
    ]
    about = f"Steps/s summed over all runs, the first {FIRST_MARK} left out; median of {values.rounds} rounds, in turn."
    write(
        Path(values.out),
        "Runs at once",
        "Whole training loops side by side, HalfCheetah-v5 in blocks of 50 updates",
        shlex.join(["python", "-m", "benchmarks.jobs", *argv[1:]]),
        {"jobs": Part(about, rows)},
        installed("tensorflow", "keras", "numpy"),
    )
    print(Path(values.out).read_text())


def _steps_per_second(shares: list[list[int]], steps: int) -> float:
    """The sum over runs, one on each share of the cores."""
    work = Work(update_every=50, total_steps=FIRST_MARK + steps)
    with tempfile.TemporaryDirectory(prefix="jobs-") as directory, contextlib.ExitStack() as running:
        paths = [Path(directory) / str(i) for i in range(len(shares))]
        processes = [
            running.enter_context(
                subprocess.Popen(
                    work.ours(path),
                    cwd=ROOT,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    preexec_fn=lambda share=share: settle(share),
                )
            )
            for path, share in zip(paths, shares, strict=True)
        ]
        if any(process.wait() for process in processes):
            raise UserError("a training failed")
        return sum(steps / seconds_between_marks(work, path) for path in paths)


if __name__ == "__main__":
    cli.run(main)
