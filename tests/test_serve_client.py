"""PolicyClient against a server that says what the test tells it to."""

import copy
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from serve.client import BadRequest, ModelNotFound, PolicyClient, ServerError, ServerUnavailable


def metadata(**inputs):
    """A metadata document; each input is (dtype, shape), -1 for the batch."""
    tensors = {
        name: {"dtype": dtype, "tensor_shape": {"dim": [{"size": str(size)} for size in shape], "unknown_rank": False}}
        for name, (dtype, shape) in inputs.items()
    }
    return {"metadata": {"signature_def": {"signature_def": {"serving_default": {"inputs": tensors}}}}}


VECTOR = metadata(observation=("DT_FLOAT", (-1, 3)))


class Stub(http.server.ThreadingHTTPServer):
    """Answers metadata with `document`, everything else with the next of `answers` (the last one repeats)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.document = copy.deepcopy(VECTOR)
        self.answers = [(200, {"outputs": [[0.5]]})]
        self.asked = []
        self.connections = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.connections += 1

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/metadata"):
            status, answer = 200, self.server.document
        else:
            self.server.asked.append((self.command, self.path, json.loads(body) if body else None))
            answers = self.server.answers
            status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if status is None:  # hang, then hang up
            time.sleep(answer)
            self.close_connection = True
            return
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET


@pytest.fixture
def stub():
    with Stub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def client(stub, **kwargs):
    return PolicyClient(stub.url, "policy", backoff=0.001, **kwargs)


def test_one_observation_gives_one_action(stub):
    action = client(stub).act(np.array([1.0, 2.0, 3.0]))
    assert action.dtype == np.float32 and action.tolist() == [0.5]
    method, path, body = stub.asked[0]
    assert (method, path) == ("POST", "/v1/models/policy:predict")
    assert json.dumps(body) == '{"inputs": {"observation": [[1.0, 2.0, 3.0]]}}'


def test_batch_gives_batch(stub):
    stub.answers = [(200, {"outputs": [[0.5, 1], [0.25, 2]]})]
    assert client(stub).act([[1, 2, 3], [4, 5, 6]]).tolist() == [[0.5, 1.0], [0.25, 2.0]]
    assert stub.asked[0][2] == {"inputs": {"observation": [[1, 2, 3], [4, 5, 6]]}}


def test_numbers_are_sent_as_the_models_type(stub):
    client(stub).act(np.array([0.1, 0, 0]))
    assert np.float32(stub.asked[0][2]["inputs"]["observation"][0][0]) == np.float32(0.1)
    stub.document = metadata(observation=("DT_UINT8", (-1, 2, 2, 1)))
    client(stub).act(np.zeros((2, 2, 1)))
    assert json.dumps(stub.asked[1][2]["inputs"]["observation"]) == "[[[[0], [0]], [[0], [0]]]]"


@pytest.mark.parametrize(
    "name, observation",
    [
        ("observation_0", ([1, 2, 3],)),
        ("observation_0_a", ({"a": [1, 2, 3]},)),
        ("observation_0_observation_0", (([1, 2, 3],),)),
    ],
)
def test_a_tuple_of_one_part_is_one_observation(stub, name, observation):
    stub.document = metadata(**{name: ("DT_FLOAT", (-1, 3))})
    assert client(stub).act(observation).tolist() == [0.5]
    assert stub.asked[0][2] == {"inputs": {name: [[1, 2, 3]]}}


def test_named_inputs(stub):
    stub.document = metadata(joint_pos=("DT_FLOAT", (-1, 2)), time=("DT_FLOAT", (-1, 1)))
    policy = client(stub)
    policy.act({"joint/pos": [1, 2], "time": [3]})
    assert stub.asked[0][2] == {"inputs": {"joint_pos": [[1, 2]], "time": [[3]]}}
    stub.answers = [(200, {"outputs": [[1], [2]]})]
    assert policy.act({"joint/pos": [[1, 2], [1, 2]], "time": [[3], [3]]}).shape == (2, 1)
    with pytest.raises(BadRequest, match="takes joint_pos, time; the observation has time"):
        policy.act({"time": [3]})
    with pytest.raises(BadRequest, match="several inputs"):
        policy.act([1, 2, 3])
    with pytest.raises(BadRequest, match="some parts"):
        policy.act({"joint/pos": [[1, 2]], "time": [3]})


@pytest.mark.parametrize(
    "observation", [[[1], [1, 2]], ["a", "b", "c"], [True, "1", 0], None, 1.0, np.zeros((2, 2, 3))]
)
def test_what_is_no_observation_is_not_sent(stub, observation):
    with pytest.raises(BadRequest, match="observation"):
        client(stub).act(observation)
    assert not stub.asked


@pytest.mark.parametrize("observation", [[None, 0, 1], [np.nan, 0, 1], [1e300, 0, 1], [[1, 2, 3], [1, np.inf, 3]]])
def test_an_observation_that_is_not_finite_is_not_sent(stub, observation):
    with pytest.raises(BadRequest, match=r"observation has numbers that are not finite \(null"):
        client(stub).act(observation)
    assert not stub.asked


@pytest.mark.parametrize("observation", [[1, 2], [[1, 2, 3, 4]], []])
def test_an_observation_of_another_size_is_not_sent(stub, observation):
    with pytest.raises(BadRequest, match=r"observation has the shape \(\d,\), and the model takes \(3,\)"):
        client(stub).act(observation)
    assert not stub.asked


def test_an_empty_batch_has_actions_of_the_right_size(stub):
    stub.document["metadata"]["signature_def"]["signature_def"]["serving_default"]["outputs"] = {
        "action": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "2"}]}}
    }
    stub.answers = [(200, {"outputs": []})]
    assert client(stub).act(np.zeros((0, 3))).shape == (0, 2)


def test_a_server_on_this_machine_is_asked_without_the_proxy(stub, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody there
    assert client(stub).act([1, 2, 3]).tolist() == [0.5]
    with pytest.raises(ServerUnavailable, match=r"through the proxy http://127\.0\.0\.1:9, which http_proxy"):
        PolicyClient("http://policy.example:8501", "policy", retries=0).act([1, 2, 3])
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    with pytest.raises(ServerUnavailable, match=r"through the proxy http://127\.0\.0\.1:9, which .* all_proxy names"):
        PolicyClient("http://policy.example:8501", "policy", retries=0).act([1, 2, 3])


def test_a_name_that_is_no_host_is_one_of_the_clients_errors():
    with pytest.raises(ServerError, match="cannot ask http://x"):
        PolicyClient("http://x..y:8501", "policy").status()


@pytest.mark.parametrize("status", [301, 302, 307])
def test_redirects_are_not_followed(stub, status, monkeypatch):
    """A POST would arrive as a GET."""
    end_headers = Handler.end_headers

    def elsewhere(handler):
        if handler.command == "POST":
            handler.send_header("Location", f"{stub.url}/elsewhere")
        end_headers(handler)

    monkeypatch.setattr(Handler, "end_headers", elsewhere)
    stub.answers = [(status, b"")]
    with pytest.raises(ServerError, match=f"HTTP {status} from"):
        client(stub).act([1, 2, 3])
    assert [command for command, *_ in stub.asked] == ["POST"]


def test_a_fork_has_a_connection_of_its_own(stub):
    with client(stub) as policy:
        policy.act([1, 2, 3])
        child = os.fork()
        if not child:
            signal.alarm(20)  # a fork of a process with threads may hang
            os._exit(int(policy.act([1, 2, 3]).tolist() != [0.5]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        policy.act([1, 2, 3])
    assert stub.connections == 2


def test_version_and_label_in_the_url(stub):
    client(stub, version=7).act([1, 2, 3])
    client(stub, label="a/b").act([1, 2, 3])
    paths = [path for _, path, _ in stub.asked]
    assert paths == ["/v1/models/policy/versions/7:predict", "/v1/models/policy/labels/a%2Fb:predict"]
    with pytest.raises(ValueError, match="not both"):
        client(stub, version=7, label="stable")


@pytest.mark.parametrize("url", ["localhost:8501", "", "http://", "ftp://host", "http://[::1:8501", "http://:8501"])
def test_url_needs_a_scheme_and_a_host(url):
    with pytest.raises(ValueError, match="http://localhost:8501"):
        PolicyClient(url, "policy")


def test_overload_is_retried(stub):
    stub.answers = [(503, {"error": "full"})] * 2 + [(200, {"outputs": [[0.5]]})]
    assert client(stub).act([1, 2, 3]).tolist() == [0.5]
    assert len(stub.asked) == 3


def test_overload_that_lasts(stub):
    stub.answers = [(503, {"error": "the queue is full"})]
    with pytest.raises(ServerUnavailable, match="the queue is full") as caught:
        client(stub, retries=2).act([1, 2, 3])
    assert caught.value.status == 503 and len(stub.asked) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, ServerError),
        (400, BadRequest),
        (404, ModelNotFound),
        (408, ServerUnavailable),
        (429, ServerUnavailable),
        (500, ServerError),
        (504, ServerError),
    ],
)
def test_errors_carry_the_servers_words_and_are_not_retried(stub, status, kind):
    stub.answers = [(status, {"error": "In[0] is not a matrix"})]
    with pytest.raises(kind, match="is not a matrix") as caught:
        client(stub).act([1, 2, 3])
    assert caught.value.status == status and caught.value.message == "In[0] is not a matrix"
    assert len(stub.asked) == 1


@pytest.mark.parametrize("answer", [b"<html>", {"predictions": []}, {"outputs": {"a": 1}}, []])
def test_answers_that_are_none(stub, answer):
    stub.answers = [(200, answer)]
    with pytest.raises(ServerError):
        client(stub).act([1, 2, 3])


def test_error_without_words(stub):
    stub.answers = [(502, b"<html>")]
    with pytest.raises(ServerError, match="HTTP 502"):
        client(stub).act([1, 2, 3])


def test_nobody_listens(stub):
    stub.shutdown()
    stub.server_close()
    start = time.monotonic()
    with pytest.raises(ServerUnavailable, match="Connection refused") as caught:
        client(stub, retries=3).act([1, 2, 3])
    assert caught.value.status is None and 0.007 <= time.monotonic() - start < 5


def test_broken_connection_is_retried(stub):
    stub.answers = [(None, 0), (200, {"outputs": [[0.5]]})]
    assert client(stub).act([1, 2, 3]).tolist() == [0.5]


def test_silence_is_not_retried(stub):
    stub.answers = [(None, 0.5)]
    with pytest.raises(ServerUnavailable, match=r"within 0\.1 s"):
        client(stub, timeout=0.1).act([1, 2, 3])
    assert len(stub.asked) == 1


def test_one_connection_and_one_look_at_the_metadata(stub):
    with client(stub) as policy:
        for _ in range(5):
            policy.act([1, 2, 3])
        stub.answers = [(200, {"model_version_status": []})]
        assert policy.status() == {"model_version_status": []}
    assert stub.connections == 1


def test_imports_little():
    code = "import sys, serve.client; print(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    heavy = ["tensorflow", "keras", "ddpg_tf", "gymnasium", "absl", "starlette", "uvicorn"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wait_that_the_server_wishes_for_is_not_kept(stub, monkeypatch):
    """Its Retry-After may be minutes; who acts needs the action, or the error, now."""
    end_headers = Handler.end_headers
    monkeypatch.setattr(
        Handler, "end_headers", lambda handler: (handler.send_header("Retry-After", "3"), end_headers(handler))
    )
    stub.answers = [(503, {"error": "full"}), (200, {"outputs": [[0.5]]})]
    start = time.monotonic()
    assert client(stub).act([1, 2, 3]).tolist() == [0.5]
    assert time.monotonic() - start < 2


def test_waits_between_retries_double_up_to_five_seconds(stub, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    stub.answers = [(503, {"error": "full"})]
    with pytest.raises(ServerUnavailable):
        PolicyClient(stub.url, "policy", retries=6, backoff=0.5).act([1, 2, 3])
    assert waits == [1, 2, 4, 5, 5]


@pytest.mark.parametrize("outputs", [[], [[0.5], [0.5]], 0.5])
def test_an_answer_that_is_not_one_action_for_each_observation_is_none(stub, outputs):
    stub.answers = [(200, {"outputs": outputs})]
    with pytest.raises(ServerError, match="to 1 observations"):
        client(stub).act([1, 2, 3])


def test_version_0_is_a_version(stub):
    client(stub, version=0).act([1, 2, 3])
    assert stub.asked[0][1] == "/v1/models/policy/versions/0:predict"


def test_a_name_may_have_any_characters(stub):
    PolicyClient(stub.url, "a b?c#d%/e").act([1, 2, 3])
    assert stub.asked[0][1] == "/v1/models/a%20b%3Fc%23d%25%2Fe:predict"


def test_closing_closes_the_connection(stub, monkeypatch):
    ended, finish = threading.Event(), Handler.finish
    monkeypatch.setattr(Handler, "finish", lambda handler: (finish(handler), ended.set()))
    with client(stub) as policy:
        policy.act([1, 2, 3])
        assert not ended.is_set()
    assert ended.wait(5)
