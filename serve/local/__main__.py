"""Serves the newest version of a policy over TensorFlow Serving's REST API, without TensorFlow Serving.

For one machine and for development: no authentication, no encryption. Flags are tensorflow_model_server's own.

  python -m serve.local --model_name=policy --model_base_path=exports/policy
  curl -d '{"instances": [[0.1, 0.2, 0.3]]}' http://127.0.0.1:8501/v1/models/policy:predict
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence

from absl import flags

from ddpg_tf.cli import UsageError, UserError, parse, run


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_string("model_name", "default", "name of the model in URLs", **own)
    flags.DEFINE_string("model_base_path", None, "directory of the version directories (1, 2, ...); required", **own)
    port_help = "port to listen on; 0 takes a free one (in tensorflow_model_server 0, the default, turns REST off)"
    flags.DEFINE_integer("rest_api_port", 8501, port_help, lower_bound=0, upper_bound=65535, **own)
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0 for all", **own)
    poll_help = "seconds between looks for new versions; 0 looks only once"
    flags.DEFINE_integer("file_system_poll_wait_seconds", 1, poll_help, lower_bound=0, **own)
    flags.DEFINE_integer("port", None, "accepted and ignored: there is no gRPC here", **own)
    return values


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
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return sock


def _log(line: str) -> None:
    print(line, flush=True)


def main(argv: Sequence[str]) -> None:
    values = _flags()
    parse(argv, values, __doc__)
    if not values.model_base_path:
        raise UsageError("--model_base_path is required. See --help.")
    if not values.model_name or set(values.model_name) & set("/:"):
        raise UsageError("--model_name must be a name without '/' and ':'")
    if values.port is not None:
        print("note: --port is ignored: this server has no gRPC", file=sys.stderr)
    sock = bind(values.host, values.rest_api_port)
    # TensorFlow takes seconds to import: only now that the command line is known to be right.
    from ddpg_tf._tf import tf
    from serve.local.models import Models
    from serve.local.server import serve

    tf.get_logger().setLevel(logging.ERROR)  # the loader warns that it is old
    tf.config.set_visible_devices([], "GPU")  # a GPU's memory is for training
    models = Models({values.model_name: os.path.abspath(values.model_base_path)}, _log)
    with sock:
        asyncio.run(serve(models, sock, values.file_system_poll_wait_seconds, _log))


if __name__ == "__main__":
    run(main)
