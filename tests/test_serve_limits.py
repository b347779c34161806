"""What the embedded server refuses, and what it tells of itself: batching limits, overload, bodies, CORS, metrics."""

import asyncio
import contextlib
import gzip
import json
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving import GOOD, PREDICT, address, ask, model, server, slow_model, start

from serve.local import http as http_module
from serve.local import protocol
from serve.local import server as server_module
from serve.local.batching import Coalescer
from serve.local.config import Batching, Loading
from serve.local.errors import ServingError
from serve.local.json_text import parse


class Gated:
    """Doubles its rows of three, when it may; notes how many rows each call had."""

    batched = True

    def __init__(self):
        self.calls, self.gate = [], threading.Event()
        self.gate.set()

    def run(self, feeds):
        assert self.gate.wait(20)
        self.calls.append(len(feeds[0]))
        return [2 * feeds[0]]


def rows(count):
    return [np.arange(3 * count, dtype=np.float32).reshape(count, 3)]


def story(limits, play):
    """Runs `play(run, signature)`, where run(feeds) asks a queue with these limits."""

    async def main():
        with ThreadPoolExecutor(limits.threads) as executor:
            signature = Gated()
            await play(Coalescer(signature, executor, limits).run, signature)

    asyncio.run(main())


STRICT = Batching(max_batch_size=8, max_enqueued_batches=2, strict=True)


def test_full_queue_refuses_and_recovers():
    async def play(run, signature):
        signature.gate.clear()
        tasks = [asyncio.create_task(run(rows(8))) for _ in range(5)]
        await asyncio.sleep(0.05)  # one computes, two wait
        refused = [task for task in tasks if task.done()]
        assert len(refused) == 2
        for task in refused:
            with pytest.raises(ServingError, match="2 batches enqueued and max_enqueued_batches is 2") as error:
                await task
            assert error.value.http_status == 503
        signature.gate.set()
        for task in set(tasks) - set(refused):
            np.testing.assert_array_equal((await task)[0], 2 * rows(8)[0])
        np.testing.assert_array_equal((await run(rows(8)))[0], 2 * rows(8)[0])

    story(STRICT, play)


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        (rows(9), "Task size 9 is larger than maximum input batch size 8"),
        ([np.float32(1)], "Batching Run() input tensors must have at least one dimension"),
        ([*rows(2), *rows(3)], "Batching Run() input tensors must have equal 0th-dimension size"),
    ],
)
def test_batching_refuses_what_tf_serving_refuses(feeds, text):
    async def play(run, signature):
        with pytest.raises(ServingError, match=re.escape(text)) as error:
            await run([np.asarray(feed) for feed in feeds])
        assert error.value.http_status == 400 and not signature.calls

    story(STRICT, play)


def test_no_rows_while_batching_is_on():
    """TF Serving hangs for ever here."""

    async def play(run, signature):
        assert (await asyncio.wait_for(run(rows(0)), 10))[0].shape == (0, 3)

    story(Batching(strict=True), play)


def test_batch_timeout_waits_for_company_but_not_for_ever():
    async def play(run, signature):
        started = time.monotonic()
        first = asyncio.create_task(run(rows(1)))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, run(rows(2)))
        assert signature.calls == [3] and time.monotonic() - started >= 1
        started = time.monotonic()
        await run(rows(8))  # full: goes at once
        assert time.monotonic() - started < 1

    story(Batching(max_batch_size=8, timeout=1, strict=True), play)


def test_full_batches_do_not_wait_for_company():
    async def play(run, signature):
        started = time.monotonic()
        await asyncio.gather(run(rows(5)), run(rows(5)), run(rows(8)))  # none can join another; the last is full
        assert time.monotonic() - started < 1

    story(Batching(max_batch_size=8, timeout=3, strict=True), play)


def test_a_batch_that_fills_up_goes_at_once():
    async def play(run, signature):
        started = time.monotonic()
        first = asyncio.create_task(run(rows(5)))
        await asyncio.sleep(0.05)  # it waits for company
        await asyncio.gather(first, run(rows(3)))
        assert signature.calls == [8] and time.monotonic() - started < 2

    story(Batching(max_batch_size=8, timeout=3, strict=True), play)


