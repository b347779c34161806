"""Curves and tables over seeds."""

import json

import numpy as np
import pytest

from benchmarks import curves
from ddpg_tf import Config
from ddpg_tf.errors import UsageError


@pytest.fixture
def finished(tmp_path):
    """`finished(seed, scores, **changes)` is a run directory whose evaluations came out as `scores`."""

    def make(seed, scores, **changes):
        path = tmp_path / f"run-{seed}"
        path.mkdir()
        config = Config(seed=seed, total_steps=100 * len(scores), **changes)
        (path / "flags.txt").write_text(config.to_flags())
        (path / "versions.json").write_text(json.dumps({"run": path.name, "gymnasium": "1.4.0", "mujoco": "3.11.0"}))
        (path / "metrics.csv").write_text(f"step,seconds,steps_per_second,updates\n{config.total_steps},9.5,200,50\n")
        (path / "checkpoints").mkdir()
        (path / "checkpoints" / f"{config.total_steps:012d}.npz").touch()
        rows = [
            f"{100 * (i + 1)},{episode},{score + 10 * episode - 5},200"
            for i, score in enumerate(scores)
            for episode in range(2)
        ]
        (path / "evaluations.csv").write_text("\n".join(["step,episode,return,length", *rows, ""]))
        return path

    return make


def test_interquartile_mean_forgets_the_extremes_and_the_interval_holds_it():
    scores = np.array([[-1000.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [1000.0]])
    point, (low, high) = curves.interval(scores)
    assert point == pytest.approx(3.5)  # of 2, 3, 4, 5
    assert low[0] <= 3.5 <= high[0] and low[0] > -1000 and high[0] < 1000
    np.testing.assert_array_equal(curves.interval(scores)[1], [low, high])  # the same at every call


def test_the_interval_of_few_runs_is_over_all_ways_to_draw_them():
    """Of three runs the lowest and the highest: each is drawn three times in one of 27 ways, more than 2.5 %."""
    np.testing.assert_array_equal(curves.interval(np.array([[3.0], [1.0], [2.0]]))[1], [[1.0], [3.0]])
    np.testing.assert_array_equal(curves.interval(np.array([[3.0, 5.0]]))[1], [[3.0, 5.0], [3.0, 5.0]])
    # One far run of five is in the middle three of a drawing where it is drawn twice or more: 821 of 3,125 ways.
    _, (low, high) = curves.interval(np.array([[0.0], [0.0], [0.0], [0.0], [90.0]]))
    assert (low[0], high[0]) == (0.0, 60.0)  # drawn three times: 181 ways, 5.8 %; four times: 0.7 %


def test_report_over_seeds(finished, tmp_path, capsys):
    """Final is the mean of the last ten evaluations of every seed, not the best ones; versions beside the numbers."""
    runs = [finished(seed, [seed] * 5 + [100 + seed] * 10) for seed in (2, 0, 1)]
    out = tmp_path / "results" / "toy"
    curves.main(["curves", *map(str, runs), f"--out={out}", "--episodes=0"])
    text = (out / "README.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert "| 0 | 100.0 | 100.0 | 100.0 |" in text and "| 2 | 102.0 | 102.0 | 102.0 |" in text
    assert "| mean [lowest, highest] | 101.0 [100.0, 102.0]" in text
    curves.main(["curves", *map(str, runs), f"--out={out}", "--episodes=0"])  # over its own results, it may
    assert "Pendulum-v1" in text and "gymnasium 1.4.0" in text and "mujoco 3.11.0" in text
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "seed-1.csv").read_bytes() == (tmp_path / "run-1" / "evaluations.csv").read_bytes()
    assert "--seed" not in (out / "flags.txt").read_text() and "--gamma=0.99" in (out / "flags.txt").read_text()


def test_one_run_has_no_interval_and_another_curve_beside_it(finished, tmp_path):
    out, other = tmp_path / "new", tmp_path / "old"
    curves.main(["curves", str(finished(0, [1.0, 2.0])), f"--out={other}", "--episodes=0"])
    text = (other / "README.md").read_text()
    assert "1 seed;" in text and "| 0 | 2.00 | 2.00 | 2.00 |" in text and "interquartile" not in text
    curves.main(["curves", str(finished(1, [3.0, 4.0])), f"--out={out}", "--episodes=0", f"--beside={other}"])
    assert f"--episodes=0 --beside={other}" in (out / "README.md").read_text()
    assert len((out / "curve.png").read_bytes()) > len((other / "curve.png").read_bytes())
    with pytest.raises(UsageError, match=r"no runs\.csv"):
        curves.main(["curves", str(tmp_path / "run-0"), f"--out={out}", "--episodes=0", f"--beside={tmp_path}"])


def test_runs_that_differ_in_more_than_the_seed_are_not_mixed(finished, tmp_path):
    runs = [finished(0, [1.0]), finished(1, [1.0], gamma=0.5)]
    with pytest.raises(UsageError, match="gamma"):
        curves.main(["curves", *map(str, runs), f"--out={tmp_path / 'out'}", "--episodes=0"])
    other = finished(3, [1.0])
    (other / "peer.json").write_text(json.dumps({"library": "sb3", "algorithm": "TD3", "settings": {}}))
    with pytest.raises(UsageError, match="different libraries"):
        curves.main(["curves", str(runs[0]), str(other), f"--out={tmp_path / 'out'}", "--episodes=0"])


def test_another_run_of_a_published_seed_does_not_replace_it(finished, tmp_path):
    out, run = tmp_path / "out", finished(0, [1.0, 2.0])
    curves.main(["curves", str(run), f"--out={out}", "--episodes=0"])
    (run / "versions.json").write_text(json.dumps({"run": "a later one", "commit": "abc"}))
    with pytest.raises(UsageError, match="another run of seed 0: take it out of runs"):
        curves.main(["curves", str(run), f"--out={out}", "--episodes=0"])


def test_what_is_known_of_some_runs_only_is_told_of_them(finished, tmp_path):
    runs, out = [finished(0, [1.0]), finished(1, [2.0])], tmp_path / "out"
    versions = json.loads((runs[1] / "versions.json").read_text())
    (runs[1] / "versions.json").write_text(json.dumps({**versions, "commit": "abc", "device": "CPU"}))
    curves.main(["curves", *map(str, runs), f"--out={out}", "--episodes=0"])
    text = (out / "README.md").read_text()
    assert "measured with commit abc (seed 1), device CPU (seed 1), gymnasium 1.4.0, mujoco 3.11.0." in text


def test_an_unfinished_run_is_refused(finished, tmp_path):
    run = finished(0, [1.0, 2.0])
    text = (run / "evaluations.csv").read_text()
    (run / "evaluations.csv").write_text("\n".join(text.splitlines()[:-2]) + "\n")
    with pytest.raises(UsageError, match="not finished"):
        curves.main(["curves", str(run), f"--out={tmp_path / 'out'}", "--episodes=0"])


def test_nothing_else_is_written_over(finished, tmp_path):
    run = finished(0, [1.0])
    (tmp_path / "README.md").write_text("# mine")
    with pytest.raises(UsageError, match="something else"):
        curves.main(["curves", str(run), f"--out={tmp_path}", "--episodes=0"])
    assert (tmp_path / "README.md").read_text() == "# mine"
