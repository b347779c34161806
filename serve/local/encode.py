"""Output tensors to a predict answer.

Source: TF Serving REST API, "Predict API" and "JSON mapping"; numbers are those of its json_tensor.cc. Needs no
TensorFlow.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from serve.local.errors import invalid
from serve.local.json_text import write

_AS_THEY_ARE = {"float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"}
_MANY = 100  # numbers that are worth NumPy's overhead
_POWERS_OF_TEN = 10.0 ** np.arange(23)  # those that a double holds exactly


def encode_response(outputs: Mapping[str, np.ndarray], row: bool) -> bytes:
    """The answer to a predict request.

    Args:
      outputs: an array per output of the signature; bytes objects for strings.
      row: `predictions`, one per element of dim 0, else `outputs`, one whole tensor each.
    Raises:
      ServingError: INVALID_ARGUMENT: a type that JSON cannot carry; rows where dim 0 differs or is missing.
    """
    if row:
        _check_rows(outputs)
    values = {name: _values(name, array) for name, array in outputs.items()}
    if len(values) == 1:
        [answer] = values.values()
    elif row:
        answer = [dict(zip(values, parts, strict=True)) for parts in zip(*values.values(), strict=True)]
    else:
        answer = values
    return write({"predictions" if row else "outputs": answer})


def _check_rows(outputs: Mapping[str, np.ndarray]) -> None:
    count = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count is not None and len(array) != count:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {count}")
        count = len(array)


def _values(name: str, array: np.ndarray) -> Any:
    """The tensor as nested lists."""
    if array.dtype == np.float32:
        return as_written(array).tolist()
    if array.dtype == np.object_:
        encode = _as_base64 if name.endswith("_bytes") else _as_text
        return np.vectorize(encode, otypes=[np.object_])(array).tolist()
    if array.dtype.name in _AS_THEY_ARE or not array.size:
        return array.tolist()
    type_name = "half" if array.dtype == np.float16 else array.dtype.name
    raise invalid(f"Failed to write JSON value for tensor type: {type_name}")


def _as_base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _as_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def as_written(values: np.ndarray) -> np.ndarray:
    """The doubles that TF Serving's decimals for float32 numbers are: of six digits if they suffice, else of nine.

    Source: TF Serving REST API, "Encoding floats"; `WriteDecimal` in its json_tensor.cc.
    """
    flat = values.ravel()
    if flat.size < _MANY:
        return _by_text(flat).reshape(values.shape)
    with np.errstate(all="ignore"):
        (six, sure_of_six), (nine, sure_of_nine) = (_rounded(flat.astype(np.float64), digits) for digits in (6, 9))
        decimals = np.where(six.astype(np.float32) == flat, six, nine)
    unsure = ~(sure_of_six & sure_of_nine)
    decimals[unsure] = _by_text(flat[unsure])
    return decimals.reshape(values.shape)


def _by_text(values: np.ndarray) -> np.ndarray:
    numbers = values.tolist()
    decimals = np.array([float(f"{number:.6g}") for number in numbers])
    for i in np.flatnonzero(decimals.astype(np.float32) != values).tolist():  # NaN too
        decimals[i] = float(f"{numbers[i]:.9g}")
    return decimals


def _rounded(values: np.ndarray, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Doubles rounded to so many digits, 20 times faster than through text; and which of them are surely right.

    Whole numbers and powers of ten are exact here, so that their quotient is the double nearest to the decimal.
    """
    places = digits - 1 - np.floor(np.log10(np.abs(values)))
    exact = (places >= 0) & (places < len(_POWERS_OF_TEN))
    power = _POWERS_OF_TEN[np.where(exact, places, 0).astype(int)]
    scaled = values * power
    whole = np.rint(scaled)
    no_tie = np.abs(np.abs(scaled - whole) - 0.5) > 1e-5
    has_digits = (np.abs(whole) >= 10 ** (digits - 1)) & (np.abs(whole) < 10**digits)
    return whole / power, exact & no_tie & has_digits
