"""`python -m serve.local`, `serve.query` and `serve.rollout` as a user runs them."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from conftest import TINY
from serving import model as serving_model
from serving import server, start

from ddpg_tf import Config, cli, errors, train
from ddpg_tf._tf import tf
from ddpg_tf.envs import factory, registry
from ddpg_tf.evaluation.evaluator import Evaluator
from ddpg_tf.export import making, saved_model
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.policy import load_policy
from serve import episodes, query, rollout
from serve.client import PolicyClient
from serve.local.__main__ import main as local_main
from serve.local.config import Loading
from serve.local.flags import batching_of, flag_values, loading_of
from tests import toy_envs

ROOT = pathlib.Path(__file__).parent.parent


NESTED = "tests.toy_envs:ToyNested-v0"


class Policy(tf.Module):
    """Three observations, one action: fits Pendulum."""

    def __init__(self):
        self.kernel = tf.Variable([[0.1], [0.2], [0.3]])

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="observation")])
    def act(self, observation):
        return {"action": tf.matmul(observation, self.kernel)}


class Camera(tf.Module):
    """Pixels and a speed: the brightest pixel, and the speed."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2, 2, 1], tf.uint8, name="camera"),
            tf.TensorSpec([None], tf.float32, name="speed"),
        ]
    )
    def act(self, camera, speed):
        return {"action": tf.stack([tf.cast(tf.reduce_max(camera, [1, 2, 3]), tf.float32), speed], 1)}


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
        assert process.stdout.readline() == "note: without effect here: --port\n"
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


def serving(base):
    """The URL of a server, in this process, of the model `base`, named "policy"."""
    return start([serving_model("policy", base)])


