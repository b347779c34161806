"""Disturbs small runs at random moments, resumes them, and compares them with undisturbed ones.

    python -m benchmarks.reliability [KIND ...] [--kills=100] [--others=10] [--work_dir=runs/reliability] [--out=FILE]

Kinds: vectors, environments, pixels, export (each a quarter of the kills), disk_full, flipped_byte, read_only,
two_processes. Without a name all are done. Writes FILE and FILE with the suffix .csv after each kind; what they have of
kinds that are not named stays. Exit status 1 if something is not as wanted.
"""

import functools
import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from benchmarks.reliability import disturbances
from benchmarks.reliability.campaign import Tally, Task, campaign, checkpoints, load_arrays, same_arrays, undisturbed
from benchmarks.reliability.disturbances import Unavailable
from benchmarks.report import Part, Row, chosen, installed, show, write
from ddpg_tf import cli
from ddpg_tf.storage import checkpoint
from ddpg_tf.storage.run_dir import package_versions

_SMALL = (
    "--env=Pendulum-v1",
    "--preset=none",
    "--hidden_units=16,16",
    "--batch_size=16",
    "--noise=ou",
    "--n_step=3",
    "--eval_episodes=2",
)
_VECTORS = (
    *_SMALL,
    "--total_steps=3000",
    "--warmup_steps=300",
    "--update_every=20",
    "--replay_capacity=600",
    "--eval_every=400",
    "--checkpoint_every=200",
    "--log_every=100",
    "--normalize_observations",
)
_PIXELS = (
    *_SMALL,
    "--pixels",
    "--frame_size=32",
    "--conv_filters=4,4",
    "--conv_kernels=4,3",
    "--conv_strides=4,2",
    "--bottleneck=8",
    "--total_steps=480",
    "--warmup_steps=60",
    "--update_every=4",
    "--replay_capacity=150",
    "--eval_every=110",
    "--checkpoint_every=40",
    "--log_every=20",
)
_KILLED = {
    "vectors": ("One environment.", Task(_VECTORS)),
    "environments": (
        "Two environments in processes of their own.",
        Task((*_VECTORS, "--num_envs=2", "--vectorization=async")),
    ),
    "pixels": ("Observations are images.", Task(_PIXELS)),
    "export": ("Each better policy is published, two versions kept.", Task((*_VECTORS, "--keep_versions=2"), True)),
}
_READ = 2000  # checkpoints with a flipped byte that are read without training on


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.integer("kills", 100, "kills, over all four kinds of runs", lower_bound=4)
    define.integer("others", 10, "disturbances of each other kind", lower_bound=1)
    define.integer("seed", 0, "decides moments and damages")
    define.string("work_dir", "runs/reliability", "where the runs are made, and kept")
    define.string("out", "benchmarks/results/reliability.md", "file for the results")
    names = chosen(cli.parse(argv, values, __doc__, positional=True), _KINDS)
    out = Path(values.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    commit = package_versions().get("commit", "unknown")
    measured: dict[str, Part] = {}
    for name in names:
        print(f"{name} ...", flush=True)
        bench = Bench(Path(values.work_dir).absolute() / name, values)
        about, kind = _KINDS[name]
        measured[name] = bench.measure(f"{about} Measured at commit {commit}.", kind)
        write(
            out,
            "Reliability",
            "Small runs of `train.py` on the CPU, disturbed at random moments, mended, resumed until they end, and "
            "compared with an undisturbed one: evaluations.csv, values.csv, metrics.csv but for the clock, all arrays "
            "of the last checkpoint, the newest publication",
            [argv[0], name, *(arg for arg in argv[1:] if arg.startswith(("--kills", "--others", "--seed")))],
            {name: measured[name]},
            installed("tensorflow", "keras", "numpy", "gymnasium"),
        )
    return show(out, measured)


class Bench:
    """One kind of disturbance, in a folder of its own that is made anew."""

    def __init__(self, folder: Path, values: flags.FlagValues):
        self.folder, self.kills, self.others = folder, values.kills // len(_KILLED), values.others
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.rng = random.Random(f"{values.seed} {folder.name}")

    def measure(self, about: str, kind: Callable[["Bench"], Tally]) -> Part:
        about = " ".join(about.split())
        try:
            tally = kind(self)
        except Unavailable as reason:
            return Part(f"{about} Not measured: {reason}.", [])
        return Part(about, _rows(tally), tally.notes)


def _rows(tally: Tally) -> list[Row]:
    return [
        Row("disturbances", tally.disturbed),
        *(Row(f"of them {what}", count) for what, count in tally.seen.items()),
        Row("disturbances after which the run was resumed and ended", tally.resumed, "=", tally.disturbed),
        Row("runs", tally.runs),
        Row("runs equal to the undisturbed one", tally.equal, "=", tally.runs),
        Row("unusable run directories", tally.unusable, "=", 0),
        Row("tracebacks on stderr", tally.tracebacks, "=", 0),
        Row("failures without one line that says why", tally.unclear, "=", 0),
        Row("files left behind in run directories", tally.left, "=", 0),
        *(Row(what, count, "=", 0) for what, count in tally.never.items()),
    ]


# --- The kinds ----------------------------------------------------------------------------------------------------


def killed(task: Task, bench: Bench) -> Tally:
    """SIGKILL to the training process alone: two in five when a file is half written, the others evenly over the time
    that an undisturbed run takes, its start included."""
    whole, seconds = undisturbed(task, bench.folder)
    moment = disturbances.often_while_writing(bench.rng, seconds)
    return campaign(task, bench.folder, whole, bench.kills, moment, disturbances.killed)


def disk_full(bench: Bench) -> Tally:
    """The disk is filled, but for at most 32 kB, at an even moment, until the training has ended. The disk is a tmpfs
    of 24 MB in a mount namespace of the user's own (unshare); the run and what it publishes are on it."""
    task = _KILLED["export"][1]
    whole, seconds = undisturbed(task, bench.folder)
    with disturbances.small_disk("24m", bench.folder / "disk") as disk:
        moment, strike = disturbances.any_time(bench.rng, seconds), disturbances.filled(bench.rng, disk)
        return campaign(task, bench.folder, whole, bench.others, moment, strike, place=disk)


def flipped_byte(bench: Bench) -> Tally:
    """The training is killed, and some bits of one random byte of the newest checkpoint are turned over. Further 2,000
    such checkpoints are only read: the arrays must be those that were written, or those of the checkpoint before."""
    task = _KILLED["vectors"][1]
    whole, seconds = undisturbed(task, bench.folder)
    moment = disturbances.any_time(bench.rng, seconds, first=seconds / 3)
    tally = campaign(task, bench.folder, whole, bench.others, moment, disturbances.flipped(bench.rng))
    tally.never["of 2,000 flips, read as something else or not at all"] = _misread(checkpoints(whole), bench, tally)
    return tally


def _misread(paths: Sequence[Path], bench: Bench, tally: Tally) -> int:
    """How many of _READ times the newest checkpoint, a byte of it flipped, was not passed over, and was not itself."""
    place, wrong = bench.folder / "flipped", 0
    place.mkdir()
    expected = [load_arrays(path) for path in paths]
    for path in paths:
        shutil.copy(path, place)
    for _ in range(_READ):
        shutil.copy(paths[-1], place)
        disturbances.flip(place / paths[-1].name, bench.rng)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                arrays, _ = checkpoint.load(place)
        except Exception as error:  # whatever it is, the user would see its traceback
            wrong += 1
            tally.notes.append(f"a flipped byte: {type(error).__name__}: {error}")
            continue
        wrong += not any(same_arrays(arrays, known) for known in expected)
    return wrong


def read_only(bench: Bench) -> Tally:
    """The run's directories, or where it is to be made, get mode 555 at an even moment, until the training has ended.
    Root, who may write all the same, gives that privilege up first (setpriv)."""
    task, before = _KILLED["vectors"][1], disturbances.unprivileged()
    whole, seconds = undisturbed(task, bench.folder)
    moment = disturbances.any_time(bench.rng, seconds)
    place = bench.folder / "place"
    return campaign(
        task, bench.folder, whole, bench.others, moment, disturbances.unwritable, place=place, before=before
    )


def two_processes(bench: Bench) -> Tally:
    """A second process starts or resumes the same run at an even moment; one of the two must be refused, and the other
    must go on as if nothing had happened."""
    task = _KILLED["vectors"][1]
    whole, seconds = undisturbed(task, bench.folder)
    moment = disturbances.any_time(bench.rng, seconds)
    return campaign(task, bench.folder, whole, bench.others, moment, disturbances.joined)


_KINDS: dict[str, tuple[str, Callable[[Bench], Tally]]] = {
    **{name: (f"{about} {killed.__doc__}", functools.partial(killed, task)) for name, (about, task) in _KILLED.items()},
    **{kind.__name__: (kind.__doc__, kind) for kind in (disk_full, flipped_byte, read_only, two_processes)},
}


if __name__ == "__main__":
    cli.run(main)
