"""What collecting on Ray is worth, costs and survives.

    python -m benchmarks.speed.distributed [scale] [fast] [learning] [same] [bytes] [--note="what else ran"]

Parts that are not named keep the figures of their last time; all go to benchmarks/results/distributed.csv, .md, .png.
"""

import dataclasses
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from benchmarks.processes import ROOT, run
from ddpg_tf import cli
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError
from ddpg_tf.files import read_rows, write_rows

RESULTS = ROOT / "benchmarks" / "results"
COLLECTORS = (1, 2, 4, 8, 16)
SLEEPING = "benchmarks.speed.sleeping:Sleeping-v0"
_SMALL = dict(hidden_units=(32, 32), batch_size=64, warmup_steps=0, preset="none")
_COLUMNS = ("part", "case", "measure", "value", "load")
Row = tuple[str, str, float | str]  # case, measure, value


def main(argv):
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("note", "", "what else ran on the machine, for the page")
    parts = cli.parse(argv, values, __doc__, positional=True) or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise UsageError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for part in parts:
        load = f"{os.getloadavg()[0]:.1f}"
        with tempfile.TemporaryDirectory() as directory:
            found = [(part, *row, load) for row in PARTS[part](Path(directory))]
        kept = [tuple(row.values()) for row in read_rows(RESULTS / "distributed.csv") if row["part"] != part]
        note = [("note", part, "", values.note, load)] if values.note else []
        kept = [row for row in kept if row[:2] != ("note", part)]
        write_rows(RESULTS / "distributed.csv", _COLUMNS, [*kept, *found, *note])
        from benchmarks.speed import distributed_page

        distributed_page.write()


def _command(directory: Path, **settings) -> list[str]:
    """train.py with `settings`, in `directory`."""
    spelt = {name: ",".join(map(str, v)) if isinstance(v, tuple) else v for name, v in settings.items()}
    return ["train.py", f"--run_dir={directory}", *(f"--{name}={value}" for name, value in spelt.items())]


def _train(directory: Path, **settings) -> list[dict[str, str]]:
    """Trains in a process of its own. Returns the rows of metrics.csv."""
    run([sys.executable, *_command(directory, **settings)])
    return read_rows(directory / "metrics.csv")


def _speed(rows: list[dict[str, str]], after: int) -> float:
    """Steps per second between the first row at `after` steps or later and the last."""
    rows = [row for row in rows if int(row["step"]) >= after]
    steps, seconds = (float(rows[-1][name]) - float(rows[0][name]) for name in ("step", "seconds"))
    return steps / seconds


def scale(directory: Path) -> Iterator[Row]:
    """An environment that sleeps: K collectors of one each, rounds of 20 steps of each, an update per step."""
    for k in (0, *COLLECTORS):
        n = max(k, 1)
        settings = dict(env=SLEEPING, num_envs=n, update_every=20 * n, total_steps=800 * n, log_every=100 * n)
        rows = _train(directory / str(k), collectors=k, eval_every=0, eval_episodes=1, **settings, **_SMALL)
        yield f"K = {k}", "steps/s", _speed(rows, after=200 * n)
        seconds = float(rows[-1]["seconds"]) - float(rows[1]["seconds"])
        for name in ("learner_waited", "collectors_waited") if k else ():
            yield f"K = {k}", f"{name}, share of the time", sum(float(row[name]) for row in rows[2:]) / seconds