def export(path, base, which):
    """Version 1 of a model; test_export checks exporting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_verify", lambda *_: None)  # takes seconds
        saved_model.write_version(load_policy(path, which), base)


@pytest.fixture(scope="module")
def trained_url(trained, tmp_path_factory):
    """A server of the best policy of `trained`, as version 1."""
    base = tmp_path_factory.mktemp("trained-model")
    export(trained, base, "best")
    return serving(base)


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """(run directory, URL of its policy, which is version 1) for Dict observations and asymmetric actions."""
    path = tmp_path_factory.mktemp("nested")
    train(
        Config(
            **{
                **TINY,
                "env": NESTED,
                "env_kwargs": {"max_episode_steps": 9},
                "max_episode_steps": 0,
                "total_steps": 60,
                "warmup_steps": 20,
                "eval_every": 0,
            },
            run_dir=str(path / "run"),
            final_init=0.5,
        )
    )
    export(path / "run", path / "model", "latest")
    return path / "run", serving(path / "model")


@pytest.fixture(scope="module")
def camera_url(tmp_path_factory):
    base, policy = tmp_path_factory.mktemp("camera"), Camera()
    tf.saved_model.save(policy, str(base / "1"), signatures={"serving_default": policy.act})
    return serving(base)


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
    ],
)
def test_query_forms(url, monkeypatch, capsys, flags, printed):
    status, out, err = run(monkeypatch, capsys, query.main, f"--url={url}/", "--model_name=policy", *flags)
    assert (status, err) == (0, "")
    assert json.dumps(json.loads(out)) == json.dumps(printed)


@pytest.mark.parametrize("observation", ["[NaN, 0, 1]", "[null, 0.0, 0.1]", "[[0, 0, 1], [0, Infinity, 1]]"])
def test_query_of_what_is_not_finite_is_one_line(url, monkeypatch, capsys, observation):
    status, out, err = run(
        monkeypatch, capsys, query.main, f"--url={url}/", "--model_name=policy", f"--observation={observation}"
    )
    assert (status, out) == (1, "") and re.fullmatch(r"error: observation has numbers that are not finite.*\n", err)


def test_query_sample(url, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, query.main, f"--url={url}", "--model_name=policy", "--sample")
    observation = json.loads(err.removeprefix("observation: "))["observation"]
    assert status == 0 and len(observation) == 3
    np.testing.assert_allclose(json.loads(out), [np.dot(observation, [0.1, 0.2, 0.3])], rtol=1e-4, atol=1e-6)


def test_query_of_dict_observations(nested, monkeypatch, capsys):
    """By the inputs' names or by the environment's keys, one or a batch; --sample draws each input."""
    path, url = nested
    env = factory.make_flat_env(Config(env=NESTED))
    observation = env.unwrapped.observation_space.sample()
    agent = load_policy(path, "latest").agent
    expected = agent.act(gymnasium.spaces.flatten(env.unwrapped.observation_space, observation)[None])[0]
    arm, tail = observation["arm"]
    joint, velocity = observation["joint angle"], observation["velocity"]
    named = {
        "arm_observation_0_a": arm["a"],
        "arm_observation_0_z": arm["z"],
        "arm_observation_1": tail,
        "joint_angle": joint,
        "velocity": velocity,
    }
    keyed = {"velocity": velocity, "joint angle": joint, "arm": {"observation_0": arm, "observation_1": tail}}
    flags = [f"--url={url}", "--model_name=policy"]
    for form in (named, keyed):
        text = json.dumps(form, default=lambda array: array.tolist())
        status, out, err = run(monkeypatch, capsys, query.main, *flags, f"--observation={text}")
        assert (status, err) == (0, "")
        np.testing.assert_allclose(json.loads(out), expected, rtol=1e-5, atol=1e-5)
    batch = json.dumps({name: [np.asarray(part).tolist()] * 2 for name, part in named.items()})
    status, out, err = run(monkeypatch, capsys, query.main, *flags, f"--observation={batch}")
    np.testing.assert_allclose(json.loads(out), [expected, expected], rtol=1e-5, atol=1e-5)

    status, out, err = run(monkeypatch, capsys, query.main, *flags, "--sample")
    sample = json.loads(err.removeprefix("observation: "))
    assert status == 0 and len(json.loads(out)) == 3
    assert {name: np.shape(part) for name, part in sample.items()} == {
        name: np.shape(part) for name, part in named.items()
    }
    status, again, _ = run(monkeypatch, capsys, query.main, *flags, f"--observation={json.dumps(sample)}")
    assert again == out


def test_query_of_pixels(camera_url, monkeypatch, capsys):
    flags = [f"--url={camera_url}", "--model_name=policy"]
    asked = '--observation={"camera": [[[1], [2]], [[255], [4]]], "speed": 0.5}'
    assert run(monkeypatch, capsys, query.main, *flags, asked) == (0, "[255.0, 0.5]\n", "")
    status, out, err = run(monkeypatch, capsys, query.main, *flags, "--sample")
    sample = json.loads(err.removeprefix("observation: "))
    assert status == 0 and np.shape(sample["camera"]) == (2, 2, 1)
    np.testing.assert_allclose(json.loads(out), [np.max(sample["camera"]), sample["speed"]], rtol=1e-6)
    status, _, err = run(monkeypatch, capsys, query.main, *flags, '--observation={"camera": [[[256]]], "speed": 1}')
    assert status == 1 and "camera is not an array of numbers" in err
    status, _, err = run(monkeypatch, capsys, query.main, *flags, "--observation=[1, 2]")
    assert status == 1 and "the model takes several inputs (camera, speed)" in err


OBSERVATION = "--observation=[1, 2, 3]"


@pytest.mark.parametrize(
    ("flags", "status", "error"),
    [
        (["--model_name=nope", OBSERVATION], 1, "Servable not found for request: Latest(nope)"),
        (["--version=7", OBSERVATION], 1, "Servable not found for request: Specific(policy, 7)"),
        (["--label=stable", OBSERVATION], 1, "Unrecognized servable version label: stable"),
        (["--observation=[1, 2]"], 1, "observation has the shape (2,), and the model takes (3,)"),
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
        found = re.fullmatch(rf"episode {i}: return (-[\d.]+), length 200, version 1", line)
        returns.append(float(found.group(1)))
    np.testing.assert_allclose(returns, [pendulum_return(10000), pendulum_return(10001)], atol=0.05)
    mean, deviation = re.fullmatch(r"mean return (-[\d.]+), standard deviation ([\d.]+)", lines[2]).groups()
    assert float(mean) == pytest.approx(np.mean(returns), abs=0.02)
    assert float(deviation) == pytest.approx(np.std(returns), abs=0.02)
    percentiles = re.fullmatch(r"latency p50 (\S+) ms, p95 (\S+) ms, p99 (\S+) ms over 400 requests", lines[3]).groups()
    assert 0 < float(percentiles[0]) <= float(percentiles[1]) <= float(percentiles[2])
    assert lines[4:] == ["answered by version 1"]


def test_rollout_seed_and_env_kwargs(url):
    """Another seed starts elsewhere; gravity changes the return."""
    with PolicyClient(url, "policy") as client:
        returns = {}
        for seed, g in ((0, 10.0), (0, 10.0), (1, 10.0), (0, 5.0)):
            env = gymnasium.make("Pendulum-v1", g=g, max_episode_steps=20)
            returns.setdefault((seed, g), []).append(episodes.play(client.act, env, seed).total_reward)
    assert returns[0, 10.0][0] == returns[0, 10.0][1]
    assert len({total for totals in returns.values() for total in totals}) == 3


@pytest.mark.parametrize(
    ("flags", "status", "error"),
    [
        ([], 2, "--env is required"),
        (["--env=Pendulum-v1", "--env_kwargs={"], 2, "env_kwargs is not JSON"),
        (["--env=Pendulum-v1", "--env_kwargs=[1]"], 2, "env_kwargs must be a JSON object"),
        (["--env=Pendulum-v1", '--env_kwargs={"gravity": 1}'], 1, "gravity"),
        (["--env=Pendulum-v1", "--episodes=0"], 2, "episodes"),
        (["--env=Pendulun-v1"], 1, "Pendulum"),
        (["--env=MountainCarContinuous-v0"], 1, "observation has the shape (2,), and the model takes (3,)"),
        (["--env=Pendulum-v1", "--model_name=nope"], 1, "Servable not found for request: Latest(nope)"),
    ],
)
def test_rollout_mistakes_are_one_line(url, monkeypatch, capsys, flags, status, error):
    flags = [f"--url={url}", "--model_name=policy", *flags]
    got, out, err = run(monkeypatch, capsys, rollout.main, *flags)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and error in err and err.count("\n") == 1


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_action_that_does_not_fit_the_environment(env):
    env = gymnasium.make(env)
    with pytest.raises(
        errors.UserError, match=re.escape(f"has shape (2,), the environment's {env.action_space.shape}")
    ):
        episodes.play(lambda observation: np.zeros(2, np.float32), env, 0)


def test_an_environment_that_fails_meanwhile_is_one_line_and_no_score():
    weary = Config(env="tests.toy_envs:ToyWeary-v0", env_kwargs='{"after": 1}')
    with contextlib.closing(factory.make_checked_env(weary)) as env:
        still = np.zeros(env.action_space.shape, np.float32)
        with pytest.raises(errors.UserError, match=r"raised FloatingPointError: unstable.* at step 2 of an"):
            episodes.play(lambda observation: still, env, 0)


def test_rollout_tells_versions_that_changed_meanwhile(capsys):
    """Only a client that changes on cue can be tested for this."""

    class Client:
        versions = iter([3, 3, 4, 4, 6])

        def inputs(self):
            pass

        def act(self, observation):
            return np.zeros(3, np.float32)

        def metadata(self):
            return {"model_spec": {"version": str(next(self.versions))}}

    env = registry.make_env("tests.toy_envs:ToyCounter-v0")
    episodes.summarise(episodes.drive(Client(), env, 4, 0))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[-1] for line in lines[:4]] == ["version 3", "versions 3-4", "version 4", "versions 4-6"]
    assert lines[-1] == "answered by versions 3, 4, 6"


def test_rollout_takes_the_environment_from_a_runs_flags(nested, monkeypatch, capsys):
    """Not the training's seed; what is typed wins, wherever it stands."""
    path, url = nested
    flags = [f"--url={url}", "--model_name=policy", "--episodes=1", f"--flagfile={path / 'flags.txt'}"]
    seeds = []
    monkeypatch.setattr(
        episodes,
        "play",
        lambda act, env, seed, play=episodes.play, **keep: (seeds.append(seed), play(act, env, seed, **keep))[1],
    )
    for typed, seed, length in (
        (["--episodes=1"], 10000, 9),
        (["--seed", "5"], 5, 9),
        (['--env_kwargs={"max_episode_steps": 4}'], 10000, 4),
    ):
        status, out, err = run(monkeypatch, capsys, rollout.main, *typed, *flags)
        assert (status, err) == (0, "")
        assert seeds.pop() == seed and f"length {length}, version 1" in out
    status, out, err = run(monkeypatch, capsys, rollout.main, *flags[:-1], "--flagfile", str(path / "flags.txt"))
    assert status == 0 and seeds.pop() == 10000


