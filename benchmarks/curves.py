"""Learning curves and scores over seeds, from finished run directories.

    python -m benchmarks.curves RUN_DIR... [--out=benchmarks/results/NAME] [--episodes=100] [--beside=RESULTS]

The runs must differ in their seed only. Statistics as Agarwal et al. 2021 (rliable) advise: interquartile mean and
95 % percentile bootstrap over runs, stratified by task (a report has one task); SciPy computes them. Writes
NAME/README.md (table, commands, versions), curve.png, seed-N.csv and flags.txt. The curve may have that of earlier
results beside it.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
from absl import flags

from ddpg_tf import cli
from ddpg_tf.checkpoint import write_atomically
from ddpg_tf.cli import UsageError
from ddpg_tf.config import Config
from ddpg_tf.logger import read_evaluations

RESAMPLES = 5000
MARK = "<!-- written by benchmarks.curves -->"


@dataclasses.dataclass(frozen=True)
class Run:
    path: Path
    config: Config
    versions: dict[str, str]
    scores: dict[int, float]  # step -> mean return of the evaluation
    rescored: float | None  # mean return of the last weights over many episodes

    @property
    def last_ten(self) -> float:
        return float(np.mean(list(self.scores.values())[-10:]))


def main(argv):
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "directory for the results; default benchmarks/results/<env>", flag_values=values)
    flags.DEFINE_integer("episodes", 100, "episodes on which the last weights of each run are scored again; 0: none",
                         lower_bound=0, flag_values=values)
    flags.DEFINE_string("beside", None, "results of this command, whose curve is drawn too", flag_values=values)
    paths = [Path(path) for path in cli.parse(argv, values, __doc__, positional=True)]
    if not paths:
        raise UsageError("name the run directories. See --help.")
    runs = sorted((_read(path, values.episodes) for path in paths), key=lambda run: run.config.seed)
    _require_same_flags(runs)
    other = _read_results(Path(values.beside)) if values.beside else None
    out = Path(values.out or Path("benchmarks/results") / runs[0].config.env.replace("/", "-").replace(":", "-"))
    _require_own(out)
    out.mkdir(parents=True, exist_ok=True)
    steps, scores = _align(runs)
    curve = interval(scores)
    _draw(out / "curve.png", runs, steps, scores, curve, other)
    for run in runs:
        shutil.copyfile(run.path / "evaluations.csv", out / f"seed-{run.config.seed}.csv")
    write_atomically(out / "flags.txt", lambda file: file.write(_shared_flags(runs[0].config).encode()))
    text = report(runs, out, values.episodes, values.beside)
    write_atomically(out / "README.md", lambda file: file.write(text.encode()))
    print(text)


def interval(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(interquartile mean [P], 95 % interval [2, P]) over the runs of scores [R, P]."""
    from scipy import stats

    def iqm(values, axis):
        return stats.trim_mean(values, 0.25, axis=axis)

    if len(scores) == 1:  # nothing to resample
        return scores[0], np.repeat(scores, 2, axis=0)
    found = stats.bootstrap((scores,), iqm, axis=0, n_resamples=RESAMPLES, method="percentile",
                            rng=np.random.default_rng(0)).confidence_interval
    return iqm(scores, 0), np.array([found.low, found.high])