def test_who_waits_for_company_holds_up_no_other_model():
    async def main():
        limits = Batching(max_batch_size=8, timeout=5, strict=True)
        with ThreadPoolExecutor(1) as executor:
            waiting, full = (Coalescer(Gated(), executor, limits).run for _ in range(2))
            task = asyncio.create_task(waiting(rows(1)))
            await asyncio.sleep(0.05)
            await asyncio.wait_for(full(rows(8)), 2)
            assert not task.done()
            await asyncio.gather(task, waiting(rows(7)))  # now it is full too

    asyncio.run(main())


def test_batches_run_side_by_side():
    async def play(run, signature):
        signature.gate.clear()
        tasks = [asyncio.create_task(run(rows(8))) for _ in range(2)]
        await asyncio.sleep(0.05)
        fitting = asyncio.create_task(run(rows(8)))  # both calls have left the queue: it has room for two more
        signature.gate.set()
        await asyncio.gather(*tasks, fitting)

    story(Batching(max_batch_size=8, max_enqueued_batches=1, threads=2, strict=True), play)


def test_timeout_of_a_batch_is_everyones_and_not_tried_again():
    class Slow(Gated):
        def run(self, feeds):
            super().run(feeds)
            raise ServingError("DEADLINE_EXCEEDED", "Timed out waiting for notification")

    async def main():
        with ThreadPoolExecutor(1) as executor:
            signature, gate = Slow(), threading.Event()
            executor.submit(gate.wait)  # until both wait
            run = Coalescer(signature, executor, Batching()).run
            tasks = [asyncio.create_task(run(rows(count))) for count in (1, 2)]
            await asyncio.sleep(0.01)
            gate.set()
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert {error.http_status for error in errors} == {504} and signature.calls == [3]

    asyncio.run(main())


# --- Over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(directory):
    """A server with everything on."""
    limits = Batching(max_batch_size=8, max_enqueued_batches=1, strict=True)
    return start([model("actor", directory / "actor")], batching=limits, metrics_path="/metrics", cors=True)


def test_a_request_larger_than_a_batch(url):
    answer = ask(url, PREDICT, json.dumps({"instances": [[1, 2, 3]] * 9}))
    assert (answer.status, answer.error) == (400, "Task size 9 is larger than maximum input batch size 8")


def test_overload_over_http_then_recovery(url):
    body = json.dumps({"inputs": [[1, 2, 3]] * 8})
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(url, PREDICT, body), range(320)))
    assert {answer.status for answer in answers} <= {200, 503}
    assert sum(answer.status == 200 for answer in answers) > 10
    assert sum(answer.status == 503 for answer in answers) > 0
    assert all("queue" in answer.error for answer in answers if answer.status == 503)
    assert ask(url, PREDICT, GOOD).status == 200


def test_busy_server_says_so(url, monkeypatch):
    monkeypatch.setattr(http_module, "_MAX_ACTIVE", 0)
    answer = ask(url, PREDICT, GOOD)
    assert (answer.status, answer.error) == (503, "the server is busy with 0 requests")
    monkeypatch.undo()
    assert ask(url, PREDICT, GOOD).status == 200


