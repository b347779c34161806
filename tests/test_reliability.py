"""The campaign of benchmarks.reliability: that it sees what it looks for."""

import random
import re
import shutil
import types

import numpy as np
import pytest

from benchmarks.reliability import campaign, disturbances
from ddpg_tf.storage import checkpoint


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_a_copy_of_a_run_equals_it(trained, copy):
    assert campaign.differences(copy, trained) == [] == campaign.left_behind(copy, trained)


@pytest.mark.parametrize("name", ["evaluations.csv", "values.csv", "metrics.csv"])
def test_another_figure_is_a_difference(trained, copy, name):
    text = (copy / name).read_text()
    (copy / name).write_text(re.sub(r"(\d)(\D*)\Z", lambda last: f"{(int(last[1]) + 1) % 10}{last[2]}", text))
    assert campaign.differences(copy, trained) == [name]


def test_another_clock_is_none(trained, copy):
    header, first, *rest = (copy / "metrics.csv").read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index("seconds")] = "12.5"
    (copy / "metrics.csv").write_text("\n".join([header, ",".join(cells), *rest, ""]))
    assert campaign.differences(copy, trained) == []


def test_one_bit_of_the_last_weights_is_a_difference(trained, copy):
    arrays, meta = checkpoint.load(copy / "checkpoints")
    name = next(name for name in arrays if name.startswith("agent/actor"))
    arrays[name] = np.nextafter(arrays[name], np.float32(9))
    checkpoint.save(copy / "checkpoints", meta.pop("step"), arrays, meta)
    assert campaign.differences(copy, trained) == ["last checkpoint"]


def test_what_is_left_is_seen(trained, copy):
    names = [f".flags.txt.{'0' * 32}", "snapshot-3.npz"]
    for name in names:
        (copy / name).touch()
    assert campaign.left_behind(copy, trained) == names
    assert campaign.half_written(copy) == names[:1]


@pytest.mark.parametrize(
    "status, said, tracebacks, unclear",
    [
        (0, "step 100: checkpoint\n", 0, 0),
        (-9, "", 0, 0),
        (1, "warning: it is late\nerror: [Errno 28] No space left on device: 'x'\n", 0, 0),
        (1, "Traceback (most recent call last):\n  File ...\nKeyError: 'x'\n", 1, 1),
        (0, "Exception ignored in: x\nTraceback (most recent call last):\nValueError\n", 1, 0),
        (-7, "", 0, 1),
        (1, "", 0, 1),
    ],
)
def test_tracebacks_and_failures_that_say_nothing_are_counted(tmp_path, status, said, tracebacks, unclear):
    (tmp_path / "0.log").write_text(said)
    session = campaign.Session.__new__(campaign.Session)
    session.log, session._process = tmp_path / "0.log", types.SimpleNamespace(poll=lambda: status)
    tally = campaign.Tally()
    tally.look_at(session)
    assert (tally.tracebacks, tally.unclear) == (tracebacks, unclear)
    assert len(tally.notes) == tracebacks + unclear


def test_a_flip_changes_one_byte(tmp_path):
    path, rng = tmp_path / "file", random.Random(0)
    path.write_bytes(bytes(1000))
    disturbances.flip(path, rng)
    assert sum(byte != 0 for byte in path.read_bytes()) == 1
