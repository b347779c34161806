"""How many trainings at once use this machine's cores best: what `benchmarks.suite --jobs` should be.

    python -m benchmarks.jobs [--rounds=3] [--steps=4000] [--out=benchmarks/results/jobs.md]

HalfCheetah-v5 in blocks of 50 updates, 256-256, batch 256; the cores are shared out as `benchmarks.suite` shares them.
"""

import shlex
import statistics
from pathlib import Path

from absl import flags

from benchmarks.processes import available_cores
from benchmarks.report import Part, Row, installed, write
from benchmarks.throughput import FIRST_MARK, Work, side_by_side
from ddpg_tf import cli
from ddpg_tf.errors import UsageError


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
            seconds = side_by_side([Work(update_every=50, total_steps=FIRST_MARK + values.steps)] * count)
            found.append(sum(values.steps / each for each in seconds))
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


if __name__ == "__main__":
    cli.run(main)
