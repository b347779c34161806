"""Running the API: wait for the models, listen, keep up with new versions, stop."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable

import uvicorn

from ddpg_tf.errors import UserError
from serve.local.http import Api
from serve.local.models import Models
from serve.local.protocol import Protocol

Log = Callable[[str], None]
_BACKLOG = 2048
_DRAIN_SECONDS = 10
_KEEP_ALIVE_SECONDS = 75


async def serve(
    api: Api,
    models: Models,
    sock: socket.socket,
    log: Log,
    poll_seconds: int = 1,
    reconfigure: Callable[[], None] | None = None,
    reconfigure_seconds: int = 0,
) -> None:
    """Serves until SIGINT or SIGTERM, then answers the requests it has and returns.

    Like TF Serving it listens only when every model has a version loaded.

    Args:
      api: the application.
      models: what it serves, configured.
      sock: bound, not listening yet.
      log: takes a line of text.
      poll_seconds: between looks at the models' directories; 0 looks once.
      reconfigure: called every `reconfigure_seconds` (0: never), to read a configuration that may have changed.
    Raises:
      UserError: a model cannot be loaded at the start, or (looking once) is not there.
    """
    stop = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await _wait_until_ready(models, poll_seconds, stop, log)
    if stop.is_set():
        return

    async def read_configuration() -> None:
        reconfigure()
        await models.poll()

    chores = [
        asyncio.create_task(_every(poll_seconds, models.poll, "look for new versions", log)),
        asyncio.create_task(_every(reconfigure_seconds, read_configuration, "use the configuration", log)),
    ]
    host, port = sock.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server = _Server(api, lambda: log(f"serving {', '.join(models.names)} on {url}"))
    try:
        sock.listen(_BACKLOG)  # uvloop would not tell that it fails
        await server.serve(sockets=[sock])
        if late := [*server.server_state.tasks]:  # cancelled when the time for draining was over, not awaited
            await asyncio.wait(late, timeout=1)
            await asyncio.sleep(0)  # uvloop writes at the end of a turn
    except OSError as error:  # another process that was bound to the port listened first
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    finally:
        for chore in chores:
            chore.cancel()


async def _wait_until_ready(models: Models, poll_seconds: int, stop: asyncio.Event, log: Log) -> None:
    stopping, waiting = asyncio.create_task(stop.wait()), False
    while not stop.is_set():
        polling = asyncio.create_task(models.poll())
        await asyncio.wait([polling, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return
        await polling  # raises what it raised
        if models.ready:
            break
        if models.failure:
            raise UserError(models.failure)
        if not poll_seconds:
            raise UserError(f"no version of {models.missing}")
        if not waiting:
            log(f"waiting for a version of {models.missing}")
            waiting = True
        await asyncio.wait([stopping], timeout=poll_seconds)
    stopping.cancel()


async def _every(seconds: int, action: Callable[[], Awaitable[None]], what: str, log: Log) -> None:
    """Acts every so many seconds (0: never); a failure is told once, and what is loaded is served all the same."""
    said = None
    while seconds:
        await asyncio.sleep(seconds)
        try:
            await action()
            said = None
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if reason != said:
                log(f"cannot {what}: {reason}")
            said = reason


class _Server(uvicorn.Server):
    """uvicorn, telling when it listens."""

    def __init__(self, app: Api, listening: Callable[[], None]):
        quiet = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
        times = {"timeout_keep_alive": _KEEP_ALIVE_SECONDS, "timeout_graceful_shutdown": _DRAIN_SECONDS}
        super().__init__(uvicorn.Config(app, http=Protocol, lifespan="off", ws="none", **quiet, **times))
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._listening()
