"""TF Serving's REST API as an ASGI application: URLs, the order of checks, answers.

Source: TF Serving REST API. URLs are matched whole and undecoded, query string included, ignoring case; what
does not match is a malformed request (400), what lies outside /v1/ is not found.
"""

import asyncio
import logging
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.local.decode import decode_request
from serve.local.documents import metadata_document, status_document
from serve.local.encode import encode_response
from serve.local.errors import ServingError, invalid
from serve.local.json_text import parse, write
from serve.local.metrics import Metrics
from serve.local.models import Models
from serve.local.protocol import html_page
from serve.local.versions import MAX_VERSION

_WHICH = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_ROUTES = {
    "POST": re.compile(rf"/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)", re.IGNORECASE | re.ASCII),
    "GET": re.compile(rf"/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?", re.IGNORECASE | re.ASCII),
}
_BAD_TARGET = re.compile(r"%(?![0-9a-fA-F]{2})|[^!-~]|[|\"<>\\^`{}]")
_MAX_BODY = 32 * 2**20  # bytes, inflated or not; TF Serving has no limit
_BODY_SECONDS = 30  # for a body to arrive
_MAX_ACTIVE = 1000  # requests read or answered at a time
_MAX_ARRIVING = 256 * 2**20  # bytes of incomplete bodies
_LARGE = 64 * 2**10  # bytes of a body that is worked on beside the event loop
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


_Aside = Callable[..., Awaitable[Any]]


class _Which(NamedTuple):
    """The model and version that a URL names."""

    name: str
    number: int | None
    label: str | None


class _ClientLeft(Exception):
    """There is nobody to answer."""


