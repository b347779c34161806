"""Imports TensorFlow without its start-up noise; every other module takes `tf`, `keras` and `tfp` from here.

TensorFlow's C++ writes some lines before any log level applies, so the import runs with the stderr
descriptor pointing elsewhere. What was written is shown if the import fails.
"""

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator

from ddpg_tf import cli
from ddpg_tf.errors import UserError

# Errors come as exceptions; what C++ logs as errors beside them is what oneDNN has no kernel for, and the like.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")


@contextlib.contextmanager
def _quiet_stderr():
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        failed = False
        try:
            yield
        except Exception:  # not Ctrl-C
            failed = True
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            if failed:
                sink.seek(0)
                os.write(2, sink.read())


_OWN_PROCESS = cli.OWN_PROCESS in os.environ
# Keras and what tensorflow-probability loads import these where they are installed, which takes a second or more.
# Nothing in this project needs what they do with them.
_UNUSED = ("h5py", "matplotlib", "pandas", "scipy") if _OWN_PROCESS else ()


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """Around imports of large libraries: modules that would be of no use look as if they were not installed.

    Python does not look for garbage meanwhile, a tenth of the time, nor later among what was imported.
    """
    hidden, collects = [name for name in _UNUSED if name not in sys.modules], gc.isenabled()
    sys.modules.update(dict.fromkeys(hidden))
    gc.disable()
    try:
        yield
    finally:
        if _OWN_PROCESS:
            gc.freeze()
        if collects:
            gc.enable()
        for name in hidden:
            del sys.modules[name]


if os.environ["KERAS_BACKEND"] != "tensorflow":
    raise UserError(f"ddpg_tf needs KERAS_BACKEND=tensorflow, the environment says {os.environ['KERAS_BACKEND']!r}")

with _quiet_stderr(), lean_imports():
    # Imported before TensorFlow, it loads only what is asked of it.
    import tensorflow_probability as tfp  # isort: skip
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices("GPU")  # the CUDA driver complains here when there is none

# Whatever the user's keras.json says.
keras.config.set_floatx("float32")
keras.config.set_dtype_policy("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")


def device() -> str:
    """What TensorFlow computes on, in words; why, where there is a GPU that it does not use."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        return f"GPU: {', '.join(names)}"
    if os.path.exists("/dev/nvidia0") and os.environ.get("CUDA_VISIBLE_DEVICES") != "-1":
        return "CPU, for TensorFlow found no libraries for the GPU: pip install 'tensorflow[and-cuda]'"
    return "CPU"


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Around writing: what TensorFlow raises when the disk is full or not ours comes as an OSError, like Python's.

    Its text is "FILE; REASON", of TensorFlow's "{{node}} FILE; REASON [Op:NAME]".
    """
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message.splitlines()[0].rpartition("}} ")[2].partition(" [Op:")[0]) from None


__all__ = ["device", "keras", "lean_imports", "os_errors", "tf", "tfp"]
