"""Predict requests to tensors.

Source: TF Serving REST API, "Predict API"; the order of checks and the texts of errors are those of its
json_tensor.cc. A tensor's type is named as in `tensorflow.DataType` ("DT_FLOAT"). Needs no TensorFlow.
"""

import base64
import math
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from serve.local.errors import ServingError, invalid
from serve.local.json_text import describe

Shape = tuple[int, ...]

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
_ACCEPTED = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}, "O": set()}  # by NumPy's kind; texts are encoded
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def decode_request(document: dict[str, Any], inputs: Mapping[str, str]) -> tuple[bool, dict[str, np.ndarray]]:
    """The tensors of a predict request.

    Args:
      document: the parsed body.
      inputs: each input's name and type in the signature. Its shape plays no part: kernels object, not this.
    Returns:
      whether the request is in row format, and an array per input.
    Raises:
      ServingError: INVALID_ARGUMENT or UNIMPLEMENTED, with TF Serving's text.
    """
    if "instances" in document and "inputs" in document:
        raise _bad(document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    if "inputs" in document:
        return False, _decode_columns(document["inputs"], inputs)
    if "instances" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    if not isinstance(document["instances"], list):
        raise _bad(document, "Expecting 'instances' to be an list/array")
    if not document["instances"]:
        raise _bad(document, "No values in 'instances' array")
    return True, _decode_rows(document["instances"], inputs)


def _decode_rows(instances: list[Any], inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    named = _is_object(instances[0])
    if not named and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as "
            "per tensorinfo_map"
        )
    values, shapes = {name: [] for name in inputs}, {}
    for i, element in enumerate(instances):
        if _is_object(element) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {got} at item {i} of input list")
        for name, value in (element if named else dict.fromkeys(inputs, element)).items():
            try:
                if name not in inputs:
                    raise invalid(f"JSON object: does not have named input: {name}")
                scalars, shape = _flat(value, inputs[name])
                if shape != shapes.setdefault(name, shape):
                    raise _unlike(shape, shapes[name])
            except ServingError as error:
                key = f" key: {name}" if named else ""
                raise invalid(
                    f"Failed to process element: {i}{key} of 'instances' list. Error: {error.code}: {error.message}"
                ) from None
            values[name] += scalars
        if named and element.keys() != inputs.keys():
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. JSON object: {describe(element)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {name: _to_array(values[name], (len(instances), *shapes[name]), dtype) for name, dtype in inputs.items()}


def _unlike(shape: Shape, first: Shape) -> ServingError:
    if math.prod(shape) != math.prod(first):
        return invalid(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
    return invalid(f"Expecting shape {list(first)} but got: {list(shape)}".replace(", ", ","))


def _decode_columns(value: Any, inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    named = _is_object(value)
    if not named and len(inputs) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    columns = value if named else dict.fromkeys(inputs, value)
    if missing := inputs.keys() - columns.keys():
        raise invalid(f"Missing named input: {min(missing)} in 'inputs' object.")
    return {name: _to_array(*_flat(columns[name], dtype), dtype) for name, dtype in inputs.items()}


def _flat(value: Any, dtype: str) -> tuple[list[Any], Shape]:
    """A tensor's scalars and its shape; the first list at each level says how long all are."""
    if dtype not in _DTYPES:
        raise ServingError("UNIMPLEMENTED", f"Conversion of JSON Value: {describe(value)} to type: {_type_name(dtype)}")
    values, shape = [value], []
    while values and isinstance(values[0], list):
        shape.append(len(values[0]))
        for item in values:
            if not isinstance(item, list):
                raise _bad(
                    item, f"found at incorrect level: {len(shape)} in the JSON DOM. Expected at level: {len(shape)}"
                )
            if len(item) != shape[-1]:
                raise invalid(
                    f"Encountered list at unexpected size: {len(item)} at level: {len(shape) - 1} "
                    f"expected size: {shape[-1]}"
                )
        values = list(chain.from_iterable(values))
    if len(shape) >= _MAX_RANK:
        raise invalid(f"a tensor has at most {_MAX_RANK - 1} dimensions, got {len(shape)}")
    if not _takes(dtype, values):
        values = [_scalar(value, len(shape), dtype) for value in values]
    return values, tuple(shape)


def _takes(dtype: str, values: list[Any]) -> bool:
    """Whether a tensor of that type can have these values as they are."""
    numpy_type = _DTYPES[dtype]
    if not set(map(type, values)) <= _ACCEPTED[np.dtype(numpy_type).kind]:
        return False
    if not values or not issubclass(numpy_type, np.integer):
        return True
    range_ = np.iinfo(_READ_AS.get(numpy_type, numpy_type))
    return range_.min <= min(values) and max(values) <= range_.max


def _scalar(value: Any, level: int, dtype: str) -> Any:
    if isinstance(value, list):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {level}")
    if dtype == "DT_STRING" and isinstance(value, str | dict):
        return _bytes(value)
    if not _takes(dtype, [value]):
        json_type = str(value) if isinstance(value, bool) else _JSON_TYPES[type(value)]
        raise _bad(value, f"Type: {json_type} is not of expected type: {_type_name(dtype)}")
    return value


def _to_array(values: list[Any], shape: Shape, dtype: str) -> np.ndarray:
    numpy_type = _DTYPES[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.array(values, _READ_AS.get(numpy_type, numpy_type)).astype(numpy_type)
        if issubclass(numpy_type, np.floating):
            array *= np.abs(array) >= np.finfo(numpy_type).tiny  # TF Serving's threads flush subnormals to zero
    return array.reshape(shape)


def _bytes(value: str | dict[str, Any]) -> bytes:
    """The text, or what its base64 stands for."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise _bad(value, "has half a surrogate pair") from None
    if _is_object(value):
        raise _bad(value, "not formatted correctly for base64 data")
    digits = re.fullmatch(r"([A-Za-z0-9+/]*)={0,2}", "".join(value["b64"].split()))
    if not digits or len(digits[1]) % 4 == 1:
        raise invalid("Unable to base64 decode")
    return base64.b64decode(digits[1] + "==")


def _is_object(value: Any) -> bool:
    """An object of named inputs, not `{"b64": "..."}`."""
    return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _bad(value: Any, what: str) -> ServingError:
    return invalid(f"JSON Value: {describe(value)} {what}")


def _type_name(dtype: str) -> str:
    return dtype.removeprefix("DT_").lower()
