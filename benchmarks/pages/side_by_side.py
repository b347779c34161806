"""Entries of a suite side by side, by environment: the suite's page and its picture."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmarks.curves import curve_of, draw_on, finished, interquartile_mean, summary
from benchmarks.outcomes import Results
from benchmarks.pages.overview import INTERVAL, draw_grid, earlier, row, seeds_cell
from benchmarks.suite.entries import Suite


def suite_page(suite: Suite, results: Mapping[str, Results]) -> str:
    """Entries of the same environment side by side."""
    lines = [
        f"# {suite.name}",
        "",
        suite.about,
        "",
        *_legend(suite),
        f"{INTERVAL[0].upper()}{INTERVAL[1:]}. Area: mean of all evaluations. Last ten, last five: of fewer than "
        "twice as many evaluations the second half. Caught up: the share of the first entry's steps after which "
        "five evaluations in a row (or as few as count as its last five) come to what the first entry has in these; "
        "no entry can catch up sooner than after so many (<=). q_bias: (Q(s0, mu(s0)) - discounted return) / mean "
        "absolute return, mean of the last five evaluations; above 0 the critic overestimates. Where a time limit cuts "
        "episodes, Q counts what would follow too, so that with a long discount even a right critic is away from 0 "
        "(Swimmer-v5, Reacher-v5).",
        "",
        *([f"![curves]({suite.name}.png)", ""] if comparisons(results) else []),
    ]
    for env in dict.fromkeys(found.config.env for found in results.values()):
        group = {name: found for name, found in results.items() if found.config.env == env}
        first = next(iter(group.values()))
        lines += [
            f"## {env}",
            "",
            "| entry | steps | seeds | area | last ten | last five | caught up | q_bias | steps/s |",
            "|---" * 9 + "|",
        ]
        for name, found in group.items():
            done, speed = finished(found), _speed(found)
            lines.append(
                row(
                    [
                        f"[{name}]({suite.name}/{quote(name)}){earlier(suite, name, found)}",
                        f"{found.config.total_steps:,}",
                        seeds_cell(found),
                        summary(done, lambda o: o.area),
                        summary(done, lambda o: o.last(10)),
                        summary(done, lambda o: o.last(5)),
                        _caught_up(found, first),
                        summary(done, lambda o: o.last_q_bias),
                        f"{speed:.0f}" if speed else "-",
                    ]
                )
            )
        lines.append("")
    notes = [f"- **{entry.name}**: {entry.note}" for entry in suite.entries if entry.note and entry.name in results]
    return "\n".join([*lines, *notes, ""])


def _legend(suite: Suite) -> list[str]:
    """A table of what the parts of entries' names stand for."""
    rows = [row([name, about]) for name, about in suite.legend.items()]
    return ["| in an entry's name | what it is |", "|---|---|", *rows, ""] if rows else []


def comparisons(results: Mapping[str, Results]) -> dict[str, list[str]]:
    """{environment: its entries} where there are several that finished."""
    by_env: dict[str, list[str]] = {}
    for name, found in results.items():
        if finished(found):
            by_env.setdefault(found.config.env, []).append(name)
    return {env: names for env, names in by_env.items() if len(names) > 1}


def draw_comparisons(results: Mapping[str, Results], path: Path):
    """Of each environment the curves of its entries, as Lillicrap et al., Fig. 2; nothing without `comparisons`."""

    def draw(axes, item):
        env, names = item
        for i, name in enumerate(names):
            draw_on(
                axes,
                finished(results[name]),
                _without(name, env.split("/")[-1].removesuffix("-v0")),
                color=f"C{i % 10}",
                linestyle="-" if i < 10 else "--",
                linewidth=1,
            )
        axes.set_title(env, fontsize=7)
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves: there can be twenty

    draw_grid(path, list(comparisons(results).items()), draw, "steps", "evaluation return", columns=2)


def _without(name: str, env: str) -> str:
    """An entry's name without its environment's."""
    return name.replace(env, "").replace("--", "-").strip("-, ") or name


def _speed(found: Results) -> float:
    """Median over its runs of their median steps/s."""
    speeds = [outcome.steps_per_second for outcome in found.outcomes if outcome.steps_per_second]
    return float(np.median(speeds)) if speeds else 0.0


def _caught_up(found: Results, first: Results) -> str:
    """A cell: of the first entry's steps, those after which `found` has had the first entry's last five."""
    done = finished(found)
    if not finished(first) or not done:
        return "-"
    steps, scores = curve_of(done)
    last = min(outcome.count(5) for outcome in finished(first))
    if len(steps) < last:
        return "-"
    aim = interquartile_mean(np.array([outcome.last(5) for outcome in finished(first)]))
    means = np.lib.stride_tricks.sliding_window_view(scores, last, axis=1).mean(axis=2)
    never = np.full([len(found.outcomes) - len(done), means.shape[1]], -np.inf)
    reached = interquartile_mean(np.concatenate([means, never])) >= aim - 1e-9 * abs(aim)  # it is as good as itself
    if not reached.any():
        return "no"
    at = int(reached.argmax())
    return f"{'<= ' * (at == 0)}{steps[at + last - 1] / first.config.total_steps:.2f}"
