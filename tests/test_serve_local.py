"""The embedded server: TF Serving's recorded answers, then what recordings do not show."""

import asyncio
import gzip
import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import DATA, GOOD, PREDICT, ask, model, start
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from ddpg_tf._tf import tf
from serve.local.batching import Coalescer, answer_together
from serve.local.config import Batching, Loading, read_models
from serve.local.documents import status_document
from serve.local.encode import as_written, encode_response
from serve.local.errors import ServingError, invalid
from serve.local.http import Api
from serve.local.json_text import parse, write
from serve.local.models import Models
from serve.local.session import Signature
from serve.local.versions import Version

RECORDINGS = {r["name"]: r for r in map(json.loads, (DATA / "recordings.jsonl").read_text("utf-8").splitlines())}
TYPES = "/v1/models/types:predict"
pytestmark = pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")  # make_models' own


@pytest.fixture(scope="module")
def urls(directory):
    """A server as the recordings' own, by their names: of the newest versions, and of models.config."""
    newest = [model(path.name, path) for path in directory.iterdir() if path.is_dir()]
    return {"actor": start(newest), "config": start(read_models(directory / "models.config"), free_labels=True)}


@pytest.fixture(scope="module")
def url(urls):
    return urls["actor"]


def contract(text):
    """What of an answer is the contract: its JSON, without tensors' names; of an error only that it is one."""
    answer = json.loads(text)
    if "error" in answer:
        answer = {"error": isinstance(answer["error"], str)}
    return re.sub(r'"name": "[A-Za-z_0-9/]+:\d+"', '"name": "a tensor"', json.dumps(answer, sort_keys=True))


