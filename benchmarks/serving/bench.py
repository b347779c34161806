"""What the parts of benchmarks.serving share: policies, servers, questions with their answers, publishing."""

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.processes import Server
from benchmarks.serving.load import Question
from serve.client import PolicyClient, PolicyError

ENV = "HalfCheetah-v5"
_CHANGE_SECONDS = 30
_POLL_SECONDS = 0.02


class Bench:
    """What the parts share: a directory for their files, the flags, two policies."""

    def __init__(self, directory: Path, values: flags.FlagValues):
        self.flags = values
        self._directory = directory

    def path(self, name: str) -> Path:
        return self._directory / name

    @contextlib.contextmanager
    def serve(self, name: str, *options: str) -> Iterator[Server]:
        server = Server(self.path("server.log"), f"--model_name={name}", *options)
        try:
            yield server
        finally:
            server.stop()

    @property
    def policies(self) -> list[Path]:
        """Version directories of two untrained policies with different weights."""
        return [path for path, _ in self._exported]

    def questions(self, rows: int) -> list[Question]:
        """32 different questions; right is what either policy answers."""
        rng = np.random.default_rng(self.flags.seed)
        found = []
        for _ in range(32):
            observations = rng.normal(size=(rows, 17)).astype(np.float32)
            answers = [act(observations).tolist() for _, act in self._exported]
            found.append(Question(observations.tolist(), answers))
        return found

    @functools.cached_property
    def _exported(self) -> list[tuple[Path, Callable]]:
        return [_export_policy(self.path(f"cheetah-{seed}"), seed) for seed in (0, 1)]


def _export_policy(base: Path, seed: int) -> tuple[Path, Callable]:
    """(version directory, the function it answers) of an untrained policy with HalfCheetah's sizes."""
    from ddpg_tf import DDPG, Config
    from ddpg_tf.envs import factory
    from ddpg_tf.export import saved_model
    from ddpg_tf.storage.policy import Policy

    config = Config(env=ENV, seed=seed, final_init=0.3)  # actions all over their range
    spaces = factory.spaces_of(config)
    agent = DDPG(config, spaces.observation_size, spaces.low, spaces.high)
    policy = Policy(config, spaces, agent, step=0, score=None, run="benchmark")
    return saved_model.write_version(policy, base), agent.act


def publish(source: Path, base: Path, number: int) -> float:
    """Copies a version's directory aside and renames it into place, as export.py does; returns when."""
    shutil.copytree(source, base / f"partial-{number}")
    (base / f"partial-{number}").rename(base / str(number))
    return time.monotonic()


def answers_well(url: str) -> bool:
    """Whether the newest version of the recordings' actor answers as it should."""
    with PolicyClient(url, "actor", retries=0) as client, contextlib.suppress(PolicyError):
        return np.allclose(client.act([1.0, 2.0, 3.0]), 3.8)
    return False


def wait_for(client: PolicyClient, number: int) -> bool:
    """Whether the server answers with that version before long."""
    deadline = time.monotonic() + _CHANGE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(PolicyError):
            if client.metadata()["model_spec"]["version"] == str(number):
                return True
        time.sleep(_POLL_SECONDS)
    return False
