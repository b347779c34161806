"""What a step costs as the replay, the number of environments, the observation and the networks grow; and memory.

    python -m benchmarks.speed.scale [NAME ...] [--rounds=5] [--steps=960]

NAME is replay, environments, observations, networks, memory or cold; default all. A step is the whole inner loop (act,
environment, replay, its share of a block of updates), in blocks of 48. The settings of a part take turns; figures are
medians over the rounds. Writes --out, the same as csv, and a plot; exit status 1 if a figure is not as wanted.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import re
import statistics
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from absl import flags

from benchmarks.report import Part, Row, chosen, installed, show, write
from ddpg_tf import cli
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError
from ddpg_tf.files import write_atomically

BLOCK = 48  # a multiple of every number of environments here
MOST_ROWS = 1_000_000
# What is measured: 256-256 on HalfCheetah-v5 with 9,984 transitions, unless it says otherwise.
settings = partial(
    Config,
    env="HalfCheetah-v5",
    hidden_units=(256, 256),
    batch_size=256,
    update_every=BLOCK,
    warmup_steps=9_984,
    total_steps=BLOCK * 100_000,
)
PARTS = {
    "replay": (
        "transitions in the replay",
        {f"{about:,}": settings(warmup_steps=BLOCK * (about // BLOCK)) for about in (10_000, 100_000, MOST_ROWS)},
    ),
    "environments": (
        "environments stepped together",
        {f"{n} {how}": settings(num_envs=n, vectorization=how) for how in ("sync", "async") for n in (1, 2, 4, 8, 16)},
    ),
    "observations": (
        "numbers in an observation",
        {
            f"{size} ({env})": settings(env=env)
            for size, env in ((3, "Pendulum-v1"), (17, "HalfCheetah-v5"), (105, "Ant-v5"), (348, "Humanoid-v5"))
        },
    ),
    "networks": (
        "units in each of two hidden layers",
        {f"{units}": settings(hidden_units=(units, units)) for units in (64, 128, 256, 512, 1024)},
    ),
}


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.integer("rounds", 5, "how often each setting is measured", lower_bound=1)
    define.integer("steps", 960, f"environment steps of one measurement, a multiple of {BLOCK}", lower_bound=BLOCK)
    define.string("out", "benchmarks/results/scale.md", "file for the results")
    named = cli.parse(argv, values, __doc__, positional=True)
    others = {"memory": _memory, "cold": partial(_cold, values.rounds)}
    names = chosen(named, PARTS | others)
    if values.steps % BLOCK:
        raise UsageError(f"--steps must be a multiple of {BLOCK}")
    out, done, series = Path(values.out), {}, {}
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in others:
            done[name] = others[name]()
        else:
            series[name] = _measure(name, values.rounds, values.steps)
            done[name] = _part(name, series[name])
        write(
            out,
            "Scale",
            "The inner loop of training",
            argv,
            done,
            installed("tensorflow", "keras", "numpy", "gymnasium", "mujoco"),
        )
    if series:
        _draw(out.with_suffix(".png"), series)
    return show(out, done)


def _part(name: str, milliseconds: dict[str, float]) -> Part:
    rows = [Row(f"{label} [ms/step]", found) for label, found in milliseconds.items()]
    if name == "replay":
        small, *_, large = milliseconds.values()
        rows.append(Row("most / fewest", large / small, "<=", 1.1))
    return Part(f"Milliseconds per environment step by {PARTS[name][0]}.", rows)


def _measure(name: str, rounds: int, steps: int) -> dict[str, float]:
    times: dict[str, list[float]] = {label: [] for label in PARTS[name][1]}
    with TemporaryDirectory(prefix="scale-", dir=".") as directory:
        loops = {label: Steps(each, Path(directory) / label) for label, each in PARTS[name][1].items()}
        for i in range(rounds):
            for label, loop in loops.items():
                started = time.perf_counter()
                loop.run(steps)
                times[label].append(1000 * (time.perf_counter() - started) / steps)
                print(f"{name}, round {i}, {label}: {times[label][-1]:.2f} ms/step", flush=True)
        for loop in loops.values():
            loop.close()
    return {label: statistics.median(found) for label, found in times.items()}


class Steps:
    """The inner loop, compiled, on a replay filled with as many made-up transitions as warmup_steps are."""

    def __init__(self, config: Config, directory: Path):
        from ddpg_tf import DDPG, ReplayBuffer
        from ddpg_tf.collect.collector import Collector
        from ddpg_tf.envs import factory
        from ddpg_tf.training.core import Core

        spaces = factory.spaces_of(config)
        replay = ReplayBuffer(
            config.warmup_steps + 100_000,
            spaces.observation_size,
            spaces.action_size,
            num_envs=config.num_envs,
            directory=directory,
        )
        _fill(replay, config.num_envs, config.warmup_steps // config.num_envs, spaces)
        agent = DDPG(config, spaces.observation_size, spaces.low, spaces.high)
        self._core = Core(config, agent, replay, Collector(config, spaces), step=replay.rows * config.num_envs)
        self.run(2 * BLOCK)  # compiles

    def run(self, steps: int):
        self._core.run(self._core.step + steps)

    def close(self):
        self._core.collector.close()


def _fill(replay, n: int, rows: int, spaces):
    rng, shape = np.random.default_rng(0), [1000, n, spaces.observation_size]
    for t in range(rows):
        if t % 1000 == 0:
            observation, successor = rng.normal(size=(2, *shape)).astype(np.float32)
            action = rng.uniform(spaces.low, spaces.high, [1000, n, spaces.action_size])
        ended = np.full(n, t % 1000 == 999)
        replay.add(observation[t % 1000], action[t % 1000], np.ones(n), successor[t % 1000], np.zeros(n, bool), ended)


def _memory() -> Part:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as fresh:
        small, large = (fresh.submit(_resident, transitions).result() for transitions in (BLOCK * 100, MOST_ROWS))
    about = """Resident memory [MB] of a process that trains on HalfCheetah-v5, with few and with many transitions in
        its replay. The replay is a mapped file: the system takes its pages back when it needs them."""
    rows = [
        Row(f"{what}, {label}", found[what])
        for what in large
        for label, found in (("few transitions", small), (f"{MOST_ROWS:,}", large))
    ]
    return Part(about, rows)


def _resident(transitions: int) -> dict[str, float]:
    with TemporaryDirectory(prefix="scale-", dir=".") as directory:
        steps = Steps(settings(warmup_steps=BLOCK * (transitions // BLOCK)), Path(directory))
        steps.run(20 * BLOCK)
        status = Path("/proc/self/status").read_text()
    return {
        what: int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024
        for what, field in (("all", "VmRSS"), ("its own", "RssAnon"), ("mapped files", "RssFile"))
    }


def _cold(rounds: int) -> Part:
    from ddpg_tf import Config, ReplayBuffer
    from ddpg_tf.envs import factory

    spaces, shape = factory.spaces_of(Config(env="Humanoid-v5")), (50, 256)
    times: dict[str, list[float]] = {"on disk only": [], "in memory": []}
    with TemporaryDirectory(prefix="scale-", dir=".") as directory:
        ring = partial(ReplayBuffer, MOST_ROWS, spaces.observation_size, spaces.action_size, directory=directory)
        replay = ring()
        _fill(replay, 1, MOST_ROWS, spaces)
        files = [path for path in Path(directory).rglob("*") if path.is_file()]
        for i in range(rounds):
            replay.flush()
            del replay  # mapped pages would stay
            for file in files:
                with open(file, "rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            replay = ring(rows=MOST_ROWS)
            for found in times.values():  # the second draws what the first has read
                started = time.perf_counter()
                replay.sample(np.random.default_rng(i), shape)
                found.append(1000 * (time.perf_counter() - started) / shape[0])
        size = sum(file.stat().st_size for file in files)
    about = f"""Milliseconds for a minibatch of 256 of Humanoid-v5, in a draw of 50, from a replay of {MOST_ROWS:,}
        transitions ({size / 1e9:.1f} GB) that the system has put out of memory, as it does where memory is short, and
        the same draw again. In training a draw is made while the last block of updates runs, which hides a part of
        this."""
    return Part(about, [Row(f"{label} [ms]", statistics.median(found)) for label, found in times.items()])


def _draw(path: Path, series: dict[str, dict[str, float]]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(series), 3.2), layout="constrained")
    for axes, (name, found) in zip(np.atleast_1d(figure.subplots(1, len(series))), series.items(), strict=True):
        for kind, labels in itertools.groupby(found, lambda label: label.partition(" ")[2] if "sync" in label else ""):
            labels = list(labels)
            sizes = [float(label.partition(" ")[0].replace(",", "")) for label in labels]
            axes.plot(sizes, [found[label] for label in labels], marker="o", label=kind)
            if kind:
                axes.legend()
        axes.set(xlabel=PARTS[name][0], xscale="log", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms per environment step")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


if __name__ == "__main__":
    cli.run(main)
