"""Evaluations of a run, read back and drawn."""

from pathlib import Path

import numpy as np

from ddpg_tf.files import read_rows, write_atomically


def read_evaluations(path: Path, column: str = "return") -> dict[int, list[float]]:
    """{step: `column` of its episodes} of an evaluations.csv; empty where it has no such column."""
    found: dict[int, list[float]] = {}
    for row in read_rows(path):
        if row.get(column):  # empty: of an earlier version, which had no such column
            found.setdefault(int(row["step"]), []).append(float(row[column]))
    return found


def draw_learning_curve(run_dir: Path, title: str):
    """learning_curve.png: mean evaluation return over steps, with the spread of the episodes; success below it."""
    returns = read_evaluations(run_dir / "evaluations.csv")
    if not returns:
        return
    from matplotlib.figure import Figure

    steps = list(returns)
    success = read_evaluations(run_dir / "evaluations.csv", "success")
    panels = 2 if success else 1
    figure = Figure(figsize=(7, 4 if panels == 1 else 6), layout="constrained")
    axes, *below = figure.subplots(panels, squeeze=False)[:, 0]
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
    for panel in below:
        panel.plot(list(success), [np.mean(values) for values in success.values()], marker=".")
        panel.set(xlabel="environment steps", ylabel="share of successes", ylim=(-0.05, 1.05))
        panel.grid(alpha=0.3)
    write_atomically(run_dir / "learning_curve.png", lambda file: figure.savefig(file, format="png", dpi=120))
