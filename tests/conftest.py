"""Shared by all tests: quiet, headless, small."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "offscreen,dummy")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # of servers that tests start

import contextlib
import csv
import functools
import importlib.util
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from ddpg_tf import cli

os.environ[cli.OWN_PROCESS] = "1"  # tests start as quickly as commands do
ROOT = Path(__file__).parents[1]

# A run of a few seconds on which everything happens several times.
TINY = dict(
    env="Pendulum-v1",
    max_episode_steps=50,
    total_steps=1200,
    warmup_steps=200,
    update_every=20,
    hidden_units=(8,),
    batch_size=16,
    replay_capacity=300,
    eval_every=250,
    eval_episodes=2,
    checkpoint_every=150,
    log_every=50,
)

TRAINED = dict(noise="ou", normalize_observations=True)  # what the run `trained` has beside TINY

# Files of minutes, to start with: at the end, one of them would leave the other processes idle.
LONG = (
    *("test_distributed", "test_resume", "test_cluster", "test_command_line", "test_live", "test_pixels", "test_suite"),
    *("test_hardships", "test_path", "test_serve_tools", "test_export", "test_docs", "test_formats", "test_wheel"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture
def tiny():
    """`tiny(run_dir, **changes)` is the Config of a run of a few seconds."""
    from ddpg_tf import Config

    return lambda run_dir, **changes: Config(**{**TINY, **changes, "run_dir": str(run_dir)})


@contextlib.contextmanager
def without_xla():
    """Trainings within, in this process, are not compiled: compiling is half of a tiny training."""
    from ddpg_tf.learner.agent import DDPG
    from ddpg_tf.training import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "DDPG", functools.partial(DDPG, jit_compile=False))
        yield


@pytest.fixture
def uncompiled():
    """For tests of what is around the update."""
    with without_xla():
        yield


@pytest.fixture
def disk(monkeypatch):
    """What is done to the disk: "sync NAME" and "rename NAME", NAME the old one. Needs Linux's /proc."""
    done, fsync, rename = [], os.fsync, os.rename

    def synced(descriptor):
        done.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def renamed(old, new, **rest):
        done.append(f"rename {os.path.basename(old)}")
        rename(old, new, **rest)

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renamed)
    return done


@pytest.fixture(scope="module")
def ray():
    """One Ray for a file's tests, with processes waiting; trainings join it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install -r requirements-ray.txt")
    from ddpg_tf.collect import cluster

    module, leave = cluster.join("", 2, "Pendulum-v1")
    yield module
    leave()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of one finished tiny run; tests must not change it."""
    from ddpg_tf import Config, train

    path = tmp_path_factory.mktemp("trained") / "run"
    train(Config(**TINY | TRAINED, run_dir=str(path)))
    return path


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """The models of TF Serving's recordings: <directory>/<model>/<version>/ and models.config."""
    from serving import make_models

    from ddpg_tf._tf import tf

    tf.get_logger().setLevel("ERROR")  # the graph-mode loader warns that it is old
    path = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        make_models.main(str(path))
    return path


def layers_of(model):
    """All layers of a Keras model, those of models within it too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from layers_of(layer)


def layer_of(model, name):
    """The layer called `name`, wherever in the model it is."""
    (found,) = {id(layer): layer for layer in layers_of(model) if layer.name == name}.values()
    return found


def command(*argv, **options):
    """Runs a command of the project in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=120, **options
    )


@contextlib.contextmanager
def process(*argv):
    """A command of the project that goes on, its two streams in one; killed at the end if it is still there."""
    whole = [sys.executable, *map(str, argv)]
    with subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


_CLOCKS = ("_per_second", "_waited")


def timeless(path):
    """The rows of a metrics.csv without its clock columns."""
    with open(path, newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds" and not name.endswith(_CLOCKS)}
            for row in csv.DictReader(file)
        ]


def assert_same_run(one, other):
    """Same evaluations, same metrics but for the clock, same arrays in the last checkpoint."""
    from ddpg_tf.storage import checkpoint

    assert (one / "evaluations.csv").read_bytes() == (other / "evaluations.csv").read_bytes()
    assert timeless(one / "metrics.csv") == timeless(other / "metrics.csv")
    arrays, meta = checkpoint.load(one / "checkpoints")
    others, other_meta = checkpoint.load(other / "checkpoints")
    assert meta["step"] == other_meta["step"] and meta["scores"] == other_meta["scores"]
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)


class Crash(Exception):
    pass


def crash_at(monkeypatch, step):
    """Makes the loop die as abruptly as an exception can when it has made `step` steps."""
    from ddpg_tf.training.core import Core

    collect = Core._collect

    def dying(self, policy):
        observations = collect(self, policy)
        if self.step == step:
            raise Crash
        return observations

    monkeypatch.setattr(Core, "_collect", dying)


def name_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            name, state = re.search(r"\((.*)\) (.)", file.read()).groups()
    except OSError:
        return None
    return None if state == "Z" else name


def processes_below(pid):
    """{process id: name} of all that `pid` started."""
    found = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        for child in map(int, file.read().split()):
            found |= {child: name_of(child)} | processes_below(child)
    return found