def test_rollout_films_the_first_episode(url, monkeypatch, capsys, tmp_path):
    flags = [f"--url={url}", "--model_name=policy", "--env=Pendulum-v1", '--env_kwargs={"max_episode_steps": 20}']
    film = tmp_path / "films" / "first.gif"
    status, out, err = run(monkeypatch, capsys, rollout.main, *flags, "--episodes=2", f"--video={film}")
    assert (status, err) == (0, "")
    assert out.endswith(f"first episode: {film}\n") and film.stat().st_size > 1000


def test_rollout_film_that_cannot_be_made(url, monkeypatch, capsys, tmp_path):
    """Asked for and not there is an error, once everything else is told."""
    (tmp_path / "file").touch()
    flags = [f"--url={url}", "--model_name=policy", "--env=Pendulum-v1", '--env_kwargs={"max_episode_steps": 20}']
    status, out, err = run(
        monkeypatch, capsys, rollout.main, *flags, "--episodes=1", f"--video={tmp_path / 'file/a.gif'}"
    )
    assert status == 1 and "answered by version 1" in out
    assert err.startswith("error: no video of Pendulum-v1: ") and err.count("\n") == 1


def comparison(out):
    """(largest difference, mean return of the deployed policy, of the checkpoint)."""
    difference = re.search(r"largest difference to the (?:best|latest) checkpoint's actor \(step \d+\): (\S+) of", out)
    means = re.search(r"mean return: deployed (\S+), checkpoint (\S+)", out)
    return float(difference[1]), float(means[1]), float(means[2])