@contextlib.contextmanager
def connection(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        yield sock


def read_answer(sock):
    text = b""
    while b"\r\n\r\n" not in text:
        text += sock.recv(65536)
    head, _, body = text.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    while len(body) < length:
        body += sock.recv(65536)
    return head.decode(), body.decode()


@pytest.mark.parametrize("declared", [True, False])
def test_body_that_is_too_large(url, declared):
    size = 100 * 2**20
    with connection(url) as sock:
        if declared:  # refused before it is sent
            sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        else:
            sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
            for _ in range(33):
                sock.sendall(chunk)
        head, body = read_answer(sock)
    assert head.startswith("HTTP/1.1 413") and "exceeds 32 MB" in body
    assert ask(url, PREDICT, GOOD).status == 200


def test_body_that_inflates_too_much(url):
    answer = ask(url, PREDICT, gzip.compress(b" " * 40 * 2**20), headers={"Content-Encoding": "gzip"})
    assert answer.status == 413


def test_body_that_trickles(url, monkeypatch):
    monkeypatch.setattr(http_module, "_BODY_SECONDS", 0.5)
    with connection(url) as sock:
        sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        started = time.monotonic()
        while time.monotonic() - started < 0.4:  # it does not count that something comes
            sock.sendall(b" ")
            time.sleep(0.1)
        head, body = read_answer(sock)
        assert head.startswith("HTTP/1.1 408") and "connection: close" in head.lower()
        assert "took more than 0.5 s" in body
        assert not sock.recv(1)  # closed
    assert ask(url, PREDICT, GOOD).status == 200


def requests_counted(url):
    return sum(int(line.split()[-1]) for line in ask(url, "/metrics").text.splitlines() if "request_count{" in line)


def test_client_that_leaves_half_way(url):
    before = requests_counted(url)
    with connection(url) as sock:
        sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
    time.sleep(0.1)
    assert ask(url, PREDICT, GOOD).status == 200
    assert requests_counted(url) == before + 1  # only what was answered


@pytest.mark.parametrize("requests", [1, 3])
def test_client_that_sends_no_more_gets_its_answers(url, requests):
    """As `nc -N`, which shuts its sending side at once."""
    request = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n\r\n{GOOD}"
    with connection(url) as sock:
        sock.sendall(requests * request.encode())
        sock.shutdown(socket.SHUT_WR)
        text = b"".join(iter(lambda: sock.recv(65536), b""))  # until the server closes
    assert text.count(b"HTTP/1.1 200") == text.count(b"3.80000019") == requests


def test_client_that_stops_sending_half_way_is_not_waited_for(url):
    with connection(url) as sock:
        sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
        sock.shutdown(socket.SHUT_WR)
        assert not sock.recv(1)


def test_too_much_arriving_at_a_time(url, monkeypatch):
    monkeypatch.setattr(http_module, "_MAX_ARRIVING", 1000)
    with connection(url) as sock:
        sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{'x' * 900}".encode())
        time.sleep(0.1)
        answer = ask(url, PREDICT, GOOD + " " * 200)
        assert (answer.status, answer.error) == (503, "the server is busy with large requests")
    time.sleep(0.1)
    assert ask(url, PREDICT, GOOD).status == 200


def test_head_that_never_ends(url, monkeypatch):
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.3)
    for beginning in (b"", b"GET /v1/mod"):
        with connection(url) as sock:
            sock.sendall(beginning)
            assert not sock.recv(1)  # closed
    with connection(url) as sock:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                sock.sendall(b"GET /v1/models/actor HTTP/1.1\r\n" if _ == 0 else b"x: " + b"y" * 10_000)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(65536).startswith(b"HTTP/1.1 400")


def test_gzip_cut_short(url):
    body = gzip.compress(GOOD.encode())[:-4]
    answer = ask(url, PREDICT, body, headers={"Content-Encoding": "gzip"})
    assert answer.status == 400 and answer.error.startswith("JSON Parse error: ")


def test_large_body_that_is_not_json_does_not_stop_the_others(url):
    body = '{"instances": [' + "[1, 2, 3], " * 700_000
    started = time.monotonic()
    with pytest.raises(ServingError):
        parse(body.encode())
    alone = time.monotonic() - started  # so long Python's parser keeps other threads waiting
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(ask, url, PREDICT, body)
        slowest = 0.0
        while not large.done():
            started = time.monotonic()
            assert ask(url, PREDICT, GOOD).status == 200
            slowest = max(slowest, time.monotonic() - started)
    assert large.result().status == 400 and large.result().error.startswith("JSON Parse error: ")
    assert slowest < max(2, 4 * alone)


def test_timeout_over_http(tmp_path):
    slow_model(tmp_path / "1")
    url = start([model("slow", tmp_path)], loading=Loading(timeout_ms=200))
    answer = ask(url, "/v1/models/slow:predict", '{"instances": [1]}')
    assert answer.status == 504 and answer.error.startswith("Timed out")


def test_sigterm_answers_what_is_in_flight(tmp_path):
    """Here the call that runs, which ends in a timeout; then the process is gone, with status 0."""
    slow_model(tmp_path / "1")
    with server(f"--model_base_path={tmp_path}", "--rest_api_timeout_in_ms=2000") as process:
        url = address(process)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, url, "/v1/models/default:predict", '{"instances": [1]}')
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert answer.result().status == 504
        assert process.wait(10) == 0
        assert process.stdout.read() == ""


