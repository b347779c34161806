"""The embedded server's configuration files: models, version policies, labels, batching, monitoring."""

import asyncio
import os
import re
import shutil
import time

import pytest
import requests
from serving import GOOD, ask, model, server, start

from ddpg_tf.errors import UserError
from serve.local.__main__ import bind
from serve.local.config import Batching, VersionPolicy, read_batching, read_models, read_monitoring
from serve.local.errors import ServingError
from serve.local.http import Api
from serve.local.models import Models
from serve.local.server import serve

AVAILABLE, UNLOADING, END = 30, 40, 50  # of ModelVersionStatus.State


def write(path, text):
    path.write_text(text)
    return str(path)


def policy(text):
    return VersionPolicy(
        **{
            "all": {"all": {}},
            "two": {"latest": {"num_versions": 2}},
            "1,3": {"specific": {"versions": [1, 3]}},
            "default": {},
        }[text]
    )


@pytest.mark.parametrize(
    ("text", "wanted"), [("default", [9]), ("two", [9, 3]), ("all", [9, 3, 2, 1]), ("1,3", [3, 1])]
)
def test_version_policies(text, wanted):
    assert model("m", "x", policy=policy(text)).wanted([2, 9, 1, 3]) == wanted


def test_models_config_file(tmp_path):
    text = """
      model_config_list {  # two models
        config { name: "a" base_path: "relative" model_platform: "tensorflow" }
        config { name: "b" base_path: "/models/b" model_version_policy { specific { versions: 3 } }
                 version_labels { key: "stable" value: 3 } }
      }"""
    first, second = read_models(write(tmp_path / "models.config", text))
    assert (first.name, first.base_path, first.labels) == ("a", os.path.abspath("relative"), {})
    assert second.wanted([1, 2, 3, 4]) == [3] and second.labels == {"stable": 3}


A = "config { name: 'a' base_path: 'x' }"