def expect(value):
    """NaN-proof equality, types included."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording(name, urls):
    recording = RECORDINGS[name]
    url = urls[recording["server"]]
    answer = ask(url, recording["path"], recording["body"], recording["method"], recording["headers"])
    assert answer.status == recording["status"], answer.text
    assert answer.content_type == recording["content_type"]
    assert contract(answer.text) == contract(recording["response"])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "answer"),
    [
        ("GET", "/", None, 404, "<H1>Not Found</H1>"),
        ("GET", "/v2/models/actor", None, 404, "<H1>Not Found</H1>"),
        ("GET", "/v1/models/%zz", None, 400, "<H1>Bad Request</H1>"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("TRACE", "/v1/models/actor", None, 501, "<H1>Not Implemented</H1>"),
        ("CONNECT", "localhost:80", None, 400, "<H1>Bad Request</H1>"),
        ("HEAD", "/v1/models/actor", None, 400, ""),
        ("OPTIONS", PREDICT, None, 400, ""),
        ("POST", "/V1/MODELS/actor/VERSIONS/02:predict", GOOD, 200, "3.80000019"),
        ("POST", "/v1/models/%61ctor:predict", GOOD, 200, "3.80000019"),
        ("POST", "/v1/models/actor:PREDICT", GOOD, 400, "Malformed request: POST /v1/models/actor:PREDICT"),
        ("POST", PREDICT + "?x=1", GOOD, 400, "Malformed request: POST /v1/models/actor:predict?x=1"),
        ("GET", "/v1/models/actor/METADATA", None, 200, "model_version_status"),
        ("POST", "/v1/models/actor/versions/9223372036854775808:predict", GOOD, 400, "no version can have the number"),
        ("POST", f"/v1/models/actor/versions/{'9' * 5000}:predict", GOOD, 400, "no version can have the number"),
        ("POST", f"/v1/models/actor/versions/{'0' * 5000}2:predict", GOOD, 200, "3.80000019"),
        ("POST", "/v1/models/actor/versions/00:predict", GOOD, 404, "Specific(actor, 0)"),
        ("POST", "/v1/models/actor/labels/stable:predict", GOOD, 400, "Unrecognized servable version label: stable"),
        ("POST", "/v1/models/xla_inner:predict", GOOD, 500, "XLA compilation disabled"),
        ("POST", PREDICT, "[" * 100_000, 400, "JSON Parse error"),
        ("POST", PREDICT, '{"instances": ' + "[" * 500 + "]" * 500 + "}", 400, "dimensions"),
        ("POST", PREDICT, '{"instances": [[1, 2, 3e400]]}', 400, "a number is too big for a double"),
        ("POST", PREDICT, f'{{"instances": [[1, 2, {"9" * 400}]]}}', 400, "a number is too big for a double"),
        ("POST", PREDICT, f'{{"instances": [[1, 2, -{"9" * 5000}]]}}', 400, "a number is too big for a double"),
        ("POST", PREDICT, '{"x": ' * 5000 + "1" + "}" * 5000, 400, "JSON Parse error"),
        ("POST", PREDICT, '{"instances": ' + '{"x": [' * 200 + "1" + "]}" * 200 + "}", 400, "must be a list"),
        ("POST", PREDICT, b'{"instances": [["\xff"]]}', 400, "JSON Parse error: 'utf-8' codec can't decode"),
        ("POST", PREDICT, r'{"signature_name": "\ud800", "instances": [1]}', 400, 'name: "\ud800" not found'),
        ("POST", TYPES, r'{"signature_name": "s", "instances": ["\ud800"]}', 400, "has half a surrogate pair"),
        (
            "POST",
            TYPES,
            '{"signature_name": "i64", "instances": [18446744073709551616]}',
            400,
            "1.8446744073709552e+19 is not of type int64",
        ),
        ("POST", TYPES, '{"signature_name": "u16", "inputs": [1]}', 501, "no values of type uint16"),
        ("POST", PREDICT, '{"instances": [[1, 2, true]]}', 400, "state: true is not of type float"),
        ("POST", PREDICT, '{"instances": [[1, 2, null]]}', 400, "state: null is not of type float"),
        ("POST", PREDICT, '{"instances": [[1, 2, 3], [1]]}', 400, "lists at level 1 have different sizes: 1 and 3"),
        (
            "POST",
            PREDICT,
            '{"instances": [[[1, 2]], [[1], [2]]]}',
            400,
            "lists at level 1 have different sizes: 1 and 2",
        ),
        (
            "POST",
            PREDICT,
            '{"inputs": [[1, 2, 3]], "instances": [[1]]}',
            400,
            "must have either 'instances' or 'inputs'",
        ),
        ("POST", PREDICT, '{"signature_name": 1}', 400, "signature_name is not a string"),
        ("POST", PREDICT, '{"instances": [[1, 2, {"a": 1}]]}', 400, "state: an object is not of type float"),
        ("POST", PREDICT, '{"instances": [[1, 2, [3]]]}', 400, "state: a list is not of type float"),
        ("POST", PREDICT, '{"instances": [[1, 2, 3], 4]}', 400, "state: lists and other values are mixed at level 1"),
        ("POST", PREDICT, '{"instances": [{"state": [1, 2, 3]}, [1, 2, 3]]}', 400, "instances[1] must be an object"),
        ("POST", "/v1/models/multi:predict", '{"inputs": {"a": [[1, 2]]}}', 400, "'inputs' has no b"),
    ],
)
def test_answers_that_were_not_recorded(url, method, path, body, status, answer):
    """The contract's sections 2, 4 and 7."""
    got = ask(url, path, body, method)
    text = got.text.encode().decode("unicode_escape") if "error" in got.text else got.text
    assert got.status == status, text
    assert answer in text if answer else not text
    assert ask(url, PREDICT, GOOD).status == 200  # and it goes on


def test_requests_of_numbers_and_of_files_are_parsed_once(monkeypatch):
    def no_second_look(_):
        raise AssertionError

    numbers, files = {"inputs": [[1.5, 2]]}, {"instances": [[{"b64": "AP8="}, {"b64": "AA=="}], [{"b64": ""}]]}
    twice = b'{"inputs": [[{"b64": "AP8=", "b64": "AA=="}]]}'
    assert parse(twice) == {"inputs": [[{"b64": "AP8="}]]}  # of two equal keys the first counts
    monkeypatch.setattr("serve.local.json_text._first_wins", no_second_look)
    monkeypatch.setattr("serve.local.json_text._DECODER", None)
    assert [parse(json.dumps(document).encode()) for document in (numbers, files)] == [numbers, files]


