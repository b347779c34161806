"""What the random requests ask: recorded requests, random tensors, and both with something changed."""

import json
import random
from collections.abc import Sequence

from benchmarks.serving.fuzz_framing import Request

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


def asked(rng: random.Random, recordings: Sequence[dict]) -> Request:
    """A request that `rng` picks."""
    request = _tensor(rng) if rng.random() < 0.2 else recorded(recordings, rng.randrange(len(recordings)))
    mutations = (_mutate_bytes, _mutate_json, _mutate_json, _mutate_target, _mutate_method, _mutate_headers)
    for mutate in rng.sample(mutations, rng.choice((0, 1, 1, 1, 2))):
        mutate(rng, request)
        if mutate is not _mutate_headers:
            request.like = None
    return request


def recorded(recordings: Sequence[dict], index: int) -> Request:
    """That recording's request."""
    sent = recordings[index]
    headers = [f"{name}: {value}" for name, value in sent["headers"].items()]
    return Request(sent["method"], sent["path"], headers, (sent["body"] or "").encode(), index)


def _tensor(rng: random.Random) -> Request:
    """A tensor of any shape and content for a signature of the model that has all types."""
    document = {"signature_name": rng.choice(_TYPES), rng.choice(("instances", "inputs")): _list(rng, rng.randrange(4))}
    return Request("POST", "/v1/models/types:predict", [], json.dumps(document).encode())


def _list(rng: random.Random, depth: int):
    if depth:
        return [_list(rng, depth - (rng.random() < 0.98)) for _ in range(rng.choice((0, 1, 2, 3)))]
    return rng.choice((0, 1, -1, 256, 2.5, 1e30, True, "text", "AP8=", {"b64": "AP8="}, None, rng.getrandbits(70)))


def _mutate_bytes(rng: random.Random, request: Request):
    body = bytearray(request.body)
    for _ in range(rng.choice((1, 1, 2, 20))):
        start = rng.randrange(len(body) + 1)
        end = start + rng.choice((0, 1, 1, 2, 50))
        body[start:end] = rng.choice(
            (b"", rng.randbytes(1), rng.randbytes(9), b"[", b"]", b'"', b",", b"\\u", bytes(body[start:end]) * 3)
        )
    request.body = bytes(body)


def _mutate_json(rng: random.Random, request: Request):
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


def _mutate_target(rng: random.Random, request: Request):
    if rng.random() < 0.7:
        request.target = f"/v1/models/{rng.choice(_MODELS)}{rng.choice(_WHICH)}{rng.choice(_ACTIONS)}"
    else:
        at = rng.randrange(len(request.target) + 1)
        inserted = rng.choice(("/", ":", "%", "%00", "%ff", "?", "#", " ", "\x00", "\x80", "a" * 20_000, "..", "//"))
        request.target = request.target[:at] + inserted + request.target[at + rng.randrange(3) :]


def _mutate_method(rng: random.Random, request: Request):
    request.method = rng.choice(_METHODS)


def _mutate_headers(rng: random.Random, request: Request):
    added = rng.sample(_HARMLESS + _ODD_HEADERS, rng.choice((1, 2)))
    request.headers.extend(added)
    if not set(added) <= set(_HARMLESS):
        request.like = None
