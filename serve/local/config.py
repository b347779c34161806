"""The server's configuration files: which models, how to batch, what to report. Text protocol buffers.

Source: TF Serving, "Configuring Tensorflow Serving" and "TensorFlow Serving Batching Guide". Needs no TensorFlow.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.file_system_storage_path_source_pb2 import FileSystemStoragePathSourceConfig

from ddpg_tf.errors import UserError

VersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy
_METRICS_PATH = "/monitoring/prometheus/metrics"
_Kind = TypeVar("_Kind", bound=Message)
_MESSAGES = """
name: "serve/local/config.proto"  package: "serve.local"  syntax: "proto3"
message_type { name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type_name: ".google.protobuf.Int64Value" }
  field { name: "thread_pool_name" number: 5 type_name: ".google.protobuf.StringValue" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL }
  field { name: "enable_large_batch_splitting" number: 8 type_name: ".google.protobuf.BoolValue" }
  field { name: "max_execution_batch_size" number: 9 type_name: ".google.protobuf.Int64Value" }
}
message_type { name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL }
  field { name: "path" number: 2 type: TYPE_STRING }
}
message_type { name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type_name: ".serve.local.PrometheusConfig" }
}
"""  # what tensorflow-serving-api leaves out
_POOL = descriptor_pool.Default()
_POOL.Add(text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto(dependency=[wrappers_pb2.DESCRIPTOR.name])))
BatchingParameters, MonitoringConfig = (
    message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"serve.local.{name}"))
    for name in ("BatchingParameters", "MonitoringConfig")
)


def read_text(path: str, kind: type[_Kind]) -> _Kind:
    """The message of that kind in a text file.

    Raises:
      UserError: it cannot be read, or does not parse.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), kind())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except text_format.ParseError as error:
        raise UserError(f"{path} is not a {kind.DESCRIPTOR.name}: {error}") from None


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
      name: its name in URLs.
      base_path: the directory of its version directories.
      policy: which of the versions there are served; the highest by default.
      labels: version numbers by label.
    """

    name: str
    base_path: str
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    labels: Mapping[str, int] = field(default_factory=dict)

    def wanted(self, versions: Iterable[int]) -> list[int]:
        """Those of `versions` to be served, the highest first."""
        found = sorted(versions, reverse=True)
        match self.policy.WhichOneof("policy_choice"):
            case "all":
                return found
            case "specific":
                return [version for version in found if version in self.policy.specific.versions]
        return found[: self.policy.latest.num_versions or 1]


def read_models(path: str) -> list[ModelConfig]:
    """The models that a `ModelServerConfig` lists.

    Raises:
      UserError: it cannot be read, does not parse, or lists what cannot be served.
    """
    server = read_text(path, model_server_config_pb2.ModelServerConfig)
    if server.WhichOneof("config") != "model_config_list":
        raise UserError(f"{path} must have a model_config_list")
    models = []
    for model in server.model_config_list.config:
        if not valid_name(model.name) or not model.base_path:
            raise UserError(f"{path}: each model needs a name without '/' and ':', and a base_path; got {model.name!r}")
        if model.name in {known.name for known in models}:
            raise UserError(f"{path}: Illegal to list model {model.name} multiple times in config list")
        if model.model_platform not in ("", "tensorflow"):
            raise UserError(f"{path}: model {model.name} has platform {model.model_platform}, not tensorflow")
        base_path = os.path.abspath(model.base_path)
        models.append(ModelConfig(model.name, base_path, model.model_version_policy, dict(model.version_labels)))
    if not models:
        raise UserError(f"{path} lists no model")
    return models


def valid_name(name: str) -> bool:
    """Whether a URL can name this model."""
    return bool(name) and not set(name) & set("/:")


@dataclass(frozen=True)
class Batching:
    """How waiting requests are put together; the defaults are those without --enable_batching.

    Attributes:
      max_batch_size: rows that one call takes.
      timeout: seconds that a call waits for more requests while it has fewer rows.
      max_enqueued_batches: batches that wait; a request that needs one more is refused (503).
      threads: calls of one signature at a time.
      strict: refuse what TF Serving's batching refuses.
    """

    max_batch_size: int = 1000
    timeout: float = 0.0
    max_enqueued_batches: int = 1000
    threads: int = 1
    strict: bool = False


@dataclass(frozen=True)
class Loading:
    """How versions are loaded and run; the defaults are tensorflow_model_server's.

    Attributes:
      tags: of the graph in a SavedModel that is served.
      warm_up: whether a version answers its recorded requests before it is available.
      retries: how often a version that cannot be loaded is tried again.
      retry_seconds: until then.
      timeout_ms: of one TensorFlow call.
      xla: whether functions that only XLA may run are run.
      intra_op_threads: that share one operation; 0: one a core.
      inter_op_threads: that do operations side by side; 0: one a core.
    """

    tags: tuple[str, ...] = ("serve",)
    warm_up: bool = True
    retries: int = 5
    retry_seconds: float = 60.0
    timeout_ms: int = 30_000
    xla: bool = False
    intra_op_threads: int = 0
    inter_op_threads: int = 0


def read_batching(path: str | None) -> Batching:
    """What --enable_batching means with that file of `BatchingParameters`, or without one.

    Padding and splitting, which clients do not see, are checked and left out.

    Raises:
      UserError: it cannot be read, does not parse, or contradicts itself.
    """
    file = read_text(path, BatchingParameters) if path else BatchingParameters()

    def given(name: str, default: int, least: int = 1) -> int:
        value = getattr(file, name).value if file.HasField(name) else default
        if value < least:
            raise UserError(f"{path}: {name} must be at least {least}, not {value}")
        return value

    largest, allowed = given("max_batch_size", 1000), tuple(file.allowed_batch_sizes)
    pieces = given("max_execution_batch_size", largest) if file.enable_large_batch_splitting.value else None
    if allowed and (min(allowed) < 1 or list(allowed) != sorted(set(allowed))):
        raise UserError(f"{path}: allowed_batch_sizes entries must be in increasing order")
    if allowed and allowed[-1] != (pieces or largest):
        raise UserError(
            f"{path}: the last of allowed_batch_sizes must equal "
            f"{'max_execution_batch_size' if pieces else 'max_batch_size'}, {pieces or largest}"
        )
    return Batching(
        max_batch_size=largest,
        timeout=given("batch_timeout_micros", 0, least=0) / 1e6,
        max_enqueued_batches=given("max_enqueued_batches", 10),
        threads=given("num_batch_threads", os.cpu_count() or 1),
        strict=True,
    )


def read_monitoring(path: str) -> str | None:
    """The URL path at which a `MonitoringConfig` wants Prometheus' text; None: nowhere.

    Raises:
      UserError: it cannot be read, does not parse, or the path is none.
    """
    prometheus = read_text(path, MonitoringConfig).prometheus_config
    if prometheus.path and not prometheus.path.startswith("/"):
        raise UserError(f"{path}: the path must start with '/', not {prometheus.path!r}")
    return (prometheus.path or _METRICS_PATH) if prometheus.enable else None
