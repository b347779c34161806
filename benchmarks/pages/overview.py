"""Tables and pictures over many entries, made from their folders of results."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmarks.curves import draw_on, finished, interquartile_mean, seeds, summary
from benchmarks.outcomes import Outcome, Results, difference
from benchmarks.suite.entries import Entry, Suite
from ddpg_tf.files import read_rows, write_atomically

Published = Sequence[tuple[Suite, Mapping[str, Results]]]  # of each suite the results by entry, in its order

_WIDTH = 12.8  # of a grid of small pictures, inches
INTERVAL = (
    "interquartile mean over seeds [95 % bootstrap interval]; with two or three seeds, the mean [lowest, highest]"
)


def all_entries(published: Published) -> str:
    """README.md of the results: one table over all entries."""
    lines = [
        "# Results",
        "",
        f"Return without noise: {INTERVAL}. The mean of the last 10 is over the second half where there are fewer than "
        "20 evaluations. Reached: this mean of the last 10 is at least the published figure. Short names of settings "
        "(sm1wt, tds, ...) are explained in [recipe](recipe.md), those of the paper's in [paper](paper.md).",
        "",
        "![curves of all entries](curves.png)",
        "",
        *_missed(published),
        "",
        "All entries:",
        "",
        "| entry | environment | steps | seeds | last evaluation | mean of the last 10 | best | last weights, "
        "100 episodes | best policy, 100 other episodes | published | reached |",
        "|---" * 11 + "|",
    ]
    for suite, entry, found in _each(published):
        lines.append(
            row(
                [
                    f"{suite.name}: {_link(suite, entry)}{earlier(suite, entry.name, found)}",
                    found.config.env,
                    f"{found.config.total_steps:,}",
                    seeds_cell(found),
                    *_scores(finished(found)),
                    *_against(entry, found),
                ]
            )
        )
    suites = ", ".join(f"[{suite.name}]({suite.name}.md)" for suite, results in published if results)
    lines += ["", f"Side by side, with the critics' errors and speeds: {suites}.", ""]
    if _scatters(published):
        lines += [
            "What critics expected at single steps of test episodes, and what followed (as Lillicrap et al., Fig. 3):",
            "",
            "![estimated Q against return](values.png)",
            "",
        ]
    return "\n".join(lines)


def _missed(published: Published) -> list[str]:
    """What has a published figure and is below it, with the critic's error and the suite's remark."""
    compared, lines = 0, []
    for suite, entry, found in _each(published):
        done, (figure, reached) = finished(found), _against(entry, found)
        compared += bool(figure)
        if reached == "no":
            last, q_bias = summary(done, lambda o: o.last(10)), summary(done, lambda o: o.last_q_bias)
            lines.append(row([_link(suite, entry), last, figure, q_bias, entry.note]))
    if not lines:
        return [f"All published figures are reached: {compared}."]
    return [
        f"{compared - len(lines)} of {compared} published figures are reached. These entries are below theirs:",
        "",
        "| entry | mean of the last 10 | published | q_bias, last 5 | remark |",
        "|---" * 5 + "|",
        *lines,
    ]


def readme_table(published: Published) -> list[str]:
    """The rows of those entries that the project's README names."""
    lines = [
        "| run | steps | seeds | last evaluation | last weights, 100 episodes | best policy, 100 other episodes "
        "| published |",
        "|---" * 7 + "|",
    ]
    for suite, entry, found in _each(published):
        if entry.readme:
            last, _, _, again, best = _scores(finished(found))
            lines.append(
                row(
                    [
                        f"[{entry.readme}](benchmarks/results/{suite.name}/{quote(entry.name)})"
                        + earlier(suite, entry.name, found),
                        f"{found.config.total_steps:,}",
                        seeds_cell(found),
                        last,
                        again,
                        best,
                        _against(entry, found)[0],
                    ]
                )
            )
    return lines


def draw_all(published: Published, path: Path):
    """A small curve of each entry that the README names, the published figure as a line."""
    shown = [(entry, found) for _, entry, found in _each(published) if finished(found) and entry.readme]

    def draw(axes, item):
        entry, found = item
        draw_on(axes, finished(found))
        if entry.published:
            axes.axhline(entry.published.score, color="black", linestyle=":", linewidth=1)
        axes.set_title(textwrap.fill(f"{entry.readme}, {seeds(finished(found))}", 48), fontsize=7)

    draw_grid(path, shown, draw, "steps", "evaluation return")


