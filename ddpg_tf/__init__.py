"""ddpg_tf: Deep Deterministic Policy Gradients on TensorFlow and Keras 3.

`Config`, `train`, `DDPG` and `ReplayBuffer` are the Python API. They are imported on first use: processes that
only run an environment (vector workers, video) must be able to import this package without TensorFlow.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["DDPG", "Config", "ReplayBuffer", "train"]

_MODULES = {"Config": "config", "DDPG": "learner.agent", "ReplayBuffer": "replay.buffer", "train": "training.loop"}


def __getattr__(name):
    if name in _MODULES:
        return getattr(importlib.import_module(f"ddpg_tf.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'ddpg_tf' has no attribute {name!r}")


def __dir__():
    return [*__all__, "__version__"]
