"""HTTP as PolicyClient needs it: one connection that is kept open, retries, proxies, and what failed in words.

Needs requests (with urllib3 2) only.
"""

import ipaddress
import json
import os
import re
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

_MAX_BACKOFF = 5.0


class PolicyError(Exception):
    """A question that got no action.

    Attributes:
      message: the server's own words where it had some.
      status: the HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.message = message
        self.status = status


class ServerUnavailable(PolicyError):
    """No answer: nobody listens, the connection broke, it took too long (408 too), or there is overload (429, 503)."""


class ModelNotFound(PolicyError):
    """The server has no such model or version (404)."""


class BadRequest(PolicyError):
    """The observation or the request does not fit the model (400 and the like, or found before sending)."""


class ServerError(PolicyError):
    """The server failed (500 and the like), or answered what is not TF Serving's API."""


class Connection:
    """Asks one server; arguments as for PolicyClient. Not to be shared between threads."""

    def __init__(self, timeout: float, retries: int, backoff: float):
        self._timeout = timeout
        self._again = _Retries(
            retries,
            allowed_methods=None,
            status_forcelist=[503],
            raise_on_status=False,
            respect_retry_after_header=False,
            backoff_factor=backoff,
            backoff_max=_MAX_BACKOFF,
        )
        self._open()

    def _open(self) -> None:
        self._process, self._session = os.getpid(), requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=self._again))

    def ask(self, method: str, url: str, body: str | None = None) -> dict[str, Any]:
        """The JSON that the server answers.

        Raises:
          ServerUnavailable, ModelNotFound, BadRequest, ServerError.
        """
        if self._process != os.getpid():  # forked: on one connection, answers would go to the wrong process
            self._open()
        self._session.trust_env = not _is_loopback(url)  # a proxy would look for the server on its own machine
        try:
            # A redirected POST would arrive as a GET.
            response = self._session.request(method, url, data=body, timeout=self._timeout, allow_redirects=False)
        except requests.ReadTimeout:
            raise ServerUnavailable(f"no answer from {url} within {self._timeout:g} s") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise ServerUnavailable(f"cannot reach {url}{_by_proxy(url)}: {_reason(error)}") from None
        except (requests.RequestException, HTTPError) as error:  # not all of urllib3's become requests'
            raise ServerError(f"cannot ask {url}: {error}") from None
        if response.status_code == 200:
            try:
                return json.loads(response.content)
            except ValueError:
                raise ServerError(f"{url} did not answer with JSON", 200) from None
        status = response.status_code
        kinds = {404: ModelNotFound, **dict.fromkeys((408, 429, 503), ServerUnavailable)}
        raise kinds.get(status, BadRequest if 400 <= status < 500 else ServerError)(_message(response), status)

    def close(self) -> None:
        self._session.close()


class _Retries(Retry):
    """Retries, but not of what the server may still be computing."""

    def increment(self, method=None, url=None, response=None, error=None, *more, **named):
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, *more, **named)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _by_proxy(url: str) -> str:
    """Which proxy the environment puts between, if any."""
    proxies = {} if _is_loopback(url) else requests.utils.get_environ_proxies(url)
    proxy = requests.utils.select_proxy(url, proxies)
    return f" through the proxy {proxy}, which {urlsplit(url).scheme}_proxy or all_proxy names" if proxy else ""


def _reason(error: requests.ConnectionError) -> str:
    """The operating system's words out of requests' nest of exceptions."""
    text = str(error)
    words = "Remote end closed connection|Connection to [^ ]+ timed out|Connection reset by peer"
    found = re.search(rf"\[Errno -?\d+\] ([^'\")]+)|{words}", text)
    return (found.group(1) or found.group()) if found else text


def _message(response: requests.Response) -> str:
    try:
        return str(json.loads(response.content)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} from {response.url}"