def report(runs: list[Run], out: Path, episodes: int, beside: str | None = None) -> str:
    """README.md: scores of each seed, their interquartile means, the commands and the versions."""
    columns = {"last evaluation": [list(run.scores.values())[-1] for run in runs],
               "mean of the last 10": [run.last_ten for run in runs],
               "best evaluation": [max(run.scores.values()) for run in runs]}
    if episodes:
        columns[f"last weights, {episodes} episodes"] = [run.rescored for run in runs]
    config, versions = runs[0].config, runs[0].versions
    packages = ", ".join(f"{name} {versions[name]}" for name in ("gymnasium", "mujoco", "tensorflow", "keras")
                         if name in versions)
    lines = [MARK, f"# {out.name}", "", f"{config.env}, {config.total_steps:,} steps, {_seeds(runs)}; measured with "
             f"{packages}.", "",
             "| seed | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row, run in enumerate(runs):
        lines.append(f"| {run.config.seed} | " + " | ".join(f"{column[row]:.1f}" for column in columns.values()) + " |")
    if len(runs) > 1:
        point, (low, high) = interval(np.array(list(columns.values())).T)
        cells = (f"{p:.1f} [{a:.1f}, {b:.1f}]" for p, a, b in zip(point, low, high, strict=True))
        lines.append("| interquartile mean [95 % interval] | " + " | ".join(cells) + " |")
    lines += ["", "![learning curve](curve.png)", "",
              f"An evaluation is {config.eval_episodes} episodes without noise. Made by", "", "```"]
    lines += [f"python train.py --flagfile={out}/flags.txt --seed={run.config.seed} --run_dir=runs/{out.name}-"
              f"{run.config.seed}" for run in runs]
    options = [f"--out={out}"] + [f"--episodes={episodes}"] * (episodes != 100) + [f"--beside={beside}"] * bool(beside)
    lines += [f"python -m benchmarks.curves runs/{out.name}-* {' '.join(options)}", "```", ""]
    return "\n".join(lines)


def _seeds(runs: list) -> str:
    return f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"


def _require_own(out: Path):
    """Refuses to write over what this command has not written."""
    readme = out / "README.md"
    if (out / "checkpoints").exists() or (readme.exists() and not readme.read_text().startswith(MARK)):
        raise UsageError(f"{out} holds something else: choose another --out")


def _read(path: Path, episodes: int) -> Run:
    from ddpg_tf import run_dir

    config = run_dir.read_config(path)
    scores = {step: float(np.mean(returns)) for step, returns in read_evaluations(path / "evaluations.csv").items()}
    if not scores or max(scores) < config.total_steps:
        raise UsageError(f"{path} is not finished: its last evaluation is at step {max(scores, default=0)} of "
                         f"{config.total_steps}")
    return Run(path, config, json.loads((path / "versions.json").read_text()), scores,
               _score_again(path, episodes) if episodes else None)


def _read_results(path: Path) -> tuple[str, dict[int, float]]:
    """(name, {step: interquartile mean}) of earlier results."""
    files = sorted(path.glob("seed-*.csv"))
    if not files:
        raise UsageError(f"{path} holds no results of this command: no seed-*.csv")
    found = [read_evaluations(file) for file in files]
    steps = sorted(set.intersection(*map(set, found)))
    scores = np.array([[np.mean(returns[step]) for step in steps] for returns in found])
    return f"{path.name}, {_seeds(files)}", dict(zip(steps, interval(scores)[0].tolist(), strict=True))


def _score_again(path: Path, episodes: int) -> float:
    from ddpg_tf import run_dir
    from ddpg_tf.evaluate import Evaluator

    policy = run_dir.load_policy(path, "latest")
    evaluator = Evaluator(policy.config, episodes)
    found = evaluator.run(policy.agent.act)
    evaluator.close()
    return float(np.mean([episode.episode_return for episode in found]))


def _shared_flags(config: Config) -> str:
    """What the runs have in common, as a flagfile."""
    own = ("--seed=", "--export_dir=")
    return "\n".join(line for line in config.to_flags().splitlines() if not line.startswith(own)) + "\n"


def _require_same_flags(runs: list[Run]):
    seeds = [run.config.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"two runs have the same seed: {seeds}")
    first = _shared_flags(runs[0].config).splitlines()
    for run in runs[1:]:
        for line, other in zip(first, _shared_flags(run.config).splitlines(), strict=True):
            if line != other:
                raise UsageError(f"{runs[0].path} has {line} and {run.path} {other}: one set of flags at a time")
        if run.versions["gymnasium"] != runs[0].versions["gymnasium"] or \
                run.versions.get("mujoco") != runs[0].versions.get("mujoco"):
            raise UsageError(f"{run.path} was made with other versions of the environments than {runs[0].path}")


def _align(runs: list[Run]) -> tuple[list[int], np.ndarray]:
    steps = sorted(set.intersection(*(set(run.scores) for run in runs)))
    return steps, np.array([[run.scores[step] for step in steps] for run in runs])


def _draw(path: Path, runs: list[Run], steps, scores, curve, other):
    from matplotlib.figure import Figure

    point, (low, high) = curve
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    if len(runs) > 1:
        axes.plot(steps, scores.T, color="0.7", linewidth=0.8)
        axes.fill_between(steps, low, high, alpha=0.2, label="95 % bootstrap interval")
    label = f"interquartile mean of {_seeds(runs)}" if len(runs) > 1 else f"seed {runs[0].config.seed}"
    axes.plot(steps, point, label=f"{path.parent.name}, {label}" if other else label)
    if other:
        name, others = other
        axes.plot(others.keys(), others.values(), linestyle="--", label=name)
    axes.set(title=runs[0].config.env, xlabel="steps", ylabel="evaluation return, without noise")
    axes.legend()
    axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


if __name__ == "__main__":
    cli.run(main)
