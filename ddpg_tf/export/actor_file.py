"""Policy -> the actor alone in one file, for devices without TensorFlow Serving: LiteRT (TensorFlow Lite) or ONNX."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np

from ddpg_tf._tf import keras
from ddpg_tf.export import making, runtimes
from ddpg_tf.storage.policy import Policy


def write_version(policy: Policy, export_dir: Path, format: str, version: int | None = None) -> Path:
    """Writes the actor as <export_dir>/<version>/model.tflite or model.onnx, with policy.json beside it.

    Inputs are those of the SavedModel's serving_default, its output `action` float32 [B, A]; B is what the caller
    gives. Arguments and errors as those of `making.write_version`.

    Args:
      format: a key of runtimes.FORMATS, the packages of which are installed.
    Returns:
      The version's directory.
    """
    file = runtimes.FORMATS[format].file

    def write(path: Path, probes: dict[str, np.ndarray]):
        path.mkdir()
        model = _model(policy)
        model({name: probes[f"input/{name}"] for name in policy.spaces.leaves})  # Keras's ONNX needs to have seen one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Keras mends tf2onnx for NumPy 2
            logging.getLogger("tf2onnx").setLevel(logging.ERROR)
            model.export(str(path / file), format=format, verbose=False)
        (path / "policy.json").write_text(json.dumps(making.card(policy), indent=1))

    return making.write_version(policy, export_dir, version, file, write, "ddpg_tf.export.runtimes")


def _model(policy: Policy) -> keras.Model:
    """{name: observation} -> {"action": action}, as the SavedModel answers."""
    spaces = policy.spaces
    kind = np.dtype(spaces.observation_dtype).name
    inputs = {name: keras.Input(shape, dtype=kind, name=name) for name, shape in spaces.leaves.items()}
    parts = list(inputs.values())
    if not spaces.image:  # as gymnasium.spaces.flatten does
        parts = [keras.layers.Flatten()(part) for part in parts]
    observation = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    return keras.Model(inputs, {"action": policy.agent.actor(observation, training=False)})
