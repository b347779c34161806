"""What the tests of the embedded server share: models, servers in threads, plain requests."""

import asyncio
import contextlib
import http.client
import importlib.util
import json
import pathlib
import re
import threading

from conftest import process

from ddpg_tf._tf import tf
from serve.local.__main__ import bind
from serve.local.config import ModelConfig
from serve.local.http import Api
from serve.local.models import Models
from serve.local.server import serve

DATA = pathlib.Path(__file__).parent / "data"
PREDICT = "/v1/models/actor:predict"
GOOD = '{"instances": [[1, 2, 3]]}'

spec = importlib.util.spec_from_file_location("make_models", DATA / "make_models.py")
make_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_models)


def start(configs, *, batching=None, loading=None, free_labels=False, **api):
    """The URL of a server of these models, in a thread that ends with the process."""
    sock = bind("127.0.0.1", 0)
    up = threading.Event()

    def log(line):
        if line.startswith("serving"):
            up.set()

    async def run():
        models = Models(log, batching, loading, free_labels)
        models.configure(configs)
        await serve(Api(models, **api), models, sock, log)

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    assert up.wait(30)  # the time the recordings' models.config may take
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


def server(*flags, command=("-m", "serve.local")):
    """`python -m serve.local` with these flags on a free port, as conftest's `process`."""
    return process(*command, "--rest_api_port=0", *flags)


def address(server):
    """The URL that a starting server prints."""
    said = ""
    for line in server.stdout:
        said += line
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError(said)


def model(name, base_path, **options):
    return ModelConfig(name, str(base_path), **options)


def slow_model(version):
    """Saves a model, in that version directory, whose every call takes minutes."""

    class Slow(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def serve(self, x):
            return {"y": tf.while_loop(lambda i, y: i < 10**9, lambda i, y: (i + 1, tf.sin(y)), [0, x])[1]}

    module = Slow()
    tf.saved_model.save(module, str(version), signatures={"serving_default": module.serve})


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.content_type = self.headers.get("content-type")
        self.text = response.read().decode()

    @property
    def error(self):
        return json.loads(self.text)["error"]


def ask(url, path, body=None, method=None, headers=None):
    """One request, its path sent as it is."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        data = body.encode() if isinstance(body, str) else body
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
        return Answer(connection.getresponse())
