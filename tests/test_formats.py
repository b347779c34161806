"""The actor alone as LiteRT and ONNX: it answers in their own runtimes as the live actor does."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_docs import python_blocks

import export
from ddpg_tf import DDPG, Config
from ddpg_tf.envs import factory
from ddpg_tf.errors import UserError
from ddpg_tf.export import actor_file, making, runtimes, saved_model
from ddpg_tf.storage.policy import Policy

POLICIES = {  # each layer that an actor may have, in one of them
    "pendulum": dict(env="Pendulum-v1", normalize_observations=True, normalization="batch"),
    "dict": dict(env="tests.toy_envs:ToyNested-v0", normalization="layer"),
    "images": dict(env="Pendulum-v1", pixels=True, frame_size=40, encoder="shared", bottleneck=8),
}


@functools.cache
def untrained(kind: str) -> Policy:
    config = Config(hidden_units=(16, 16), final_init=0.3, **POLICIES[kind])  # actions all over their range
    spaces = factory.spaces_of(config)
    agent = DDPG(config, spaces.observation_shape, spaces.low, spaces.high)
    if agent.normalizer:
        agent.normalizer.count(np.random.default_rng(1).normal(2, 3, size=(100, spaces.observation_size)))
        agent.normalizer.assign_statistics()
    return Policy(config, spaces, agent, step=7, score=-1.5, run="a")


@pytest.fixture
def pendulum():
    return untrained("pendulum")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`exported(kind, format)`: a version of that policy, named as in docs/serving.md, made when first asked for."""
    base = tmp_path_factory.mktemp("formats") / "exported"
    return functools.cache(
        lambda kind, format: actor_file.write_version(untrained(kind), base / f"{kind}-{format}", format)
    )


@pytest.mark.parametrize("format", runtimes.FORMATS)
@pytest.mark.parametrize("kind", POLICIES)
def test_a_file_acts_as_the_live_actor(exported, kind, format):
    policy, path = untrained(kind), exported(kind, format)
    assert sorted(file.name for file in path.iterdir()) == [runtimes.FORMATS[format].file, "policy.json"]
    assert json.loads((path / "policy.json").read_text())["environment"] == policy.config.env
    act, spaces, rng = runtimes.load(path), policy.spaces, np.random.default_rng(2)
    for rows in (1, 7, 3):
        if spaces.image:
            flat = rng.integers(0, 256, size=(rows, *spaces.observation_shape), dtype=np.uint8)
            inputs = {"observation": flat}
        else:
            inputs = {name: rng.normal(size=(rows, *shape)).astype("f") for name, shape in spaces.leaves.items()}
            flat = np.concatenate([leaf.reshape(rows, -1) for leaf in inputs.values()], axis=1)
        actions = act(inputs)
        assert actions.dtype == np.float32
        np.testing.assert_allclose(actions, policy.agent.act(flat), atol=2e-5)
    for broken in () if spaces.image else inputs.values():
        kept = broken.copy()
        broken[1] = -np.inf
        assert np.isnan(act(inputs)).all(1).tolist() == [False, True, False]  # that row alone
        broken[:] = kept


@pytest.mark.parametrize("format", runtimes.FORMATS)
def test_verification_refuses_a_file_that_answers_differently(pendulum, exported, format):
    probes, path = making.probes(pendulum), exported("pendulum", format)
    runtimes.verify(path, probes)
    with pytest.raises(ValueError, match="the live actor's"):
        runtimes.verify(path, probes | {"action": probes["action"] + 0.01})


def test_verification_refuses_an_action_for_nonsense(pendulum, tmp_path):
    from ddpg_tf._tf import keras

    observation = keras.Input([3], name="observation")
    finite = keras.ops.nan_to_num(observation, posinf=0, neginf=0)
    model = keras.Model({"observation": observation}, {"action": pendulum.agent.actor(finite, training=False)})
    model.export(str(tmp_path / "model.tflite"), format="litert", verbose=False)
    with pytest.raises(ValueError, match="observation of nan"):
        runtimes.verify(tmp_path, making.probes(pendulum))


def test_a_file_that_fails_verification_is_not_left(pendulum, tmp_path, monkeypatch):
    probes = making.probes(pendulum)
    monkeypatch.setattr(making, "probes", lambda _: probes | {"action": probes["action"] + 0.01})
    with pytest.raises(UserError, match="does not answer as the policy does: ValueError: the actions are"):
        actor_file.write_version(pendulum, tmp_path / "model", "onnx")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_directory_keeps_to_one_format(pendulum, exported):
    litert, onnx = (exported("pendulum", format).parent for format in ("litert", "onnx"))
    with pytest.raises(UserError, match=r"pendulum-onnx is model.onnx: choose another directory for saved_model.pb"):
        saved_model.write_version(pendulum, onnx)
    with pytest.raises(UserError, match=r"pendulum-litert is model.tflite: choose another directory for model.onnx"):
        actor_file.write_version(pendulum, litert, "onnx")
    assert [path.name for base in (litert, onnx) for path in base.iterdir()] == ["1", "1"]


@pytest.mark.parametrize("format, module", [("litert", "ai_edge_litert"), ("onnx", "tf2onnx"), ("onnx", "onnxruntime")])
def test_a_format_without_its_packages_says_what_to_install(monkeypatch, format, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as error:
        export.main(["export.py", "--run_dir=missing", "--export_dir=models", f"--format={format}"])
    assert str(error.value).endswith(f"pip install {runtimes.FORMATS[format].packages}")


def test_the_command_writes_the_format_it_is_asked_for(pendulum, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ddpg_tf.storage.policy.load_policy", lambda *_: pendulum)
    export.main(["export.py", "--run_dir=run", f"--export_dir={tmp_path}", "--format=onnx", "--version=3"])
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/3: Pendulum-v1, step 7, best weights, evaluation -1.5",
        "observation float32 [None, 3] -> action float32 [None, 1]",
    ]
    assert (tmp_path / "3" / "model.onnx").exists()


def test_the_examples_for_a_small_device_run_without_tensorflow(pendulum, exported):
    examples = [code for code in python_blocks(ROOT / "docs" / "serving.md") if "exported/pendulum-" in code]
    code = "\n".join([*examples, "import sys; assert not {'tensorflow', 'ddpg_tf'} & sys.modules.keys()"])
    directory, _ = (exported("pendulum", format).parents[2] for format in runtimes.FORMATS)
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [float(line.strip("[]")) for line in done.stdout.splitlines()]
    (action,) = pendulum.agent.act(np.array([[1, 0, 0]], np.float32))[0]
    assert answers == pytest.approx([action, action], abs=2e-5)
