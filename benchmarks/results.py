"""Publishes what the suites came to, as often as you like: nothing in benchmarks/results is typed by hand.

    python -m benchmarks.results [SUITE.toml ...] [--episodes=100] [--runs_dir=runs]

Takes over the finished runs of the suites (default: all in benchmarks/suites), then writes anew, from what
benchmarks/results holds: a folder for each entry (curve, csv per seed, flags, versions, commands), a page for each
suite that compares its entries, the table and the picture of all, the results in the project's README, and the
paper's tasks in docs/results.md.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import curves, outcomes
from benchmarks.outcomes import Results
from benchmarks.pages import overview, paper, side_by_side
from benchmarks.processes import ROOT
from benchmarks.suite.entries import SUITES, Entry, Suite, read
from ddpg_tf import cli
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.files import write_text

_BEGIN, _END = "<!-- results: written by benchmarks.results -->", "<!-- end of results -->"


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.integer(
        "episodes", 100, "episodes on which the last weights of each run are scored again; 0: none", lower_bound=0
    )
    define.string("runs_dir", "runs", "where the run directories are")
    named = [Path(path) for path in cli.parse(argv, values, __doc__, positional=True)]
    if not SUITES.is_dir():
        raise UsageError(f"there is no {SUITES} here: run this in the project's directory")
    known = sorted(SUITES.glob("*.toml"))
    if others := {path.resolve() for path in named} - {path.resolve() for path in known}:
        raise UsageError(f"{sorted(others)[0]} is not in {SUITES}: results are kept by a suite's name there")
    every = [read(path) for path in known]
    problems = []
    for suite in [read(path) for path in named] or every:
        for entry in suite.entries:
            problems += _collect(suite, entry, Path(values.runs_dir), values.episodes)
    for suite in every:
        for entry in suite.entries:
            _write_folder(suite, entry)
    published = [(suite, _read(suite)) for suite in every]
    outcomes.RESULTS.mkdir(parents=True, exist_ok=True)
    for suite, results in published:
        if results:
            side_by_side.draw_comparisons(results, outcomes.RESULTS / f"{suite.name}.png")
            write_text(outcomes.RESULTS / f"{suite.name}.md", side_by_side.suite_page(suite, results))
    write_text(outcomes.RESULTS / "README.md", overview.all_entries(published))
    overview.draw_all(published, outcomes.RESULTS / "curves.png")
    overview.draw_estimates(published, outcomes.RESULTS / "values.png")
    _replace(ROOT / "README.md", overview.readme_table(published))
    found = {f"{suite.name}/{name}": of for suite, results in published for name, of in results.items()}
    _replace(ROOT / "docs/results.md", paper.table(found))
    print(overview.all_entries(published))
    for problem in problems:
        warnings.warn(f"passed over: {problem}", stacklevel=1)
    return int(bool(problems))


def _collect(suite: Suite, entry: Entry, runs_dir: Path, episodes: int) -> list[str]:
    """Takes over the runs of `entry` that ended. Returns what is wrong with those that it passes over."""
    problems = []
    path = outcomes.folder(suite.name, entry.name)
    curves.require_own(path)
    for seed in entry.seeds:
        run, config = runs_dir / suite.name / f"{entry.name}-{seed}", entry.seed_config(seed)
        try:
            if (run / outcomes.DIVERGED).exists() or outcomes.is_finished(run, config.total_steps):
                outcomes.require_same(run, config, entry.peer)
                outcomes.collect(run, path, episodes, scatter=entry.scatter, best=bool(entry.readme))
        except UserError as error:
            problems.append(str(error) if str(run) in str(error) else f"{run}: {error}")
    return problems


def _write_folder(suite: Suite, entry: Entry):
    path, beside = (outcomes.folder(suite.name, name) for name in (entry.name, entry.beside or entry.name))
    if (path / "runs.csv").exists():
        results = outcomes.read(path)
        curves.draw(results, outcomes.read(beside) if entry.beside and (beside / "runs.csv").exists() else None)
        if entry.peer:
            trainings = [f"python -m benchmarks.suite {SUITES}/{suite.name}.toml --only='{entry.name}-*'"]
        else:
            trainings = curves.trainings(results, f"runs/{suite.name}")
        commands = [*trainings, "python -m benchmarks.results"]
        write_text(path / "README.md", curves.report(results, commands))


def _read(suite: Suite) -> dict[str, Results]:
    """{entry: its published results}, in the suite's order."""
    return {
        entry.name: outcomes.read(path)
        for entry in suite.entries
        if ((path := outcomes.folder(suite.name, entry.name)) / "runs.csv").exists()
    }


def _replace(page: Path, table: Sequence[str]):
    text = page.read_text()
    if _BEGIN not in text or _END not in text:
        raise UsageError(f"{page} has no place for the results, between {_BEGIN} and {_END}")
    between = "\n".join([_BEGIN, *table, _END])
    write_text(page, re.sub(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", lambda _: between, text, flags=re.DOTALL))


if __name__ == "__main__":
    cli.run(main)
