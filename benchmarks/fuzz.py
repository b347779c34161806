"""Random HTTP requests: recorded ones, mutated ones, and what is no HTTP at all; what a server makes of them.

Request k is a function of (seed, k) alone, so whatever a server does not survive can be sent to it again.
"""

import dataclasses
import gzip
import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

_SECONDS = 10  # a server that has said nothing by then hangs
_THREADS = 4
_MODELS = (
    "actor",
    "multi",
    "types",
    "xla",
    "xla_inner",
    "nodefault",
    "nosig",
    "keras_export",
    "keras_export_dict",
    "keras_tfsave",
    "nope",
    "%61ctor",
    "%zz",
    "",
)
_TYPES = (
    "f32",
    "f64",
    "i32",
    "i64",
    "u8",
    "i8",
    "i16",
    "u16",
    "u32",
    "u64",
    "b",
    "s",
    "f16",
    "bf16",
    "c64",
    "bytes",
    "f32_anyrank",
    "i32_anyrank",
    "f32_scalar",
    "i32_scalar",
    "empty_out",
    "assert_finite",
    "no_inputs",
    "x",
)
_WHICH = (
    "",
    "",
    "",
    "/versions/1",
    "/versions/2",
    "/versions/02",
    "/versions/-1",
    "/versions/9223372036854775808",
    "/versions/" + "9" * 400,
    "/labels/stable",
    "/labels/canary",
    "/labels/ghost",
    "/labels/%00",
    "/labels/",
)
_ACTIONS = (
    ":predict",
    ":predict",
    ":predict",
    ":classify",
    ":regress",
    ":PREDICT",
    "",
    "/metadata",
    "/METADATA",
    ":predict?x=1",
    "/",
    ":",
)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "X-Y", "CONNECT")
_TOKENS = (
    "NaN",
    "-Infinity",
    "Inf",
    "nan",
    "1e39",
    "1e400",
    "-1e400",
    "1e-400",
    "9" * 400,
    "-" + "9" * 5000,
    "0.1e",
    "-",
    "01",
    "-0",
    "5e-324",
    "18446744073709551616",
    "-9223372036854775809",
    "2147483648",
    "3.0",
    "true",
    "null",
    '""',
    '"a"',
    r'"\ud800"',
    r'"\u0000"',
    '"\x80\xff"',
    "[]",
    "{}",
    "[[]]",
    "[[1], [1, 2]]",
    '{"b64": "AP8"}',
    '{"b64": "!"}',
    '{"b64": 1}',
    '{"b64": "AA", "x": 1}',
    '{"state": [1, 2, 3]}',
)
_KEYS = ("instances", "inputs", "signature_name", "state", "examples", "x", "a", "b", "", "\0")
_HARMLESS = (
    "Content-Type: text/plain; charset=utf-16",
    "Accept: image/png",
    "Accept-Encoding: gzip, br",
    "Range: x",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Cookie: " + "c" * 5000,
    "Authorization: Basic !",
    "X-HTTP-Method-Override: DELETE",
)
_ODD_HEADERS = (
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Content-Encoding: GZIP",
    "Expect: 200-ok",
    "Origin: http://x",
    "Host: a b",
    "X-\x80: \xff",
)


@dataclasses.dataclass
class _Request:
    method: str
    target: str
    headers: list[str]
    body: bytes
    like: int | None = None  # the recording that this still is, to a server


