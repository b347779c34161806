"""Predict requests to tensors.

Source: TF Serving REST API, "Predict API"; the order of checks and the texts of errors are those of its
json_tensor.cc. A tensor's type is named as in `tensorflow.DataType` ("DT_FLOAT"). Needs no TensorFlow.
"""

import base64
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.local.errors import ServingError, invalid
from serve.local.rapidjson import describe

_MAX_RANK = 64  # NumPy's
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


@dataclass(frozen=True)
class _Kind:
    """How JSON values become a tensor of one type."""

    name: str  # as error texts have it
    accepted: frozenset[type]
    wide: type  # the values are read into this type, ...
    narrow: type  # ... then become this one: small integers wrap silently, as TF Serving's do

    def takes(self, values: list[Any]) -> bool:
        if not set(map(type, values)) <= self.accepted:
            return False
        if not values or not issubclass(self.wide, np.integer):
            return True
        range_ = np.iinfo(self.wide)
        return range_.min <= min(values) and max(values) <= range_.max

    def to_array(self, values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.array(values, self.wide).astype(self.narrow)
            if issubclass(self.narrow, np.floating):
                array *= np.abs(array) >= np.finfo(self.narrow).tiny  # its threads flush subnormals to zero
        return array.reshape(shape)


_NUMBER, _INTEGER = frozenset([int, float]), frozenset([int])
_KINDS = {
    "DT_FLOAT": _Kind("float", _NUMBER, np.float64, np.float32),
    "DT_DOUBLE": _Kind("double", _NUMBER, np.float64, np.float64),
    "DT_INT32": _Kind("int32", _INTEGER, np.int32, np.int32),
    "DT_INT16": _Kind("int16", _INTEGER, np.int32, np.int16),
    "DT_INT8": _Kind("int8", _INTEGER, np.int32, np.int8),
    "DT_UINT8": _Kind("uint8", _INTEGER, np.int32, np.uint8),
    "DT_INT64": _Kind("int64", _INTEGER, np.int64, np.int64),
    "DT_UINT32": _Kind("uint32", _INTEGER, np.uint32, np.uint32),
    "DT_UINT64": _Kind("uint64", _INTEGER, np.uint64, np.uint64),
    "DT_BOOL": _Kind("bool", frozenset([bool]), np.bool_, np.bool_),
    "DT_STRING": _Kind("string", frozenset(), np.object_, np.object_),  # taken one by one: each is encoded
}


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
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise _bad(document, "Expecting 'instances' to be an list/array")
        if not instances:
            raise _bad(document, "No values in 'instances' array")
        return True, _decode_rows(instances, inputs)
    if "inputs" in document:
        return False, _decode_columns(document["inputs"], inputs)
    raise invalid("Missing 'inputs' or 'instances' key")


def _decode_rows(instances: list[Any], inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = _is_object(instances[0])
    rows = _Rows(inputs)
    for i, element in enumerate(instances):
        if _is_object(element) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {got} at item {i} of input list")
        # A bare base64 object where several inputs are wanted: TF Serving takes the first in its map's order,
        # which is arbitrary. Here it is the last name.
        members = element if named else {max(inputs): element}
        for name, value in members.items():
            try:
                rows.add(name, value)
            except ServingError as error:
                key = f" key: {name}" if named else ""
                raise invalid(
                    f"Failed to process element: {i}{key} of 'instances' list. Error: {error.code}: {error.message}"
                ) from None
        if named and members.keys() != inputs.keys():
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. JSON object: {describe(element)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    tensors = rows.tensors(len(instances))
    if tensors.keys() != inputs.keys():
        raise invalid(f"input size does not match signature: {len(tensors)}!={len(inputs)}")
    return tensors


class _Rows:
    """Collects each input's elements, which must all have the shape of its first."""

    def __init__(self, inputs: Mapping[str, str]):
        self._inputs = inputs
        self._values: dict[str, list[Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, name: str, value: Any) -> None:
        if name not in self._inputs:
            raise invalid(f"JSON object: does not have named input: {name}")
        values = self._values.setdefault(name, [])
        shape, before = _shape_of(value), len(values)
        _fill(value, 0, shape, self._inputs[name], values)
        first = self._shapes.setdefault(name, shape)
        size = len(values) - before
        if size != math.prod(first):
            raise invalid(f"Expecting tensor size: {math.prod(first)} but got: {size}")
        if shape != first:
            raise invalid(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")

    def tensors(self, count: int) -> dict[str, np.ndarray]:
        return {
            name: _array(values, (count, *self._shapes[name]), self._inputs[name])
            for name, values in self._values.items()
        }


def _decode_columns(value: Any, inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    if _is_object(value):
        for name in inputs:
            if name not in value:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        columns = {name: value[name] for name in inputs}
    elif len(inputs) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    else:
        columns = {name: value for name in inputs}
    tensors = {}
    for name, column in columns.items():
        values: list[Any] = []
        shape = _shape_of(column)
        _fill(column, 0, shape, inputs[name], values)
        tensors[name] = _array(values, shape, inputs[name])
    return tensors


def _array(values: list[Any], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype not in _KINDS:  # an empty list: no value was refused before
        raise _unimplemented([], dtype)
    return _KINDS[dtype].to_array(values, shape)


def _shape_of(value: Any) -> tuple[int, ...]:
    """The shape that the first element at each level promises."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    if len(shape) >= _MAX_RANK:
        raise invalid(f"a tensor has at most {_MAX_RANK - 1} dimensions, got {len(shape)}")
    return tuple(shape)


def _fill(value: Any, level: int, shape: tuple[int, ...], dtype: str, out: list[Any]) -> None:
    """Appends the scalars under `value` to `out`, checking that its lists have the promised shape."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {describe(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        out.append(_scalar(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    if level == len(shape) - 1 and dtype in _KINDS and _KINDS[dtype].takes(value):
        out.extend(value)
    else:
        for item in value:
            _fill(item, level + 1, shape, dtype, out)


def _scalar(value: Any, dtype: str) -> Any:
    if dtype == "DT_STRING" and isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if dtype == "DT_STRING" and isinstance(value, dict):
        return _from_base64(value)
    if dtype not in _KINDS and not isinstance(value, dict):
        raise _unimplemented(value, dtype)
    if dtype not in _KINDS or not _KINDS[dtype].takes([value]):
        json_type = str(value) if isinstance(value, bool) else _JSON_TYPES[type(value)]
        raise _bad(value, f"Type: {json_type} is not of expected type: {_type_name(dtype)}")
    return value


def _from_base64(value: dict[str, Any]) -> bytes:
    if _is_object(value):
        raise _bad(value, "not formatted correctly for base64 data")
    text = re.sub(r"\s", "", value["b64"])
    digits = text.rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9+/]*", digits) or len(text) - len(digits) > 2 or len(digits) % 4 == 1:
        raise invalid("Unable to base64 decode")
    return base64.b64decode(digits + "=" * (-len(digits) % 4))


def _is_object(value: Any) -> bool:
    """An object of named inputs, not `{"b64": "..."}`."""
    return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _bad(value: Any, what: str) -> ServingError:
    return invalid(f"JSON Value: {describe(value)} {what}")


def _unimplemented(value: Any, dtype: str) -> ServingError:
    return ServingError("UNIMPLEMENTED", f"Conversion of JSON Value: {describe(value)} to type: {_type_name(dtype)}")


def _type_name(dtype: str) -> str:
    return _KINDS[dtype].name if dtype in _KINDS else dtype.removeprefix("DT_").lower()


def _shape_text(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
