"""Running the API: wait for the models, listen, keep up with new versions, stop."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

from ddpg_tf.cli import UserError
from serve.local.http import Api
from serve.local.models import Models

_DRAIN_SECONDS = 10
_KEEP_ALIVE_SECONDS = 75


async def serve(models: Models, sock: socket.socket, poll_seconds: int, log: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, then answers the requests it has and returns.

    Like TF Serving it listens only when every model has a version loaded.

    Args:
      models: what to serve.
      sock: bound, not listening yet.
      poll_seconds: between looks at the models' directories; 0 looks once.
      log: takes a line of text.
    Raises:
      UserError: a model cannot be loaded at the start, or (looking once) is not there.
    """
    stop = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await _wait_until_ready(models, poll_seconds, stop, log)
    if stop.is_set():
        return
    polling = asyncio.create_task(_keep_polling(models, poll_seconds, log))
    host, port = sock.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server = _Server(Api(models), lambda: log(f"serving {', '.join(models.names)} on {url}"))
    try:
        await server.serve(sockets=[sock])
    except OSError as error:  # another process that was bound to the port listened first
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    finally:
        polling.cancel()


async def _wait_until_ready(models: Models, poll_seconds: int, stop: asyncio.Event, log: Callable[[str], None]) -> None:
    waiting = False
    await models.poll()
    while not (models.ready or stop.is_set()):
        if models.failure:
            raise UserError(models.failure)
        if not poll_seconds:
            raise UserError(f"no version of {models.missing}")
        if not waiting:
            log(f"waiting for a version of {models.missing}")
            waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), poll_seconds)
        await models.poll()


async def _keep_polling(models: Models, poll_seconds: int, log: Callable[[str], None]) -> None:
    while poll_seconds:
        await asyncio.sleep(poll_seconds)
        try:
            await models.poll()
        except Exception as error:  # what is loaded is served all the same
            log(f"cannot look for new versions: {type(error).__name__}: {error}")


class _Server(uvicorn.Server):
    """uvicorn, telling when it listens."""

    def __init__(self, app: Api, listening: Callable[[], None]):
        quiet = {"log_config": None, "access_log": False, "server_header": False}
        times = {"timeout_keep_alive": _KEEP_ALIVE_SECONDS, "timeout_graceful_shutdown": _DRAIN_SECONDS}
        super().__init__(uvicorn.Config(app, lifespan="off", ws="none", **quiet, **times))
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._listening()
