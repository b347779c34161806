"""How the random requests are sent: whole, in chunks, packed, cut off, with wrong lengths, or as what is no HTTP."""

import dataclasses
import gzip
import random
from collections.abc import Sequence


@dataclasses.dataclass
class Request:
    """What is asked, however it is sent."""

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


def frame(rng: random.Random, request: Request) -> Shot:
    """The bytes for that request, in a way that `rng` picks."""
    how = rng.choice((plain,) * 7 + (_chunked, _gzipped, _cut, _misframed, _garbage))
    return how(rng, request)


def _encode(request: Request, framing: Sequence[str], body: bytes, newline: str = "\r\n") -> bytes:
    lines = [f"{request.method} {request.target} HTTP/1.1", "Host: localhost", *request.headers, *framing, "", ""]
    return newline.join(lines).encode("latin-1") + body


def plain(rng: random.Random, request: Request) -> Shot:
    """With its length, if it has a body."""
    framing = [f"Content-Length: {len(request.body)}"] if request.body or request.method == "POST" else []
    return Shot(_encode(request, framing, request.body), True, request.method, request.like)


def _gzipped(rng: random.Random, request: Request) -> Shot:
    packed = gzip.compress(request.body + rng.choice((b"", b" " * 1_000_000)), 1, mtime=0)
    damaged = (packed, packed[:-9], packed[:12] + rng.randbytes(20), rng.randbytes(30), packed + b"more", packed * 2)
    request.body = rng.choice(damaged)
    if request.body is not packed:
        request.like = None
    request.headers.append("Content-Encoding: gzip")
    return plain(rng, request)


def _chunked(rng: random.Random, request: Request) -> Shot:
    body, at = b"", 0
    while at < len(request.body):
        chunk = request.body[at : at + rng.choice((1, 10, 1000)) * (1 + len(request.body) // 1000)]
        at += len(chunk)
        body += f"{len(chunk):x}{rng.choice(('', '', ';a=b'))}\r\n".encode() + chunk + b"\r\n"
    body += b"0\r\n" + rng.choice((b"", b"X-Trailer: 1\r\n")) + b"\r\n"
    return Shot(_encode(request, ["Transfer-Encoding: chunked"], body), True, request.method, request.like)


def _cut(rng: random.Random, request: Request) -> Shot:
    data = rng.choice((plain, _chunked))(rng, request).data
    return Shot(data[: rng.randrange(len(data))], False, request.method, None)


def _misframed(rng: random.Random, request: Request) -> Shot:
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


def _garbage(rng: random.Random, request: Request) -> Shot:
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