def test_rollout_compares_with_the_run(trained, trained_url, monkeypatch, capsys):
    flags = [f"--url={trained_url}", "--model_name=policy", f"--flagfile={trained / 'flags.txt'}"]
    status, out, err = run(monkeypatch, capsys, rollout.main, *flags, "--episodes=2", f"--compare_run_dir={trained}")
    assert (status, err) == (0, "")
    difference, deployed, checkpoint = comparison(out)
    policy = load_policy(trained)
    scores = [episode.episode_return for episode in Evaluator(policy.config, 2).run(policy.agent.act)]
    assert difference <= 1e-5
    assert deployed == pytest.approx(np.mean(scores), rel=1e-2) == checkpoint


def test_rollout_compares_dict_observations(nested, monkeypatch, capsys):
    path, url = nested
    flags = [f"--url={url}", "--model_name=policy", f"--flagfile={path / 'flags.txt'}", "--checkpoint=latest"]
    status, out, err = run(monkeypatch, capsys, rollout.main, *flags, "--episodes=2", f"--compare_run_dir={path}")
    assert (status, err) == (0, "")
    assert comparison(out) == (pytest.approx(0, abs=1e-5), 9, 9)


@pytest.mark.parametrize("kind", toy_envs.DTYPES)
def test_actions_reach_the_environment_in_the_dtype_of_its_space(uncompiled, tmp_path, monkeypatch, capsys, kind):
    """In training, evaluation and rollout, and what is compared is the policy's own, before any rounding.

    The toy asserts it; an episode of training that raises is a warning.
    """
    path, odd = tmp_path / "run", dict(env="tests.toy_envs:ToyOdd-v0", env_kwargs={"kind": kind}, max_episode_steps=9)
    tiny = dict(**odd, total_steps=60, warmup_steps=60, eval_every=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing will be learnt")
        warnings.filterwarnings("error", ".* raised AssertionError")
        assert train(Config(**TINY | tiny, run_dir=str(path), normalize_observations=True)).last_return == 9
    capsys.readouterr()
    export(path, tmp_path / "policy", "latest")
    flags = [
        f"--url={serving(tmp_path / 'policy')}",
        "--model_name=policy",
        f"--flagfile={path / 'flags.txt'}",
        "--checkpoint=latest",
    ]
    status, out, err = run(monkeypatch, capsys, rollout.main, *flags, "--episodes=1", f"--compare_run_dir={path}")
    assert (status, err) == (0, "")
    assert comparison(out) == (pytest.approx(0, abs=1e-5), 9, 9)
    action = load_policy(path, "latest").agent.act(np.zeros([1, 2], np.float32))
    assert (action.astype(np.float16) != action).all()  # rounding would show


def test_rollout_says_where_another_policy_differs(trained, url, monkeypatch, capsys):
    flags = [f"--url={url}", "--model_name=policy", f"--flagfile={trained / 'flags.txt'}", "--episodes=2"]
    status, out, err = run(monkeypatch, capsys, rollout.main, *flags, f"--compare_run_dir={trained}")
    difference, deployed, checkpoint = comparison(out)
    assert status == 1 and difference > 1e-5 and deployed != checkpoint
    found = re.fullmatch(
        r"error: \d+ actions are not those of the best checkpoint; first in episode 0, step 0: the "
        r"server's \[(\S+)\], the checkpoint's \[(\S+)\]\n",
        err,
    )
    observation, _ = gymnasium.make("Pendulum-v1").reset(seed=10000)
    assert float(found[1]) == pytest.approx(observation @ [0.1, 0.2, 0.3], rel=1e-5)
    assert float(found[2]) == pytest.approx(load_policy(trained).agent.act(observation[None])[0, 0], rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "status", "error"),
    [
        (["--compare_run_dir=nowhere"], 2, "there is no run directory nowhere"),
        (["--compare_run_dir=tests"], 2, "tests is not a run directory: it has no flags.txt"),
        (["--checkpoint=newest"], 2, "checkpoint"),
        (
            ["--env=Reacher-v5", "--compare_run_dir={trained}"],
            1,
            "{trained} is a run of Pendulum-v1 {{}}, not of Reacher-v5 {{}}: drive its environment with --flagfile=",
        ),
        (['--env_kwargs={{"g": 5}}', "--compare_run_dir={trained}"], 1, 'not of Pendulum-v1 {{"g": 5}}'),
        (["--flagfile=nowhere"], 2, "nowhere"),
        (["--flagfile"], 2, "flagfile"),
        (["--total_steps=5"], 2, "Unknown command line flag 'total_steps'"),
    ],
)
def test_rollout_mistakes_about_runs_are_one_line(trained, url, monkeypatch, capsys, flags, status, error):
    monkeypatch.chdir(ROOT)
    flags = ["--env=Pendulum-v1", "--max_episode_steps=50", *(flag.format(trained=trained) for flag in flags)]
    got, out, err = run(monkeypatch, capsys, rollout.main, f"--url={url}", "--model_name=policy", *flags)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and error.format(trained=trained) in err and err.count("\n") == 1