def test_answers_are_compact_json(url):
    assert ask(url, PREDICT, GOOD).text == '{"predictions":[[3.80000019]]}'
    assert ask(url, PREDICT, '{"instances": [[Inf, 1, -Inf]]}').text == '{"predictions": [[NaN]]}'


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_gzip_request(url, encoding):
    answer = ask(url, PREDICT, gzip.compress(GOOD.encode()), headers={"Content-Encoding": encoding})
    assert answer.status == 200 and json.loads(answer.text) == {"predictions": [[3.80000019]]}


@pytest.mark.parametrize(
    ("signature", "instances", "predictions"),
    [
        ("u8", "[256, -1]", "[0, 255]"),  # wrap silently
        ("i8", "[128]", "[-128]"),
        ("u64", "[18446744073709551615]", "[18446744073709551615]"),
        ("f64", "[0.1, 1e300, 5e-324]", "[0.1, 1e+300, 0.0]"),  # subnormals flush
        ("f32", "[-1e-45, 16777217]", "[-0.0, 16777216.0]"),
        ("bytes", '["a", {"b64": "AP8"}]', '[{"b64": "YQ=="}, {"b64": "AP8="}]'),
        ("s", '["\\ud83d\\ude00", "\\u0000", "null"]', '["\U0001f600", "\\u0000", "null"]'),
        ("s", '[{"b64": "/w=="}]', '["\\udcff"]'),  # not UTF-8
        ("f64", f"[{'9' * 300}, 18446744073709551616]", "[1e300, 18446744073709551616.0]"),
    ],
)
def test_values_pass_through(url, signature, instances, predictions):
    body = f'{{"signature_name": "{signature}", "instances": {instances}}}'
    answer = ask(url, TYPES, body)
    assert answer.status == 200, answer.text
    assert expect(json.loads(answer.text)["predictions"]) == expect(json.loads(predictions))


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["YQ", "YQ==", "YWI", "YWI=", "YWJj", ""])
def test_base64_may_be_without_padding_but_not_with_wrong_one(url, text):
    def status(digits):
        return ask(url, TYPES, json.dumps({"signature_name": "s", "instances": [{"b64": digits}]})).status

    assert status(text) == 200
    assert text == "YWI" or status(text + "=") == 400


@given(st.lists(st.floats(width=32), min_size=1))
def test_as_written_are_the_same_float32_numbers_in_nine_digits(numbers):
    values = np.array(numbers, np.float32)
    written = as_written(values)
    np.testing.assert_array_equal(written.astype(np.float32), values)
    assert all(number != number or number == float(f"{number:.9g}") for number in written.tolist())


