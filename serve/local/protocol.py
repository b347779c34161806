"""HTTP/1.1 by uvicorn and httptools, where TF Serving's HTTP library answers otherwise or something must be bounded."""

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_UPGRADE = re.compile(rb"(?<=\n)u(?=pgrade[ \t]*:)", re.IGNORECASE)
_NEARLY_UPGRADE = re.compile(rb"(?<=\n)u(p(g(r(a(d(e[ \t]*)?)?)?)?)?)?\Z", re.IGNORECASE)
_HEAD_SECONDS = 30  # for a request's head to arrive
_MAX_HEAD = 64 * 2**10  # bytes


def html_page(status: int, title: str) -> str:
    """What that library answers by itself."""
    return f"<HTML><HEAD>\n<TITLE>{status} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n</BODY></HTML>\n"


class Protocol(HttpToolsProtocol):
    """A connection; closed when a request's head takes too long or has no end."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _ended = False  # whether a request did in what was received last
    _before = b""  # the last bytes that were given to the parser
    _held = b""  # the end of what was received, where it may be the beginning of an Upgrade

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_complete()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_complete()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._ended = True
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        data = self._without_upgrade(data)
        self._ended = False
        super().data_received(data)
        # uvicorn stops the timer of an idle connection at any byte, also where no request begins.
        if self._waits_for_a_request() and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._head_timer and not self._ended:  # else some of it belongs to the requests before
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD:
                self.send_400_response("")

    def _without_upgrade(self, data: bytes) -> bytes:
        """Offers to upgrade the connection (curl --http2, Java) are not taken: httptools would drop the body.

        What may be the beginning of one, at the end of `data`, is held until more comes.
        """
        known = len(self._before)
        data, self._held = self._before + self._held + data, b""
        if (
            data[-1:] in b"uUpPgGrRaAdDeE \t"
            and (self._head_timer or self._waits_for_a_request())
            and b"\r\n\r\n" not in data  # no body has begun
            and (nearly := _NEARLY_UPGRADE.search(data, known))
        ):
            data, self._held = data[: nearly.start()], data[nearly.start() :]
        if b"pgrade" in data or b"PGRADE" in data:
            data = _UPGRADE.sub(b"x", data)  # a header that means nothing; JSON has no such line
        self._before = data[-3:]
        return data[known:]

    def eof_received(self) -> bool:
        """Whether the connection stays open: a client that sends no more (`nc -N`) still wants its answers."""
        last = self.cycle  # the request that came last, answered after all others
        if last is None or last.more_body or last.response_complete:
            return False
        last.keep_alive = False
        return True

    def _waits_for_a_request(self) -> bool:
        """Whether all that came before is answered, and nothing of the next has come."""
        return not self._head_timer and self.cycle is not None and self.cycle.response_complete and not self.pipeline

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP; where a request before it still has no answer, by closing after that one."""
        last = self.cycle
        if last is not None and not last.more_body and not last.response_complete:
            last.keep_alive = False
            self.flow.pause_reading()
            return
        page = html_page(400, "Bad Request").encode()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(page), page)
        )
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_complete()
        self._head_timer, self._head_bytes = self.loop.call_later(_HEAD_SECONDS, self.transport.close), 0

    def _head_complete(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
