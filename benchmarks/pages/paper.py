"""The paper's tasks (Lillicrap et al. 2015, Table 1), each beside the nearest environment that is maintained today."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from benchmarks import outcomes
from benchmarks.curves import finished, summary
from benchmarks.outcomes import Results
from ddpg_tf.files import read_rows

TASKS = Path("benchmarks/pages/paper_tasks.csv")
_MOST = 1000.0  # that an episode of a dm_control task can pay


def table(found: Mapping[str, Results]) -> list[str]:
    """Lines of Markdown; of each task the paper's scores and ours, from observed states and from pixels.

    Args:
      found: {"suite/entry": its published results}.
    """
    random, planner = _returns("random.csv"), _returns("planner.csv")
    lines = [
        "| task of the paper | its average and best | from pixels | ours | return | normalised | what differs |",
        "|---" * 7 + "|",
    ]
    for task in read_rows(TASKS):
        theirs = f"{task['average']}, {task['best']}", f"{task['pixels_average']}, {task['pixels_best']}"
        entries = [name for name in (task["entry"], task["pixels_entry"]) if name]
        for name in entries or [""]:
            row = [task["task"], *theirs, *_ours(name, found.get(name), random, planner), task["differs"]]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def _returns(file: str) -> dict[str, float]:
    return {row["env"]: float(row["return"]) for row in read_rows(outcomes.RESULTS / file)}


def _ours(name: str, results: Results | None, random: Mapping[str, float], planner: Mapping[str, float]) -> list[str]:
    """Cells: the entry, the mean of its last ten evaluations, and that from 0 for random actions to 1.

    1 is the most that an episode pays, or where this is not known, what the planner comes to.
    """
    if not name or results is None:
        return [f"{name}, not run yet" if name else "-", "-", "-"]
    env, done = results.config.env, finished(results)
    zero, one = random.get(env), _MOST if env.startswith("dm_control/") else planner.get(env)
    known = zero is not None and one is not None
    normalised = summary(done, lambda o: (o.last(10) - zero) / (one - zero)) if known else "-"
    link = f"[{name}](../benchmarks/results/{quote(name)})"
    return [link, summary(done, lambda o: o.last(10)), normalised]
