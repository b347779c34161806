"""JSON as TF Serving's library RapidJSON reads and writes it.

Reading differs from Python's `json` in the tokens Inf and -Inf, in ignoring what follows the first value, in
the first of equal keys winning, in refusing numbers beyond a double, and in the text of errors. Python's
reader (written in C) does the work; what it refuses or would read differently goes through `_Reader`, which is
slow and exact. Bytes that are not UTF-8 pass through as surrogate escapes.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from serve.local.errors import invalid

_BOM = b"\xef\xbb\xbf"
# What Python's reader accepts but reads differently: numbers that may overflow, escaped surrogates.
_MAY_OVERFLOW = (b"e000", b"e+000", b"0" * 309)  # with 0 for every digit
_TO_ZERO = bytes.maketrans(b"123456789E", b"000000000e")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_SLOW = 2**20  # bytes that `_Reader` reads: more would take seconds
_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_INTEGER = re.compile(r"0|[1-9][0-9]*")
_POINT = re.compile(r"\.")
_EXPONENT = re.compile(r"[eE][+-]?")
_DIGITS = re.compile(r"[0-9]+")
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "/": "/", "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_DESCRIPTION_LIMIT = 256


def parse(body: bytes) -> Any:
    """The first JSON value in `body`, as Python's `json` would give it.

    Raises:
      ServingError: INVALID_ARGUMENT with RapidJSON's text and byte offset.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    start = len(_BOM) if body.startswith(_BOM) else 0
    try:
        if not _unusual(body):
            text = body[start:].decode("utf-8", "surrogateescape")
            try:
                return _DECODER.raw_decode(text, _SPACE.match(text).end())[0]
            except ValueError:
                pass  # _Reader knows the token or has the error's text
        if len(body) > _MAX_SLOW:
            raise invalid(f"JSON Parse error: not JSON, or with Inf or numbers of hundreds of digits in more than "
                          f"{_MAX_SLOW // 2**20} MB")
        return _Reader(body, start).document()
    except RecursionError:  # RapidJSON goes deeper, but no tensor has a thousand dimensions
        raise invalid("JSON Parse error: The document is nested too deeply.") from None


def _unusual(body: bytes) -> bool:
    if b"\\u" in body and _SURROGATE.search(body):
        return True
    return _may_overflow(body) and _may_overflow(_STRING.sub(b'""', body))  # base64 holds anything by chance


def _may_overflow(body: bytes) -> bool:
    digits = body.translate(_TO_ZERO)
    return any(number in digits for number in _MAY_OVERFLOW)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else dict(reversed(pairs))


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


class _Reader:
    """RapidJSON 1.1's recursive descent; text is the body as Latin-1, so that an index is a byte offset."""

    def __init__(self, body: bytes, start: int):
        self.text = body.decode("latin-1")
        self.at = start

    def document(self) -> Any:
        self._space()
        if self._peek() in ("", "\0"):
            self._fail("The document is empty.")
        return self._value()

    def _fail(self, message: str, at: int | None = None):
        raise invalid(f"JSON Parse error: {message} at offset: {self.at if at is None else at}")

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _space(self):
        self.at = _SPACE.match(self.text, self.at).end()

    def _match(self, pattern: re.Pattern, message: str, at: int | None = None) -> str:
        found = pattern.match(self.text, self.at)
        if not found:
            self._fail(message, at)
        self.at = found.end()
        return found.group()

    def _value(self) -> Any:
        first = self._peek()
        readers = {'"': self._string, "{": self._object, "[": self._array}
        if first in readers:
            return readers[first]()
        for word, value in (("null", None), ("true", True), ("false", False)):
            if first == word[0]:
                return self._word(word, value)
        return self._number()

    def _word(self, word: str, value: bool | None) -> bool | None:
        for letter in word:
            if self._peek() != letter:
                self._fail("Invalid value.")
            self.at += 1
        return value

    def _object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for _ in self._items("}", "Missing a comma or '}' after an object member."):
            if self._peek() != '"':
                self._fail("Missing a name for object member.")
            name = self._string()
            self._space()
            if self._peek() != ":":
                self._fail("Missing a colon after a name of object member.")
            self.at += 1
            self._space()
            members.setdefault(name, self._value())
        return members

    def _array(self) -> list[Any]:
        return [self._value() for _ in self._items("]", "Missing a comma or ']' after an array element.")]

    def _items(self, end: str, message: str) -> Iterator[None]:
        """Stands at each item in turn, from the opening bracket to behind the closing one."""
        self.at += 1
        self._space()
        if self._peek() != end:
            while True:
                yield
                self._space()
                if self._peek() != ",":
                    break
                self.at += 1
                self._space()
            if self._peek() != end:
                self._fail(message)
        self.at += 1

    def _number(self) -> int | float:
        start = self.at
        sign = -1 if self._peek() == "-" else 1
        if sign < 0:
            self.at += 1
        for word, value in (("NaN", math.nan), ("Infinity", math.inf), ("Inf", math.inf)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return sign * value
        self._match(_INTEGER, "Invalid value.")
        integral = True
        for mark, message in ((_POINT, "Miss fraction part in number."), (_EXPONENT, "Miss exponent in number.")):
            if found := mark.match(self.text, self.at):
                self.at = found.end()
                self._match(_DIGITS, message)
                integral = False
        number = float(self.text[start : self.at])
        if math.isinf(number):
            self._fail("Number too big to be stored in double.", start)
        return int(self.text[start : self.at]) if integral else number

    def _string(self) -> str:
        self.at += 1
        pieces = []
        while True:
            pieces.append(self._match(_PLAIN, ""))
            match self._peek():
                case '"':
                    self.at += 1
                    return "".join(pieces).encode("latin-1").decode("utf-8", "surrogateescape")
                case "\\":
                    pieces.append(self._escape())
                case "" | "\0":
                    self._fail("Missing a closing quotation mark in string.")
                case _:
                    self._fail("Invalid encoding in string.")

    def _escape(self) -> str:
        start = self.at
        kind = self.text[start + 1 : start + 2]
        self.at += 2
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        if kind != "u":
            self._fail("Invalid escape character in string.", start)
        code = self._hex4(start)
        if 0xD800 <= code <= 0xDBFF:
            paired = self.text.startswith("\\u", self.at)
            self.at += 2
            low = self._hex4(start) if paired else 0
            if not 0xDC00 <= low <= 0xDFFF:
                self._fail("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        return chr(code).encode("utf-8", "surrogatepass").decode("latin-1")

    def _hex4(self, start: int) -> int:
        return int(self._match(_HEX4, "Incorrect hex digit after \\u escape in string.", start), 16)


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def describe(value: Any) -> str:
    """`value` in an error's text: pretty-printed, lists on one line, cut after the token that passes 256 bytes."""
    text = ""
    for piece in _pieces(value, "", 0):
        text += piece
        if len(text) >= _DESCRIPTION_LIMIT:
            break
    return text


def _pieces(value: Any, prefix: str, depth: int) -> Iterator[str]:
    if isinstance(value, dict):
        yield prefix + "{"
        for i, (name, member) in enumerate(value.items()):
            yield (",\n" if i else "\n") + "    " * (depth + 1) + quote(name)
            yield from _pieces(member, ": ", depth + 1)
        yield ("\n" + "    " * depth if value else "") + "}"
    elif isinstance(value, list):
        yield prefix + "["
        for i, item in enumerate(value):
            yield from _pieces(item, ", " if i else "", depth + 1)
        yield "]"
    else:
        yield prefix + json.dumps(value, ensure_ascii=False)
