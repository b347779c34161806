"""`python -m serve.local`, `serve.query` and `serve.rollout` as a user runs them."""

import contextlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from ddpg_tf import cli
from ddpg_tf._tf import tf
from serve import query, rollout
from serve.client import PolicyClient
from serve.local.__main__ import main as local_main

ROOT = pathlib.Path(__file__).parent.parent


class Policy(tf.Module):
    """Three observations, one action: fits Pendulum."""

    def __init__(self):
        self.kernel = tf.Variable([[0.1], [0.2], [0.3]])

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="observation")])
    def act(self, observation):
        return {"action": tf.matmul(observation, self.kernel)}


@contextlib.contextmanager
def server(*flags):
    """`python -m serve.local` with these flags, its two streams in one."""
    command = [sys.executable, "-m", "serve.local", "--rest_api_port=0", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A version directory."""
    path = tmp_path_factory.mktemp("model") / "1"
    policy = Policy()
    tf.saved_model.save(policy, str(path), signatures={"serving_default": policy.act})
    return path


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    """A server whose model came after its start; at the end it must stop as asked."""
    base = tmp_path_factory.mktemp("serve") / "policy"
    with server("--model_name=policy", f"--model_base_path={base}", "--port=8500") as process:
        assert "--port is ignored" in process.stdout.readline()
        assert process.stdout.readline() == f"waiting for a version of policy in {base}\n"
        base.mkdir()
        model.rename(base / "1")
        assert process.stdout.readline() == "loaded version 1 of policy\n"
        line = process.stdout.readline()
        assert re.fullmatch(r"serving policy on http://127\.0\.0\.1:\d+\n", line)
        yield line.split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == ""


def run(monkeypatch, capsys, main, *flags):
    """The exit status and what went to stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["program", *flags])
    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    return caught.value.code, *capsys.readouterr()


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_query(url):
    """Through the shell, and without waiting for TensorFlow."""
    command = [sys.executable, "-X", "importtime", "-m", "serve.query", f"--url={url}", "--model_name=policy"]
    done = subprocess.run([*command, "--observation=[1, 0, 0]"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[0.1]\n"
    assert "tensorflow" not in done.stderr and "gymnasium" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "printed"),
    [
        (["--observation=[[1, 0, 0], [0, 1, 0]]"], [[0.1], [0.2]]),
        (['--observation={"observation": [0, 0, 1]}', "--version=1"], [0.3]),
        (["--observation=[NaN, 0, 1]"], [float("nan")]),
    ],
)
def test_query_forms(url, monkeypatch, capsys, flags, printed):
    status, out, err = run(monkeypatch, capsys, query.main, f"--url={url}/", "--model_name=policy", *flags)
    assert (status, err) == (0, "")
    assert json.dumps(json.loads(out)) == json.dumps(printed)


def test_query_sample(url, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, query.main, f"--url={url}", "--model_name=policy", "--sample")
    observation = json.loads(err.removeprefix("observation: "))["observation"]
    assert status == 0 and len(observation) == 3
    np.testing.assert_allclose(json.loads(out), [np.dot(observation, [0.1, 0.2, 0.3])], rtol=1e-4, atol=1e-6)


OBSERVATION = "--observation=[1, 2, 3]"


@pytest.mark.parametrize(
    ("flags", "status", "error"),
    [
        (["--model_name=nope", OBSERVATION], 1, "Servable not found for request: Latest(nope)"),
        (["--version=7", OBSERVATION], 1, "Servable not found for request: Specific(policy, 7)"),
        (["--label=stable", OBSERVATION], 1, "Unrecognized servable version label: stable"),
        (["--observation=[1, 2]"], 1, "Matrix size-incompatible: In[0]: [1,2], In[1]: [3,1]"),
        (["--observation=[[[1, 2, 3]]]"], 1, "observation has 3 dimensions; an observation has 1, a batch 2"),
        (['--observation=[1, "a", 3]'], 1, "observation is not an array of numbers"),
        (['--observation={"speed": [1]}'], 1, "the model takes observation; the observation has speed"),
        (["--observation=[1, 2"], 2, "--observation is not JSON"),
        ([], 2, "give either --observation or --sample"),
        (["--sample", OBSERVATION], 2, "give either --observation or --sample"),
        (["--version=1", "--label=stable", OBSERVATION], 2, "--version and --label exclude each other"),
        (["--url=localhost:8501", OBSERVATION], 2, "--url: the server's URL must be like http://localhost:8501"),
        ([OBSERVATION, "extra"], 2, "unexpected argument 'extra'"),
        (["--observations=[1]"], 2, "Unknown command line flag 'observations'"),
    ],
)
def test_query_mistakes_are_one_line(url, monkeypatch, capsys, flags, status, error):
    flags = [f"--url={url}", "--model_name=policy", *flags]
    got, out, err = run(monkeypatch, capsys, query.main, *flags)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and error in err and err.count("\n") == 1


@pytest.mark.parametrize("main", [query.main, rollout.main])
def test_server_that_is_not_there(monkeypatch, capsys, main):
    own = [OBSERVATION] if main is query.main else ["--env=Pendulum-v1"]
    flags = [f"--url=http://127.0.0.1:{closed_port()}", *own]
    status, out, err = run(monkeypatch, capsys, main, *flags)
    assert (status, out) == (1, "")
    assert "cannot reach http://127.0.0.1" in err and "Connection refused" in err and err.count("\n") == 1


