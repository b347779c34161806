"""Policy -> SavedModel: the contract, both loaders, atomic publishing, live publishing."""

import contextlib
import dataclasses
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import export
from ddpg_tf import files, train
from ddpg_tf._tf import tf
from ddpg_tf.envs.registry import make_env
from ddpg_tf.errors import UserError
from ddpg_tf.evaluation.evaluator import Episode
from ddpg_tf.export import making, publish, saved_model, verify, versions
from ddpg_tf.export.runtimes import alike
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.policy import load_policy
from ddpg_tf.training import loop
from serve import client

LOAD_WITHOUT_THE_PROJECT = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
serve = model.signatures["serving_default"]
observations = json.loads(sys.argv[2])
inputs = {name: list(spec.shape) for name, spec in serve.structured_input_signature[1].items()}
outputs = {name: list(spec.shape) for name, spec in serve.structured_outputs.items()}
answers = [serve(observation=tf.constant(observations[:n], tf.float32))["action"].numpy().tolist() for n in (1, 7)]
print(json.dumps([inputs, outputs, sorted(model.signatures), answers]))
"""


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """(policy, version directory) of one export."""
    policy = load_policy(trained, "latest")
    return policy, saved_model.write_version(policy, tmp_path_factory.mktemp("exported") / "pendulum")


def test_model_loads_without_the_project_and_acts_as_the_live_actor(exported, tmp_path):
    policy, path = exported
    observations = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    assert not np.allclose(policy.agent.normalizer.std.numpy(), 1)  # the normaliser has something to do
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_THE_PROJECT, str(path), json.dumps(observations.tolist())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    inputs, outputs, signatures, (one, seven) = json.loads(done.stdout)
    assert inputs == {"observation": [None, 3]} and outputs == {"action": [None, 1]}
    assert signatures == ["action_value", "serving_default"]
    live = policy.agent.act(observations)
    np.testing.assert_allclose(one, live[:1], atol=2e-5)
    np.testing.assert_allclose(seven, live, atol=2e-5)


def test_action_value_is_the_critic(exported):
    from ddpg_tf._tf import tf

    policy, path = exported
    observations, actions = np.ones([2, 3], np.float32), np.array([[-2], [1]], np.float32)
    q = (
        tf.saved_model.load(str(path))
        .signatures["action_value"](observation=tf.constant(observations), action=tf.constant(actions))["q"]
        .numpy()
    )
    np.testing.assert_allclose(q, policy.agent.critic([observations, actions]).numpy(), rtol=1e-5)
    assert q.shape == (2,)


def test_policy_card_says_what_it_is(exported):
    policy, path = exported
    card = json.loads((path / "assets.extra" / "policy.json").read_text())
    assert card["environment"] == "Pendulum-v1" and card["step"] == 1200
    assert card["action"] == {"low": [-2.0], "high": [2.0]}
    assert card["observation"] == {"observation": {"key": "", "shape": [3]}}
    assert card["flags"]["gamma"] == policy.config.gamma and "tensorflow" in card["versions"]


def test_warmup_records_are_requests_of_both_signatures(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    from ddpg_tf._tf import tf

    _, path = exported
    file = str(path / "assets.extra" / "tf_serving_warmup_requests")
    requests = [
        prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        for record in tf.compat.v1.io.tf_record_iterator(file)
    ]
    assert [request.model_spec.signature_name for request in requests] == ["serving_default", "action_value"]
    assert [sorted(request.inputs) for request in requests] == [["observation"], ["action", "observation"]]


def probes_of(policy):
    return making.probes(policy)


def test_verification_refuses_a_model_that_answers_differently(exported):
    policy, path = exported
    probes = probes_of(policy)
    verify.verify(str(path), probes)
    probes["action"] = probes["action"] + 0.01
    with pytest.raises(ValueError, match="serving_default"):
        verify.verify(str(path), probes)


def test_verification_refuses_jit_and_what_only_python_can_load(tmp_path, exported):
    from ddpg_tf._tf import tf

    policy, _ = exported
    module = tf.Module()
    module.w = tf.Variable(tf.ones([3, 1]))
    inner = tf.function(lambda x: tf.matmul(x, module.w), jit_compile=True)
    module.f = tf.function(
        lambda observation: {"action": inner(observation)},
        input_signature=[tf.TensorSpec([None, 3], tf.float32, name="observation")],
    )
    tf.saved_model.save(module, str(tmp_path / "jit"), signatures={"serving_default": module.f})
    with pytest.raises(ValueError, match="jit"):
        verify.verify(str(tmp_path / "jit"), probes_of(policy))

    # The trap: a Keras 3 model saved by tf.saved_model.save loads in Python, and fails every request in TF Serving.
    held = tf.Module()
    held.actor, held.critic = policy.agent.actor, policy.agent.critic
    spec = tf.TensorSpec([None, 3], tf.float32, name="observation")
    held.act = tf.function(lambda observation: {"action": held.actor(observation)}, input_signature=[spec])
    held.value = tf.function(
        lambda observation, action: {"q": held.critic([observation, action])},
        input_signature=[spec, tf.TensorSpec([None, 1], tf.float32, name="action")],
    )
    tf.saved_model.save(
        held, str(tmp_path / "held"), signatures={"serving_default": held.act, "action_value": held.value}
    )
    with pytest.raises((tf.errors.FailedPreconditionError, tf.errors.NotFoundError)):
        verify.verify(str(tmp_path / "held"), probes_of(policy))


def test_verification_replays_the_warm_up_requests(tmp_path, exported):
    from tensorflow_serving.apis import prediction_log_pb2

    from ddpg_tf._tf import tf

    policy, path = exported
    copy = shutil.copytree(path, tmp_path / "copy")
    file = str(copy / "assets.extra" / "tf_serving_warmup_requests")
    [record, _] = tf.compat.v1.io.tf_record_iterator(file)
    for name, width in (("observation", 7), ("state", 3)):
        log = prediction_log_pb2.PredictionLog.FromString(record)
        log.predict_log.request.ClearField("inputs")
        log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(np.zeros((1, width), np.float32)))
        with tf.io.TFRecordWriter(file) as writer:
            writer.write(log.SerializeToString())
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            verify.verify(str(copy), probes_of(policy))


def test_versions_rise_and_are_never_reused(exported, monkeypatch, tmp_path):
    policy, _ = exported
    monkeypatch.setattr(making, "_verify", lambda *_: None)
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    assert saved_model.write_version(policy, tmp_path, live=True).name == "8"
    assert saved_model.write_version(policy, tmp_path, version=20, live=True).name == "20"
    with pytest.raises(UserError, match="not above"):
        saved_model.write_version(policy, tmp_path, version=20)
    assert versions.versions(tmp_path) == [7, 8, 20]
    versions.prune(tmp_path, policy.run, keep=1)
    assert versions.versions(tmp_path) == [7, 20]  # 7 is not this run's
    assert saved_model.write_version(policy, tmp_path).name == "21"  # by hand, which training does not count
    versions.prune(tmp_path, policy.run, keep=1)
    assert versions.versions(tmp_path) == [7, 20, 21]


def test_a_failed_export_leaves_nothing(exported, monkeypatch, tmp_path):
    policy, _ = exported

    def wrong(verifier, path, probes):
        assert (path / "saved_model.pb").exists() and not path.name.isdecimal()
        raise UserError("wrong")

    monkeypatch.setattr(making, "_verify", wrong)
    stale = tmp_path / "model" / "partial-999999999"  # of a process that is gone
    stale.mkdir(parents=True)
    with pytest.raises(UserError):
        saved_model.write_version(policy, tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_verification_that_was_killed_blames_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(making.child, "run", lambda *_, **__: SimpleNamespace(returncode=-9, stderr=""))
    with pytest.raises(UserError, match="not verified: signal 9 ended that"):
        making._verify("any", tmp_path, {})


@pytest.fixture
def largest_file():
    """`largest_file(size)`: no file may grow beyond that; TensorFlow and Python then fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 5_000])  # the variables fail, or what comes after them
