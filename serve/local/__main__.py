"""Serves policies over TensorFlow Serving's REST API, without TensorFlow Serving.

For one machine and for development: no authentication, no encryption. Flags are tensorflow_model_server's own.

  python -m serve.local --model_name=policy --model_base_path=exports/policy
  curl -d '{"instances": [[0.1, 0.2, 0.3]]}' http://127.0.0.1:8501/v1/models/policy:predict
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from importlib import metadata

from absl import flags

from ddpg_tf import __version__
from ddpg_tf.cli import parse, run
from ddpg_tf.errors import UserError
from serve.local.config import Batching, ModelConfig, read_monitoring
from serve.local.flags import batching_of, flag_values, loading_of, models_of, without_effect


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes a free one.

    Raises:
      UserError: the port is in use, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot listen on {host} port {port}: {getattr(error, 'strerror', error)}") from None
    return sock


def _log(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more (`... | head -1`), or the disk is full
        print(line, flush=True)


def main(argv: Sequence[str]) -> None:
    values = flag_values()
    parse(argv, values, __doc__)
    if values.version:
        print(f"ddpg_tf {__version__}, TensorFlow {metadata.version('tensorflow')}")
        return
    configs, batching = models_of(values), batching_of(values)
    metrics_path = read_monitoring(values.monitoring_config_file) if values.monitoring_config_file else None
    if ignored := without_effect(values):
        print(f"note: without effect here: {', '.join(ignored)}", file=sys.stderr)
    with bind(values.host, values.rest_api_port) as sock, asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(_serve(values, configs, batching, metrics_path, sock))


def _event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # the faster one
    except ImportError:  # as on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(
    values: flags.FlagValues,
    configs: list[ModelConfig],
    batching: Batching,
    metrics_path: str | None,
    sock: socket.socket,
) -> None:
    # TensorFlow takes seconds to import: only now that the command line is known to be right.
    from ddpg_tf._tf import tf
    from serve.local.http import Api
    from serve.local.models import Models
    from serve.local.server import serve

    tf.get_logger().setLevel(logging.ERROR)  # the loader warns that it is old
    tf.config.set_visible_devices([], "GPU")  # a GPU's memory is for training
    models = Models(_log, batching, loading_of(values), values.allow_version_labels_for_unavailable_models)
    models.configure(configs)
    api = Api(models, metrics_path, values.rest_api_enable_cors_support)
    config_seconds = values.model_config_file_poll_wait_seconds if values.model_config_file else 0
    poll_seconds, configure = values.file_system_poll_wait_seconds, lambda: models.configure(models_of(values))
    await serve(api, models, sock, _log, poll_seconds, configure, config_seconds)
    os._exit(0)  # a thread that still loads or computes has nothing to save, and would hold up the end


if __name__ == "__main__":
    run(main)