def test_a_server_whose_output_nobody_reads_goes_on_to_its_end(tmp_path):
    """It follows versions, and what outlasts the time for draining is told so."""
    slow_model(tmp_path / "1")
    code = "from serve.local import __main__, server; server._DRAIN_SECONDS = 0.2; __main__.run(__main__.main)"
    with server(f"--model_base_path={tmp_path}", command=("-c", code)) as process:
        url = address(process)
        process.stdout.close()
        for version in (2, 3):
            shutil.copytree(tmp_path / "1", tmp_path / "partial")
            (tmp_path / "partial").rename(tmp_path / str(version))
            deadline = time.monotonic() + 30
            while ask(url, f"/v1/models/default/versions/{version}/metadata").status != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, url, "/v1/models/default:predict", '{"instances": [1]}')
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert (answer.result().status, answer.result().error) == (503, "the server is stopping")
        assert process.wait(10) == 0


def test_connection_stays_open_and_takes_requests_ahead(url):
    request = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n\r\n{GOOD}".encode()
    with connection(url) as sock:
        sock.sendall(2 * request)
        text = b""
        while text.count(b"predictions") < 2:
            text += sock.recv(65536)
        time.sleep(0.2)
        sock.sendall(request)
        assert "predictions" in read_answer(sock)[1]


def test_many_requests_ahead_are_no_long_head(url):
    request = b"GET /v1/models/actor HTTP/1.1\r\nHost: x\r\nX-Filling: %b\r\n\r\n" % (b"y" * 1000)
    with connection(url) as sock:
        sock.sendall(150 * request + request[:100])
        text = b""
        while text.count(b"model_version_status") < 150 and b"HTTP/1.1 400" not in text:
            text += sock.recv(65536)
        sock.sendall(request[100:])
        assert read_answer(sock)[0].startswith("HTTP/1.1 200")


@pytest.mark.parametrize("split", [False, True])
def test_offer_to_upgrade_the_connection_is_not_taken(url, split):
    """As `curl --http2` makes it."""
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: {len(GOOD)}\r\n\r\n"
    )
    with connection(url) as sock:
        for _ in range(2):
            sock.sendall(head.encode() + (b"" if split else GOOD.encode()))
            if split:
                time.sleep(0.1)
                sock.sendall(GOOD.encode())
            answer, body = read_answer(sock)
            assert answer.startswith("HTTP/1.1 200") and "3.80000019" in body


@pytest.mark.parametrize("arrived", ["\r", "\r\n", "\r\nU", "\r\nUpgr", "\r\nUpgrade", "\r\nUpgrade:"])
def test_an_offer_to_upgrade_may_arrive_in_two_parts(url, arrived):
    offer = "\r\nUpgrade: h2c"
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings{offer}\r\n"
        f"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: {len(GOOD)}\r\n\r\n"
    )
    cut = head.index(offer) + len(arrived)
    with connection(url) as sock:
        for _ in range(2):
            sock.sendall(head[:cut].encode())
            time.sleep(0.05)
            sock.sendall(head[cut:].encode() + GOOD.encode())
            answer, body = read_answer(sock)
            assert answer.startswith("HTTP/1.1 200") and "3.80000019" in body


@pytest.mark.parametrize("late", [False, True])
def test_what_is_not_http_after_a_request_does_not_cost_its_answer(url, late):
    request = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n\r\n{GOOD}".encode()
    with connection(url) as sock:
        sock.sendall(request if late else request + b"}}\r\n\r\n")
        head, body = read_answer(sock)
        if late:
            sock.sendall(b"}}\r\n\r\n")
        assert head.startswith("HTTP/1.1 200") and "3.80000019" in body
        sock.settimeout(10)
        rest = b"".join(iter(lambda: sock.recv(65536), b""))  # until the server closes
        assert rest.startswith(b"HTTP/1.1 400") == late


