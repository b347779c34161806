"""The runtimes of the actor's other formats: what to install, and whether a file answers there as the policy does.

    python -m ddpg_tf.export.runtimes VERSION_DIR PROBES.npz

Imports no TensorFlow, as on the device. PROBES.npz holds 7 rows of each input, as input/<name>, and the live actor's
`action` for them.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpg_tf.errors import UserError


class Format(NamedTuple):
    """A format for the actor alone.

    Attributes:
      file: its name in a version's directory.
      modules: that must be there to write it and to try it.
      packages: that have them, for pip.
    """

    file: str
    modules: tuple[str, ...]
    packages: str


FORMATS = {
    "litert": Format("model.tflite", ("ai_edge_litert",), "ai-edge-litert"),
    "onnx": Format("model.onnx", ("tf2onnx", "onnxruntime"), "tf2onnx onnxruntime"),
}


def require_installed(format: str):
    """Raises UserError, with what to install, where the exporter or the runtime of `format` is missing."""
    if not all(map(importlib.util.find_spec, FORMATS[format].modules)):
        raise UserError(f"the format {format} needs more packages: pip install {FORMATS[format].packages}")


def inputs_of(probes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: 7 rows} of the policy's inputs. Reads nothing else: `pngs` are objects, which np.load refuses here."""
    return {name.removeprefix("input/"): probes[name] for name in probes if name.startswith("input/")}


def alike(found: np.ndarray, expected: np.ndarray) -> bool:
    """Up to 1e-5 of the largest value: every runtime, and XLA below the live networks, rounds differently."""
    tolerance = 1e-5 * max(1.0, float(np.abs(expected).max()))
    return found.shape == expected.shape and np.allclose(found, expected, rtol=0, atol=tolerance)


def load(path: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The policy in a version's directory as a function: {name: observations [B, ...]} -> actions float32 [B, A]."""
    file = path / FORMATS["onnx"].file
    if file.exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["action"], inputs)[0]
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path / FORMATS["litert"].file)).get_signature_runner()
    return lambda inputs: run(**inputs)["action"]


def verify(path: Path, probes: Mapping[str, np.ndarray]):
    """Compares batches of 1 and 7 with the live actor, and asks for what is not finite.

    Raises:
      ValueError: answers differ, or a broken observation gets an action.
    """
    act = load(path)
    inputs = inputs_of(probes)
    for rows in (1, 7):
        found, expected = act({name: array[:rows] for name, array in inputs.items()}), probes["action"][:rows]
        if not alike(found, expected):
            raise ValueError(f"the actions are {found.tolist()}, the live actor's {expected.tolist()}")
    for name in (name for name, array in inputs.items() if array.dtype == np.float32):
        for broken in (np.nan, np.inf):
            found = act(inputs | {name: np.full_like(inputs[name], broken)})
            if not np.isnan(found).all():
                raise ValueError(f"the actions for a {name} of {broken} are {found.tolist()}")


if __name__ == "__main__":
    try:
        verify(Path(sys.argv[1]), np.load(sys.argv[2]))
    except Exception as problem:  # the runtimes raise all kinds of things
        sys.exit(f"{type(problem).__name__}: {problem}")
