"""Config <-> absl flags: the command line of train.py, presets, flagfiles, the table for the documentation.

Imports neither TensorFlow nor Gymnasium.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ddpg_tf import cli
from ddpg_tf.config import FIELD_TYPES, FIELDS, RUN, Config, require_resumable
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.settings import as_flag

PRESETS = Path(__file__).parent / "presets"
_KINDS = {int: "integer", float: "float", bool: "boolean", str: "string"}  # of a flag; others are lists


def define_flags(values: flags.FlagValues, only: Sequence[str] = ()) -> dict[str, str]:
    """Defines one flag per Config field, and --resume and --preset. Returns each flag's help heading.

    Args:
      only: define these fields' flags and nothing else.
    """
    define = cli.definers(values)
    for name in only or FIELDS:
        field = FIELDS[name]
        define_one = getattr(define, _KINDS.get(FIELD_TYPES[name], "list"))
        default = list(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        choices = field.metadata["choices"]
        define_one(name, default, field.metadata["help"] + (f"; one of {', '.join(choices)}" if choices else ""))
    if only:
        return {name: FIELDS[name].metadata["group"] for name in only}
    define.boolean(
        "resume",
        False,
        "continue the run in --run_dir from its newest checkpoint; only these may change: "
        + ", ".join(name for name, field in FIELDS.items() if field.metadata["resumable"] and name != "run_dir"),
    )
    define.string(
        "preset",
        "auto",
        "flagfile applied before the other flags: auto (the environment's, or its namespace's, as dm_control, "
        "where there is one; with --pixels: pixels), none, a name in ddpg_tf/presets, or a path",
    )
    return {"resume": RUN, "preset": RUN} | {name: field.metadata["group"] for name, field in FIELDS.items()}


def settings_of(values: flags.FlagValues) -> dict[str, Any]:
    """The Config fields that the flags spell."""
    settings = {name: getattr(values, name) for name in FIELDS}
    for name in FIELDS:
        if FIELD_TYPES[name] == tuple[int, ...]:
            try:
                settings[name] = tuple(int(unit) for unit in settings[name])
            except ValueError:
                raise UsageError(
                    f"{name} must be integers separated by commas, not {','.join(settings[name])!r}"
                ) from None
    return settings


def find_preset(preset: str, env_id: str, pixels: bool = False) -> Path | None:
    """The flagfile `preset` stands for, None for none.

    auto is the environment's, called as its id without the module, or its namespace's (what stands before a "/"), with
    --pixels that for pixels.

    Raises:
      UsageError: there is no such preset; names those there are.
    """
    if preset == "none":
        return None
    if preset == "auto":
        own = env_id.rpartition(":")[2]
        names = ["pixels"] if pixels else [own, own.partition("/")[0]]
        return next((path for name in names if (path := PRESETS / f"{name}.flags").is_file()), None)
    for path in (PRESETS / f"{preset}.flags", PRESETS / preset, Path(preset)):
        if path.is_file():
            return path
    names = ", ".join(sorted(map(preset_name, PRESETS.rglob("*.flags"))))
    raise UsageError(f"no preset {preset!r}: neither a file nor one of {names}")


def preset_name(path: Path) -> str:
    """What --preset calls the flagfile at `path`."""
    return str(path.relative_to(PRESETS).with_suffix("")) if path.is_relative_to(PRESETS) else str(path)


class CommandLine(typing.NamedTuple):
    config: Config
    resume: bool
    preset: Path | None  # None also when resuming
    auto: bool  # whether the preset, or that there is none, follows from the environment


def parse_command_line(argv: Sequence[str], doc: str, resolve_env: Callable[[str], str] = str) -> CommandLine:
    """Reads train.py's command line: the preset's flags first, then `argv`, so that explicit flags win.

    When resuming, the run's own flags.txt takes the preset's place.
    """
    values = flags.FlagValues()
    groups = define_flags(values)
    cli.parse(argv, values, doc, groups)
    if values.resume and values.preset not in ("auto", "none"):
        raise UsageError("--preset has no effect with --resume: the settings are those of the run")
    first = values.env
    env = resolve_env(first)
    auto = values.preset == "auto" and not values.resume
    preset = None if values.resume else find_preset(values.preset, env, values.pixels)
    base = flags_file(values.run_dir) if values.resume else preset
    if base:
        values = flags.FlagValues()
        define_flags(values)
        try:  # the command line alone has been read: what is wrong now is in the file
            cli.parse([argv[0], f"--flagfile={base}", *argv[1:]], values, doc)
        except UsageError as error:
            raise UsageError(f"{base}: {error}") from None
    if preset and (line := re.search(r"^--?(preset=(?!none$|auto$).*|resume.*)$", preset.read_text(), re.MULTILINE)):
        raise UsageError(f"{preset} has the line {line[0]}, which a preset cannot: copy what it should stand for")
    values.env = env if values.env == first else resolve_env(values.env)
    settings = settings_of(values)
    if values.resume:  # before these settings are judged together: a change is what is wrong
        require_resumable(read_flags(base), settings)
    try:
        return CommandLine(Config(**settings), values.resume, preset, auto)
    except UsageError as error:
        rest = f" (what is not on the command line comes from preset {preset_name(preset)})" if preset else ""
        raise UsageError(f"{error}{rest}") from None


def flags_file(run_dir: str | os.PathLike) -> Path:
    """flags.txt of the run in `run_dir`.

    Raises:
      UsageError: there is no run.
    """
    if not run_dir:
        raise UsageError("--resume needs --run_dir, the directory of the run to continue")
    path = Path(run_dir)
    if not path.is_dir():
        raise UsageError(f"there is no run directory {path}")
    if not (path / "flags.txt").is_file():
        raise UsageError(f"{path} is not a run directory: it has no flags.txt")
    return path / "flags.txt"


def read_flags(path: Path) -> Config:
    """The Config a run's flags.txt was written from (run_dir: the directory that holds it)."""
    if not path.read_bytes().strip(b"\0 \n"):
        raise UserError(f"{path} is empty: it held the run's settings, without which nothing in it can be read")
    values = flags.FlagValues()
    define_flags(values)
    try:
        cli.parse(["flags.txt", f"--flagfile={path}"], values, "")
        return dataclasses.replace(Config(**settings_of(values)), run_dir=str(path.parent))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def flag_table() -> str:
    """The table of docs/flags.md."""
    lines = ["| flag | default | meaning, unit, source |", "|---|---|---|"]
    group = None
    for name, field in FIELDS.items():
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines.append(f"| **{group}** | | |")
        choices = f" ({', '.join(field.metadata['choices'])})" if field.metadata["choices"] else ""
        lines.append(f"| `--{name}` | {as_flag(field.default) or '-'} | {field.metadata['help']}{choices} |")
    return "\n".join(lines)


def preset_table() -> str:
    """The other table of docs/flags.md: what each preset sets of what a resumed run may not change, and total_steps."""
    presets = {}
    for path in sorted(PRESETS.rglob("*.flags"), key=lambda path: str(path).casefold()):
        values = flags.FlagValues()
        define_flags(values)
        cli.parse(["", f"--flagfile={path}"], values, "")
        presets[preset_name(path)] = {
            name: as_flag(value)
            for name, value in settings_of(values).items()
            if values[name].present and (name == "total_steps" or not FIELDS[name].metadata["resumable"])
        }
    columns = [name for name in FIELDS if sum(name in preset for preset in presets.values()) > len(presets) / 4]
    lines = [f"| preset | {' | '.join(f'`{name}`' for name in columns)} | others |", "|---" * (len(columns) + 2) + "|"]
    for title, preset in presets.items():
        others = " ".join(f"`{name}={value}`" for name, value in preset.items() if name not in columns)
        lines.append(f"| {title} | {' | '.join(preset.get(name, '') for name in columns)} | {others} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(flag_table(), preset_table(), sep="\n\n")
