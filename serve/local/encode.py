"""Output tensors to the text of a predict answer.

Source: TF Serving REST API, "Predict API" and "JSON mapping"; white space and numbers are those of its
json_tensor.cc. Needs no TensorFlow.
"""

import base64
import math
from collections.abc import Callable, Mapping

import numpy as np

from serve.local.errors import invalid
from serve.local.rapidjson import quote


def encode_response(outputs: Mapping[str, np.ndarray], row: bool) -> str:
    """The answer to a predict request, with TF Serving's number format and white space.

    Args:
      outputs: an array per output of the signature; bytes objects for strings.
      row: `predictions`, one per element of dim 0, else `outputs`, one whole tensor each.
    Raises:
      ServingError: INVALID_ARGUMENT: a type that JSON cannot carry; rows where dim 0 differs or is missing.
    """
    return _encode_rows(outputs) if row else _encode_columns(outputs)


def _encode_rows(outputs: Mapping[str, np.ndarray]) -> str:
    count = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count is not None and len(array) != count:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {count}")
        count = len(array)
    if count == 0:
        return '{\n    "predictions": []\n}'
    columns = [_nest(_tokens(name, array), array.shape, 1, _one_line) for name, array in outputs.items()]
    if len(columns) == 1:
        return '{\n    "predictions": [' + ", ".join(columns[0]) + "\n    ]\n}"
    names = [quote(name) for name in outputs]
    rows = (
        ",\n".join(f"            {name}: {value}" for name, value in zip(names, row, strict=True))
        for row in zip(*columns, strict=True)
    )
    elements = ",\n".join(f"        {{\n{row}\n        }}" for row in rows)
    return f'{{\n    "predictions": [\n{elements}\n    ]\n}}'


def _encode_columns(outputs: Mapping[str, np.ndarray]) -> str:
    depth = 1 if len(outputs) == 1 else 2
    values = {
        name: _nest(_tokens(name, array), array.shape, 0, lambda items, level: _many_lines(items, level + depth))[0]
        for name, array in outputs.items()
    }
    if len(values) == 1:
        return '{\n    "outputs": ' + next(iter(values.values())) + "\n}"
    members = ",\n".join(f"        {quote(name)}: {value}" for name, value in values.items())
    return f'{{\n    "outputs": {{\n{members}\n    }}\n}}'


def _nest(tokens: list[str], shape: tuple[int, ...], outer: int, bracket: Callable[[list[str], int], str]) -> list[str]:
    """Folds a tensor's tokens into lists, innermost dimension first, down to dimension `outer`."""
    for level in range(len(shape) - 1, outer - 1, -1):
        size = shape[level]
        tokens = [bracket(tokens[i * size : (i + 1) * size], level) for i in range(math.prod(shape[:level]))]
    return tokens


def _one_line(items: list[str], level: int) -> str:
    return "[" + ", ".join(items) + "]"


def _many_lines(items: list[str], level: int) -> str:
    if not items:
        return "[]"
    indent = "\n" + "    " * level
    return f"[{indent}    " + f",{indent}    ".join(items) + f"{indent}]"


def _tokens(name: str, array: np.ndarray) -> list[str]:
    flat = array.ravel()
    if array.dtype in (np.float32, np.float64):
        return decimals(flat)
    if array.dtype == np.bool_:
        return ["true" if value else "false" for value in flat]
    if array.dtype == np.object_ and name.endswith("_bytes"):
        return ['{"b64": "' + base64.b64encode(value).decode() + '"}' for value in flat]
    if array.dtype == np.object_:
        return [quote(value.decode("utf-8", "surrogateescape")) for value in flat]
    if array.dtype.kind in "iu" and array.dtype != np.uint16:
        return list(map(str, flat.tolist()))
    if not flat.size:
        return []
    type_name = "half" if array.dtype == np.float16 else array.dtype.name
    raise invalid(f"Failed to write JSON value for tensor type: {type_name}")


def decimals(values: np.ndarray) -> list[str]:
    """Floats as TF Serving writes them: six digits if they are the number, else as many as surely are.

    Args:
      values: [N] float32 or float64.
    Source: TF Serving REST API, "Encoding floats"; `WriteDecimal` in its json_tensor.cc.
    """
    full = ".9g" if values.dtype == np.float32 else ".17g"
    numbers = values.tolist()
    texts = [f"{number:g}" for number in numbers]
    back = np.array([float(text) for text in texts], values.dtype)
    for i in np.flatnonzero(back != values).tolist():  # NaN too
        texts[i] = format(numbers[i], full)
    return [_NOT_FINITE.get(text) or (text if "." in text or "e" in text else text + ".0") for text in texts]


_NOT_FINITE = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
