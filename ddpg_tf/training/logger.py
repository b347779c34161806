"""One stream of metrics -> progress bar, metrics.csv, evaluations.csv, values.csv, TensorBoard."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ddpg_tf._tf import os_errors, tf
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.files import csv_text, naming, read_rows, write_rows
from ddpg_tf.learner.agent import METRICS

COLUMNS = ("step", "seconds", "steps_per_second", "episodes", "episode_return", "episode_length", "updates", *METRICS)
WAITS = {"learner_waited": "collectors", "collectors_waited": "learner"}  # seconds; whom they waited for
EVALUATION_COLUMNS = ("step", "episode", "return", "length", "success")
VALUE_COLUMNS = ("step", "q_start", "discounted_return", "q_bias")


class Logger:
    """Sums up what happened since the last row; knows nothing of where it comes from.

    Args:
      run_dir: where the files go; what they hold beyond `step` is cut off.
      total_steps: for the progress bar, which shows on a terminal only.
      step: environment step to continue from.
      evaluated: step of the last evaluation; -1: none.
      seconds: wall time the run has taken before.
      waits: whether metrics.csv has columns for WAITS.
    """

    def __init__(
        self,
        run_dir: Path,
        total_steps: int,
        step: int = 0,
        evaluated: int = -1,
        seconds: float = 0.0,
        *,
        waits: bool = False,
    ):
        self._columns = (*COLUMNS, *WAITS) if waits else COLUMNS
        self._run_dir, self._began = run_dir, time.monotonic() - seconds
        self._window: dict[str, Any] = _empty_window(step, seconds)
        _cut(run_dir / "metrics.csv", self._columns, step)
        _cut(run_dir / "evaluations.csv", EVALUATION_COLUMNS, evaluated)
        _cut(run_dir / "values.csv", VALUE_COLUMNS, evaluated)
        for events in run_dir.glob("events.out.tfevents.*"):  # they go beyond the checkpoint: made anew from the csv
            events.unlink()
        with os_errors():
            self._board = tf.summary.create_file_writer(str(run_dir))
        for row in read_rows(run_dir / "metrics.csv"):
            self._to_board("train", row)
        for figure in ("return", "success"):
            for at, values in read_evaluations(run_dir / "evaluations.csv", figure).items():
                self._to_board("evaluation", {"step": at, figure: np.mean(values)})
        for row in read_rows(run_dir / "values.csv"):
            self._to_board("evaluation", row)
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._shown: dict[str, str] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def steps(self, count: int, finished: Iterable[tuple[float, int]]):
        """`count` environment steps were made; [(return, length)] of the episodes that ended."""
        self._bar.update(count)
        for episode_return, length in finished:
            self._window["episodes"] += 1
            self._window["return"] += float(episode_return)
            self._window["length"] += length
            self._show(episode_return=f"{episode_return:.1f}")

    def update(self, metrics: dict[str, float], updates: int):
        """A block of `updates` updates with these mean metrics."""
        self._window["updates"] += updates
        for name, value in metrics.items():
            self._window["sums"][name] = self._window["sums"].get(name, 0.0) + updates * value

    def waited(self, seconds: Mapping[str, float]):
        """How long, by the keys of WAITS, learner and collectors waited for each other; the bar names the slower."""
        waits = self._window.setdefault("waits", dict.fromkeys(WAITS, 0.0))
        for name in WAITS:
            waits[name] += seconds[name]
        self._show(slower=WAITS[max(waits, key=waits.__getitem__)])

    def write_row(self, step: int):
        """A row of metrics.csv, and TensorBoard: means since the last row."""
        window, seconds = self._window, self.seconds
        episodes, updates = window["episodes"], window["updates"]
        row = {
            "step": step,
            "seconds": round(seconds, 3),
            "episodes": episodes,
            "updates": updates,
            "steps_per_second": round((step - window["step"]) / max(seconds - window["seconds"], 1e-9), 1),
        }
        if episodes:
            row |= {f"episode_{name}": window[name] / episodes for name in ("return", "length")}
        row |= {name: total / updates for name, total in window["sums"].items()}
        row |= {name: round(total, 3) for name, total in window.get("waits", {}).items()}
        _append(self._run_dir / "metrics.csv", [[row.get(column, "") for column in self._columns]])
        self._to_board("train", row)
        self._window = _empty_window(step, seconds)

    def evaluation(
        self, step: int, episodes: list[tuple[float, int, float]], q_start: np.ndarray, discounted: np.ndarray
    ):
        """An evaluation: each episode to evaluations.csv, the critic's error to values.csv, means to bar and board.

        Args:
          episodes: (return, length, success) of each; a success that is nan, for the environment does not say, is told
            of none.
          q_start, discounted: [episodes], Q(s0, mu(s0)) and the discounted return that followed. The bias is their
            mean difference in units of the mean absolute return, empty where that is 0; an episode cut by a time limit
            lacks its tail.
        """
        returns, lengths, success = zip(*episodes, strict=True)
        means = {"return": float(np.mean(returns)), "success": float(np.mean(success))}
        if np.isnan(means["success"]):
            del means["success"]
            success = [""] * len(episodes)
        rows = zip(returns, lengths, success, strict=True)
        _append(self._run_dir / "evaluations.csv", [[step, i, *row] for i, row in enumerate(rows)])
        values = {"q_start": float(q_start.mean()), "discounted_return": float(discounted.mean())}
        scale = np.abs(discounted).mean()
        values["q_bias"] = (values["q_start"] - values["discounted_return"]) / scale if scale else ""
        _append(self._run_dir / "values.csv", [[step, *values.values()]])
        self._to_board("evaluation", {"step": step, **means, **values})
        with os_errors():
            self._board.flush()
        told = {"evaluation": f"{means.pop('return'):.1f}", **{name: f"{mean:.2f}" for name, mean in means.items()}}
        self._show(**told)
        self.tell(f"step {step}: {', '.join(map(' '.join, told.items()))}, {self.seconds:.0f} s")

    def _to_board(self, group: str, row: Mapping[str, Any]):
        """A row of a csv file to TensorBoard."""
        with os_errors(), self._board.as_default(step=int(row["step"])):
            for name, value in row.items():
                if name != "step" and value != "":
                    tf.summary.scalar(f"{group}/{name}", float(value))

    @staticmethod
    def tell(line: str):
        """For those who read a log and have no progress bar."""
        if not sys.stderr.isatty():
            print(line, file=sys.stderr, flush=True)

    def _show(self, **figures: str):
        self._shown |= figures
        self._bar.set_postfix(self._shown, refresh=False)

    def state(self) -> dict[str, Any]:
        """What has been summed up since the last row, as JSON."""
        return self._window

    def load_state(self, state: dict[str, Any]):
        self._window |= state

    def close(self):
        self._bar.close()
        with os_errors():
            self._board.close()


def _empty_window(step: int, seconds: float) -> dict[str, Any]:
    zero = dict.fromkeys(("episodes", "return", "length", "updates"), 0)
    return {"step": step, "seconds": seconds, **zero, "sums": {}}


def _append(path: Path, rows: list[list[Any]]):
    """Appends whole rows with one write, through to the disk."""
    with naming(path), open(path, "a") as file:
        file.write(csv_text(rows))
        file.flush()
        os.fsync(file.fileno())


def _cut(path: Path, columns: tuple[str, ...], step: int):
    """Leaves the header and the complete rows up to `step`; makes the file if it is not there.

    An earlier version of this project may have had other columns.
    """
    rows = [
        [row.get(column, "") for column in columns]
        for row in read_rows(path)
        if row["step"].isdecimal() and int(row["step"]) <= step
    ]
    write_rows(path, columns, rows)
