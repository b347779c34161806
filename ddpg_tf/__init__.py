"""ddpg_tf: Deep Deterministic Policy Gradients on TensorFlow and Keras 3.

`Config`, `train`, `DDPG` and `ReplayBuffer` are the Python API. They are imported on first use: processes that
only run an environment (vector workers, video) must be able to import this package without TensorFlow.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["DDPG", "Config", "ReplayBuffer", "train"]

_ROOMS = {"Config": "config", "DDPG": "learner.agent", "ReplayBuffer": "replay.buffer", "train": "training.loop"}


def __getattr__(name):
    if name in _ROOMS:
        return getattr(importlib.import_module(f"ddpg_tf.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'ddpg_tf' has no attribute {name!r}")