def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(exported, tmp_path, largest_file, size):
    policy, _ = exported
    largest_file(size)
    with pytest.raises(UserError) as error:
        saved_model.write_version(policy, tmp_path / "model")
    assert str(error.value) == f"cannot export to {tmp_path / 'model'}: File too large"
    assert list((tmp_path / "model").iterdir()) == []


def test_a_directory_that_forbids_writing_is_one_line(exported):
    """/proc does, even to root."""
    policy, _ = exported
    with pytest.raises(UserError, match=r"^cannot export to /proc/self/fdinfo: [A-Z][a-z ]+$"):
        saved_model.write_version(policy, Path("/proc/self/fdinfo"))


def test_export_command_prints_signature_and_request(trained, tmp_path, monkeypatch, capsys):
    """Into a directory with a space and a colon, which a model's name may not have."""
    monkeypatch.chdir(tmp_path)
    export.main(["export.py", f"--run_dir={trained}", "--export_dir=my models/my pendulum:1"])
    printed = capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "my models" / "my pendulum:1")) == ["1"]
    card = json.loads((tmp_path / "my models/my pendulum:1/1/assets.extra/policy.json").read_text())
    best = load_policy(trained, "best")
    assert (card["step"], card["score"]) == (best.step, best.score) and best.score is not None
    assert "observation float32 [None, 3] -> action float32 [None, 1]" in printed
    said = dict(line.split(": ", 1) for line in printed.splitlines())
    serve, ask = shlex.split(said["serve it"]), shlex.split(said["ask it"])
    assert serve[:3] == ["python", "-m", "serve.local"]
    assert serve[3:] == ["--model_name=my pendulum-1", "--model_base_path=my models/my pendulum:1"]
    assert ask[:3] == ["curl", "-d", '{"instances": [[0.0, 0.0, 0.0]]}']
    assert ask[3:] == ["http://localhost:8501/v1/models/my%20pendulum-1:predict"]