@pytest.mark.parametrize("kind", ["any bits", "actions", "few decimals", "edges"])
def test_many_numbers_are_written_as_a_few_are(kind):
    rng = np.random.default_rng(0)
    edges = [10.0**e * f for e in range(-12, 12) for f in (1, 5, 0.9999995, 0.9999994, 1.0000005, 1.23456789)]
    values = {
        "any bits": rng.integers(0, 2**32, 20_000, np.uint32).view(np.float32),
        "actions": rng.uniform(-1, 1, 20_000).astype(np.float32),
        "few decimals": rng.normal(size=20_000).round(3).astype(np.float32),
        "edges": np.array([*edges, 0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45], np.float32),
    }[kind]
    few = np.concatenate([as_written(part) for part in np.array_split(values, len(values) // 50 + 1)])
    many = as_written(values)
    np.testing.assert_array_equal(many, few)
    np.testing.assert_array_equal(np.signbit(many), np.signbit(few))


@given(st.lists(st.floats(), min_size=1))
def test_numbers_that_are_written_and_read_are_the_same(numbers):
    text = encode_response({"y": np.array(numbers)}, row=True)
    assert expect(json.loads(text)) == expect(parse(text)) == expect({"predictions": numbers})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_both_readers_agree(value, ascii):
    """orjson's and Python's, which reads what text follows."""
    body = json.dumps(value, ensure_ascii=ascii).encode()
    assert expect(parse(body)) == expect(parse(body + b" and more")) == expect(value)
    assert expect(parse(b"\xef\xbb\xbf" + write(value))) == expect(json.loads(write(value)))


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ('{"a": 1, "a": 2}', {"a": 1}),
        ('{"a": [{"b": 1, "c": 2}, {"b": 3, "b": {}}]}', {"a": [{"b": 1, "c": 2}, {"b": 3}]}),
        ('{"a": [[{"b": ":"}], {"b": 3, "b": 4}], "c": {}}', {"a": [[{"b": ":"}], {"b": 3}], "c": {}}),
        (r'{"a\u003a": 1, "a:": 2}', {"a:": 1}),
    ],
)
def test_first_of_equal_keys_counts(body, value):
    assert parse(body.encode()) == value


def test_infinity_by_all_its_names_but_not_within_text():
    body = r'{"Inf": ["Inf, \" Inf", "\\", Inf, -Inf, Infinity, -Infinity, 1, "Inf]"], "NaN": "NaN"}'
    inf = float("inf")
    assert parse(body.encode()) == {"Inf": ['Inf, " Inf', "\\", inf, -inf, inf, -inf, 1, "Inf]"], "NaN": "NaN"}
    for wrong in ("inf", "Info", "1Inf]", "+Inf", '["Inf]', "nan", "-nan", "[Inf Inf]"):
        with pytest.raises(ServingError, match="JSON Parse error"):
            parse(f"[{wrong}".encode())


def test_numbers_at_the_edges_of_their_types():
    numbers = [2**64 - 1, -(2**63), 1.7976931348623157e308, 5e-324, 0.0]
    for end in (b"", b" and more"):
        assert expect(parse(json.dumps(numbers).encode() + end)) == expect(numbers)
        assert expect(parse(b"[1e-400, " + b"9" * 308 + b"]" + end)) == expect([0.0, 1e308])
        for number in (b"1e309", b"-1e400", b"9" * 309, b"1e" + b"9" * 100_000, b"9" * 100_000):
            with pytest.raises(ServingError, match="too big"):
                parse(b"[" + number + b"]" + end)


@settings(max_examples=300)
@given(st.binary() | st.text(alphabet='{}[],:"\\0123456789.eE+-nullNaInfity \t').map(str.encode))
def test_any_bytes_parse_or_are_refused(body):
    try:
        parse(body)
    except ServingError as error:
        assert error.http_status == 400 and error.message.startswith("JSON Parse error: ")


# --- Versions -------------------------------------------------------------------------------------------------------


class Fleet:
    """A model whose base path a test fills; `poll` looks at it once."""

    def __init__(self, base, source):
        self.base, self._source, self.lines = base, source, []
        self.load()

    def load(self, **options):
        """Starts anew, with these options of `Loading`."""
        self.models = Models(self.lines.append, loading=Loading(**options))
        self.models.configure([model("actor", self.base)])

    def publish(self, number, gain=1):
        shutil.copytree(self._source / str(gain), self.base / str(number))

    async def poll(self):
        await self.models.poll()
        try:
            versions = self.models.history("actor", None)
        except ServingError:
            return {}
        return {version.number: version.state for version in versions}

    async def act(self, number=None):
        version = self.models.find("actor", number, None)
        with version.in_use():
            signature = version.model.signature("")
            return (await self.models.run(version, signature, [np.ones((1, 3), np.float32)]))[0].item()


@pytest.fixture
def fleet(tmp_path, directory):
    (tmp_path / "base").mkdir()
    return Fleet(tmp_path / "base", directory / "actor")


LOADING, AVAILABLE, UNLOADING, END = 20, 30, 40, 50  # of ModelVersionStatus.State


def test_highest_version_wins_and_the_one_before_leaves(fleet):
    async def story():
        assert await fleet.poll() == {}
        fleet.publish(2)
        fleet.publish(10, gain=2)
        (fleet.base / "11.tmp").mkdir()
        (fleet.base / "v12").mkdir()
        assert await fleet.poll() == {10: AVAILABLE}
        assert await fleet.act() == pytest.approx(2.2)
        fleet.publish(12)
        assert await fleet.poll() == {10: END, 12: AVAILABLE}
        assert await fleet.act() == pytest.approx(1.1)
        with pytest.raises(ServingError, match=re.escape("Servable not found for request: Specific(actor, 10)")):
            await fleet.act(10)
        shutil.rmtree(fleet.base / "12")  # roll back
        assert await fleet.poll() == {10: AVAILABLE, 12: END}
        assert await fleet.act() == pytest.approx(2.2)
        fleet.base.rename(fleet.base.with_name("away"))  # the share is gone for a moment
        assert await fleet.poll() == {10: AVAILABLE, 12: END}
        fleet.base.mkdir()
        assert await fleet.poll() == {10: END, 12: END}
        with pytest.raises(ServingError, match=re.escape("Servable not found for request: Latest(actor)")):
            await fleet.act()

    asyncio.run(story())


def damage(path, how):
    if how == "empty":
        shutil.rmtree(path)
        path.mkdir()
    elif how == "file":
        shutil.rmtree(path)
        path.write_text("no directory")
    elif how == "cut":
        os.truncate(path / "saved_model.pb", 1000)
    elif how == "no variables":
        shutil.rmtree(path / "variables")
    elif how == "no data":
        (path / "variables" / "variables.data-00000-of-00001").unlink()
    elif how == "warm-up":
        write_warm_up(path, np.ones((1, 7), np.float32))
    elif how == "warm-up type":
        write_warm_up(path, np.ones((1, 3), np.float64))
    elif how == "warm-up file":
        (path / "assets.extra").mkdir()
        (path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no records, but some text")


def write_warm_up(path, state):
    (path / "assets.extra").mkdir()
    request = predict_pb2.PredictRequest(inputs={"state": tf.make_tensor_proto(state)})
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


@pytest.mark.parametrize(
    "how", ["empty", "file", "cut", "no variables", "no data", "warm-up", "warm-up type", "warm-up file"]
)
def test_broken_version_disturbs_nothing(fleet, how):
    async def story():
        fleet.publish(1)
        assert await fleet.poll() == {1: AVAILABLE}
        fleet.publish(2)
        damage(fleet.base / "2", how)
        for _ in range(2):  # the second poll is before the first retry
            assert await fleet.poll() == {1: AVAILABLE, 2: LOADING}
            assert await fleet.act() == pytest.approx(1.1)
        assert [line.split(":")[0] for line in fleet.lines[1:]] == ["cannot load version 2 of actor"]
        fleet.publish(3, gain=2)
        assert await fleet.poll() == {1: END, 2: END, 3: AVAILABLE}

    asyncio.run(story())


@pytest.mark.parametrize("retries", [5, 0])
def test_version_that_never_loads_ends_with_its_error(fleet, retries):
    async def story():
        fleet.load(retries=retries, retry_seconds=0.0)
        (fleet.base / "2").mkdir()
        for _ in range(retries):
            assert await fleet.poll() == {2: LOADING}
        assert await fleet.poll() == {2: END}
        fleet.publish(1)  # repaired too late, and lower than the highest
        assert await fleet.poll() == {2: END}
        return fleet.models.history("actor", None)[0]

    version = asyncio.run(story())
    assert version.error.code == "NOT_FOUND"


def test_warm_up_runs_before_the_version_is_available(fleet):
    """Or not: one that would fail, and with it the version, does not where warming up is off."""

    async def story():
        fleet.publish(1)
        write_warm_up(fleet.base / "1", np.ones((1, 7), np.float32))
        assert await fleet.poll() == {1: LOADING}
        fleet.load(warm_up=False)
        assert await fleet.poll() == {1: AVAILABLE}
        assert await fleet.act() == pytest.approx(1.1)

    asyncio.run(story())


def test_tags_choose_the_graph(fleet):
    async def story():
        fleet.publish(1)
        fleet.load(tags=("serve", "gpu"))
        assert await fleet.poll() == {1: LOADING}
        assert "gpu" in fleet.lines[0]

    asyncio.run(story())


def test_what_only_xla_may_run_is_run_where_that_is_allowed(url, directory):
    allowed = start([model("xla", directory / "xla")], loading=Loading(xla=True))
    answers = [ask(at, "/v1/models/xla:predict", GOOD) for at in (url, allowed)]
    assert [answer.status for answer in answers] == [500, 200]


def test_version_change_under_requests(fleet):
    async def story():
        fleet.publish(1)
        await fleet.poll()
        done, stop = [], asyncio.Event()

        async def client():
            while not stop.is_set():
                done.append(await fleet.act())

        clients = [asyncio.create_task(client()) for _ in range(4)]
        for number in (2, 3, 4):
            fleet.publish(number, gain=2 - number % 2)
            await fleet.poll()
            count = len(done)
            while len(done) < count + 8 and not any(task.done() for task in clients):
                await asyncio.sleep(0.001)
        stop.set()
        await asyncio.gather(*clients)  # raises what a client raised
        assert set(np.round(done, 5)) == {1.1, 2.2}

    asyncio.run(story())


def test_version_stays_loaded_until_its_last_request_is_answered():
    class Fake:
        batched, closed, gate = True, False, threading.Event()

        def run(self, feeds):
            assert self.gate.wait(20)
            return [np.array(self.closed)]

        def close(self):
            self.closed = True

    async def story():
        loaded = Fake()
        version = Version(1)
        version.model, version.state = loaded, AVAILABLE
        with ThreadPoolExecutor(1) as executor:

            async def ask_once():
                with version.in_use():
                    return await version.run(loaded, [rows(1)], executor, Batching())

            request = asyncio.create_task(ask_once())
            await asyncio.sleep(0.01)
            retiring = asyncio.create_task(version.retire())
            await asyncio.sleep(0.01)
            assert version.state == UNLOADING and not loaded.closed
            loaded.gate.set()
            assert not (await request)[0]
            await retiring
        assert version.state == END and loaded.closed

    asyncio.run(story())


# --- Putting requests together --------------------------------------------------------------------------------------


class FakeSignature:
    """Doubles its rows of three; notes how many rows each call had."""

    def __init__(self, batched=True, outputs_one_row=False):
        self.batched, self.outputs_one_row, self.calls = batched, outputs_one_row, []

    def run(self, feeds):
        self.calls.append(len(feeds[0]))
        if feeds[0].shape[1:] != (3,):
            raise invalid("not a matrix of width 3")
        return [feeds[0].sum(0, keepdims=True)] if self.outputs_one_row else [2 * feeds[0]]


def answers(signature, requests, limits=Batching()):  # noqa: B008
    async def story():
        with ThreadPoolExecutor(1) as executor:
            gate = threading.Event()
            executor.submit(gate.wait)  # until all requests wait
            queue = Coalescer(signature, executor, limits)
            tasks = [asyncio.create_task(queue.run([feed])) for feed in requests]
            await asyncio.sleep(0.01)
            gate.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(story())


def rows(*values):
    return np.repeat(np.array(values, np.float32)[:, None], 3, axis=1)


def test_waiting_requests_share_a_call():
    signature = FakeSignature()
    feeds = [rows(1), rows(2, 3), rows(4), np.zeros((0, 3), np.float32)]
    for [result], feed in zip(answers(signature, feeds), feeds, strict=True):
        np.testing.assert_array_equal(result, 2 * feed)
    assert signature.calls == [4]


def test_bad_request_fails_alone():
    signature = FakeSignature()
    results = answers(signature, [rows(1), np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), rows(2)])
    assert [isinstance(result, ServingError) for result in results] == [False, True, True, False]
    np.testing.assert_array_equal(results[3][0], 2 * rows(2))


@pytest.mark.parametrize("signature", [FakeSignature(batched=False), FakeSignature(outputs_one_row=True)])
def test_models_that_mix_rows_get_requests_one_by_one(signature):
    results = answers(signature, [rows(1, 2), rows(3, 4)])
    expected = [2 * rows(1, 2), 2 * rows(3, 4)] if not signature.outputs_one_row else [rows(3), rows(7)]
    for [result], value in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, value)
    assert signature.calls[-2:] == [2, 2]


