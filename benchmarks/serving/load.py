"""Closed-loop HTTP clients in a process of their own, light enough to share a machine with the server they ask.

Each client keeps one connection and sends its next request when the last one is answered. Every answer's status and
first bytes are checked, the numbers of one in a hundred or so are compared with what they should be.
"""

import array
import asyncio
import dataclasses
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np

WARM_UP_SECONDS = 1.0
_CHECK_EVERY = 97  # answers of all clients; prime, so that no client is left out
_TOLERANCE = 1e-5
_PATIENCE_SECONDS = 10  # for the answers that are missing at the end
_STARTS = b'{"predictions":[['
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Question:
    """A predict request.

    Attributes:
      instances: rows of the observation.
      answers: the actions that are right; several while versions change.
    """

    instances: list
    answers: list


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the clients saw after the warm-up.

    Attributes:
      seconds: from the end of the warm-up to the last answer.
      outcomes: how often which: "200", "503", ..., or in words what is wrong with an answer.
      p50, p99, worst: of the time from sending to the whole answer, of answers with status 200, in ms.
    """

    seconds: float
    outcomes: dict[str, int]
    p50: float
    p99: float
    worst: float

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    @property
    def rate(self) -> float:
        return self.outcomes.get("200", 0) / self.seconds

    @property
    def errors(self) -> int:
        return self.requests - self.outcomes.get("200", 0)


class Load:
    """Clients that ask from now on until `finish`; client i asks questions[i % len(questions)]."""

    def __init__(self, url: str, model: str, questions: Sequence[Question], clients: int):
        job = {"url": url, "model": model, "clients": clients, "questions": [vars(question) for question in questions]}
        command = [sys.executable, "-m", "benchmarks.serving.load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Summary:
        output, _ = self._process.communicate()  # closing its input stops it
        if self._process.returncode:
            raise RuntimeError("the load generator failed")
        return Summary(**json.loads(output))


def measure(url: str, model: str, questions: Sequence[Question], clients: int, seconds: float) -> Summary:
    """Asks for `seconds` after a warm-up."""
    load = Load(url, model, questions, clients)
    time.sleep(WARM_UP_SECONDS + seconds)
    return load.finish()


class _Tally:
    """Outcomes and latencies of all clients."""

    def __init__(self):
        self.stopping = False
        self.waiting: set[_Client] = set()  # those that have a connection
        self.reset()

    def reset(self):
        self.started = self.ended = time.perf_counter()
        self.outcomes: Counter[str] = Counter()
        self.latencies = array.array("f")

    def answered(self, sent: float, outcome: str):
        self.ended = time.perf_counter()
        self.outcomes[outcome] += 1
        if outcome == "200":
            self.latencies.append(self.ended - sent)

    def summary(self) -> Summary:
        milliseconds = np.array(self.latencies if len(self.latencies) else [np.nan]) * 1000
        p50, p99, worst = (float(np.quantile(milliseconds, q)) for q in (0.5, 0.99, 1))
        return Summary(self.ended - self.started, dict(self.outcomes), p50, p99, worst)


class _Client(asyncio.Protocol):
    """One connection, one question, asked again and again."""

    def __init__(self, tally: _Tally, request: bytes, answers: np.ndarray):
        self._tally, self._request, self._answers = tally, request, answers
        self._received, self._sent = b"", None
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport):
        self._transport = transport
        self._tally.waiting.add(self)
        self._ask()

    def data_received(self, data: bytes):
        self._received += data
        head = self._received.find(b"\r\n\r\n") + 4
        if head < 4:
            return
        length = _LENGTH.search(self._received, 0, head)
        if not length or len(self._received) < head + int(length[1]):
            return
        self._tally.answered(self._sent, self._outcome(self._received[9:12], self._received[head:]))
        self._received, self._sent = b"", None
        if self._tally.stopping:
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, error: Exception | None):
        self._tally.waiting.discard(self)
        if self._sent is not None:
            self._tally.answered(self._sent, "no answer")
        self.closed.set_result(None)

    def abort(self):
        self._transport.abort()

    def _ask(self):
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def _outcome(self, status: bytes, body: bytes) -> str:
        if status != b"200":
            return status.decode("latin-1")
        if not body.startswith(_STARTS):
            return "not an answer"
        if len(self._tally.latencies) % _CHECK_EVERY == 0:
            found = np.array(json.loads(body)["predictions"])
            if not any(np.allclose(found, answer, rtol=0, atol=_TOLERANCE) for answer in self._answers):
                return "wrong numbers"
        return "200"


async def _keep_asking(tally: _Tally, host: str, port: int, request: bytes, answers: np.ndarray):
    """A client that connects again whenever it loses its connection."""
    loop = asyncio.get_running_loop()
    while not tally.stopping:
        try:
            _, client = await loop.create_connection(lambda: _Client(tally, request, answers), host, port)
        except OSError as error:
            tally.answered(0.0, f"cannot connect: {error.strerror}")
            await asyncio.sleep(0.1)
            continue
        await client.closed


async def _work(job: dict) -> Summary:
    address, tally = urlsplit(job["url"]), _Tally()
    tasks = []
    for i in range(job["clients"]):
        question = job["questions"][i % len(job["questions"])]
        body = json.dumps({"instances": question["instances"]}).encode()
        head = (
            f"POST /v1/models/{job['model']}:predict HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        tasks.append(
            asyncio.create_task(
                _keep_asking(tally, address.hostname, address.port, head.encode() + body, np.array(question["answers"]))
            )
        )
    told_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), told_to_stop.set)
    await asyncio.sleep(WARM_UP_SECONDS)
    tally.reset()
    await told_to_stop.wait()
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    tally.stopping = True
    await asyncio.wait(tasks, timeout=_PATIENCE_SECONDS)
    for client in list(tally.waiting):
        client.abort()  # and counts what it waits for
    await asyncio.gather(*tasks)
    return tally.summary()


def _main():
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = None
    job = json.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        print(json.dumps(dataclasses.asdict(runner.run(_work(job)))))


if __name__ == "__main__":
    _main()
