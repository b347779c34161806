"""What may happen to a training: killed, no room on the disk, no right to write, a damaged file, a second process."""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.campaign import (
    PATIENCE,
    Moment,
    Session,
    Strike,
    Tally,
    checkpoints,
    exports_of,
    half_written,
)
from ddpg_tf.errors import UserError

_SPARE = 1 << 15  # bytes, at most, that a full disk still has
# Root ignores permissions unless it gives this up; what it starts stays without.
_WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner")


class Unavailable(UserError):
    """This machine cannot be disturbed in this way."""


# --- Moments ------------------------------------------------------------------------------------------------------


def any_time(rng: random.Random, seconds: float, first: float = 0.0) -> Moment:
    """After `first` to `seconds` of a session, evenly."""
    return lambda session: session.until(rng.uniform(first, seconds))


def often_while_writing(rng: random.Random, seconds: float) -> Moment:
    """Two in five when one of the first twenty files of a session is half written; the others at any time."""

    def moment(session: Session) -> bool:
        if rng.random() < 0.4:
            return session.until_writing(rng.randint(1, 20))
        return session.until(rng.uniform(0, seconds))

    return moment


# --- Disturbances -------------------------------------------------------------------------------------------------


def killed(session: Session, tally: Tally) -> None:
    """SIGKILL to the training alone; what it has started is left alone, as when the kernel is out of memory."""
    session.kill()
    run, exports = session.run, exports_of(session.run)
    tally.disturbed += 1
    tally.count("before the run's first checkpoint", not checkpoints(run))
    tally.count("with a file half written", half_written(run) or half_written(run / "checkpoints"))
    if session.task.exports:
        tally.count("with a version half published", list(exports.glob("partial-*")))


def flipped(rng: random.Random) -> Strike:
    """A kill; then some bits of one byte of the newest checkpoint are turned over."""

    def strike(session: Session, tally: Tally) -> None:
        session.kill()
        found = checkpoints(session.run)
        if not found:
            return
        tally.disturbed += 1
        flip(found[-1], rng)
        tally.count("of the only checkpoint: refused, deleted as the message says", len(found) == 1)
        if len(found) == 1:
            refused = Session(session.task, session.run, session.log.with_suffix(".refused.log"))
            if refused.wait():
                tally.look_at(refused)
                found[-1].unlink()

    return strike


def flip(path: Path, rng: random.Random):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)


@contextlib.contextmanager
def small_disk(size: str, place: Path) -> Iterator[Path]:
    """The path of a file system in memory; any user may have one where the kernel lets users have namespaces.

    Raises:
      Unavailable: with the reason.
    """
    place.mkdir(parents=True)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && echo mounted && exec sleep infinity'
    try:
        keeper = subprocess.Popen(
            [*command, script, str(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError:
        raise Unavailable("there is no unshare here") from None
    try:
        if keeper.stdout.readline() != "mounted\n":
            raise Unavailable(f"no small file system could be mounted: {keeper.stderr.read().strip()}")
        yield Path(f"/proc/{keeper.pid}/root{place.absolute()}")
    finally:
        keeper.kill()
        keeper.communicate()


def filled(rng: random.Random, disk: Path) -> Strike:
    """The disk is full, but for a few bytes, until the training has ended."""

    def strike(session: Session, tally: Tally) -> None:
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, max(0, filler.stat().st_size - rng.randrange(_SPARE)))
        began = not (session.run / "flags.txt").is_file()
        if session.wait():  # else it had nothing more to write, or a publication failed: resuming publishes
            tally.disturbed += 1
            tally.count("before the run had begun", began)
            tally.count("before the run's first checkpoint", not began and not checkpoints(session.run))
        filler.unlink()

    return strike


def unprivileged() -> tuple[str, ...]:
    """A command that runs another so that permissions hold.

    Raises:
      Unavailable: there is none.
    """
    if os.geteuid():
        return ()
    if not shutil.which(_WITHOUT_PRIVILEGE[0]):
        raise Unavailable("root ignores permissions, and there is no setpriv here")
    return _WITHOUT_PRIVILEGE


def unwritable(session: Session, tally: Tally) -> None:
    """The run's directories, or where it would be made, are read-only (mode 555) until the training has ended."""
    run = session.run
    made = run.exists()
    directories = [run, *(path for path in run.rglob("*") if path.is_dir())] if made else [run.parent]
    for path in directories:
        path.chmod(0o555)
    if session.wait():  # else it had nothing more to write
        tally.disturbed += 1
        tally.count("before the run had begun", not made)
        tally.count("before the run's first checkpoint", made and not checkpoints(run))
    for path in directories:
        path.chmod(0o755)


def joined(session: Session, tally: Tally) -> Session:
    """A second process starts or resumes the same run: one of the two must be refused."""
    begun = (session.run / "flags.txt").is_file()
    second = Session(session.task, session.run, session.log.with_suffix(".second.log"))
    deadline = time.monotonic() + PATIENCE
    while session.status is None and second.status is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ended, goes_on = (second, session) if second.status is not None else (session, second)
    if ended.status:
        tally.disturbed += 1
        tally.count("before the run had begun", not begun)
        tally.look_at(ended)
    return goes_on