def test_a_call_has_at_most_a_thousand_rows():
    signature = FakeSignature()
    answers(signature, [rows(*range(400))] * 5)
    assert signature.calls == [800, 800, 400]


def test_requests_at_once_get_their_own_answers(url):
    def client(k):
        with requests.Session() as session:
            bodies = [json.dumps({"instances": [[k, i, 0]]}) for i in range(20)]
            return [session.post(url + PREDICT, data=body).json()["predictions"][0][0] for body in bodies]

    with ThreadPoolExecutor(8) as pool:
        for k, answers in enumerate(pool.map(client, range(8))):
            assert answers == pytest.approx([0.2 * k + 0.4 * i + 1 for i in range(20)])


def test_an_answer_keeps_its_version_loaded(fleet, monkeypatch):
    """As asked over HTTP, while a new version comes."""
    running, gate, run = threading.Event(), threading.Event(), Signature.run
    monkeypatch.setattr("serve.local.versions._RETIRE_SECONDS", 0.05)

    def slowly(signature, feeds):
        running.set()
        assert gate.wait(20)
        return run(signature, feeds)

    monkeypatch.setattr(Signature, "run", slowly)

    async def story():
        fleet.publish(1)
        await fleet.poll()
        sent = []

        async def receive():
            return {"type": "http.request", "body": GOOD.encode()}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "raw_path": PREDICT.encode(), "query_string": b"", "headers": []}
        request = asyncio.create_task(Api(fleet.models)(scope, receive, send))
        await asyncio.to_thread(running.wait, 20)
        fleet.publish(2, gain=2)
        assert await fleet.poll() == {1: UNLOADING, 2: AVAILABLE}
        gate.set()
        await request
        assert sent[0]["status"] == 200 and json.loads(sent[1]["body"]) == {"predictions": [[1.9000001]]}

    try:
        asyncio.run(story())
    finally:
        gate.set()