def fast(directory: Path) -> Iterator[Row]:
    """Environments whose step costs little: what two collectors bring or cost on this machine. In turn, twice."""
    for env, steps in (("Pendulum-v1", 12_000), ("HalfCheetah-v5", 4_000)):
        found: dict[int, list[float]] = {0: [], 2: []}
        for k in (0, 2, 0, 2):
            settings = dict(env=env, num_envs=2, update_every=100, total_steps=steps, log_every=steps // 10)
            path = directory / f"{env}-{k}-{len(found[k])}"
            rows = _train(
                path, collectors=k, eval_every=0, eval_episodes=1, warmup_steps=1000, preset="none", **settings
            )
            found[k].append(_speed(rows, after=steps // 5))
        for k, speeds in found.items():
            yield f"{env}, K = {k}", "steps/s", max(speeds)


def learning(directory: Path) -> Iterator[Row]:
    """Pendulum-v1 with its preset, four collectors of one environment each, 10,000 steps."""
    for seed in range(3):
        settings = dict(env="Pendulum-v1", seed=seed, num_envs=4, collectors=4, update_every=40, total_steps=10_000)
        path = directory / str(seed)
        _train(path, eval_every=0, **settings)
        returns = [float(row["return"]) for row in read_rows(path / "evaluations.csv")]
        yield f"seed {seed}", "return at 10,000 steps", sum(returns) / len(returns)


def same(directory: Path) -> Iterator[Row]:
    """One run undisturbed, again, with nodes taken away, and with the learner killed: evaluations.csv compared."""
    settings = dict(env=SLEEPING, num_envs=4, collectors=4, update_every=80, total_steps=6_400, eval_every=1600)
    settings |= dict(eval_episodes=2, checkpoint_every=800, log_every=80) | _SMALL
    _train(directory / "undisturbed", **settings)
    expected = (directory / "undisturbed" / "evaluations.csv").read_bytes()

    def equal(name: str) -> str:
        return "equal" if (directory / name / "evaluations.csv").read_bytes() == expected else "different"

    _train(directory / "again", **settings)
    yield "the same flags again", "evaluations.csv", equal("again")
    kills = _with_learner_killed(directory / "learner", settings)
    yield f"learner killed {kills} times (SIGKILL) and resumed", "evaluations.csv", equal("learner")
    settings.pop("preset")
    kills = _with_nodes_killed(Config(**settings, run_dir=str(directory / "nodes")), 10)
    yield f"nodes taken away {kills} times", "evaluations.csv", equal("nodes")


def _with_learner_killed(path: Path, settings: dict) -> int:
    """Trains, killing the process at two places. Returns how often it was alive to be killed."""
    kills = 0
    for step in (1700, 4000, None):
        begun = [f"--run_dir={path}", "--resume"] if kills else _command(path, **settings)[1:]
        process = subprocess.Popen([sys.executable, "train.py", *begun], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and (step is None or _step(path) < step):
            time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    return kills


def _step(path: Path) -> int:
    rows = read_rows(path / "metrics.csv")
    return int(rows[-1]["step"]) if rows else 0


def _with_nodes_killed(config: Config, times: int) -> int:
    """Trains on a cluster of a head and two nodes, one of which is taken away now and then, and another comes."""
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_USAGE_STATS_ENABLED"] = "token", "0"
    from ray.cluster_utils import Cluster

    from ddpg_tf import train

    store = dict(object_store_memory=100_000_000)
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, **store))
    nodes, rng, kills = [cluster.add_node(num_cpus=4, **store) for _ in range(2)], random.Random(0), 0
    config, failed = dataclasses.replace(config, ray_address=cluster.address), []

    def run_and_note():
        try:
            train(config)
        except Exception as error:
            failed.append(error)

    trainer = threading.Thread(target=run_and_note)  # a node can be added by the main thread only
    trainer.start()
    try:
        while trainer.is_alive():
            trainer.join(0.1)
            if kills < times and _step(Path(config.run_dir)) >= config.total_steps // (times + 1) * (kills + 1):
                time.sleep(rng.uniform(0, 0.3))  # anywhere in a round
                cluster.remove_node(nodes.pop(rng.randrange(2)), allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=4, **store))
                kills += 1
    finally:
        cluster.shutdown()
    if failed:
        raise failed[0]
    return kills


def bytes_(directory: Path) -> Iterator[Row]:
    """Answers as they are sent, pickled, and the actor's weights, by the step of one environment."""
    from ddpg_tf.collect import wire
    from ddpg_tf.collect.collector import Collector
    from ddpg_tf.envs import factory
    from ddpg_tf.flags import parse_command_line
    from ddpg_tf.training.acting import Acting, actor_weights

    for env, every in (("Pendulum-v1", 50), ("HalfCheetah-v5", 50), ("CarRacing-v3", 10)):
        argv = ["", f"--env={env}", "--warmup_steps=0", f"--update_every={every}", "--total_steps=10000"]
        config = parse_command_line(argv, "").config
        spaces = factory.spaces_of(config)
        collector, policy = Collector(config, spaces), Acting(config, spaces)
        stack = config.frame_stack if spaces.image else 1
        answers = [wire.collect(collector, policy, first, every, stack) for first in range(0, 200, every)]
        collector.close()
        steps = len(answers) * every
        case = f"{env}, rounds of {every} steps"
        sent = sum(len(pickle.dumps(answer, 5)) for answer in answers) / steps
        yield case, "bytes/step, answers", sent
        yield case, "bytes/step, weights", len(pickle.dumps(actor_weights(policy), 5)) / every
        new = sum(a["successor"].nbytes + a["begun"].nbytes for a in answers) / steps
        yield case, "answers over new observations", sent / new


PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "scale": scale,
    "fast": fast,
    "learning": learning,
    "same": same,
    "bytes": bytes_,
}

if __name__ == "__main__":
    cli.run(main)
