"""Serves policies over TensorFlow Serving's REST API, without TensorFlow Serving.

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

from ddpg_tf.cli import parse, run
from ddpg_tf.errors import UsageError, UserError
from serve.local.config import Batching, ModelConfig, read_batching, read_models, read_monitoring, valid_name


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_string("model_name", "default", "name of the model in URLs", **own)
    flags.DEFINE_string("model_base_path", None, "directory of the version directories (1, 2, ...)", **own)
    flags.DEFINE_string(
        "model_config_file",
        None,
        "several models, version policies and labels: a ModelServerConfig "
        "in text form, in place of --model_name and --model_base_path",
        **own,
    )
    flags.DEFINE_integer(
        "model_config_file_poll_wait_seconds",
        0,
        "seconds between looks whether that file has changed; 0 reads it only once",
        lower_bound=0,
        **own,
    )
    flags.DEFINE_bool(
        "allow_version_labels_for_unavailable_models",
        False,
        "accept a new label of a version that is "
        "not loaded; without it, as in TF Serving, there can be no label at the start",
        **own,
    )
    flags.DEFINE_integer(
        "rest_api_port",
        8501,
        "port to listen on; 0 takes a free one (in tensorflow_model_server 0, the default, turns REST off)",
        lower_bound=0,
        upper_bound=65535,
        **own,
    )
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0 for all", **own)
    flags.DEFINE_integer(
        "rest_api_timeout_in_ms", 30_000, "of one TensorFlow call; then the answer is 504", lower_bound=1, **own
    )
    flags.DEFINE_bool("rest_api_enable_cors_support", False, "let other origins' scripts read the answers", **own)
    flags.DEFINE_integer(
        "file_system_poll_wait_seconds",
        1,
        "seconds between looks for new versions; 0 looks only once",
        lower_bound=0,
        **own,
    )
    flags.DEFINE_bool(
        "enable_batching",
        False,
        "apply TF Serving's limits to how requests are put together (requests "
        "that wait are answered together in any case)",
        **own,
    )
    flags.DEFINE_string("batching_parameters_file", None, "these limits: BatchingParameters in text form", **own)
    flags.DEFINE_string(
        "monitoring_config_file", None, "a MonitoringConfig in text form: at which path Prometheus finds metrics", **own
    )
    flags.DEFINE_integer("port", None, "accepted and ignored: there is no gRPC here", **own)
    return values


def _read_models(values: flags.FlagValues) -> list[ModelConfig]:
    """The models that the flags name.

    Raises:
      UsageError: none or with no proper name.
      UserError: from the configuration file.
    """
    if values.model_config_file:
        return read_models(values.model_config_file)
    if not values.model_base_path:
        raise UsageError("--model_base_path or --model_config_file is required. See --help.")
    if not valid_name(values.model_name):
        raise UsageError("--model_name must be a name without '/' and ':'")
    return [ModelConfig(values.model_name, os.path.abspath(values.model_base_path))]


def _read_batching(values: flags.FlagValues) -> Batching:
    if values.enable_batching:
        return read_batching(values.batching_parameters_file)
    if values.batching_parameters_file:
        raise UsageError("--batching_parameters_file without --enable_batching has no effect: give both")
    return Batching()


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
    print(line, flush=True)


def main(argv: Sequence[str]) -> None:
    values = _flags()
    parse(argv, values, __doc__)
    configs, batching = _read_models(values), _read_batching(values)
    metrics_path = read_monitoring(values.monitoring_config_file) if values.monitoring_config_file else None
    if values.port is not None:
        print("note: --port is ignored: this server has no gRPC", file=sys.stderr)
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
    models = Models(_log, batching, values.rest_api_timeout_in_ms, values.allow_version_labels_for_unavailable_models)
    models.configure(configs)
    api = Api(models, metrics_path, values.rest_api_enable_cors_support)
    config_seconds = values.model_config_file_poll_wait_seconds if values.model_config_file else 0
    await serve(
        api,
        models,
        sock,
        _log,
        values.file_system_poll_wait_seconds,
        lambda: models.configure(_read_models(values)),
        config_seconds,
    )
    sys.stdout.flush()
    os._exit(0)  # a thread that still loads or computes has nothing to save, and would hold up the end


if __name__ == "__main__":
    run(main)