def test_a_version_that_does_not_load_is_not_tried_before_its_time(fleet):
    async def story():
        (fleet.base / "1").mkdir()
        for _ in range(3):
            assert await fleet.poll() == {1: LOADING}
        (version,) = fleet.models.history("actor", 1)
        assert version.attempts == 1
        # Not while it will be tried again.
        assert status_document([version])["model_version_status"][0]["status"]["error_code"] == "OK"

    asyncio.run(story())


def test_a_server_is_ready_when_all_models_are(fleet):
    async def story():
        fleet.publish(1)
        fleet.models.configure([model("actor", fleet.base), model("later", fleet.base / "later")])
        await fleet.models.poll()
        assert not fleet.models.ready and fleet.models.missing.startswith("later in ")
        shutil.copytree(fleet.base / "1", fleet.base / "later" / "1")
        await fleet.models.poll()
        assert fleet.models.ready

    asyncio.run(story())


def test_requests_answered_together_keep_inputs_and_outputs_apart():
    class TwoOfEach(FakeSignature):
        def run(self, feeds):
            self.calls.append(len(feeds[0]))
            return [feeds[0] + 10, feeds[1] - 10]

    signature = TwoOfEach()
    requests = [[rows(1), rows(5)], [rows(2, 3), rows(6, 7)]]
    for found, (one, other) in zip(answer_together(signature, requests), requests, strict=True):
        np.testing.assert_array_equal(found, [one + 10, other - 10])
    assert signature.calls == [3]