def pendulum_return(seed):
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        action = np.float32([observation @ np.float32([0.1, 0.2, 0.3])])
        observation, reward, terminated, truncated, _ = env.step(action)
        total, ended = total + reward, terminated or truncated
    return total


def test_rollout(url, monkeypatch, capsys):
    flags = [f"--url={url}", "--model_name=policy", "--env=Pendulum-v1", "--episodes=2"]
    status, out, err = run(monkeypatch, capsys, rollout.main, *flags)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    returns = []
    for i, line in enumerate(lines[:2]):
        found = re.fullmatch(rf"episode {i}: return (-[\d.]+), length 200", line)
        returns.append(float(found.group(1)))
    np.testing.assert_allclose(returns, [pendulum_return(10000), pendulum_return(10001)], atol=0.05)
    mean, deviation = re.fullmatch(r"mean return (-[\d.]+), standard deviation ([\d.]+)", lines[2]).groups()
    assert float(mean) == pytest.approx(np.mean(returns), abs=0.02)
    assert float(deviation) == pytest.approx(np.std(returns), abs=0.02)
    percentiles = re.fullmatch(r"latency p50 (\S+) ms, p95 (\S+) ms, p99 (\S+) ms over 400 requests", lines[3]).groups()
    assert 0 < float(percentiles[0]) <= float(percentiles[1]) <= float(percentiles[2])


def test_rollout_seed_and_env_kwargs(url):
    """Another seed starts elsewhere; gravity changes the return."""
    with PolicyClient(url, "policy") as client:
        returns = {}
        for seed, g in ((0, 10.0), (0, 10.0), (1, 10.0), (0, 5.0)):
            env = gymnasium.make("Pendulum-v1", g=g, max_episode_steps=20)
            returns.setdefault((seed, g), []).append(rollout.play(client, env, seed).total_reward)
    assert returns[0, 10.0][0] == returns[0, 10.0][1]
    assert len({total for totals in returns.values() for total in totals}) == 3


@pytest.mark.parametrize(
    ("flags", "status", "error"),
    [
        ([], 2, "--env is required"),
        (["--env=Pendulum-v1", "--env_kwargs={"], 2, "--env_kwargs is not JSON"),
        (["--env=Pendulum-v1", "--env_kwargs=[1]"], 2, "--env_kwargs must be a JSON object"),
        (["--env=Pendulum-v1", '--env_kwargs={"gravity": 1}'], 1, "gravity"),
        (["--env=Pendulum-v1", "--episodes=0"], 2, "episodes"),
        (["--env=Pendulun-v1"], 1, "Pendulum"),
        (["--env=MountainCarContinuous-v0"], 1, "Matrix size-incompatible: In[0]: [1,2], In[1]: [3,1]"),
        (["--env=Pendulum-v1", "--model_name=nope"], 1, "Servable not found for request: Latest(nope)"),
    ],
)
def test_rollout_mistakes_are_one_line(url, monkeypatch, capsys, flags, status, error):
    flags = [f"--url={url}", "--model_name=policy", *flags]
    got, out, err = run(monkeypatch, capsys, rollout.main, *flags)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and error in err and err.count("\n") == 1


def test_action_that_does_not_fit_the_environment():
    class Client:
        def act(self, observation):
            return np.zeros(2, np.float32)

    with pytest.raises(cli.UserError, match=re.escape("action has shape (2,), the environment's (1,)")):
        rollout.play(Client(), gymnasium.make("Pendulum-v1"), 0)


@pytest.mark.parametrize(
    ("flags", "status", "error"),
    [
        ([], 2, "--model_base_path is required"),
        (["--model_base_path=x", "--model_name=a/b"], 2, "--model_name must be a name"),
        (["--model_base_path=x", "--rest_api_port=70000"], 2, "rest_api_port"),
        (["--model_base_path=x", "--host=256.256.256.256"], 1, "cannot listen on 256.256.256.256"),
    ],
)
def test_local_mistakes_are_one_line(monkeypatch, capsys, flags, status, error):
    got, out, err = run(monkeypatch, capsys, local_main, *flags)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and error in err and err.count("\n") == 1


def test_local_port_in_use(url, monkeypatch, capsys):
    port = url.split(":")[-1]
    status, _, err = run(monkeypatch, capsys, local_main, "--model_base_path=x", f"--rest_api_port={port}")
    assert (status, err) == (1, f"error: cannot listen on 127.0.0.1 port {port}: Address already in use\n")


def test_local_model_that_does_not_load(tmp_path):
    (tmp_path / "3").mkdir()
    with server("--model_name=policy", f"--model_base_path={tmp_path}") as process:
        lines = process.stdout.read().splitlines()
        assert process.wait(20) == 1
    assert lines[-1].startswith("error: cannot load version 3 of policy: Could not find SavedModel")
    assert len(lines) <= 2


@pytest.mark.parametrize("main", [query.main, rollout.main, local_main])
def test_help(monkeypatch, capsys, main):
    status, out, _ = run(monkeypatch, capsys, main, "--help")
    assert status == 0 and "python -m serve." in out and "--model_name" in out