def draw_estimates(published: Published, path: Path):
    """Estimated Q against return, for the entries that asked for it (Lillicrap et al., Fig. 3)."""

    def draw(axes, item):
        name, file = item
        q, following = np.array([[float(row["q"]), float(row["discounted_return"])] for row in read_rows(file)]).T
        ends = [min(q.min(), following.min()), max(q.max(), following.max())]
        axes.plot(ends, ends, color="0.6", linewidth=1)
        axes.scatter(following, q, s=2, alpha=0.3)
        axes.set_title(name, fontsize=7)

    draw_grid(path, _scatters(published), draw, "discounted return that followed", "estimated Q")


def _scatters(published: Published) -> list[tuple[str, Path]]:
    """(entry, file) of those that have one."""
    return [
        (name, file)
        for _, results in published
        for name, found in results.items()
        if (file := found.path / "scatter.csv").exists()
    ]


def draw_grid(path: Path, items: Sequence, draw: Callable, xlabel: str, ylabel: str, columns: int = 4):
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    if not items:
        return
    width, columns = _WIDTH / columns, min(columns, len(items))
    rows = -(-len(items) // columns)
    figure = Figure(figsize=(width * columns, 2.4 * rows), layout="constrained")
    for axes, item in zip(figure.subplots(rows, columns, squeeze=False).flat, items, strict=False):
        draw(axes, item)
        if xlabel == "steps":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k, 1M
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=5)
    for axes in figure.axes[len(items) :]:
        axes.set_axis_off()
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _scores(done: Sequence[Outcome]) -> list[str]:
    """Cells: last evaluation, mean of the last ten, best, last weights scored again, the best policy of all seeds."""
    if not done:
        return ["-"] * 5
    counts = sorted({outcome.episodes for outcome in done})
    few = "" if counts == [100] else f" ({' or '.join(map(str, counts))} episodes)"
    again, success = summary(done, lambda o: o.rescored), summary(done, lambda o: o.success)
    return [
        summary(done, lambda o: o.last(1)),
        summary(done, lambda o: o.last(10)),
        summary(done, lambda o: max(o.scores.values())),
        again + few * (again != "-") + f", success {success}" * (success != "-"),
        _best_policy(done),
    ]


def _best_policy(done: Sequence[Outcome]) -> str:
    """A cell: what the weights of the best evaluation of all seeds come to on other episodes."""
    best = max(done, key=lambda outcome: max(outcome.scores.values()))
    if best.best is None:
        return "-"
    return summary([best], lambda outcome: outcome.best) + f" (seed {best.seed})" * (len(done) > 1)


def _against(entry: Entry, found: Results) -> list[str]:
    """Cells: the published figure with its source, whether it was reached."""
    if not entry.published:
        return ["", ""]
    figure = entry.published
    came_to = [outcome.last(10) if outcome.ended == "finished" else -np.inf for outcome in found.outcomes]
    reached = interquartile_mean(np.array(came_to)) >= figure.score
    return [f"{figure.score:,.1f} ({figure.source}, {figure.steps:,} steps)", "yes" if reached else "no"]


def seeds_cell(found: Results) -> str:
    """A cell: how many runs, and which of them did not finish."""
    others = [f"seed {outcome.seed} {outcome.ended}" for outcome in found.outcomes if outcome.ended != "finished"]
    return ", ".join([str(len(finished(found))), *others])


def earlier(suite: Suite, name: str, found: Results) -> str:
    """What is said beside the name of an entry whose settings have changed since."""
    now = [(entry.config, entry.peer) for entry in suite.entries if entry.name == name]
    changed = any(difference(found.config, config) or found.peer != peer for config, peer in now)
    return " (of earlier settings)" * changed


def _each(published: Published) -> Iterator[tuple[Suite, Entry, Results]]:
    """All entries that have results."""
    for suite, results in published:
        for name, found in results.items():
            yield suite, next(entry for entry in suite.entries if entry.name == name), found


def _link(suite: Suite, entry: Entry) -> str:
    return f"[{entry.name}]({suite.name}/{quote(entry.name)})"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
