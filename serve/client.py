"""PolicyClient: observations to actions over TensorFlow Serving's REST API.

Needs requests (with urllib3 2) and NumPy; imports neither TensorFlow nor ddpg_tf, so that whatever acts with a policy
(a robot, a web service) installs little.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from serve.connection import BadRequest, Connection, ModelNotFound, PolicyError, ServerError, ServerUnavailable

__all__ = ["BadRequest", "ModelNotFound", "PolicyClient", "PolicyError", "ServerError", "ServerUnavailable"]
_DTYPES = {"DT_FLOAT": np.float32, "DT_DOUBLE": np.float64, "DT_UINT8": np.uint8}


class PolicyClient:
    """Asks a server (TensorFlow Serving or `python -m serve.local`) for a policy's actions.

    Keeps one connection open; not to be shared between threads.

    Args:
      url: "http://host:port".
      model_name: the model's name on the server.
      version: ask this version; default: the newest that is loaded.
      label: ask the version that the server's configuration gives this label.
      timeout: seconds to wait for an answer.
      retries: how many more times to try when the connection fails or the server is overloaded (503). Nothing
        else is retried.
      backoff: seconds; the first retry comes at once, the next after 2 x backoff, and each after twice as long.
    Attributes:
      bytes_sent: size of the last question's body.
    Raises:
      ValueError: the URL has no scheme or no host, or both version and label are given.
    """

    def __init__(
        self,
        url: str,
        model_name: str,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 10.0,
        retries: int = 3,
        backoff: float = 0.1,
    ):
        if not re.match(r"https?://[^/]", url) or not _has_host(url):
            raise ValueError(f"the server's URL must be like http://localhost:8501, got {url!r}")
        if version is not None and label is not None:
            raise ValueError("give a version or a label, not both")
        self._url = f"{url.rstrip('/')}/v1/models/{quote(model_name, safe='')}"
        if version is not None:
            self._url += f"/versions/{version}"
        if label is not None:
            self._url += f"/labels/{quote(label, safe='')}"
        self._connection = Connection(timeout, retries, backoff)
        self._inputs: dict[str, Any] | None = None
        self._action_size: int | None = None
        self.bytes_sent = 0

    def act(self, observation: Any) -> np.ndarray:
        """The action for one observation, or the actions for a batch.

        The model's signature (asked for once, at the first call) says how many dimensions an observation has;
        one more makes a batch.

        Args:
          observation: array-like of the observation's shape `[...]`, or a batch `[N, ...]`. For a policy with
            several inputs a Dict or Tuple observation as Gymnasium gives it, a mapping (or tuple) of such arrays,
            nested or not; characters of a key outside [A-Za-z0-9_] count as "_".
        Returns:
          float32 `[A]`, or `[N, A]` for a batch, in the environment's units.
        Raises:
          BadRequest, ModelNotFound, ServerUnavailable, ServerError.
        """
        inputs = self.inputs()
        columns, batch = _columns(observation, inputs)
        return self._actions({"inputs": columns}, len(next(iter(columns.values()))), batch)

    def act_on_pngs(self, pngs: Any) -> np.ndarray:
        """As `act`, from compressed frames, for a policy that learnt from pixels: a fraction of the bytes.

        Args:
          pngs: the frames of one observation, a PNG file (bytes) each, the oldest first; or a batch of such lists.
        Returns:
          float32 `[A]`, or `[N, A]` for a batch, in the environment's units.
        Raises:
          BadRequest: the model takes no frames, or these are not PNG files of its size; ModelNotFound,
          ServerUnavailable, ServerError.
        """
        try:
            batch = bool(len(pngs)) and not isinstance(pngs[0], bytes)
            rows = [[{"b64": base64.b64encode(png).decode()} for png in row] for row in (pngs if batch else [pngs])]
        except (TypeError, KeyError):
            raise BadRequest("frames are a list of PNG files, as bytes, or a list of such lists") from None
        return self._actions(
            {"signature_name": "observation_bytes", "inputs": {"observation_bytes": rows}}, len(rows), batch
        )

    def inputs(self) -> dict[str, Any]:
        """The inputs of `serving_default` by name: `dtype` ("DT_FLOAT") and `shape` (None: the batch)."""
        if self._inputs is None:
            try:
                signature = self.metadata()["metadata"]["signature_def"]["signature_def"]["serving_default"]
                self._inputs = {
                    name: {"dtype": info["dtype"], "shape": _shape(info["tensor_shape"])}
                    for name, info in signature["inputs"].items()
                }
                action = signature.get("outputs", {}).get("action")
                self._action_size = (_shape(action["tensor_shape"]) or [None])[-1] if action else None
            except (KeyError, TypeError, AttributeError):
                raise ServerError("the model has no signature serving_default") from None
        return self._inputs

    def _actions(self, request: dict[str, Any], rows: int, batch: bool) -> np.ndarray:
        body = json.dumps(request)
        self.bytes_sent = len(body)
        answer = self._connection.ask("POST", f"{self._url}:predict", body)
        try:
            actions = np.asarray(answer["outputs"], np.float32)
        except (KeyError, TypeError, ValueError):
            raise ServerError("the model's answer is not one array of actions", 200) from None
        if not actions.ndim or len(actions) != rows:
            raise ServerError(f"the model answered {actions.shape} to {rows} observations", 200)
        if not rows and self._action_size is not None:
            return actions.reshape(0, self._action_size)
        return actions if batch else actions[0]

    def status(self) -> dict[str, Any]:
        """The state of the model's versions: `{"model_version_status": [{"version", "state", "status"}, ...]}`."""
        return self._connection.ask("GET", self._url)

    def metadata(self) -> dict[str, Any]:
        """The version that answers and its signatures: `{"model_spec": ..., "metadata": ...}`."""
        return self._connection.ask("GET", f"{self._url}/metadata")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:  # a bracket that is not closed
        return False


