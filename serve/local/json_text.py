"""JSON in and out: by orjson, and by Python's own json where orjson knows no better.

That is, in requests: NaN and infinity, a byte order mark, equal keys (the first counts), text after the document (TF
Serving ignores it). In answers: NaN and infinity, text that is not UTF-8.
"""

import contextlib
import json
import math
import re
from typing import Any

import orjson

from serve.local.errors import invalid

_SPACE = re.compile(r"[ \t\n\r]*")
_STRINGS_OR_INF = re.compile(r'((?:"(?:[^"\\]++|\\.)*+"?[^"I]*+)++)|\bInf\b', re.DOTALL)
_MAX_DIGITS = 20  # of a 64-bit integer, or 19 and a sign


def parse(body: bytes) -> Any:
    """The first JSON value in `body`; integers far beyond 64 bits as floats.

    Raises:
      ServingError: INVALID_ARGUMENT: there is none, it is not UTF-8, or it has a number beyond a double.
    """
    try:
        return _parse(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from None


def _parse(body: bytes) -> Any:
    with contextlib.suppress(orjson.JSONDecodeError):
        document = orjson.loads(body)
        if body.count(b":") == _members(document):  # no two keys are equal
            return document
        del document  # which may be large
    text = body.decode("utf-8-sig")
    if "Inf" in text:  # what TF Serving takes for infinity too
        text = _STRINGS_OR_INF.sub(lambda found: found[1] or "Infinity", text)
    return _DECODER.raw_decode(text, _SPACE.match(text).end())[0]


def _members(value: Any) -> int:
    """How many members its objects have. Those deep in lists of lists do not count: looking at tensors takes time."""
    if isinstance(value, dict):
        return len(value) + sum(map(_members, value.values()))
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, list) and first:
        first = first[0]
    return sum(map(_members, value)) if isinstance(first, dict) else 0


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too big for a double")
    return number


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_DIGITS else _float(text)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins, parse_float=_float, parse_int=_integer)


def write(value: Any) -> bytes:
    """`value`, in which nothing is None, as JSON; with TF Serving's NaN, Infinity and -Infinity."""
    with contextlib.suppress(TypeError):  # text that is not UTF-8: its bytes are surrogates here
        text = orjson.dumps(value)
        if b"null" not in text:  # orjson's word for NaN and infinity
            return text
    return json.dumps(value).encode()
