"""Collectors in Ray's processes: the same run for any placement, and whoever dies."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, assert_same_run, name_of, processes_below, timeless, without_xla

from ddpg_tf import train
from ddpg_tf.collect import wire
from ddpg_tf.collect.collector import Collector
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.files import read_rows
from ddpg_tf.storage import run_dir
from ddpg_tf.training import loop
from ddpg_tf.training.acting import Acting
from ddpg_tf.training.rounds import Rounds

ELSEWHERE = dict(num_envs=4, collectors=2, noise="ou", normalize_observations=True, warmup_steps=600)


@pytest.fixture(scope="module")
def whole(ray, tmp_path_factory):
    """A run that nothing disturbed."""
    from conftest import TINY

    from ddpg_tf import Config

    path = tmp_path_factory.mktemp("distributed") / "run"
    with without_xla():
        train(Config(**TINY | ELSEWHERE, run_dir=str(path)))
    return path


class OneBlockLate(Collector):
    """One collector, here, that acts with the weights of the call before, as those elsewhere do.

    And for two environments at a time, as each of them: not every processor rounds a batch of four alike.
    """

    def __init__(self, config, spaces):
        super().__init__(config, spaces)
        self.policy, self.weights, self.count = Acting(config, spaces), None, config.update_every // config.num_envs

    def round(self, first, weights, stopped):
        self.policy.assign(self.weights or weights)
        self.weights = weights
        steps = [self.step(t, self._in_twos) for t in range(first, first + self.count)]
        return wire.Round(steps, np.zeros(4, bool), dict.fromkeys(("learner_waited", "collectors_waited"), 0.0))

    def _in_twos(self, observations):
        return np.concatenate([self.policy(two) for two in np.split(observations, 2)])


def test_collectors_act_with_what_was_learnt_one_block_ago(whole, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(loop, "make_collector", lambda config, spaces: (OneBlockLate(config, spaces), Rounds))
    with without_xla():
        train(tiny(tmp_path / "run", **ELSEWHERE))
    assert (tmp_path / "run" / "evaluations.csv").read_bytes() == (whole / "evaluations.csv").read_bytes()
    assert timeless(tmp_path / "run" / "metrics.csv") == timeless(whole / "metrics.csv")


def test_metrics_say_who_waited(whole):
    rows = read_rows(whole / "metrics.csv")
    waits = [float(row[name]) for row in rows for name in ("learner_waited", "collectors_waited")]
    assert len(waits) == 2 * len(rows) and min(waits) >= 0 and sum(waits) > 0


@pytest.fixture
def kills(ray, monkeypatch):
    """{step: collector} to be killed by SIGKILL while it does the round that begins there; empty when all are."""
    from ddpg_tf.collect.remote import Fleet

    ask, left = Fleet._ask, {}

    def disturbed(self, first):
        ask(self, first)
        if first * 4 in left:
            process = ray.get(self._members[left.pop(first * 4)].placed)
            os.kill(int(re.search(r"process (\d+)", process)[1]), signal.SIGKILL)

    monkeypatch.setattr(Fleet, "_ask", disturbed)
    return left


def test_a_command_ended_by_sigterm_and_a_killed_collector_equal_an_undisturbed_run(whole, kills, tmp_path, tiny):
    """The command starts Ray and leaves nothing of it; it saves, whatever Ray wants with SIGTERM.

    Resumed elsewhere, on another cluster, it loses a collector while it learns.
    """
    path, flagfile = tmp_path / "run", tmp_path / "tiny.flags"
    flagfile.write_text(tiny("", **ELSEWHERE).to_flags())
    argv = [sys.executable, "train.py", f"--flagfile={flagfile}", f"--run_dir={path}"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not read_rows(path / "metrics.csv"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    started = processes_below(process.pid)
    assert "raylet" in started.values()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    deadline = time.monotonic() + 20
    while any(name_of(pid) == name for pid, name in started.items()):
        assert time.monotonic() < deadline, started
        time.sleep(0.1)
    kills[900] = 1
    with (
        without_xla(),
        pytest.warns(UserWarning, match=r"collector 1 \(environments 2 to 3\) at .*, process \d+ has died"),
    ):
        train(run_dir.read_config(path), resume=True)
    assert not kills
    assert_same_run(whole, path)


# Without a cluster ----------------------------------------------------------------------------------------------------


def test_without_collectors_ray_is_not_even_looked_for(tmp_path, tiny, uncompiled, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it would fail
    assert train(tiny(tmp_path / "run", total_steps=220, eval_every=0)).step == 220  # of which it learns 20


def test_without_ray_it_says_what_to_install(tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray: pip install -r requirements-ray\.txt"):
        train(tiny(tmp_path / "run", collectors=1))


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(num_envs=3, collectors=2), r"num_envs \(3\) must be a multiple of collectors \(2\)"),
        (dict(collectors=1, update_every=7, total_steps=20), r"total_steps \(20\) must be a multiple of update_every"),
        (dict(collectors=1, eval_envs=0), "needs collectors 0"),
    ],
)
def test_settings_that_do_not_go_together(changes, says):
    from ddpg_tf import Config

    with pytest.raises(UsageError, match=says):
        Config(**{"total_steps": 420, **changes})
