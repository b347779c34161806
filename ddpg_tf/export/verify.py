"""Checks an exported SavedModel the way its users will load it; run as a script, in a process of its own.

    python -m ddpg_tf.export.verify SAVED_MODEL_DIR PROBES.npz

Imports nothing that trains. PROBES.npz holds 7 rows of each input, as input/<name>, and the live networks' `action` and
`q` for them (the actions to be valued are in `given_action`, images as PNG files in `pngs`).
"""

import os
import sys
from collections.abc import Mapping

import numpy as np

from ddpg_tf._tf import tf
from ddpg_tf.export.runtimes import alike, inputs_of

SIGNATURES = {"serving_default": "action", "action_value": "q", "observation_bytes": "action"}


def requests_of(probes: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{signature: 7 rows of each of its inputs}."""
    inputs = inputs_of(probes)
    found = {"serving_default": inputs, "action_value": inputs | {"action": probes["given_action"]}}
    return found | ({"observation_bytes": {"observation_bytes": probes["pngs"]}} if "pngs" in probes else {})


def verify(path: str, probes: dict[str, np.ndarray]):
    """Loads the model as TF2 and, as TF Serving does, in a graph-mode session; compares both with the live networks.

    A Keras 3 model saved the wrong way loads in the first and fails every request in the second. The warm-up requests
    are replayed too: TF Serving does not load a model whose own fail.

    Raises:
      ValueError: a signature is missing, answers differ, a jit-compiled function is reachable, or a warm-up request
        does not fit.
    """
    inputs, feeds = inputs_of(probes), requests_of(probes)
    expected = {name: probes[SIGNATURES[name]] for name in feeds}
    _refuse_jit(path)
    loaded = tf.saved_model.load(path)
    for name, output in ((name, SIGNATURES[name]) for name in feeds):
        for rows in (1, 7):
            feed = {key: tf.constant(array[:rows]) for key, array in feeds[name].items()}
            _compare("TF2", name, loaded.signatures[name](**feed)[output].numpy(), expected[name][:rows])
    for name in ("serving_default", "action_value"):
        for key in (key for key in inputs if inputs[key].dtype == np.float32):
            broken = {**feeds[name], key: np.full_like(inputs[key], np.nan)}
            found = loaded.signatures[name](**{key: tf.constant(array) for key, array in broken.items()})
            if not np.isnan(found[SIGNATURES[name]].numpy()).all():
                raise ValueError(f"{name} answers NaN as {key} with {found[SIGNATURES[name]].numpy().tolist()}")
    warm_up = _warm_up_requests(path)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], path)
        for name, output in ((name, SIGNATURES[name]) for name in feeds):
            signature = meta.signature_def[name]
            for rows in (1, 7):
                feed = {signature.inputs[key].name: array[:rows] for key, array in feeds[name].items()}
                found = session.run(signature.outputs[output].name, feed)
                _compare("graph-mode session", name, found, expected[name][:rows])
        for name, request in warm_up:
            signature = meta.signature_def[name]
            if request.keys() != signature.inputs.keys():
                raise ValueError(f"a warm-up request of {name} has inputs {sorted(request)}")
            session.run(
                [output.name for output in signature.outputs.values()],
                {signature.inputs[key].name: array for key, array in request.items()},
            )


def _warm_up_requests(path: str) -> list[tuple[str, dict[str, np.ndarray]]]:
    """(signature, array per input) of each record."""
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog  # once TensorFlow is there, quietly

    file = os.path.join(path, "assets.extra", "tf_serving_warmup_requests")
    records = tf.data.TFRecordDataset([file] if os.path.isfile(file) else [])
    requests = [PredictionLog.FromString(record).predict_log.request for record in records.as_numpy_iterator()]
    return [
        (request.model_spec.signature_name, {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()})
        for request in requests
    ]


def _compare(loader: str, signature: str, found: np.ndarray, expected: np.ndarray):
    if not alike(found, expected):
        raise ValueError(
            f"{signature} loaded in a {loader} answers {found.tolist()}, the live networks {expected.tolist()}"
        )


def _refuse_jit(path: str):
    """TF Serving answers every request to a jit-compiled function with 'XLA compilation disabled'."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # once TensorFlow is there, quietly

    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        model = SavedModel.FromString(file.read())
    for graph in model.meta_graphs:
        for function in graph.graph_def.library.function:
            if function.attr["_XlaMustCompile"].b:
                raise ValueError(f"{function.signature.name} is jit-compiled: TF Serving refuses it")


if __name__ == "__main__":
    try:
        verify(sys.argv[1], dict(np.load(sys.argv[2], allow_pickle=True)))  # byte strings are objects; they are ours
    except (ValueError, KeyError, tf.errors.OpError, OSError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
