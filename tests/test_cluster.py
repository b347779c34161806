"""The cluster: joined, its head, its ports, collectors that cannot work, and what else runs: suites and searches."""

import contextlib
import json
import os
import re
import signal
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, command, processes_below

from ddpg_tf import train, tune
from ddpg_tf.collect import cluster
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.files import read_rows
from ddpg_tf.flags import parse_command_line
from ddpg_tf.storage import checkpoint


def test_a_ray_of_another_version_is_told_in_one_line(ray):
    address = ray.get_runtime_context().gcs_address
    pretends = f"ray.__version__ = '2.59.0'; cluster.join('{address}', 1, '')"
    code = f"import ray; from ddpg_tf.collect import cluster; {pretends}"
    done = command("-c", code, env=os.environ | {"RAY_AUTH_MODE": "token"})
    assert re.search(rf"UserError: cannot join Ray at {address}: Version mismatch: .*2\.60", done.stderr, re.DOTALL)


def test_machines_get_the_code_that_they_cannot_have(tmp_path, monkeypatch):
    """The project and an environment's module, a package with its folder and a file alone; nothing installed."""
    (tmp_path / "garage").mkdir()
    (tmp_path / "garage" / "__init__.py").touch()
    (tmp_path / "tank.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    project = str(ROOT / "ddpg_tf")
    assert cluster._modules("Pendulum-v1") == [project]
    assert cluster._modules("tank:Tank-v0") == [project, str(tmp_path / "tank.py")]
    assert cluster._modules("garage.cars:Car-v0") == [project, str(tmp_path / "garage")]
    assert cluster._modules("gymnasium:Pendulum-v1") == [project]


def test_a_head_out_of_reach_delays_new_collectors_only(ray, tiny, monkeypatch):
    """Rounds go on; a collector that dies meanwhile is made anew afterwards. Each has one CPU from the start."""
    from ddpg_tf.collect.remote import Fleet
    from ddpg_tf.envs import factory
    from ddpg_tf.training.acting import Acting, actor_weights

    monkeypatch.setattr("ddpg_tf.collect.remote._TELL_AFTER", 0.5)
    config = tiny("", collectors=1)
    spaces = factory.spaces_of(config)
    weights, fleet = actor_weights(Acting(config, spaces)), Fleet(config, spaces, Acting)
    try:
        assert len(fleet.round(0, weights).steps) == 20
        collector = int(re.search(r"process (\d+)", fleet._members[0].where)[1])
        with open(f"/proc/{collector}/environ") as file:
            assert {f"{name}={value}" for name, value in cluster.ONE_CPU.items()} <= set(file.read().split("\0"))
        (head,) = (pid for pid, name in processes_below(os.getpid()).items() if name == "gcs_server")
        os.kill(head, signal.SIGSTOP)
        try:
            assert len(fleet.round(20, weights).steps) == 20
            os.kill(collector, signal.SIGKILL)
            until = time.monotonic() + 30
            died = pytest.warns(UserWarning, match=r"collector 0 .* has died: .{1,310} It is made anew")
            silent = pytest.warns(UserWarning, match="1 of 1 collectors.*, and the cluster's head does not answer")
            with died, silent as told:
                seen = lambda: any("does not answer" in str(warning.message) for warning in told)  # noqa: E731
                assert fleet.round(40, weights, lambda: seen() or time.monotonic() > until) is None
        finally:
            os.kill(head, signal.SIGCONT)
        assert len(fleet.round(40, weights).steps) == 20 and not fleet.problem
    finally:
        fleet.close()


def test_without_a_place_the_run_waits_says_so_and_saves(ray, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("ddpg_tf.collect.remote._TELL_AFTER", 0.5)
    config = tiny(tmp_path / "run", collectors=1, collector_cpus=64, collector_timeout=2)
    waits = pytest.warns(UserWarning, match="1 of 1 collectors have not started: each takes 64 CPU.* cluster has 2,")
    with waits, pytest.raises(UserError, match=r"after 2 s. The last checkpoint is of step 0, in "):
        train(config)


def test_an_environment_that_only_this_process_knows_is_told(ray, tmp_path, tiny):
    import gymnasium as gym
    from gymnasium.envs.classic_control import PendulumEnv

    gym.register("OnlyHere-v0", entry_point=PendulumEnv, max_episode_steps=50)
    with pytest.raises(UserError, match=r"collector 0 .*no environment 'OnlyHere-v0'"):
        train(tiny(tmp_path / "run", env="OnlyHere-v0", collectors=1))


def test_a_collector_that_always_dies_ends_the_run_with_a_checkpoint(ray, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("ddpg_tf.collect.remote._MOST_DEATHS", 1)
    config = tiny(tmp_path / "run", env="tests.toy_envs:ToyDies-v0", collectors=1, eval_every=0)
    with pytest.raises(
        UserError,
        match=r"collector 0 .* has died: .*, 1 of 1 deaths in one round\. The last checkpoint is of step 0, in ",
    ):
        train(config)
    assert checkpoint.load(tmp_path / "run" / "checkpoints")[1]["step"] == 0


def test_ray_listens_on_this_machine_only(ray):
    processes, sockets, hosts = processes_below(os.getpid()), set(), set()
    for pid in (os.getpid(), *processes):
        with contextlib.suppress(OSError):
            sockets |= {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    for protocol in ("tcp", "tcp6"):
        with open(f"/proc/net/{protocol}") as file:
            for _, local, _, state, *_, inode in (line.split()[:10] for line in file.readlines()[1:]):
                if state == "0A" and f"socket:[{inode}]" in sockets:  # it listens
                    hosts.add(local.partition(":")[0])
    assert {"gcs_server", "raylet"} <= set(processes.values())
    assert hosts and hosts <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1


def test_a_run_of_a_suite_is_resumed_when_its_place_is_gone(ray, tmp_path):
    from conftest import TINY

    from benchmarks.suite import entries, on_ray, running

    # It learns nothing: there would be an update to compile in each place.
    flags = {**TINY, "preset": "none", "hidden_units": [8, 8], "total_steps": 10_000_000, "warmup_steps": 10_000_000}
    spelt = ", ".join(f"{name} = {json.dumps(value)}" for name, value in flags.items())
    (tmp_path / "small.toml").write_text(f"[entries.a]\nflags = {{{spelt}}}\n")
    (tmp_path / "small").mkdir()
    (run,) = running.plan(entries.read(tmp_path / "small.toml"), tmp_path)
    start, _ = on_ray.launcher("auto")
    placed = start(run, [0])
    for losses in (0, 1):
        reached = run.progress[0] + 1000  # there are checkpoints by then; and what is killed may still log a little
        while placed.poll() is None and not (placed._losses == losses and run.progress[0] > reached):
            time.sleep(0.05)
        assert placed.returncode is None, run.log.read_text()
        if not losses:
            ray.kill(placed._trainer)
    placed.send_signal(signal.SIGTERM)
    while placed.poll() is None:
        time.sleep(0.05)
    assert placed.returncode == 143 and checkpoint.newest_step(run.path / "checkpoints") >= reached


def test_a_run_of_a_suite_whose_place_ran_out_of_memory_gets_another():
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed")
    from benchmarks.suite import on_ray

    def lost(_):
        raise exceptions.OutOfMemoryError("the machine is full")

    made, killed = [], []

    def make():
        made.append(SimpleNamespace(status=SimpleNamespace(remote=object)))
        return made[-1]

    ray = SimpleNamespace(wait=lambda asked, timeout: (asked, []), get=lost, kill=killed.append, exceptions=exceptions)
    placed = on_ray.Placed(ray, make)
    assert placed.poll() is None and len(made) == 2 and killed == made[:1]
    while placed.poll() is None:
        pass
    assert placed.returncode == 1 and len(made) == 10 and all(trainer in killed for trainer in made)


def test_a_search_leaves_ordinary_runs_and_a_flagfile_of_the_best(ray, tmp_path, tiny, capsys, monkeypatch):
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install -r requirements-ray.txt")
    from ddpg_tf import tune

    flags = tiny("", total_steps=300, eval_every=150, update_every=280)  # no block is due: nothing to compile
    (tmp_path / "tiny.flags").write_text(flags.to_flags())
    search = ["tune", f"--flagfile={tmp_path / 'tiny.flags'}", "--trials", "2", f"--out={tmp_path / 'out'}"]
    assert tune.main(search) == 0
    rows = read_rows(tmp_path / "out" / "trials.csv")
    returns = [float(row["return"]) for row in rows]
    assert len(rows) == 2 and returns == sorted(returns, reverse=True)
    for row in rows:
        found = read_evaluations(tmp_path / "out" / row["trial"] / "evaluations.csv")
        assert max(np.mean(scores) for scores in found.values()) == pytest.approx(float(row["return"]))
    winner, *_ = parse_command_line(["train.py", f"--flagfile={tmp_path / 'out' / 'winner.flags'}"], "")
    assert winner.n_step == int(rows[0]["n_step"]) and winner.batch_size == int(rows[0]["batch_size"])
    assert winner.total_steps == 300 and "winner.flags" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"{tmp_path}/out is not empty"):
        tune.main(["tune", "--out=~/out"])
    with pytest.raises(UsageError, match=r"no trial would learn: updates start after 260 steps \(--warmup_steps=200\)"):
        tune.main([*search, "--total_steps=260", "--update_every=20"])


def test_a_trial_starts_where_the_search_did_and_fails_if_it_dies(tmp_path, monkeypatch):
    """Ray gives each trial a directory of its own; flags may hold relative names."""
    from ddpg_tf import tune

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trial = tune._trial(SimpleNamespace(Trainable=object), ["--preset=nonsense.flags"], tmp_path)()
    monkeypatch.chdir(tmp_path)
    started = []
    process = SimpleNamespace(poll=lambda: 1, terminate=lambda: None, wait=lambda: None)
    monkeypatch.setattr(tune.subprocess, "Popen", lambda argv, **rest: started.append(rest) or process)
    trial.trial_id = "a"
    trial.setup({"n_step": 3})
    assert started[0]["cwd"] == str(tmp_path / "here")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "evaluations.csv").write_text("step,episode,return,length\n10,0,1.5,9\n")
    assert trial.step() == {"return": 1.5, "best": 1.5, "step": 10, "trial": "a"}
    (tmp_path / "a.log").write_text("error: training diverged")
    with pytest.raises(RuntimeError, match="training diverged"):
        trial.step()
    trial.cleanup()


def test_a_search_from_images_does_not_normalise_them():
    from ddpg_tf import tune

    spaces = SimpleNamespace(choice=list, uniform=min, loguniform=min)
    searched, of_images = tune.space(spaces, image=False), tune.space(spaces, image=True)
    assert searched.keys() - of_images.keys() == {"normalize_observations"}


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nothing_listens_is_told_at_once(address):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = address.format(held.getsockname()[1])
        with pytest.raises(UserError, match=rf"cannot join Ray at {address}: .*refused"):
            cluster._require_listener(address)


def test_an_address_that_is_none_is_a_mistake_of_usage():
    for address in ("somewhere", ":6379", "host:", "http://host:6379/x"):
        with pytest.raises(UsageError, match="ray_address must be auto, HOST:PORT or ray://HOST:PORT"):
            cluster._require_listener(address)


def test_a_search_that_ctrl_c_ends_says_so(tmp_path, tiny, monkeypatch):
    """Ray then returns what there is, without an error."""
    pytest.importorskip("ray.tune")
    from ddpg_tf import tune

    (tmp_path / "flags").write_text(tiny("", total_steps=300, eval_every=150).to_flags())
    ended, cut = ({"trial": name, "best": 1.0, "step": 150, "done": name == "ended"} for name in ("ended", "cut"))
    found = [SimpleNamespace(metrics=metrics, error=None, config={}) for metrics in (ended, cut)]
    monkeypatch.setattr("ray.tune.Tuner.__init__", lambda *_, **__: None)
    monkeypatch.setattr("ray.tune.Tuner.fit", lambda _: Results(found))
    monkeypatch.setattr(tune, "join", lambda *_: (None, lambda: None))
    monkeypatch.setattr(tune, "_report", lambda rows, _: rows[0]["trial"])
    command = ["tune", f"--flagfile={tmp_path / 'flags'}", f"--out={tmp_path / 'out'}"]
    with pytest.warns(UserWarning, match="interrupted"):
        assert tune.main([*command, "--trials=2"]) == 130
    cut["done"] = True
    assert tune.main([*command, "--trials=2"]) == 0
    with pytest.warns(UserWarning, match="interrupted"):
        assert tune.main([*command, "--trials=3"]) == 130


class Results(list):
    errors = ()


def test_a_trial_is_as_good_as_its_best_evaluation(tmp_path, monkeypatch):
    trial = tune._trial(SimpleNamespace(Trainable=object), [], tmp_path)()
    process = SimpleNamespace(poll=lambda: None, terminate=lambda: None, wait=lambda: None)
    monkeypatch.setattr(tune.subprocess, "Popen", lambda argv, **rest: process)
    trial.trial_id = "a"
    trial.setup({})
    (tmp_path / "a").mkdir()
    lines = [f"{step},{i},{score},9\n" for step, score in ((10, 3), (20, 1)) for i in range(2)]
    (tmp_path / "a" / "evaluations.csv").write_text("step,episode,return,length\n" + "".join(lines))
    assert [(told["return"], told["best"], told["step"]) for told in (trial.step(), trial.step())] == [
        (3, 3, 10),
        (1, 3, 20),
    ]
    trial.cleanup()