def test_dict_observations_become_named_inputs(uncompiled, tmp_path, tiny):
    from ddpg_tf._tf import tf

    train(
        tiny(
            tmp_path / "run",
            env="tests.toy_envs:ToyNested-v0",
            env_kwargs={"max_episode_steps": 9},
            total_steps=60,
            warmup_steps=60,
            eval_every=0,
            log_every=0,
        )
    )
    policy = load_policy(tmp_path / "run", "latest")
    path = saved_model.write_version(policy, tmp_path / "model")
    signature = tf.saved_model.load(str(path)).signatures["serving_default"].structured_input_signature[1]
    assert {name: tuple(spec.shape[1:]) for name, spec in signature.items()} == policy.spaces.leaves
    assert len(policy.spaces.leaves) > 1
    observation = make_env("tests.toy_envs:ToyNested-v0").observation_space.sample()
    columns, batch = client._columns(
        observation, {name: {"dtype": "DT_FLOAT", "shape": list(spec.shape)} for name, spec in signature.items()}
    )
    assert columns.keys() == signature.keys() and not batch  # rollout may send what Gymnasium gives
    card = json.loads((path / "assets.extra" / "policy.json").read_text())
    assert {name: leaf["key"] for name, leaf in card["observation"].items()} == policy.spaces.keys


