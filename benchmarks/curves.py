"""Learning curves and scores over seeds, from finished run directories.

    python -m benchmarks.curves RUN_DIR... [--out=benchmarks/results/NAME] [--episodes=100] [--beside=RESULTS]

The runs must differ in their seed only; other seeds that NAME has, of the same flags, stay. Statistics as Agarwal et
al. 2021 (rliable) advise: interquartile mean and 95 % percentile bootstrap over runs, stratified by task (a report has
one task). Writes NAME/README.md (table, commands, versions), curve.png and the csv files that
benchmarks/outcomes.py lists. The curve may have that of earlier results beside it.
"""

import itertools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import outcomes
from benchmarks.outcomes import Outcome, Results
from ddpg_tf import cli
from ddpg_tf.errors import UsageError
from ddpg_tf.files import write_atomically, write_text
from ddpg_tf.storage import run_dir

_ALL_RESAMPLES = 5  # runs; up to so many are resampled in all ways, at most 3,125
_RESAMPLES = 5000  # of more runs, at random
MARK = "<!-- written by benchmarks.curves -->"


def main(argv):
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("out", None, "directory for the results; default benchmarks/results/<env>")
    define.integer(
        "episodes", 100, "episodes on which the last weights of each run are scored again; 0: none", lower_bound=0
    )
    define.string("beside", None, "results of this command, whose curve is drawn too")
    paths = [Path(path) for path in cli.parse(argv, values, __doc__, positional=True)]
    if not paths:
        raise UsageError("name the run directories. See --help.")
    env = _require_same_flags(paths).env
    other = outcomes.read(Path(values.beside)) if values.beside else None
    out = Path(values.out or outcomes.RESULTS / env.replace("/", "-").replace(":", "-"))
    require_own(out)
    for path in paths:
        outcomes.require_ended(path)
    _require_same_versions(paths)
    for path in paths:
        outcomes.collect(path, out, values.episodes)
    results = outcomes.read(out)
    draw(results, other)
    options = [f"--out={out}"] + [f"--episodes={values.episodes}"] * (values.episodes != 100)
    options += [f"--beside={values.beside}"] * bool(values.beside)
    command = f"python -m benchmarks.curves runs/{out.name}-* {shlex.join(options)}"
    text = report(results, [*trainings(results), command])
    write_text(out / "README.md", text)
    print(text)


