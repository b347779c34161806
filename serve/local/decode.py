"""Predict requests to tensors.

Source: TF Serving REST API, "Predict API": what is accepted and the order of checks are those of its json_tensor.cc;
the texts of errors are not. A tensor's type is named as in `tensorflow.DataType` ("DT_FLOAT"). Needs no TensorFlow.
"""

import base64
import json
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from serve.local.errors import ServingError, invalid

_MAX_RANK = 64  # NumPy's
_DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_BOOL": np.bool_,
    "DT_STRING": np.object_,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
}
_READ_AS = dict.fromkeys([np.int8, np.int16, np.uint8], np.int32)  # and then wrap silently, as TF Serving's do
_ACCEPTED = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}, "O": {bytes}}  # by NumPy's kind


def decode_request(document: dict[str, Any], inputs: Mapping[str, str]) -> tuple[bool, dict[str, np.ndarray]]:
    """The tensors of a predict request.

    Args:
      document: the parsed body.
      inputs: each input's name and type in the signature. Its shape plays no part: kernels object, not this.
    Returns:
      whether the request is in row format, and an array per input.
    Raises:
      ServingError: INVALID_ARGUMENT; UNIMPLEMENTED: a column for an input of a type that JSON cannot carry.
    """
    if ("instances" in document) == ("inputs" in document):
        raise invalid("the request must have either 'instances' or 'inputs'")
    if "inputs" in document:
        return False, _tensors(_columns(document["inputs"], inputs), inputs)
    try:
        return True, _tensors(_columns_of_rows(document["instances"], inputs), inputs)
    except ServingError as error:
        raise invalid(error.message) from None  # whatever it was, as TF Serving has it for rows


def _columns(value: Any, inputs: Mapping[str, str]) -> Mapping[str, Any]:
    """Each input's value; names that are no input's are ignored."""
    if not _is_object(value):
        _require_one(inputs)
        return dict.fromkeys(inputs, value)
    if missing := inputs.keys() - value.keys():
        raise invalid(f"'inputs' has no {min(missing)}")
    return value


def _columns_of_rows(rows: Any, inputs: Mapping[str, str]) -> Mapping[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise invalid("'instances' must be a list with at least one element")
    if not _is_object(rows[0]):
        _require_one(inputs)
        return dict.fromkeys(inputs, rows)
    for i, row in enumerate(rows):
        if not _is_object(row) or row.keys() != inputs.keys():
            raise invalid(f"instances[{i}] must be an object of {', '.join(sorted(inputs))}, as the first is an object")
    return {name: [row[name] for row in rows] for name in inputs}


def _require_one(inputs: Mapping[str, str]) -> None:
    if len(inputs) > 1:
        raise invalid(f"the model has several inputs: an object of {', '.join(sorted(inputs))} is needed")


def _tensors(columns: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    found = {}
    for name, dtype in inputs.items():
        try:
            found[name] = _tensor(columns[name], dtype)
        except ServingError as error:
            raise ServingError(error.code, f"{name}: {error.message}") from None
    return found


def _tensor(value: Any, dtype: str) -> np.ndarray:
    if dtype not in _DTYPES:
        raise ServingError("UNIMPLEMENTED", f"JSON has no values of type {_type_name(dtype)}")
    values, shape = [value], []
    while values and isinstance(values[0], list):
        if set(map(type, values)) != {list}:
            raise invalid(f"lists and other values are mixed at level {len(shape)}")
        lengths = sorted(set(map(len, values)))
        if len(lengths) > 1:
            raise invalid(f"lists at level {len(shape)} have different sizes: {lengths[0]} and {lengths[-1]}")
        shape += lengths
        values = list(chain.from_iterable(values))
    if len(shape) >= _MAX_RANK:
        raise invalid(f"a tensor has at most {_MAX_RANK - 1} dimensions, got {len(shape)}")
    if dtype == "DT_STRING":
        values = [_bytes(value) for value in values]
    if not _fit(values, dtype):
        wrong = next(value for value in values if not _fit([value], dtype))
        raise invalid(f"{_brief(wrong)} is not of type {_type_name(dtype)}")
    return _array(values, _DTYPES[dtype]).reshape(shape)


def _fit(values: list[Any], dtype: str) -> bool:
    """Whether a tensor of that type can have these values."""
    numpy_type = _DTYPES[dtype]
    if not set(map(type, values)) <= _ACCEPTED[np.dtype(numpy_type).kind]:
        return False
    if not values or not issubclass(numpy_type, np.integer):
        return True
    range_ = np.iinfo(_READ_AS.get(numpy_type, numpy_type))
    return range_.min <= min(values) and max(values) <= range_.max


def _array(values: list[Any], numpy_type: type) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.array(values, _READ_AS.get(numpy_type, numpy_type)).astype(numpy_type, copy=False)
        if issubclass(numpy_type, np.floating):
            array *= np.abs(array) >= np.finfo(numpy_type).tiny  # TF Serving's threads flush subnormals to zero
    return array


def _bytes(value: Any) -> Any:
    """The text, or what its base64 stands for; anything else as it is."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid(f"{_brief(value)} has half a surrogate pair") from None
    if not isinstance(value, dict) or _is_object(value):
        return value
    text = re.fullmatch(r"([A-Za-z0-9+/]*)(={0,2})", "".join(value["b64"].split()))
    if not text or len(text[1]) % 4 == 1 or (text[2] and len(text[0]) % 4):  # padding may be left out, but not wrong
        raise invalid("Unable to base64 decode")
    return base64.b64decode(text[1] + "==")


def _is_object(value: Any) -> bool:
    """An object of named inputs, not `{"b64": "..."}`."""
    return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _brief(value: Any) -> str:
    """`value` for an error's text; it may be large or nested deeply."""
    return {dict: "an object", list: "a list"}.get(type(value)) or json.dumps(value)[:100]


def _type_name(dtype: str) -> str:
    return dtype.removeprefix("DT_").lower()
