"""Files that are there whole, or not at all."""

import contextlib
import csv
import fcntl
import io
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}")


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]):
    """Calls `write` on a file that becomes `path` only when it is complete and on the disk."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # as _PARTIAL
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # the umask applies
    try:
        with naming(path), os.fdopen(descriptor, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    sync(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has an error of the system say which file it is about: "no space left on device" does not by itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def partials(directory: Path) -> list[Path]:
    """Files that are not whole, below `directory`: being written, or left by a process that was killed meanwhile."""
    return [path for path in directory.rglob(".*") if _PARTIAL.fullmatch(path.name)]


def write_text(path: Path, text: str):
    """As `write_atomically`, a text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def csv_text(rows: Iterable[Sequence]) -> str:
    """`rows` as lines of a csv file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence]):
    """As `write_text`, a csv file with a header: what `read_rows` reads."""
    write_text(path, csv_text([columns, *rows]))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a csv file with a header; none where there is no file. A torn row is passed over."""
    try:
        with open(path, newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def hold(directory: Path, *, wait: bool = False) -> Iterator[bool]:
    """Holds the lock on a directory within; False: another process has it.

    Raises:
      OSError: the directory is not there, or its filesystem has no locks.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            with naming(directory):
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            ours = True
        except BlockingIOError:
            ours = False
        yield ours
    finally:
        os.close(descriptor)


def sync(path: Path):
    """Makes a file's contents, or the renames inside a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