class TestLivePublishing:
    @pytest.fixture(autouse=True)
    def quick_child(self, monkeypatch):
        """Publishes in this process: what the child does is tested above."""
        from ddpg_tf.export import publish

        def run(module, *argv, **_):
            assert module == "ddpg_tf.export.publish"
            try:
                publish._main([module, *argv])
            except UserError as error:
                return subprocess.CompletedProcess(argv, 1, "", f"error: {error}\n")
            return subprocess.CompletedProcess(argv, 0, "", "")

        monkeypatch.setattr(publish.child, "run", run)
        monkeypatch.setattr(making, "_verify", lambda *_: None)

    def scores(self, monkeypatch, returns):
        """Makes the evaluations of a run come out as `returns`."""
        left = list(returns)
        monkeypatch.setattr(
            loop.Evaluator,
            "run",
            lambda self, policy, stopped: [
                Episode(
                    left.pop(0), 1, np.zeros([1, 1], np.float32), np.zeros(1), np.zeros(3, np.float32), False, np.nan
                )
            ],
        )

    def test_first_and_strictly_better_evaluations_publish(self, uncompiled, tmp_path, tiny, monkeypatch):
        self.scores(monkeypatch, [-3.0, -3.0, -4.0, -2.0])
        submitted = []
        submit = loop.Publisher.submit
        monkeypatch.setattr(
            loop.Publisher,
            "submit",
            lambda self, state, step, score: (
                submitted.append((step, score)),
                submit(self, state, step, score),
                self.finish(),
            ),
        )
        train(
            tiny(
                tmp_path / "run",
                total_steps=400,
                eval_every=100,
                export_dir=str(tmp_path / "model"),
                warmup_steps=400,
                log_every=0,
            )
        )
        assert submitted == [(100, -3.0), (400, -2.0)]
        run = run_dir.identity(tmp_path / "run")
        assert versions.published(tmp_path / "model", run) == {1: 100, 2: 400}

        # Resumed, the best is offered again, and not published twice.
        self.scores(monkeypatch, [-5.0])
        train(dataclasses.replace(run_dir.read_config(tmp_path / "run"), total_steps=500), resume=True)
        assert submitted == [(100, -3.0), (400, -2.0), (400, -2.0)] and versions.versions(tmp_path / "model") == [1, 2]
        assert not list((tmp_path / "run").glob("snapshot-*"))

    def test_only_so_many_versions_of_a_run_are_kept(self, uncompiled, tmp_path, tiny, monkeypatch):
        self.scores(monkeypatch, [-4.0, -3.0, -2.0])
        submit, model = loop.Publisher.submit, tmp_path / "model"
        monkeypatch.setattr(loop.Publisher, "submit", lambda self, *given: (submit(self, *given), self.finish()))
        settings = dict(export_dir=str(model), keep_versions=2, eval_every=100, total_steps=300, warmup_steps=300)
        train(tiny(tmp_path / "run", **settings, log_every=0))
        assert versions.versions(model) == [2, 3]

    def test_a_run_does_not_take_the_place_of_a_better_one(self, uncompiled, tmp_path, tiny, monkeypatch):
        """As when it begins anew with the flags of one that is done, export_dir among them."""
        submit = loop.Publisher.submit
        monkeypatch.setattr(loop.Publisher, "submit", lambda self, *given: (submit(self, *given), self.finish()))
        shared = dict(
            export_dir=str(tmp_path / "model"), total_steps=200, eval_every=100, warmup_steps=200, log_every=0
        )

        def publishes(name, returns, **changes):
            self.scores(monkeypatch, returns)
            train(tiny(tmp_path / name, **shared, **changes))
            return versions.versions(tmp_path / "model")

        before = publishes("done", [-2.0, -4.0])
        with pytest.warns(UserWarning, match=r"^policy not published: it scores -3\.0, and version 1 .*, -2\.0$"):
            after = publishes("anew", [-3.0, -1.0])
        assert (before, after) == ([1], [1, 2])
        assert publishes("another", [-9.0, -9.0], env_kwargs={"g": 5}) == [1, 2, 3]
        assert publishes("shorter", [-10.0, -10.0], env_kwargs={"g": 5}, max_episode_steps=9) == [1, 2, 3, 4]

    def test_the_newest_snapshot_wins_while_one_is_being_published(self, tmp_path, trained, monkeypatch):
        import threading

        from ddpg_tf.export import publish

        started, go, published = threading.Event(), threading.Event(), []

        def slow(module, run, snapshot, *argv, **_):
            published.append(snapshot.name.rpartition("-")[2])
            started.set()
            go.wait(10)
            return subprocess.CompletedProcess(argv, 0, "", "")

        monkeypatch.setattr(publish.child, "run", slow)
        publisher = publish.Publisher(tmp_path, run_dir.read_config(trained), load_policy(trained).spaces)
        publisher.submit({}, 1, 0.0)
        started.wait(10)
        publisher.submit({}, 2, 0.0)
        publisher.submit({}, 3, 0.0)
        go.set()
        publisher.finish()
        assert published == ["1.npz", "3.npz"] and not list(tmp_path.iterdir())


def test_a_publication_that_fails_is_a_warning_of_one_line(tmp_path, trained):
    """As on a disk that is full, or not ours."""
    (tmp_path / "file").touch()
    config = dataclasses.replace(run_dir.read_config(trained), export_dir=str(tmp_path / "file" / "model"))
    publisher = loop.Publisher(tmp_path, config, load_policy(trained).spaces)
    with pytest.warns(UserWarning) as warned:
        publisher.submit({}, 1, 0.0)
        publisher.finish()
    (said,) = [str(warning.message) for warning in warned]
    assert said == f"policy not published: cannot export to {config.export_dir}: Not a directory"
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_version_is_on_the_disk_before_it_has_its_number(tmp_path, disk):
    made = tmp_path / "partial-1" / "model"
    (made / "variables").mkdir(parents=True)
    (made / "variables" / "data").touch()
    versions.rename_to_version(made, tmp_path, None)
    assert sorted(disk[:3]) == ["sync data", "sync model", "sync variables"]
    assert disk[3:] == ["rename model", f"sync {tmp_path.name}"]


def test_what_another_process_is_making_is_left_alone(tmp_path):
    theirs = tmp_path / "partial-theirs"
    theirs.mkdir()
    with files.hold(theirs), versions.in_the_making(tmp_path) as ours:
        assert theirs.exists() and ours.exists()
    with versions.in_the_making(tmp_path):
        assert not theirs.exists()  # nobody's any more


def test_a_version_goes_at_once_when_it_is_pruned(tmp_path, monkeypatch):
    """A server must not load one that is half deleted."""
    for version in (1, 2):
        (tmp_path / str(version) / "assets.extra").mkdir(parents=True)
        card = f'{{"run": "a", "step": {version}, "live": true}}'
        (tmp_path / str(version) / "assets.extra" / "policy.json").write_text(card)
    deleted, rmtree = [], versions.shutil.rmtree
    monkeypatch.setattr(versions.shutil, "rmtree", lambda path, **rest: (deleted.append(path), rmtree(path, **rest)))
    versions.prune(tmp_path, "a", keep=1)
    assert versions.versions(tmp_path) == [2]
    assert deleted and not any(path.name.isdecimal() for path in deleted)


