"""The flags by which commands say which deployed policy they ask."""

from absl import flags

from ddpg_tf.cli import definers
from ddpg_tf.errors import UsageError
from serve.client import PolicyClient


def define_server_flags(values: flags.FlagValues) -> None:
    """--url, --model_name, --version, --label: which policy to ask."""
    define = definers(values)
    define.string("url", "http://localhost:8501", "the server")
    define.string("model_name", "default", "name of the model on the server")
    define.integer("version", None, "version to ask, instead of the newest one", lower_bound=0)
    define.string("label", None, "label of the version to ask")


def client_from_flags(values: flags.FlagValues) -> PolicyClient:
    """The client that `define_server_flags`' flags describe.

    Raises:
      UsageError: they contradict each other.
    """
    if values.version is not None and values.label is not None:
        raise UsageError("--version and --label exclude each other")
    try:
        return PolicyClient(values.url, values.model_name, version=values.version, label=values.label)
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
