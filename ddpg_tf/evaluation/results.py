"""Evaluations of a run, read back and drawn."""

from pathlib import Path

import numpy as np

from ddpg_tf.files import read_rows, write_atomically


def read_evaluations(path: Path) -> dict[int, list[float]]:
    """{step: returns of its episodes} of an evaluations.csv."""
    returns: dict[int, list[float]] = {}
    for row in read_rows(path):
        returns.setdefault(int(row["step"]), []).append(float(row["return"]))
    return returns


def draw_learning_curve(run_dir: Path, title: str):
    """learning_curve.png: mean evaluation return over steps, with the spread of the episodes."""
    returns = read_evaluations(run_dir / "evaluations.csv")
    if not returns:
        return
    from matplotlib.figure import Figure

    steps = list(returns)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(
        steps,
        *zip(*(np.percentile(values, (10, 90)) for values in returns.values()), strict=True),
        alpha=0.2,
        label="10-90 % of episodes",
    )
    axes.plot(steps, [np.mean(values) for values in returns.values()], marker=".", label="mean")
    axes.set(title=title, xlabel="environment steps", ylabel="evaluation return")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    write_atomically(run_dir / "learning_curve.png", lambda file: figure.savefig(file, format="png", dpi=120))