def test_run_that_has_no_checkpoint(url, monkeypatch, capsys, tmp_path):
    run_dir.create(tmp_path / "run", Config(env_kwargs={"max_episode_steps": 5}))
    flags = [f"--url={url}", "--model_name=policy", f"--flagfile={tmp_path / 'run' / 'flags.txt'}", "--episodes=1"]
    got = run(monkeypatch, capsys, rollout.main, *flags, f"--compare_run_dir={tmp_path / 'run'}")
    assert got[0] == 1 and got[2] == f"error: {tmp_path / 'run'} has no checkpoint yet: train it first\n"


@pytest.mark.parametrize(
    ("flags", "status", "error"),
    [
        ([], 2, "--model_base_path"),
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


def test_local_base_path_that_is_a_version_itself(tmp_path):
    """It is waited for, as TF Serving does; and told what is wrong."""
    (tmp_path / "saved_model.pb").touch()
    with server("--model_name=policy", f"--model_base_path={tmp_path}") as process:
        line = process.stdout.readline()
        assert process.poll() is None
    assert line.startswith(f"waiting for a version of policy in {tmp_path} (this is a version itself: give the direct")


def test_local_takes_all_flags_of_tensorflow_model_server(monkeypatch, capsys):
    """Those without effect are named; a mistake in another one ends the command all the same."""
    flags = ["--rest_api_num_threads=8", "--flush_filesystem_caches=false", "--enable_profiler", "--port=8500"]
    acting = ["--saved_model_tags=serve", "--tensorflow_session_parallelism=2", "--noenable_model_warmup"]
    given = ["--model_base_path=x", *flags, *acting, "--host=256.256.256.256"]
    status, out, err = run(monkeypatch, capsys, local_main, *given)
    note, error = err.splitlines()
    assert (status, out) == (1, "") and error.startswith("error: cannot listen on")
    named = note.removeprefix("note: without effect here: ").split(", ")
    assert sorted(named) == sorted(flag.partition("=")[0] for flag in flags)


def test_local_version(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, local_main, "--version")
    assert status == 0 and f"TensorFlow {tf.__version__}" in out


@pytest.mark.parametrize("main", [query.main, rollout.main, local_main])
def test_help(monkeypatch, capsys, main):
    status, out, _ = run(monkeypatch, capsys, main, "--help")
    assert status == 0 and "python -m serve." in out and "--model_name" in out
    assert "--total_steps" not in out  # of another command


def test_latency_is_told_in_milliseconds(capsys):
    seconds = [0.001 * k for k in range(101)]
    episodes.summarise([episodes.Drive(latencies=part, versions=(1, 1)) for part in (seconds[:30], seconds[30:])])
    assert "latency p50 50.00 ms, p95 95.00 ms, p99 99.00 ms over 101 requests" in capsys.readouterr().out


def test_differences_are_in_half_ranges_and_an_action_that_is_none_is_one(trained, capsys):
    policy = load_policy(trained)
    with contextlib.closing(factory.make_checked_env(policy.config)) as env:
        episode = episodes.play(lambda observation: policy.agent.act(observation[None])[0], env, 0, keep=True)
        assert episodes.compare(trained, "best", env, [episode], 0) == []
        episode.actions[3] = episode.actions[3] + np.float32(0.02)  # of -2 to 2
        (said,) = episodes.compare(trained, "best", env, [episode], 0)
        assert said.startswith("1 actions are not those") and "1.0e-02 of the half-range" in capsys.readouterr().out
        episode.actions[2] = np.full(1, np.nan, np.float32)
        (said,) = episodes.compare(trained, "best", env, [episode], 0)
        assert said.startswith("2 actions are not those") and "first in episode 0, step 2" in said


def test_rollout_films_the_first_episode_from_its_own_seed(url, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr("ddpg_tf.evaluation.video.record", lambda *given: taken.append(given) or "")
    flags = ["--model_name=policy", "--env=Pendulum-v1", "--max_episode_steps=5", "--episodes=2", "--seed=7"]
    assert run(monkeypatch, capsys, rollout.main, f"--url={url}", *flags, "--video=film.gif")[0] == 0
    ((path, config, seed, actions),) = taken
    first, _ = gymnasium.make("Pendulum-v1").reset(seed=7)
    assert (str(path), config.env, seed, len(actions)) == ("film.gif", "Pendulum-v1", 7, 5)
    np.testing.assert_allclose(actions[0], [first @ [0.1, 0.2, 0.3]], rtol=1e-4, atol=1e-6)


def local_flags(*flags):
    values = flag_values()
    values(["serve.local", *flags])
    return values


def test_local_flags_say_how_versions_are_loaded():
    assert loading_of(local_flags()) == Loading()
    flags = (
        *("--saved_model_tags=serve,gpu", "--noenable_model_warmup", "--max_num_load_retries=2"),
        *("--load_retry_interval_micros=250000", "--rest_api_timeout_in_ms=700", "--xla_cpu_compilation_enabled"),
        "--tensorflow_session_parallelism=3",
    )
    expected = Loading(("serve", "gpu"), False, 2, 0.25, 700, True, 3, 3)
    assert loading_of(local_flags(*flags)) == expected
    own = loading_of(local_flags(*flags, "--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=2"))
    assert (own.intra_op_threads, own.inter_op_threads) == (1, 2)


def test_local_limits_of_batching_come_from_the_file_that_is_named(tmp_path):
    (tmp_path / "batching").write_text("max_batch_size { value: 7 }")
    limits = batching_of(local_flags("--enable_batching", f"--batching_parameters_file={tmp_path / 'batching'}"))
    assert limits.max_batch_size == 7 and limits.threads == os.cpu_count()


def test_local_flags_reach_the_server(tmp_path, monkeypatch):
    reached = []

    async def serve(api, models, sock, log, poll_seconds, configure, config_seconds):
        reached.append((api, models.names, poll_seconds, config_seconds))

    monkeypatch.setattr("serve.local.server.serve", serve)
    monkeypatch.setattr("serve.local.http.Api", lambda models, metrics_path=None, cors=False: (metrics_path, cors))
    monkeypatch.setattr(os, "_exit", lambda status: None)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)  # this process has begun already
    (tmp_path / "models").write_text(
        "model_config_list { config { name: 'a' base_path: '/none' version_labels { key: 'new' value: 9 } } }"
    )
    (tmp_path / "metrics").write_text("prometheus_config { enable: true path: '/m' }")
    flags = ["serve.local", "--rest_api_port=0", f"--model_config_file={tmp_path / 'models'}"]
    more = ["--rest_api_enable_cors_support", "--allow_version_labels_for_unavailable_models"]
    times = ["--file_system_poll_wait_seconds=5", "--model_config_file_poll_wait_seconds=6"]
    local_main([*flags, *more, *times, f"--monitoring_config_file={tmp_path / 'metrics'}"])
    assert reached == [(("/m", True), ["a"], 5, 6)]
