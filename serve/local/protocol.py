"""HTTP/1.1 by uvicorn and httptools, where TF Serving's HTTP library answers otherwise."""

import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_UPGRADE = re.compile(rb"(?<=\r\n)u(?=pgrade[ \t]*:)", re.IGNORECASE)


def html_page(status: int, title: str) -> str:
    """What that library answers by itself."""
    return f"<HTML><HEAD>\n<TITLE>{status} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n</BODY></HTML>\n"


class Protocol(HttpToolsProtocol):
    """A connection."""

    def data_received(self, data: bytes) -> None:
        """Offers to upgrade the connection (curl --http2, Java) are not taken: httptools would drop the body."""
        if b"pgrade" in data or b"PGRADE" in data:
            head, blank, body = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"x", head) + blank + body  # a header that means nothing
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP."""
        page = html_page(400, "Bad Request").encode()
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n"
                             b"content-length: %d\r\n\r\n%b" % (len(page), page))
        self.transport.close()