def test_an_idle_connection_is_closed_whatever_came_last(directory, monkeypatch):
    """Also a line end after an answer, or the rest of a body that was answered before it was there."""
    monkeypatch.setattr(server_module, "_KEEP_ALIVE_SECONDS", 0.3)
    url = start([model("actor", directory / "actor")])
    for request, more in (
        (b"GET /v1/models/actor HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        (b"GET /v1/models/actor HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
        (b"POST /v1/nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", b"{" * 900),
    ):
        with connection(url) as sock:
            sock.settimeout(10)
            sock.sendall(request)
            read_answer(sock)
            sock.sendall(more)
            assert not sock.recv(1)  # closed


def test_what_is_not_http(url):
    with connection(url) as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        head, body = read_answer(sock)
        assert head.startswith("HTTP/1.1 400") and "<H1>Bad Request</H1>" in body
        assert not sock.recv(1)


def test_head_answers_without_a_body(url):
    """TF Serving sends one, without its length: the next answer on the connection is then misread."""
    with connection(url) as sock:
        for method in (b"HEAD", b"GET"):
            sock.sendall(method + b" /v1/models/actor HTTP/1.1\r\nHost: x\r\n\r\n")
        text = b""
        while b"model_version_status" not in text:
            text += sock.recv(65536)
    assert re.fullmatch(rb"HTTP/1.1 400 .*?\r\n\r\nHTTP/1.1 200 .*", text, re.S)


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/actor", "/v1/models/nope"])
def test_cors(url, directory, path):
    body = GOOD if path == PREDICT else None
    headers = ask(url, path, body).headers
    assert headers["access-control-allow-origin"] == "*" and headers["access-control-allow-methods"] == "POST, GET"
    assert headers["access-control-allow-headers"] == "Content-Type"


@pytest.mark.parametrize(("headers", "status"), [({"Origin": "https://a.b"}, 200), ({}, 400)])
def test_options(url, headers, status):
    answer = ask(url, PREDICT, method="OPTIONS", headers=headers)
    assert (answer.status, answer.text) == (status, "")
    assert answer.headers["access-control-allow-origin"] == "*"  # else browsers do not send the request


def test_metrics(directory):
    url = start([model("actor", directory / "actor")], metrics_path="/metrics")
    for _ in range(3):
        ask(url, PREDICT, GOOD)
    ask(url, PREDICT, "{")
    ask(url, "/v1/models/actor")
    ask(url, "/v1/models/nope")
    assert ask(url, "/metrics?x=1").status == 404
    answer = ask(url, "/metrics")
    assert answer.status == 200 and answer.content_type.startswith("text/plain")
    samples = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert samples[':tensorflow:serving:request_count{model_name="actor",status="OK"}'] == "4"
    assert samples[':tensorflow:serving:request_count{model_name="actor",status="INVALID_ARGUMENT"}'] == "1"
    assert "nope" not in answer.text  # names that anyone can make up take no memory
    labels = 'model_name="actor",API="predict",entrypoint="REST"'
    buckets = [
        float(value)
        for name, value in samples.items()
        if name.startswith(f":tensorflow:serving:request_latency_bucket{{{labels},le=")
    ]
    assert len(buckets) == 34 and buckets == sorted(buckets) and buckets[-1] == 3
    assert samples[f':tensorflow:serving:request_latency_bucket{{{labels},le="+Inf"}}'] == "3"
    assert samples[f":tensorflow:serving:request_latency_count{{{labels}}}"] == "3"
    assert 100 < float(samples[f":tensorflow:serving:request_latency_sum{{{labels}}}"]) < 60e6  # microseconds
    assert "# TYPE :tensorflow:serving:request_latency histogram" in answer.text


def test_no_metrics_and_no_cors_unless_asked_for(directory):
    url = start([model("actor", directory / "actor")])
    answer = ask(url, "/monitoring/prometheus/metrics")
    assert answer.status == 404 and "<H1>Not Found</H1>" in answer.text
    assert "access-control-allow-origin" not in ask(url, PREDICT, GOOD).headers


def test_clients_that_leave_half_way_take_no_place(url, monkeypatch):
    monkeypatch.setattr(http_module, "_MAX_ACTIVE", 3)
    for _ in range(4):
        with connection(url) as sock:
            sock.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
            time.sleep(0.05)
    time.sleep(0.1)
    assert ask(url, PREDICT, GOOD).status == 200


def test_metrics_tell_status_and_metadata_from_predictions(url):
    ask(url, "/v1/models/actor/metadata")
    assert 'request_latency_count{model_name="actor",API="",entrypoint="REST"}' in ask(url, "/metrics").text


def test_who_gives_up_does_not_cost_the_others_their_answers():
    async def play(run, signature):
        signature.gate.clear()
        first = asyncio.create_task(run(rows(3)))
        await asyncio.sleep(0.02)  # it computes; the next two wait together
        gone, stays = (asyncio.create_task(run(rows(count))) for count in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        signature.gate.set()
        np.testing.assert_array_equal((await asyncio.wait_for(stays, 3))[0], 2 * rows(2)[0])
        await first
        assert signature.calls == [3, 3]

    story(Batching(), play)
