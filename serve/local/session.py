"""One version of a model, loaded the way TF Serving loads it: into a graph with a session of its own.

`tf.saved_model.load` restores variables differently and would serve models that TF Serving cannot.
"""

import os
from collections.abc import Iterable, Sequence

import numpy as np
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.core.protobuf import config_pb2, error_codes_pb2, meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from ddpg_tf._tf import tf
from serve.local.config import Loading
from serve.local.errors import ServingError, invalid, not_found

_DEFAULT_SIGNATURE = "serving_default"
_MAX_WARM_UP_RECORDS = 1000


class Signature:
    """A function of a loaded model.

    Attributes:
      definition: its `SignatureDef`.
      inputs: each input's name and type ("DT_FLOAT"), by name: a protocol buffer's own order is arbitrary.
      outputs: their names.
      batched: whether dim 0 of every input and output is declared variable, so that requests can be put together.
    """

    def __init__(
        self, session: tf.compat.v1.Session, definition: meta_graph_pb2.SignatureDef, forbidden: bool, timeout_ms: int
    ):
        self.definition = definition
        self.inputs = {name: types_pb2.DataType.Name(info.dtype) for name, info in sorted(definition.inputs.items())}
        self.outputs = sorted(definition.outputs)
        tensors = [*definition.inputs.values(), *definition.outputs.values()]
        self.batched = all(info.tensor_shape.dim and info.tensor_shape.dim[0].size == -1 for info in tensors)
        self._session = session
        self._forbidden = forbidden
        self._options = config_pb2.CallableOptions(
            feed=[definition.inputs[name].name for name in self.inputs],
            fetch=[definition.outputs[name].name for name in self.outputs],
            run_options=config_pb2.RunOptions(timeout_in_ms=timeout_ms),
        )
        self._callable = None

    def run(self, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One TensorFlow call: arrays in the order of `inputs` to arrays in that of `outputs`; from any thread.

        Raises:
          ServingError: with TensorFlow's code and text.
        """
        if self._forbidden:  # by TF Serving; a session in Python allows it
            raise ServingError("INTERNAL", "XLA compilation disabled")
        try:
            if self._callable is None:
                # Session.run and make_callable first check feeds against the placeholders' static shapes, which
                # TF Serving leaves to the kernels, and take 0.23 ms a call; this takes 0.04.
                self._callable = self._session._make_callable_from_options(self._options)
            return [_as_array(result) for result in self._callable(*feeds)]
        except tf.errors.OpError as error:
            raise _as_serving_error(error) from None


class SavedModel:
    """A SavedModel's `serve` graph, restored and warmed up.

    Raises:
      ServingError: it cannot be loaded, or one of its warm-up requests fails.
    """

    def __init__(self, directory: str, loading: Loading):
        config = tf.compat.v1.ConfigProto(
            allow_soft_placement=True,
            device_count={"GPU": 0},
            intra_op_parallelism_threads=loading.intra_op_threads,
            inter_op_parallelism_threads=loading.inter_op_threads,
        )
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            meta_graph = self._restore(directory, loading.tags)
            self.signatures = {
                name: Signature(
                    self._session,
                    definition,
                    not loading.xla and _needs_xla(meta_graph.graph_def, definition),
                    loading.timeout_ms,
                )
                for name, definition in meta_graph.signature_def.items()
            }
            if loading.warm_up:
                self._warm_up(os.path.join(directory, "assets.extra", "tf_serving_warmup_requests"))
        except Exception as error:  # whatever a damaged file leads to, the server goes on
            self.close()
            raise _as_serving_error(error) from error

    def _restore(self, directory: str, tags: Sequence[str]) -> meta_graph_pb2.MetaGraphDef:
        if not any(os.path.isfile(os.path.join(directory, f"saved_model.{kind}")) for kind in ("pb", "pbtxt")):
            raise not_found(f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {directory}")
        with self._session.graph.as_default():
            # Safer than TF Serving, this fails where the variables are not there (yet).
            return tf.compat.v1.saved_model.load(self._session, list(tags), directory)

    def signature(self, name: str) -> Signature:
        """The signature of that name, `serving_default` if it is empty; it has inputs."""
        found = self.signatures.get(name or _DEFAULT_SIGNATURE)
        if found is None:
            raise invalid(f'Serving signature name: "{name or _DEFAULT_SIGNATURE}" not found in signature def')
        if not found.inputs:
            raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
        return found

    def _warm_up(self, path: str) -> None:
        """Answers the recorded requests, so that the first real one is not the slow one."""
        if not os.path.isfile(path):
            return
        for i, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator()):
            if i == _MAX_WARM_UP_RECORDS:
                raise invalid(f"Number of warmup records exceeeds the maximum ({_MAX_WARM_UP_RECORDS}) at {path}")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise ServingError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {log.WhichOneof('log_type')}")
            request = log.predict_log.request
            signature = self.signature(request.model_spec.signature_name)
            if request.inputs.keys() != signature.inputs.keys():
                raise invalid(
                    f"warm-up request has inputs {sorted(request.inputs)}, the signature {sorted(signature.inputs)}"
                )
            signature.run([tf.make_ndarray(request.inputs[name]) for name in signature.inputs])

    def close(self) -> None:
        self._session.close()


def _as_serving_error(error: Exception) -> ServingError:
    if isinstance(error, ServingError):
        return error
    if isinstance(error, tf.errors.OpError):
        return ServingError(error_codes_pb2.Code.Name(error.error_code), error.message)
    return ServingError("UNKNOWN", f"{type(error).__name__}: {error}")


def _as_array(result) -> np.ndarray:
    return np.array(result, np.object_) if isinstance(result, bytes) else np.asarray(result)


def _needs_xla(graph: graph_pb2.GraphDef, signature: meta_graph_pb2.SignatureDef) -> bool:
    """Whether the signature's outputs come through a function that only XLA may run."""
    functions = {function.signature.name: function for function in graph.library.function}
    outputs = [info.name.split(":")[0] for info in signature.outputs.values()]
    nodes, seen = list(tf.compat.v1.graph_util.extract_sub_graph(graph, outputs).node), set()
    while nodes:
        for name in _called(nodes.pop()):
            if name in functions and name not in seen:
                seen.add(name)
                nodes.extend(functions[name].node_def)
    attributes = [functions[name].attr for name in seen]
    return any("_XlaMustCompile" in attr and attr["_XlaMustCompile"].b for attr in attributes)


def _called(node: node_def_pb2.NodeDef) -> Iterable[str]:
    """The names of the functions that `node` calls."""
    yield node.op
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name
