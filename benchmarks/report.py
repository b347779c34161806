"""Figures with what they should be: as a table for people, as csv for programs."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import operator
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.processes import available_cores
from ddpg_tf.errors import UsageError
from ddpg_tf.files import read_rows, write_rows, write_text

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


def write(
    out: Path, title: str, about: str, argv: Sequence[str], parts: Mapping[str, Part], versions: Mapping[str, str]
):
    """The results as a table per part in `out`, and all in one as csv beside it; other parts that are there stay.

    Args:
      argv: of the command of benchmarks/ that measured them, program first.
    """
    command = shlex.join(["python", "-m", _module(argv[0]), *argv[1:]])
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    count = len(available_cores())
    cores = f"{count} CPU core{'s' * (count > 1)}"
    made = f"Made by `{command}`; {cores}, python {platform.python_version()}, {used}."
    sections = read_sections(out) | {name: _section(part, made) for name, part in parts.items()}
    text = "\n\n".join([f"# {title}", f"{about}.", *(f"## {name}\n\n{text}" for name, text in sections.items())])
    write_text(out, f"{text}\n")
    table = out.with_suffix(".csv")
    rows = {name: [] for name in sections}
    for row in read_rows(table):
        rows.setdefault(row["part"], []).append(list(row.values()))
    rows |= {
        name: [[name, row.what, row.measured, *row.cells[2:]] for row in part.rows] for name, part in parts.items()
    }
    write_rows(table, ["part", "what", "measured", "wanted", "as wanted"], itertools.chain(*rows.values()))


def _module(program: str) -> str:
    _, _, below = program.rpartition("/benchmarks/")
    return ".".join(part for part in ("benchmarks", *Path(below).with_suffix("").parts) if part != "__main__")


def show(out: Path, parts: Mapping[str, Part]) -> int:
    """Prints what `write` wrote. Returns the command's exit status: 1 where a figure is not as wanted."""
    print(out.read_text())
    return int(not all(part.passed for part in parts.values()))


def read_sections(page: Path) -> dict[str, str]:
    """{part: its text} of what `write` wrote; none where there is no page."""
    text = page.read_text() if page.exists() else ""
    _, *found = re.split(r"^## (.+)\n\n", text, flags=re.MULTILINE)
    return dict(zip(found[::2], (body.strip() for body in found[1::2]), strict=True))


def _section(part: Part, made: str) -> str:
    lines = [
        " ".join(part.about.split()),
        "",
        "| | measured | wanted | as wanted |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row.cells)} |" for row in part.rows),
        "",
    ]
    if part.notes:
        more = [f"... and {len(part.notes) - _NOTES} more"] if len(part.notes) > _NOTES else []
        lines += ["```", *part.notes[:_NOTES], *more, "```", ""]
    return "\n".join([*lines, made])


def installed(*packages: str) -> dict[str, str]:
    """The versions of those of these packages that are there."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