def interval(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(interquartile mean [P], 95 % interval [2, P]) over the runs of scores [R, P]."""
    runs = len(scores)
    if runs <= _ALL_RESAMPLES:
        drawn = np.array(list(itertools.product(range(runs), repeat=runs)))
    else:
        drawn = np.random.default_rng(0).integers(runs, size=(_RESAMPLES, runs))
    means = interquartile_mean(scores[drawn], axis=1)
    return interquartile_mean(scores), np.quantile(means, (0.025, 0.975), axis=0, method="inverted_cdf")


def interquartile_mean(scores: np.ndarray, axis: int = 0) -> np.ndarray:
    """Over the runs, which are along `axis`."""
    from scipy.stats import trim_mean

    return trim_mean(scores, 0.25, axis=axis)


def summary(outcomes_: Sequence[Outcome], figure: Callable[[Outcome], float | None]) -> str:
    """Interquartile mean [95 % interval] of a figure over the runs that have it; of one run the figure alone."""
    values = [value for outcome in outcomes_ if (value := figure(outcome)) is not None]
    if not values:
        return "-"
    point, (low, high) = (array[..., 0].tolist() for array in interval(np.array(values)[:, None]))
    digits = 1 if max(abs(low), abs(high)) >= 10 else 2
    spread = f" [{low:.{digits}f}, {high:.{digits}f}]" if len(values) > 1 else ""
    some = f" ({seeds(values)} only)" if len(values) < len(outcomes_) else ""
    return f"{point:.{digits}f}{spread}{some}"


def finished(results: Results) -> list[Outcome]:
    return [outcome for outcome in results.outcomes if outcome.ended == "finished"]


def report(results: Results, commands: Sequence[str]) -> str:
    """README.md: scores of each seed, their interquartile means, the commands and the versions."""
    config, done = results.config, finished(results)
    columns: dict[str, Callable[[Outcome], float | None]] = {
        "last evaluation": lambda outcome: outcome.last(1),
        "mean of the last 10": lambda outcome: outcome.last(10),
        "best evaluation": lambda outcome: max(outcome.scores.values()),
    }
    if any(outcome.episodes for outcome in done):
        counts = " or ".join(map(str, sorted({outcome.episodes for outcome in done})))
        columns[f"last weights, {counts} episodes"] = lambda outcome: outcome.rescored
    if any(outcome.success is not None for outcome in done):
        columns["their success"] = lambda outcome: outcome.success
    if any(outcome.q_bias for outcome in done):
        columns["q_bias, last 5"] = lambda outcome: outcome.last_q_bias
    peer = results.peer
    trainer = f", {peer.algorithm} of {peer.library} with {json.dumps(peer.settings)}" if peer else ""
    lines = [
        MARK,
        f"# {results.path.name}",
        "",
        f"{config.env}, {config.total_steps:,} steps, "
        f"{seeds(results.outcomes)}{trainer}; measured with {', '.join(_versions(results))}.",
        "",
        "| seed | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for outcome in results.outcomes:
        cells = (
            [outcome.ended] + [""] * (len(columns) - 1)
            if outcome not in done
            else [summary([outcome], figure) for figure in columns.values()]
        )
        lines.append(f"| {outcome.seed} | " + " | ".join(cells) + " |")
    if len(done) > 1:
        cells = (summary(done, figure) for figure in columns.values())
        lines.append("| {} [{}] | ".format(*statistics(done)) + " | ".join(cells) + " |")
    if done:
        lines += ["", "![learning curve](curve.png)"]
    lines += [
        "",
        f"An evaluation is {config.eval_episodes} episodes without noise. Made by",
        "",
        "```",
        *commands,
        "```",
        "",
    ]
    return "\n".join(lines)


def _versions(results: Results) -> list[str]:
    """NAME VERSION of what the runs were made with; which of them, where that is not known of all."""
    found = []
    for name in outcomes.VERSIONS:
        of = {outcome.seed: outcome.versions[name] for outcome in results.outcomes if name in outcome.versions}
        some = f" (seed {', '.join(map(str, of))})" if len(of) < len(results.outcomes) else ""
        found += [f"{name} {' and '.join(sorted(set(of.values())))}{some}"] if of else []
    return found


def trainings(results: Results, runs: str = "runs") -> list[str]:
    """The commands that train as these runs did, into directories in `runs`."""
    return [
        f"python train.py --flagfile='{results.path}/flags.txt' --seed={outcome.seed} "
        f"--run_dir='{runs}/{results.path.name}-{outcome.seed}'"
        for outcome in results.outcomes
    ]


def seeds(of_each: Sequence) -> str:
    return f"{len(of_each)} seeds" if len(of_each) > 1 else "1 seed"


def statistics(of_each: Sequence) -> tuple[str, str]:
    """Names of the two that `interval` gives over so many runs; of two or three they are simpler than in general."""
    return ("mean", "lowest, highest") if len(of_each) <= 3 else ("interquartile mean", "95 % bootstrap interval")


def curve_of(done: Sequence[Outcome]) -> tuple[list[int], np.ndarray]:
    """(steps [P] that all runs were evaluated at, mean returns [R, P])."""
    steps = sorted(set.intersection(*(set(outcome.scores) for outcome in done)))
    return steps, np.array([[outcome.scores[step] for step in steps] for outcome in done])


def draw_on(axes, done: Sequence[Outcome], label: str = "", **style):
    """The interquartile mean of the evaluations over steps, its interval, and each seed in grey."""
    steps, scores = curve_of(done)
    point, (low, high) = interval(scores)
    if len(done) > 1 and not style:
        axes.plot(steps, scores.T, color="0.7", linewidth=0.8)
        axes.fill_between(steps, low, high, alpha=0.2, label=statistics(done)[1])
    axes.plot(steps, point, label=label, **style)
    axes.grid(alpha=0.3)


def draw(results: Results, other: Results | None = None):
    """curve.png in the folder of `results`; without a finished run there is none."""
    from matplotlib.figure import Figure

    done, other = finished(results), other if other and finished(other) else None
    if not done:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    label = f"{statistics(done)[0]} of {seeds(done)}" if len(done) > 1 else f"seed {done[0].seed}"
    draw_on(axes, done, f"{results.path.name}, {label}" if other else label)
    if other:
        draw_on(axes, finished(other), f"{other.path.name}, {seeds(finished(other))}", linestyle="--")
    axes.set(title=results.config.env, xlabel="steps", ylabel="evaluation return, without noise")
    axes.legend()
    write_atomically(results.path / "curve.png", lambda file: figure.savefig(file, format="png", dpi=120))


def require_own(out: Path):
    """Refuses to write over what the commands of this module have not written."""
    readme = out / "README.md"
    if (out / "checkpoints").exists() or (readme.exists() and not readme.read_text().startswith(MARK)):
        raise UsageError(f"{out} holds something else: choose another --out")


def _require_same_flags(paths: Sequence[Path]):
    configs = [run_dir.read_config(path) for path in paths]
    found = [config.seed for config in configs]
    if len(set(found)) < len(found):
        raise UsageError(f"two runs have the same seed: {found}")
    for path, config in zip(paths, configs, strict=True):
        if name := outcomes.difference(configs[0], config):
            raise UsageError(
                f"{paths[0]} has --{name}={getattr(configs[0], name)} and {path} "
                f"{getattr(config, name)}: one set of flags at a time"
            )
    if any(outcomes.read_peer(path) != outcomes.read_peer(paths[0]) for path in paths):
        raise UsageError("the runs were trained by different libraries, or with different settings of one")
    return configs[0]


def _require_same_versions(paths: Sequence[Path]):
    versions = [run_dir.read_versions(path) for path in paths]
    for name in ("gymnasium", "mujoco"):
        found = {one for version in versions for one in version.get(name, "none").split(", ")}
        if len(found) > 1:
            raise UsageError(f"the runs were made with different versions of {name}: {', '.join(sorted(found))}")


if __name__ == "__main__":
    cli.run(main)
