"""What every command of the project does alike: parse absl flags, explain itself, fail in one line.

Exit status: 0 done, 1 the work failed (`UserError`), 2 the command line is wrong, 129/130/143 interrupted.
Imports neither TensorFlow nor Gymnasium, so that `--help` and mistakes answer at once.
"""

import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

from absl import flags

from ddpg_tf.errors import UsageError, UserError


def definers(values: flags.FlagValues) -> SimpleNamespace:
    """DEFINE_string, ... for `values`: .string(name, default, help), .integer, .float, .boolean, .list, .enum."""
    kinds = ("string", "integer", "float", "boolean", "list", "enum")
    return SimpleNamespace(**{kind: partial(getattr(flags, f"DEFINE_{kind}"), flag_values=values) for kind in kinds})


def parse(
    argv: Sequence[str],
    values: flags.FlagValues,
    doc: str,
    groups: dict[str, str] | None = None,
    *,
    positional: bool = False,
) -> list[str]:
    """Parses `argv` (program name first) into `values`; `--help` prints `doc` and every flag, and exits 0.

    Returns:
      The positional arguments, where the command takes any.
    Raises:
      UsageError: unknown flag, value that does not parse, stray positional argument, or one that is not UTF-8.
    """
    if any(argument.lstrip("-") == "flagfile=" for argument in argv[1:]):  # absl passes over it
        raise UsageError("--flagfile needs the name of a file. See --help.")
    for argument in map(os.fsencode, argv[1:]):  # paths may be any bytes, but not TensorFlow's
        try:
            argument.decode()
        except UnicodeDecodeError:
            raise UsageError(f"the argument {str(argument)[2:-1]} is not UTF-8: give the file another name") from None
    if any(arg in ("-h", "-help", "--help", "--helpfull", "--helpshort") for arg in argv[1:]):
        print(help_text(values, doc, groups or {}))
        sys.exit(0)
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        said = str(error).strip().removeprefix("ERROR:: ").splitlines()[0].rstrip(".")
        said = re.sub(r"\('(.*)', '(.*)'\)", r"\1: \2", said)  # absl prints a tuple
        said = re.sub(r"invalid literal for int\(\) with base 10: .*", "not a whole number, as in 1000000", said)
        if found := re.search(r"Unknown command line flag '(\w+) (.*)'", said):  # a line of a flagfile
            said += f": in a flagfile write --{found[1]}={found[2]}"
        missing = re.search(r"Flag (--\w+) must have a value other than None", said)
        raise UsageError(f"{f'{missing[1]} is missing' if missing else said}. See --help.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"a flagfile cannot be read: {error}") from None
    for name, value in values.flag_values_dict().items():  # bash leaves the ~ of --run_dir=~/r as it is
        if isinstance(value, str) and value.startswith("~"):
            setattr(values, name, os.path.expanduser(value))
    if rest and not positional:
        raise UsageError(f"unexpected argument {rest[0]!r}: every option is a flag, --name=value. See --help.")
    return [os.path.expanduser(argument) for argument in rest]


def help_text(values: flags.FlagValues, doc: str, groups: dict[str, str]) -> str:
    """`doc`, then each flag with its default; `groups` maps a flag's name to its heading."""
    groups = dict.fromkeys(values, "Flags") | groups
    lines = [doc.strip()]
    for heading in dict.fromkeys(groups.values()):
        lines += ["", f"{heading}:"]
        for name in (name for name in groups if groups[name] == heading):
            default = "" if values[name].default is None else f" (default: {values[name].default_as_str})"
            lines.append(f"  --{name}: {values[name].help}{default}")
    lines += ["", "  --flagfile: read further flags from this file, one --name=value a line", "  --help: this text"]
    return "\n".join(lines)


def train_command(*arguments: str) -> str:
    """What a user types to train: the train.py that runs, or lies here, as in a checkout, or else the package."""
    if os.path.basename(sys.argv[0]) == "train.py":
        program = [sys.argv[0]]
    else:
        program = ["train.py"] if os.path.isfile("train.py") else ["-m", "ddpg_tf.training"]
    return shlex.join(["python", *program, *arguments])


OWN_PROCESS = "DDPG_TF_OWN_PROCESS"  # set where the process is a command of this project, not a program that imports it


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main(sys.argv)` and exits with its status; a UserError becomes one line on stderr.

    absl's own `app.run` exits 1 on `--help`, hides flags of other modules and ignores positional arguments.
    """
    os.environ[OWN_PROCESS] = "1"
    sys.stdout, sys.stderr = (
        stream or open(os.devnull, "w")  # noqa: SIM115 - closed by whoever started us
        for stream in (sys.stdout, sys.stderr)
    )
    told: set[str] = set()

    def tell(message, *_, **__):
        """On one line, without Gymnasium's colours, and once."""
        line = " ".join(re.sub(r"\x1b\[\d*m", "", str(message)).removeprefix("WARN: ").split())
        if line not in told:
            told.add(line)
            print(f"warning: {line}", file=sys.stderr)

    warnings.showwarning = tell
    try:
        status = main(sys.argv)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output (head, less) left
        sys.stderr.close()
        status = 1
    except OSError as error:  # the disk is full, a directory is not ours, ...
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status or 0)
