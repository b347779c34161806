"""Random HTTP requests: recorded ones, mutated ones, and what is no HTTP at all; what a server makes of them.

Request k is a function of (seed, k) alone, so whatever a server does not survive can be sent to it again.
"""

import dataclasses
import http.client
import random
import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from benchmarks.serving.fuzz_framing import Shot, frame, plain
from benchmarks.serving.fuzz_requests import asked, recorded

_SECONDS = 10  # a server that has said nothing by then hangs
_THREADS = 4


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
            found.append(_exchange(connection, plain(random.Random(0), recorded(recordings, index)))[0])
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
    return frame(rng, asked(rng, recordings))


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