def test_a_publication_waits_for_one_that_is_under_way(tmp_path, trained, monkeypatch):
    """Of a training that was killed: it may be of the same policy."""
    snapshot, card = tmp_path / "snapshot-1.npz", tmp_path / "model" / "1" / "assets.extra" / "policy.json"
    np.savez(snapshot, step=1, score=0.0, spaces=json.dumps(load_policy(trained).spaces.to_json()))
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"run": run_dir.identity(trained), "step": 1, "live": True}))  # nothing is left to do
    asked, given, hold = threading.Event(), [], files.hold

    @contextlib.contextmanager
    def noted(path, **rest):
        asked.set()
        with hold(path, **rest) as free:
            given.append(free)
            yield free

    monkeypatch.setattr(files, "hold", noted)
    publishing = threading.Thread(target=publish._main, args=(["", trained, snapshot, tmp_path / "model", 3],))
    with hold(tmp_path / "model"):
        publishing.start()
        assert asked.wait(10)
        publishing.join(0.2)
        assert not given
    publishing.join(10)
    assert given == [True]


def test_a_training_ends_when_its_last_policy_is_out(uncompiled, tmp_path, tiny, monkeypatch):
    """It takes as long as the training lasts, and a little longer."""
    out, ends, finish = [], threading.Event(), loop.Publisher.finish

    def publish_slowly(_, snapshot):
        ends.wait(10)
        time.sleep(0.3)
        out.append(snapshot.name)

    monkeypatch.setattr(loop.Publisher, "finish", lambda self: (ends.set(), finish(self)))
    monkeypatch.setattr(loop.Publisher, "_publish", publish_slowly)
    train(tiny(tmp_path / "run", total_steps=20, warmup_steps=20, eval_every=0, export_dir=str(tmp_path / "model")))
    assert out == ["snapshot-20.npz"]


def test_answers_are_alike_up_to_a_hundred_thousandth_of_the_largest():
    expected = np.float32([[100], [0]])
    assert alike(expected + np.float32(9e-4), expected) and not alike(expected + np.float32(2e-3), expected)
    small = expected / 1000
    assert alike(small + np.float32(9e-6), small) and not alike(small + np.float32(2e-5), small)
    assert not alike(expected[:1], expected) and not alike(np.full_like(expected, np.nan), expected)


class Sums(tf.Module):
    """Answers as probes say, and does not care what is no number."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="observation")])
    def act(self, observation):
        finite = tf.where(tf.math.is_nan(observation), 0.0, observation)
        return {"action": tf.reduce_sum(finite, 1, keepdims=True)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], tf.float32, name="observation"),
            tf.TensorSpec([None, 1], tf.float32, name="action"),
        ]
    )
    def value(self, observation, action):
        return {"q": tf.reduce_sum(observation, 1) + action[:, 0]}


def test_verification_refuses_an_action_for_nonsense_and_another_value(tmp_path):
    module, rng = Sums(), np.random.default_rng(0)
    tf.saved_model.save(
        module, str(tmp_path / "m"), signatures={"serving_default": module.act, "action_value": module.value}
    )
    observation, given = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(7, 1)).astype(np.float32)
    total = observation.sum(1)
    probes = {"input/observation": observation, "given_action": given, "action": total[:, None]}
    with pytest.raises(ValueError, match="serving_default answers NaN as observation with"):
        verify.verify(str(tmp_path / "m"), probes | {"q": total + given[:, 0]})
    with pytest.raises(ValueError, match="action_value loaded in a TF2 answers"):
        verify.verify(str(tmp_path / "m"), probes | {"q": total})


def test_a_run_as_good_as_the_one_before_is_published(tmp_path):
    """Refused is only what scores less."""
    card = {"environment": "Pendulum-v1", "env_kwargs": {}, "run": "a", "score": -3.0, "flags": {}}
    (tmp_path / "1" / "assets.extra").mkdir(parents=True)
    (tmp_path / "1" / "assets.extra" / "policy.json").write_text(json.dumps(card))
    versions.require_no_better(tmp_path, card | {"run": "b"})
    with pytest.raises(UserError, match="it scores"):
        versions.require_no_better(tmp_path, card | {"run": "b", "score": -3.1})
