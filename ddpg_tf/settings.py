"""What a setting is: a field of Config with its bounds, and a value that fits it."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from ddpg_tf.errors import UsageError


def setting(
    default: Any,
    group: str,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    choices: Sequence[str] = (),
    resumable: bool = False,
) -> Any:
    """A field of Config. `least`/`most`/`above` bound a number (`above` excludes itself), `choices` a string.

    `resumable` fields may change when a run is resumed.
    """
    return dataclasses.field(
        default=default,
        metadata=dict(
            group=group, help=help, least=least, most=most, above=above, choices=tuple(choices), resumable=resumable
        ),
    )


def coerce(name: str, kind: type, value: Any) -> Any:
    """`value` as a `kind`, from what Python callers give (lists for tuples, ints for floats, dicts for JSON).

    Raises:
      UsageError: it is something else; the message calls it `name`.
    """
    try:
        if kind is float:
            return float(value)
        if kind is int:
            return _whole(value)
        if kind == tuple[int, ...] and not isinstance(value, str):
            return tuple(_whole(unit) for unit in ([value] if isinstance(value, int) else value))
        if kind is str and isinstance(value, dict | os.PathLike):
            return json.dumps(value) if isinstance(value, dict) else os.fspath(value)
        if kind in (bool, str) and isinstance(value, kind):
            return value
    except (TypeError, ValueError, OverflowError) as error:
        if kind is str and isinstance(value, dict):
            raise UsageError(f"{name} holds what JSON cannot: {error}") from None
    raise UsageError(f"{name} must be {'integers' if kind == tuple[int, ...] else kind.__name__}, not {value!r}")


def check(field: dataclasses.Field, value: Any):
    """Raises UsageError where `value` is outside what the field's `setting` allows."""
    limits, name = field.metadata, field.name
    if limits["choices"] and value not in limits["choices"]:
        raise UsageError(f"{name} must be one of {', '.join(limits['choices'])}, not {value!r}")
    if isinstance(value, tuple) and not value:
        raise UsageError(f"{name} needs at least one value")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise UsageError(f"{name} must be finite, not {number}")
        if limits["least"] is not None and number < limits["least"]:
            raise UsageError(f"{name} must be at least {limits['least']}, not {number}")
        if limits["most"] is not None and number > limits["most"]:
            raise UsageError(f"{name} must be at most {limits['most']}, not {number}")
        if limits["above"] is not None and number <= limits["above"]:
            raise UsageError(f"{name} must be above {limits['above']}, not {number}")


def as_flag(value: Any) -> str:
    """How a flagfile spells `value`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool | str) or int(value) != value:
        raise ValueError
    return int(value)
