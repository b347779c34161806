"""Figures with what they should be: as a table for people, as csv for programs."""

import contextlib
import dataclasses
import importlib.metadata
import operator
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.processes import available_cores
from ddpg_tf.errors import UsageError
from ddpg_tf.files import write_rows, write_text

_NOTES = 50  # lines of them
_RELATIONS = {
    "": lambda measured, bound: True,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure, and what it should be if anything: `measured` `relation` `bound`."""

    what: str
    measured: float
    relation: str = ""
    bound: float = 0

    @property
    def passed(self) -> bool:
        return _RELATIONS[self.relation](self.measured, self.bound)

    @property
    def cells(self) -> list[str]:
        wanted = f"{self.relation} {_number(self.bound)}" if self.relation else ""
        return [self.what, _number(self.measured), wanted, ("yes" if self.passed else "no") if wanted else ""]


@dataclasses.dataclass(frozen=True)
class Part:
    """A measurement: its table, and lines about what went wrong."""

    about: str
    rows: list[Row]
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)


def chosen(named: Sequence[str], parts: Mapping[str, object]) -> list[str]:
    """The measurements that were asked for; all, if none was.

    Raises:
      UsageError: there is no measurement of that name.
    """
    if unknown := set(named) - set(parts):
        raise UsageError(f"no measurement is called {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    return list(named or parts)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write(out: Path, title: str, about: str, command: str, parts: Mapping[str, Part], versions: Mapping[str, str]):
    """The results as a table per part in `out`, and all in one as csv beside it."""
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    count = len(available_cores())
    cores = f"{count} CPU core{'s' * (count > 1)}"
    lines = [
        f"# {title}",
        "",
        f"{about}; {cores}, python {platform.python_version()}, {used}.",
        "Made by",
        "",
        "```",
        command,
        "```",
    ]
    rows = []
    for name, part in parts.items():
        lines += [
            "",
            f"## {name}",
            "",
            " ".join(part.about.split()),
            "",
            "| | measured | wanted | as wanted |",
            "|---|---|---|---|",
            *(f"| {' | '.join(row.cells)} |" for row in part.rows),
        ]
        if part.notes:
            more = [f"... and {len(part.notes) - _NOTES} more"] if len(part.notes) > _NOTES else []
            lines += ["", "```", *part.notes[:_NOTES], *more, "```"]
        rows += ([name, row.what, row.measured, *row.cells[2:]] for row in part.rows)
    write_text(out, "\n".join([*lines, ""]))
    write_rows(out.with_suffix(".csv"), ["part", "what", "measured", "wanted", "as wanted"], rows)


def installed(*packages: str) -> dict[str, str]:
    """The versions of those of these packages that are there."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