@pytest.mark.parametrize(
    ("read", "text", "problem"),
    [
        (read_models, "model_config_list { config { nme: 'x' } }", 'has no field named "nme"'),
        (read_models, "model_config_list {", 'Expected "}"'),
        (read_models, "", "must have a model_config_list"),
        (read_models, "model_config_list {}", "lists no model"),
        (read_models, "model_config_list { config { name: 'a' } }", "needs a name"),
        (read_models, "model_config_list { config { name: 'a/b' base_path: 'x' } }", "got 'a/b'"),
        (read_models, f"model_config_list {{ {A} {A} }}", "Illegal to list model a multiple times in config list"),
        (read_models, "model_config_list { config { name: 'a' base_path: 'x' model_platform: 'b' } }", "platform b"),
        (read_batching, "max_batchsize { value: 3 }", 'has no field named "max_batchsize"'),
        (read_batching, "max_batch_size { value: 0 }", "max_batch_size must be at least 1, not 0"),
        (read_batching, "batch_timeout_micros { value: -1 }", "batch_timeout_micros must be at least 0"),
        (read_batching, "allowed_batch_sizes: 4 allowed_batch_sizes: 2", "must be in increasing order"),
        (read_batching, "allowed_batch_sizes: 4 max_batch_size { value: 8 }", "must equal max_batch_size, 8"),
        (read_monitoring, "prometheus_config { enabled: true }", 'has no field named "enabled"'),
        (read_monitoring, "prometheus_config { enable: true path: 'x' }", "must start with '/'"),
    ],
)
def test_files_with_mistakes(tmp_path, read, text, problem):
    path = write(tmp_path / "file.config", text)
    with pytest.raises(UserError, match=re.escape(problem)) as caught:
        read(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("read", [read_models, read_batching, read_monitoring])
def test_files_that_cannot_be_read(tmp_path, read):
    with pytest.raises(UserError, match="No such file or directory"):
        read(str(tmp_path / "none"))


def test_batching_parameters_file(tmp_path):
    text = """max_batch_size { value: 64 } batch_timeout_micros { value: 2500 } max_enqueued_batches { value: 3 }
              num_batch_threads { value: 4 } thread_pool_name { value: "pool" } pad_variable_length_inputs: true
              enable_large_batch_splitting { value: true } max_execution_batch_size { value: 16 }
              allowed_batch_sizes: 4 allowed_batch_sizes: 16"""
    assert read_batching(write(tmp_path / "b", text)) == Batching(64, 0.0025, 3, 4, strict=True)
    defaults = read_batching(None)
    assert (defaults.max_batch_size, defaults.timeout, defaults.max_enqueued_batches) == (1000, 0, 10)


def test_monitoring_file(tmp_path):
    assert read_monitoring(write(tmp_path / "a", "prometheus_config { enable: true path: '/m' }")) == "/m"
    default = read_monitoring(write(tmp_path / "b", "prometheus_config { enable: true }"))
    assert default == "/monitoring/prometheus/metrics"
    assert read_monitoring(write(tmp_path / "c", "prometheus_config { path: '/m' }")) is None


# --- Versions and labels --------------------------------------------------------------------------------------------


def states(models, name="actor"):
    return {version.number: version.state for version in models.history(name, None)}


@pytest.fixture
def base(tmp_path, directory):
    """A base path with versions 1 and 2."""
    shutil.copytree(directory / "actor", tmp_path / "base")
    return tmp_path / "base"


def test_policy_that_changes(base):
    async def story():
        models = Models(lambda line: None)
        models.configure([model("actor", base, policy=policy("two"))])
        await models.poll()
        assert states(models) == {1: AVAILABLE, 2: AVAILABLE}
        shutil.copytree(base / "1", base / "3")
        await models.poll()
        assert states(models) == {1: END, 2: AVAILABLE, 3: AVAILABLE}
        models.configure([model("actor", base, policy=policy("1,3"))])
        await models.poll()
        assert states(models) == {1: AVAILABLE, 2: END, 3: AVAILABLE}
        assert models.find("actor", None, None).number == 3
        models.configure([model("other", base)])  # the model is gone; what it was stays known
        await models.poll()
        assert states(models) == {1: END, 2: END, 3: END} and models.names == ["other"]
        models.configure([model("actor", base)])
        await models.poll()
        assert states(models) == {1: END, 2: END, 3: AVAILABLE}

    asyncio.run(story())


def test_labels(base):
    def labelled(**labels):
        return [model("actor", base, policy=policy("all"), labels=labels)]

    async def story():
        models = Models(lambda line: None)
        with pytest.raises(UserError, match="Request to assign label to version 2 of model actor, which is not curren"):
            models.configure(labelled(stable=2))  # nothing is loaded at the start
        models.configure(labelled())
        await models.poll()
        models.configure(labelled(stable=1, canary=2))
        assert models.find("actor", None, "stable").number == 1
        with pytest.raises(UserError, match="version 9"):
            models.configure([*labelled(stable=2, canary=9), model("other", base)])
        assert models.find("actor", None, "stable").number == 1  # all or nothing
        assert models.names == ["actor"]
        models.configure(labelled(stable=2))
        assert models.find("actor", None, "stable").number == 2
        with pytest.raises(ServingError, match="Unrecognized servable version label: canary"):
            models.find("actor", None, "canary")

    asyncio.run(story())


def test_model_with_a_long_request_holds_up_no_other(base, monkeypatch):
    monkeypatch.setattr("serve.local.versions._RETIRE_SECONDS", 0.05)

    async def story():
        lines = []
        models = Models(lines.append)
        models.configure([model("actor", base), model("other", base)])
        await models.poll()
        old = models.find("actor", None, None)
        with old.in_use():  # a request that takes long
            shutil.copytree(base / "1", base / "3")
            await models.poll()
            assert states(models) == {2: UNLOADING, 3: AVAILABLE} == states(models, "other") | {2: UNLOADING}
        await asyncio.sleep(0.05)
        assert states(models) == {2: END, 3: AVAILABLE} and "unloaded version 2 of actor" in lines

    asyncio.run(story())


def test_version_dropped_while_it_failed_can_come_back(base):
    async def story():
        models = Models(lambda line: None)
        models.configure([model("actor", base)])
        await models.poll()
        (base / "3").mkdir()
        await models.poll()
        assert states(models) == {2: AVAILABLE, 3: 20}  # loading
        shutil.copytree(base / "1", base / "4")
        await models.poll()
        shutil.rmtree(base / "3")
        shutil.copytree(base / "1", base / "3")
        shutil.rmtree(base / "4")
        await models.poll()
        assert states(models) == {2: END, 3: AVAILABLE, 4: END}

    asyncio.run(story())


def test_directory_that_cannot_be_listed_is_told_once(tmp_path):
    (tmp_path / "file").write_text("no directory")

    async def story():
        lines = []
        models = Models(lines.append)
        models.configure([model("actor", tmp_path / "file"), model("later", tmp_path / "later")])
        for _ in range(3):
            await models.poll()
        assert lines == [f"cannot list {tmp_path / 'file'}: Not a directory"]

    asyncio.run(story())


def test_labels_of_versions_to_come(base):
    def labelled(**labels):
        return [model("actor", base, policy=policy("all"), labels=labels)]

    async def story():
        models = Models(lambda line: None, free_labels=True)
        models.configure(labelled(stable=1, next=3))
        await models.poll()
        assert models.find("actor", None, "stable").number == 1
        with pytest.raises(ServingError, match=re.escape("Servable not found for request: Specific(actor, 3)")):
            models.find("actor", None, "next")
        with pytest.raises(UserError, match="version 9"):  # a label in use does not move to nowhere
            models.configure(labelled(stable=9))

    asyncio.run(story())


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_config_file_that_changes_while_serving(tmp_path, base):
    """Through the command line: a label moves, a mistake is told and changes nothing, a model comes."""

    def config(labels, more=""):
        policy = "model_version_policy { all {} }"
        # Written aside and renamed, so that it is never read half-written.
        (tmp_path / "new").write_text(
            f"model_config_list {{ config {{ name: 'actor' base_path: '{base}' {policy} {labels} }} {more} }}"
        )
        os.replace(tmp_path / "new", tmp_path / "models.config")

    def act(path):
        return requests.post(f"{url}/v1/models/{path}:predict", data=GOOD).json().get("predictions")

    config("")
    path = tmp_path / "models.config"
    with server(f"--model_config_file={path}", "--model_config_file_poll_wait_seconds=1") as process:
        lines = iter(process.stdout.readline, "")
        url = next(line.split()[-1] for line in lines if line.startswith("serving actor on"))
        assert act("actor/labels/stable") is None
        config("version_labels { key: 'stable' value: 1 }")
        wait_for(lambda: act("actor/labels/stable") == [[1.9000001]])
        config("version_labels { key: 'stable' value: 7 }")
        assert next(lines).startswith("cannot use the configuration: Request to assign label to version 7")
        path.write_text("model_config_list { confg {} }")
        assert "has no field named" in next(lines)
        assert act("actor/labels/stable") == [[1.9000001]]
        config("version_labels { key: 'stable' value: 2 }", f"config {{ name: 'second' base_path: '{base}' }}")
        wait_for(lambda: act("actor/labels/stable") == [[3.80000019]])
        wait_for(lambda: act("second") == [[3.80000019]])


def test_label_at_the_start_needs_the_flag(tmp_path, base):
    labels = "version_labels { key: 'stable' value: 1 }"
    path = write(
        tmp_path / "models.config", f"model_config_list {{ config {{ name: 'actor' base_path: '{base}' {labels} }} }}"
    )
    with server(f"--model_config_file={path}") as process:
        error = process.stdout.read()
        assert process.wait(30) == 1
    assert error.startswith("error: Request to assign label to version 1") and error.count("\n") == 1


def test_status_ignores_labels(base):
    url = start([model("actor", base, labels={"stable": 9})], free_labels=True)
    assert ask(url, "/v1/models/actor/labels/none").status == 200
    assert ask(url, "/v1/models/actor/labels/stable/metadata").status == 404


def test_a_label_is_its_models_own(base):
    async def story():
        models = Models(lambda line: None)
        both = [model(name, base, policy=policy("all")) for name in ("actor", "other")]
        models.configure(both)
        await models.poll()
        models.configure(
            [model(name, base, policy=policy("all"), labels={"new": k}) for name, k in (("actor", 1), ("other", 2))]
        )
        assert [models.find(name, None, "new").number for name in ("actor", "other")] == [1, 2]

    asyncio.run(story())


def test_a_version_that_is_looked_for_only_once_and_not_there_ends_the_server(tmp_path):
    async def story():
        models = Models(lambda line: None)
        models.configure([model("actor", tmp_path)])
        with bind("127.0.0.1", 0) as sock, pytest.raises(UserError, match=f"^no version of actor in {tmp_path}$"):
            await asyncio.wait_for(serve(Api(models), models, sock, lambda line: None, poll_seconds=0), 3)

    asyncio.run(story())