class Api:
    """Answers the requests of one server.

    Args:
      models: what it serves.
      metrics_path: the path at which Prometheus finds text; None: nowhere.
      cors: whether answers allow other origins' scripts to read them (--rest_api_enable_cors_support).
    """

    def __init__(self, models: Models, metrics_path: str | None = None, cors: bool = False):
        self._models = models
        self._metrics = Metrics()
        self._metrics_path = metrics_path
        self._headers = _CORS if cors else {}
        self._active = 0
        self._arriving = 0  # bytes of bodies that are not complete

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._active += 1
        try:
            if self._active > _MAX_ACTIVE:
                raise ServingError("UNAVAILABLE", f"the server is busy with {_MAX_ACTIVE} requests")
            response = await self._answer(scope, receive)
        except ServingError as error:
            response = _error(error)
            if error.http_status == 408:
                response.headers["Connection"] = "close"  # the rest of the body would be taken for a request
        except _ClientLeft:
            return
        except asyncio.CancelledError:  # at the end of the time for draining
            response = _error(ServingError("UNAVAILABLE", "the server is stopping"))
        except Exception as error:
            logging.exception("%s %s", scope["method"], scope["path"])
            response = _error(ServingError("INTERNAL", f"{type(error).__name__}: {error}"))
        finally:
            self._active -= 1
        if response.headers.get("content-type") != "text/html":
            response.headers.update(self._headers)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        method, target, headers = scope["method"], _target(scope), dict(scope["headers"])
        if target == self._metrics_path:
            return Response(self._metrics.text(), media_type="text/plain")
        if method == "OPTIONS":
            return Response(status_code=200 if headers.get(b"origin", b"").startswith(b"http") else 400)
        if method not in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
            return _html(501, "Not Implemented")
        if _BAD_TARGET.search(target):
            return _html(400, "Bad Request")
        if not target.lower().startswith("/v1/"):
            return _html(404, "Not Found")
        which, action = _route(method, target)
        body = await self._body(headers, receive) if method == "POST" else b""
        started, status = time.perf_counter(), "UNKNOWN"
        try:
            response = await self._handle(method, which, action, body)
            status = "OK"
            return response
        except ServingError as error:
            status = error.code
            raise
        finally:
            if self._models.knows(which.name):  # whatever else is asked for takes no memory
                api = action if method == "POST" else ""
                self._metrics.record(which.name, api, status, time.perf_counter() - started)

    async def _handle(self, method: str, which: _Which, action: str | None, body: bytes) -> Response:
        if method == "GET":
            return self._metadata(which) if action == "metadata" else self._status(which)
        aside = asyncio.to_thread if len(body) > _LARGE else _at_once
        document = await aside(parse, body)
        if not isinstance(document, dict):
            raise invalid("the request's body is not a JSON object")
        if not isinstance(document.get("signature_name", ""), str):
            raise invalid("signature_name is not a string")
        if action == "predict":
            return await self._predict(which, document, aside)
        if document.get("examples"):  # these are checked before the model
            self._models.find(*which)
        raise invalid(f"{action} is for models that take tf.Examples: no policy does")

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The request's body, inflated if need be.

        Raises:
          ServingError: it is too large, or takes too long to come; or there is too much of others.
          _ClientLeft: it never will.
        """
        body, more = bytearray(), True
        if int(headers.get(b"content-length", 0)) > _MAX_BODY:
            raise _too_large()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientLeft
                    body += message.get("body", b"")
                    self._arriving += len(message.get("body", b""))
                    more = message.get("more_body", False)
                    if len(body) > _MAX_BODY:
                        raise _too_large()
                    if self._arriving > _MAX_ARRIVING:
                        raise ServingError("UNAVAILABLE", "the server is busy with large requests")
        except TimeoutError:
            raise ServingError("REQUEST_TIMEOUT", f"the request took more than {_BODY_SECONDS} s to arrive") from None
        finally:
            self._arriving -= len(body)
        packed = headers.get(b"content-encoding", b"").lower() in (b"gzip", b"x-gzip")
        return _inflated(body) if packed else bytes(body)

    def _status(self, which: _Which) -> Response:  # ignores labels
        return _json(write(status_document(self._models.history(which.name, which.number))))

    def _metadata(self, which: _Which) -> Response:
        version = self._models.find(*which)
        return _json(write(metadata_document(which.name, version.number, version.model.signatures)))

    async def _predict(self, which: _Which, document: dict[str, Any], aside: _Aside) -> Response:
        version = self._models.find(*which)
        with version.in_use():
            signature = version.model.signature(document.get("signature_name", ""))
            row, tensors = await aside(decode_request, document, signature.inputs)
            outputs = await self._models.run(version, signature, [tensors[name] for name in signature.inputs])
        return _json(await aside(encode_response, dict(zip(signature.outputs, outputs, strict=True)), row))


def _target(scope: Scope) -> str:
    """The request's target as it was sent; httptools takes off the host that an absolute one names."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return (scope["raw_path"] + query).decode("latin-1")


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _route(method: str, target: str) -> tuple[_Which, str | None]:
    """What a URL asks for, and of which model.

    Raises:
      ServingError: INVALID_ARGUMENT.
    """
    match = _ROUTES[method].fullmatch(target) if method in _ROUTES else None
    name, number, label, action = match.groups() if match else (None,) * 4
    # Matched ignoring case, but only these are verbs; "/METADATA" is the status.
    if not match or (method == "POST" and action not in ("predict", "classify", "regress")):
        raise invalid(f"Malformed request: {method} {target}")
    if name is None:
        raise invalid("Missing model name in request.")
    digits = number and number.lstrip("0")[:20]  # more are too many, and Python limits how many it reads
    if digits and int(digits) > MAX_VERSION:
        raise invalid(f"no version can have the number {digits}")
    return _Which(_decoded(name), number and int(digits or "0"), label and _decoded(label)), action


async def _at_once(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _inflated(body: bytes) -> bytes:
    try:
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        inflated = inflater.decompress(body, _MAX_BODY)
    except zlib.error:
        return b""  # as TF Serving: undecodable is empty
    if inflater.unconsumed_tail:
        raise _too_large()
    return inflated if inflater.eof else b""


def _too_large() -> ServingError:
    return ServingError("CONTENT_TOO_LARGE", f"the request's body exceeds {_MAX_BODY // 2**20} MB")


def _error(error: ServingError) -> Response:
    return _json(write({"error": error.message}), error.http_status)


def _json(text: bytes, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")


def _html(status: int, title: str) -> Response:
    return Response(html_page(status, title), status, {"Content-Type": "text/html", "Connection": "close"})