def _shape(tensor_shape: Mapping[str, Any]) -> list[int | None] | None:
    if tensor_shape.get("unknown_rank"):
        return None
    return [None if int(dim["size"]) < 0 else int(dim["size"]) for dim in tensor_shape.get("dim", [])]


def _columns(observation: Any, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The request's `inputs`, and whether the observation is a batch."""
    in_parts = len(inputs) > 1 or next(iter(inputs), "").startswith("observation_0")  # of a Tuple
    if isinstance(observation, Mapping) or (isinstance(observation, tuple) and in_parts):
        parts = dict(_leaves(observation, ()))
    elif len(inputs) == 1:
        parts = {next(iter(inputs)): observation}
    else:
        raise BadRequest(f"the model takes several inputs ({', '.join(sorted(inputs))}): pass a mapping")
    if parts.keys() != inputs.keys():
        raise BadRequest(f"the model takes {', '.join(sorted(inputs))}; the observation has {', '.join(sorted(parts))}")
    columns, batches = {}, set()
    for name, value in parts.items():
        try:
            array = _array(value, _DTYPES.get(inputs[name]["dtype"]))
            finite = np.isfinite(array).all()
        except (TypeError, ValueError, OverflowError) as error:
            raise BadRequest(f"{name} is not an array of numbers: {error}") from None
        if not finite:
            raise BadRequest(f"{name} has numbers that are not finite (null, NaN or infinity): no action answers to it")
        shape = inputs[name]["shape"]
        rank = array.ndim + 1 if shape is None else len(shape)  # of a batch
        if array.ndim not in (rank - 1, rank):
            raise BadRequest(f"{name} has {array.ndim} dimensions; an observation has {rank - 1}, a batch {rank}")
        wanted = tuple(shape[1:]) if shape else array.shape[array.ndim - rank + 1 :]
        found = array.shape[array.ndim - len(wanted) :]
        if any(size not in (None, given) for size, given in zip(wanted, found, strict=True)):
            raise BadRequest(f"{name} has the shape {found}, and the model takes {wanted}")
        batches.add(array.ndim == rank)
        columns[name] = (array if array.ndim == rank else array[None]).tolist()
    if len(batches) > 1:
        raise BadRequest("some parts of the observation are batches, some are not")
    return columns, batches.pop()


def _array(value: Any, dtype: type | None) -> np.ndarray:
    """`value` as `dtype`; images must be whole numbers already: NumPy would make 0 of 0.5, and 44 of 300."""
    array = np.asarray(value)
    if array.dtype.kind in "US":
        raise ValueError(f"it has text in it: {array.flat[0] if array.size else ''!r}")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN; 1e300 becomes infinity, which is refused
        if dtype is not np.uint8:
            return array.astype(dtype) if dtype else array
        pixels = array.astype(np.uint8)
    if (pixels != array).any():
        raise ValueError("pixels are whole numbers from 0 to 255")
    return pixels


def _leaves(observation: Any, path: tuple[str, ...]):
    """(input name, array) of each leaf of a Dict or Tuple observation, named as export.py names them."""
    if isinstance(observation, Mapping):
        for key, part in observation.items():
            yield from _leaves(part, (*path, str(key)))
    elif isinstance(observation, tuple):
        for index, part in enumerate(observation):
            yield from _leaves(part, (*path, f"observation_{index}"))
    else:
        yield re.sub(r"[^A-Za-z0-9_]", "_", "_".join(path)), observation
