"""benchmarks/results/distributed.md and .png, made of distributed.csv."""

import re

from benchmarks.processes import ROOT
from ddpg_tf.files import read_rows, write_atomically, write_text

RESULTS = ROOT / "benchmarks" / "results"
_HEADINGS = {
    "scale": "An environment that sleeps 10 ms a step, K collectors of one environment each",
    "fast": "Environments whose step costs little: the better of two runs each",
    "learning": "Pendulum-v1 with its preset, K = 4, at 10,000 steps",
    "same": "The same run, disturbed",
    "bytes": "Bytes on the wire for a step of one environment",
}


def write():
    """The page and the picture, of what there is."""
    rows = read_rows(RESULTS / "distributed.csv")
    lines = [
        "# Collecting on Ray",
        "",
        "`python -m benchmarks.speed.distributed` measures it all; "
        "[docs/distributed.md](../../docs/distributed.md) says what to make of it. One machine plays all parts: "
        "collectors, learner and Ray share its cores. The load is the system's mean number of processes that want a "
        "core, one minute before a part began.",
    ]
    for part, heading in _HEADINGS.items():
        found = [row for row in rows if row["part"] == part]
        if not found:
            continue
        notes = [row["value"] for row in rows if row["part"] == "note" and row["case"] == part]
        lines += ["", f"## {heading}", "", f"Load {found[0]['load']}. {' '.join(notes)}".strip(), ""]
        lines += _table(found + _shares(found) if part == "scale" else found)
        if part == "scale":
            lines += ["", "![steps per second against collectors](distributed.png)"]
            _draw(found)
    write_text(RESULTS / "distributed.md", "\n".join(lines) + "\n")


def _shares(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The speeds in units of K times that of K = 1."""
    speeds = _speeds(rows)
    return [
        {"case": f"K = {k}", "measure": "speed over K times that of K = 1", "value": str(speed / (k * speeds[1]))}
        for k, speed in speeds.items()
    ]


def _speeds(rows: list[dict[str, str]]) -> dict[int, float]:
    """{K: steps per second} of the runs with collectors."""
    found = {int(re.search(r"\d+", row["case"])[0]): row for row in rows if row["measure"] == "steps/s"}
    return {k: float(row["value"]) for k, row in found.items() if k}


def _table(rows: list[dict[str, str]]) -> list[str]:
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells = {(row["case"], row["measure"]): row["value"] for row in rows}
    lines = [f"| | {' | '.join(measures)} |", f"|---|{'---|' * len(measures)}"]
    for case in dict.fromkeys(row["case"] for row in rows):
        lines.append(f"| {case} | {' | '.join(_number(cells.get((case, measure), '')) for measure in measures)} |")
    return lines


def _number(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"


def _draw(rows: list[dict[str, str]]):
    from matplotlib.figure import Figure

    speeds, figure = _speeds(rows), Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(speeds), [k * speeds[1] for k in speeds], "--", color="grey", label="K times that of K = 1")
    axes.plot(list(speeds), list(speeds.values()), "o-", label="measured")
    axes.set(xlabel="collectors K", ylabel="steps per second", xscale="log", yscale="log", xticks=list(speeds))
    axes.set_xticklabels([str(k) for k in speeds])
    axes.minorticks_off()
    axes.legend()
    write_atomically(RESULTS / "distributed.png", lambda file: figure.savefig(file, format="png", dpi=100))
