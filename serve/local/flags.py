"""The command line: tensorflow_model_server's own flags, and what becomes of each.

Source: its main.cc and `--help`. Needs no TensorFlow.
"""

import itertools
import os
from functools import partial

from absl import flags

from ddpg_tf.cli import definers
from ddpg_tf.errors import UsageError
from serve.local.config import Batching, Loading, ModelConfig, read_batching, read_models, valid_name

_VALUES_WITHOUT_EFFECT = {  # why: which
    "there is no gRPC": ["port", "grpc_socket_path", "grpc_channel_arguments", "grpc_max_threads", "ssl_config_file"],
    "threads start as they are needed": ["rest_api_num_threads", "num_load_threads", "num_unload_threads"],
    "there is no GPU": ["per_process_gpu_memory_fraction", "mixed_precision"],
    "there is no TensorFlow Lite": ["num_tflite_pools", "num_tflite_interpreters_per_pool"],
    "the file is not read": [
        "platform_config_file",
        "tensorflow_session_config_file",
        "thread_pool_factory_config_file",
    ],
    "once is enough": ["num_request_iterations_for_warmup"],
}
_SWITCHES_WITHOUT_EFFECT = {
    "there is no gRPC": ["use_alts_credentials", "enable_grpc_healthcheck_service"],
    "there is no GPU": ["xla_gpu_compilation_enabled", "skip_initialize_tpu"],
    "there is no TensorFlow Lite": ["prefer_tflite_model"],
    "this is not done here": [
        "enable_profiler",
        "enable_signature_method_name_check",
        "enable_per_model_batching_parameters",
        "enable_serialization_as_tensor_content",
        "flush_filesystem_caches",
        "remove_unused_fields_from_bundle_metagraph",
    ],
}


def flag_values() -> flags.FlagValues:
    """All flags, unparsed."""
    values = flags.FlagValues()
    define = definers(values)
    text, whole, switch = define.string, define.integer, define.boolean
    natural = partial(whole, lower_bound=0)
    text("model_name", "default", "name of the model in URLs")
    text("model_base_path", None, "directory of the version directories (1, 2, ...)")
    text("model_config_file", None, "instead of these two: models, version policies, labels (a ModelServerConfig file)")
    natural("model_config_file_poll_wait_seconds", 0, "seconds between looks whether it has changed; 0 reads it once")
    switch("allow_version_labels_for_unavailable_models", False, "take new labels of versions that are not loaded yet")
    natural("file_system_poll_wait_seconds", 1, "seconds between looks for new versions; 0 looks only once")
    text("host", "127.0.0.1", "address to listen on; 0.0.0.0 for all")
    natural(
        "rest_api_port",
        8501,
        "port to listen on; 0 takes a free one (TensorFlow Serving's 0: no REST)",
        upper_bound=65535,
    )
    whole(
        "rest_api_timeout_in_ms", 30_000, "milliseconds for one TensorFlow call, then the answer is 504", lower_bound=1
    )
    switch("rest_api_enable_cors_support", False, "let other origins' scripts read the answers")
    switch("enable_batching", False, "refuse what TF Serving's batching refuses (requests that wait are merged anyway)")
    text("batching_parameters_file", None, "a file with limits of batching (BatchingParameters)")
    text("monitoring_config_file", None, "a file with the path at which Prometheus finds metrics (MonitoringConfig)")
    text("saved_model_tags", "serve", "tags of the graph in a SavedModel that is served, with commas between them")
    switch("enable_model_warmup", True, "answer a version's recorded requests before it is available")
    natural("max_num_load_retries", 5, "how often a version that cannot be loaded is tried again")
    whole("load_retry_interval_micros", 60_000_000, "microseconds between two tries to load a version")
    natural("tensorflow_intra_op_parallelism", 0, "threads that share one operation; 0: one a core")
    natural("tensorflow_inter_op_parallelism", 0, "threads that do operations side by side; 0: one a core")
    natural("tensorflow_session_parallelism", 0, "what both of these flags are where they say 0")
    switch("xla_cpu_compilation_enabled", False, "run functions that only XLA may run, rather than refuse them")
    switch("version", False, "print the versions of this project and of TensorFlow, and end")
    for kind, reasons in ((text, _VALUES_WITHOUT_EFFECT), (switch, _SWITCHES_WITHOUT_EFFECT)):
        for why, names in reasons.items():
            for name in names:
                kind(name, None, f"no effect: {why}")
    return values


def without_effect(values: flags.FlagValues) -> list[str]:
    """The flags that were given and do nothing here."""
    idle = set(itertools.chain(*_VALUES_WITHOUT_EFFECT.values(), *_SWITCHES_WITHOUT_EFFECT.values()))
    return [f"--{name}" for name in values if name in idle and values[name].present]


def models_of(values: flags.FlagValues) -> list[ModelConfig]:
    """The models to serve.

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


def batching_of(values: flags.FlagValues) -> Batching:
    """How requests are put together; errors as `models_of`."""
    if values.enable_batching:
        return read_batching(values.batching_parameters_file)
    if values.batching_parameters_file:
        raise UsageError("--batching_parameters_file without --enable_batching has no effect: give both")
    return Batching()


def loading_of(values: flags.FlagValues) -> Loading:
    """How versions are loaded and run."""
    both = values.tensorflow_session_parallelism
    return Loading(
        tags=tuple(values.saved_model_tags.split(",")),
        warm_up=values.enable_model_warmup,
        retries=values.max_num_load_retries,
        retry_seconds=values.load_retry_interval_micros / 1e6,
        timeout_ms=values.rest_api_timeout_in_ms,
        xla=values.xla_cpu_compilation_enabled,
        intra_op_threads=values.tensorflow_intra_op_parallelism or both,
        inter_op_threads=values.tensorflow_inter_op_parallelism or both,
    )
