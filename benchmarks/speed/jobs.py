"""How many trainings at once use this machine's cores best: what `benchmarks.suite --jobs` should be.

    python -m benchmarks.speed.jobs [--rounds=3] [--steps=4000] [--out=benchmarks/results/jobs.md]

HalfCheetah-v5 in blocks of 50 updates, 256-256, batch 256; the cores are shared out as `benchmarks.suite` shares them.
"""

import statistics
from pathlib import Path

from absl import flags

from benchmarks.processes import available_cores
from benchmarks.report import Part, Row, installed, show, write
from benchmarks.speed.throughput import FIRST_MARK, Work, side_by_side
from ddpg_tf import cli
from ddpg_tf.errors import UsageError


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.integer("rounds", 3, "how often each number of runs is measured", lower_bound=1)
    define.integer("steps", 4000, "environment steps that the clock runs, a multiple of 1000", lower_bound=1000)
    define.string("out", "benchmarks/results/jobs.md", "file for the results")
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
    out, parts = Path(values.out), {"jobs": Part(about, rows)}
    write(
        out,
        "Runs at once",
        "Whole training loops side by side, HalfCheetah-v5 in blocks of 50 updates",
        argv,
        parts,
        installed("tensorflow", "keras", "numpy"),
    )
    return show(out, parts)


if __name__ == "__main__":
    cli.run(main)
