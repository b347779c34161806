"""Ray started on this machine, or a cluster joined; what cannot be done is said in one line."""

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ddpg_tf.errors import UsageError, UserError

_OBJECT_STORE = 500_000_000  # bytes: some rounds and the actor's weights
# The environment of a process that takes one CPU, and no more; TensorFlow reads it when it is imported.
ONE_CPU = {"CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def join(address: str, cpus: int, env_id: str) -> tuple[Any, Callable[[], None]]:
    """Ray, with a cluster: the one at `address`, or if that is empty one of this process.

    A cluster that this process has joined before is used, and left as it is.

    Args:
      cpus: that a cluster of this process lends, however many there are.
      env_id: its module is taken along.
    Returns:
      (the module ray, a function that leaves the cluster, or stops it).
    Raises:
      UserError: Ray is not installed, nothing answers at `address`, it speaks another version, ...
    """
    if not address and "ray" not in sys.modules:  # then Ray listens on 127.0.0.1 only, and asks callers for a token
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # where collectors share cores, they are not the last to get them
    try:
        import ray
    except ImportError as error:
        raise UserError(f"this needs Ray: pip install -r requirements-ray.txt ({error})") from None
    if ray.is_initialized():
        return ray, lambda: None
    quiet = dict(log_to_driver=False, logging_level=logging.ERROR)
    local = dict(num_cpus=cpus, include_dashboard=False, object_store_memory=_OBJECT_STORE)
    _require_listener(address)
    try:
        with _own_signals():
            if address:
                ray.init(address, runtime_env={"py_modules": _modules(env_id)}, **quiet)
            else:
                ray.init("local", **local, **quiet)  # also beside a cluster that this machine is part of
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise UserError(f"cannot {f'join Ray at {address}' if address else 'start Ray here'}: {error}") from None
    return ray, ray.shutdown


def _require_listener(address: str):
    """Ray itself waits for minutes, and then ends the process."""
    if address in ("", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"ray_address must be auto, HOST:PORT or ray://HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(f"cannot join Ray at {address}: {error}") from None


def _modules(env_id: str) -> list[str]:
    """Where the code is that collectors need and that is not installed as a package: this, and the environment's."""
    found = []
    for name in ("ddpg_tf", *env_id.rpartition(":")[0].split(".")[:1]):
        spec = importlib.util.find_spec(name) if name else None
        if spec:
            place = next(iter(spec.submodule_search_locations or [spec.origin]))
            if Path(sysconfig.get_path("purelib")) not in Path(place).parents:
                found.append(place)
    return found


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """ray.init takes SIGTERM for itself; this gives it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