@dataclasses.dataclass(frozen=True)
class Shot:
    """Bytes to send.

    Attributes:
      whole: they are one request with right framing, which must be answered; else the connection may just be closed.
      like: the recording whose status the answer must have, if only framing and headers without a meaning differ.
    """

    data: bytes
    whole: bool
    method: str
    like: int | None


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the requests.

    Attributes:
      outcomes: how often which status; "closed": nothing but the end of the connection, "hang": nothing for 10
        seconds, "no HTTP".
      faults: a line for each whole request without an answer or with another status than the recording it is like,
        each hang, and each 5xx that TF Serving would not give.
    """

    outcomes: Counter[str]
    faults: list[str]


def plain_statuses(url: str, recordings: Sequence[dict]) -> list[str]:
    """The outcome of each recording as it is."""
    found = []
    for index in range(len(recordings)):
        with _connect(url) as connection:
            found.append(_exchange(connection, _plain(random.Random(0), _recorded(recordings, index)))[0])
    return found


def fire(url: str, recordings: Sequence[dict], statuses: Sequence[str], seed: int, numbers: range) -> Report:
    """Sends the requests of these numbers, a few at a time; `statuses` are those of `plain_statuses`."""
    report = Report(Counter(), [])
    with ThreadPoolExecutor(_THREADS) as pool:
        shares = [pool.submit(_fire, url, recordings, statuses, seed, numbers[i::_THREADS]) for i in range(_THREADS)]
        for share in shares:
            report.outcomes.update(share.result().outcomes)
            report.faults.extend(share.result().faults)
    return report


def shot(recordings: Sequence[dict], seed: int, number: int) -> Shot:
    """Request `number`."""
    rng = random.Random(f"{seed}/{number}")
    request = _tensor(rng) if rng.random() < 0.2 else _recorded(recordings, rng.randrange(len(recordings)))
    mutations = (_mutate_bytes, _mutate_json, _mutate_json, _mutate_target, _mutate_method, _mutate_headers)
    for mutate in rng.sample(mutations, rng.choice((0, 1, 1, 1, 2))):
        mutate(rng, request)
        if mutate is not _mutate_headers:
            request.like = None
    frame = rng.choice((_plain,) * 7 + (_chunked, _gzipped, _cut, _misframed, _garbage))
    return frame(rng, request)


# --- What is asked ------------------------------------------------------------------------------------------------


def _recorded(recordings: Sequence[dict], index: int) -> _Request:
    sent = recordings[index]
    headers = [f"{name}: {value}" for name, value in sent["headers"].items()]
    return _Request(sent["method"], sent["path"], headers, (sent["body"] or "").encode(), index)


def _tensor(rng: random.Random) -> _Request:
    """A tensor of any shape and content for a signature of the model that has all types."""
    document = {"signature_name": rng.choice(_TYPES), rng.choice(("instances", "inputs")): _list(rng, rng.randrange(4))}
    return _Request("POST", "/v1/models/types:predict", [], json.dumps(document).encode())


def _list(rng: random.Random, depth: int):
    if depth:
        return [_list(rng, depth - (rng.random() < 0.98)) for _ in range(rng.choice((0, 1, 2, 3)))]
    return rng.choice((0, 1, -1, 256, 2.5, 1e30, True, "text", "AP8=", {"b64": "AP8="}, None, rng.getrandbits(70)))


def _mutate_bytes(rng: random.Random, request: _Request):
    body = bytearray(request.body)
    for _ in range(rng.choice((1, 1, 2, 20))):
        start = rng.randrange(len(body) + 1)
        end = start + rng.choice((0, 1, 1, 2, 50))
        body[start:end] = rng.choice(
            (b"", rng.randbytes(1), rng.randbytes(9), b"[", b"]", b'"', b",", b"\\u", bytes(body[start:end]) * 3)
        )
    request.body = bytes(body)


def _mutate_json(rng: random.Random, request: _Request):
    """Puts something else in the place of one value or one key."""
    try:
        document = {"document": json.loads(request.body)}
        container, key = rng.choice(list(_places(document)))
    except (ValueError, RecursionError):  # another mutation has been at it
        return
    if isinstance(container, dict) and container is not document and rng.random() < 0.3:
        container[rng.choice(_KEYS)] = container.pop(key)
    else:
        container[key] = "@"
    depth = rng.choice((3, 70, 900, 100_000))
    token = rng.choice(
        (
            *_TOKENS,
            *_TOKENS,
            "[" * depth + "]" * depth,
            "[" * depth,
            '{"a":' * depth,
            "[" + ",".join(["0.5"] * depth) + "]",
        )
    )
    request.body = json.dumps(document["document"]).encode().replace(b'"@"', token.encode("latin-1"))


def _places(container):
    """(container, key) of every value inside."""
    for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
        yield container, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _mutate_target(rng: random.Random, request: _Request):
    if rng.random() < 0.7:
        request.target = f"/v1/models/{rng.choice(_MODELS)}{rng.choice(_WHICH)}{rng.choice(_ACTIONS)}"
    else:
        at = rng.randrange(len(request.target) + 1)
        inserted = rng.choice(("/", ":", "%", "%00", "%ff", "?", "#", " ", "\x00", "\x80", "a" * 20_000, "..", "//"))
        request.target = request.target[:at] + inserted + request.target[at + rng.randrange(3) :]


def _mutate_method(rng: random.Random, request: _Request):
    request.method = rng.choice(_METHODS)


def _mutate_headers(rng: random.Random, request: _Request):
    added = rng.sample(_HARMLESS + _ODD_HEADERS, rng.choice((1, 2)))
    request.headers.extend(added)
    if not set(added) <= set(_HARMLESS):
        request.like = None


# --- How it is sent -----------------------------------------------------------------------------------------------


def _encode(request: _Request, framing: Sequence[str], body: bytes, newline: str = "\r\n") -> bytes:
    lines = [f"{request.method} {request.target} HTTP/1.1", "Host: localhost", *request.headers, *framing, "", ""]
    return newline.join(lines).encode("latin-1") + body


def _plain(rng: random.Random, request: _Request) -> Shot:
    framing = [f"Content-Length: {len(request.body)}"] if request.body or request.method == "POST" else []
    return Shot(_encode(request, framing, request.body), True, request.method, request.like)


def _gzipped(rng: random.Random, request: _Request) -> Shot:
    packed = gzip.compress(request.body + rng.choice((b"", b" " * 1_000_000)), 1, mtime=0)
    damaged = (packed, packed[:-9], packed[:12] + rng.randbytes(20), rng.randbytes(30), packed + b"more", packed * 2)
    request.body = rng.choice(damaged)
    if request.body is not packed:
        request.like = None
    request.headers.append("Content-Encoding: gzip")
    return _plain(rng, request)


def _chunked(rng: random.Random, request: _Request) -> Shot:
    body, at = b"", 0
    while at < len(request.body):
        chunk = request.body[at : at + rng.choice((1, 10, 1000)) * (1 + len(request.body) // 1000)]
        at += len(chunk)
        body += f"{len(chunk):x}{rng.choice(('', '', ';a=b'))}\r\n".encode() + chunk + b"\r\n"
    body += b"0\r\n" + rng.choice((b"", b"X-Trailer: 1\r\n")) + b"\r\n"
    return Shot(_encode(request, ["Transfer-Encoding: chunked"], body), True, request.method, request.like)


def _cut(rng: random.Random, request: _Request) -> Shot:
    data = rng.choice((_plain, _chunked))(rng, request).data
    return Shot(data[: rng.randrange(len(data))], False, request.method, None)


def _misframed(rng: random.Random, request: _Request) -> Shot:
    """Lengths that are wrong or contradict each other, chunks that are none, odd newlines."""
    size = len(request.body)
    framing = rng.choice(
        (
            [f"Content-Length: {rng.choice((-1, size - 1, size + 1, size + 10**6, 2**64, 'x', '+1', '1, 2', ''))}"],
            [f"Content-Length: {size}", f"Content-Length: {size + 1}"],
            ["Transfer-Encoding: gzip"],
            ["no colon"],
            [f"Content-Length: {size}", "Transfer-Encoding: chunked"],
            ["Transfer-Encoding: chunked, gzip"],
            [" folded"],
            ["Transfer-Encoding: chunked"],
            [f"Content-Length : {size}"],
            ["X: " + "y" * 200_000],
            ["X: y"] * 5000,
        )
    )
    body = rng.choice((request.body, b"-1\r\n\r\n", b"ffffffffffffffffff\r\n", b"zz\r\n", b"5\r\nab\r\n0\r\n\r\n"))
    return Shot(_encode(request, framing, body, rng.choice(("\r\n", "\r\n", "\n", "\r"))), False, request.method, None)


def _garbage(rng: random.Random, request: _Request) -> Shot:
    data = rng.choice(
        (
            rng.randbytes(rng.randrange(1, 2000)),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\r\n" * 100,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
            b"\0" * 5000,
            b"GET /v1/models/actor\r\n",
            b"GET /v1/models/actor HTTP/9.9\r\n\r\n",
            b"A" * 100_000,
            b"GET /v1/models/actor HTTP/1.0\r\n\r\n" * 3,
        )
    )
    return Shot(data, False, request.method, None)


# --- What comes back ----------------------------------------------------------------------------------------------


def _fire(url: str, recordings: Sequence[dict], statuses: Sequence[str], seed: int, numbers: range) -> Report:
    """Sends requests one after the other, whole ones over the same connection as long as the server keeps it."""
    report, connection = Report(Counter(), []), None
    for number in numbers:
        sent = shot(recordings, seed, number)
        try:
            connection = connection or _connect(url)
        except OSError as error:
            report.faults.append(f"before request {number}: cannot connect: {error}")
            break
        outcome, body, kept = _exchange(connection, sent)
        report.outcomes[outcome] += 1
        wanted = "" if sent.like is None else statuses[sent.like]
        if _is_fault(outcome, body) or (sent.whole and not outcome.isdecimal()) or (wanted and outcome != wanted):
            told = f"{wanted} wanted, " if wanted else ""
            report.faults.append(f"request {number}: {told}{outcome} {body[:200]!r} to {sent.data[:300]!r}")
        if not (kept and sent.whole):
            connection.close()
            connection = None
    return report


def _connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=_SECONDS)


def _is_fault(outcome: str, body: bytes) -> bool:
    """Whether this is a hang, or a 5xx that TF Serving would not give."""
    if outcome == "500":
        return b"XLA compilation disabled" not in body
    return outcome == "hang" or (outcome.startswith("5") and outcome not in ("501", "503", "504"))


def _exchange(connection: socket.socket, sent: Shot) -> tuple[str, bytes, bool]:
    """(outcome, body, whether the connection goes on)."""
    response = http.client.HTTPResponse(connection, method=sent.method)
    try:
        _send(connection, sent)
        response.begin()
        body = response.read()
        return str(response.status), body, not response.will_close
    except TimeoutError:
        return "hang", b"", False
    except (OSError, http.client.RemoteDisconnected, http.client.IncompleteRead):
        return "closed", b"", False
    except (http.client.HTTPException, ValueError):
        return "no HTTP", b"", False
    finally:
        response.close()


def _send(connection: socket.socket, sent: Shot):
    try:
        connection.sendall(sent.data)
        if not sent.whole:
            connection.shutdown(socket.SHUT_WR)  # no more is to come: waiting for it would be the server's fault
    except TimeoutError:
        raise
    except OSError:
        pass  # refused half-way; the answer may be there
