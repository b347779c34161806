"""Learning from pixels: what an update, a minibatch, a step and a request cost.

    python -m benchmarks.speed.pixels [update] [replay] [step] [request] [random]
    python -m benchmarks.speed.pixels memory --out=benchmarks/results/pixels-memory.md

update: preset pixels' networks, batch 128, with and without XLA, grey and RGB; the convolutions alone in both layouts.
replay: bytes of a slot, and drawing a minibatch beside the update. step: CarRacing's with the update during the
environment's step and after it. request: the bytes of an observation as numbers and as PNG files, on the frames of a
uniformly random policy. random: that policy's returns. memory, only when named: drawing from a replay that is larger
than the memory there is (12.4 GB on disk), in a control group with a limit, such as
    mkdir /sys/fs/cgroup/memory/small && echo 4G > /sys/fs/cgroup/memory/small/memory.limit_in_bytes
    bash -c 'echo $$ > /sys/fs/cgroup/memory/small/tasks; exec python -m benchmarks.speed.pixels memory'
Pieces alternate; medians of rounds.
"""

import contextlib
import json
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import report
from benchmarks.random_policy import random_return
from benchmarks.speed.pixels_pieces import SIDE, agent_of, convolutions, filled_replay, minibatch, settings
from benchmarks.speed.profile import measure
from ddpg_tf import cli
from ddpg_tf.envs import factory, frames, registry
from ddpg_tf.evaluation.evaluator import FIRST_SEED
from ddpg_tf.replay.buffer import ReplayBuffer
from ddpg_tf.training import schedule

CURVES = ("InvertedPendulum-v5", "Pendulum-v1", "paper-Pendulum-v1", "CarRacing-v3")
ENVIRONMENTS = ("InvertedPendulum-v5", "Pendulum-v1", "CarRacing-v3")


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("out", "benchmarks/results/pixels-cost.md", "file for the results")
    define.integer("rounds", 15, "times that each piece is measured", lower_bound=1)
    names = cli.parse(argv, values, __doc__, positional=True)
    parts = {
        "update": update,
        "replay": replay_cost,
        "step": step,
        "request": request,
        "random": random_returns,
        "memory": memory,
    }
    found = {name: parts[name](values.rounds) for name in report.chosen(names or list(parts)[:-1], parts)}
    curves = ", ".join(f"[{name}](pixels/{name})" for name in CURVES)
    about = (
        "Preset pixels: three convolutions of 32 filters shared by all networks, 64 x 64, three frames; learning "
        f"curves, csv and commands: {curves}"
    )
    out = Path(values.out)
    report.write(
        out,
        "From pixels",
        about,
        argv,
        found,
        report.installed("tensorflow", "keras", "gymnasium", "mujoco", "pillow"),
    )
    return report.show(out, found)


def update(rounds: int) -> report.Part:
    """Milliseconds of one update, and of the convolutions."""
    pieces = {}
    for name, channels in (("grey", 3), ("RGB", 9)):
        batch = minibatch(channels)
        for jit in (False, True):
            agent = agent_of(channels, jit)
            pieces[f"update, {name}, {'with' if jit else 'without'} XLA"] = (
                lambda agent=agent, batch=batch: agent.update_in_graph(batch).numpy(),
                1,
            )
    pieces |= {
        f"convolutions, grey, {name}": (convolutions(first, jit), 1)
        for name, first, jit in (
            ("channels last, without XLA", False, False),
            ("channels last, with XLA", False, True),
            ("channels first, with XLA", True, True),
        )
    }
    found = measure(pieces, rounds, seconds=0)
    rows = [report.Row(f"{name}, ms", value) for name, value in found.items()]
    for name in ("grey", "RGB"):
        without, with_xla = (found[f"update, {name}, {how} XLA"] for how in ("without", "with"))
        rows.append(report.Row(f"update, {name}, without XLA / with", without / with_xla, "<", 1.0))
    return report.Part(
        "Batch 128, random shifts included. Convolutions: both passes over a batch, and one more "
        "forward. On a CPU TensorFlow has channels first with XLA only.",
        rows,
    )


def replay_cost(rounds: int) -> report.Part:
    """Bytes on disk; a minibatch against the update that it is for."""
    rows = []
    for name, channels in (("grey", 3), ("RGB", 9)):
        settings_ = settings(replay_capacity=1_000_000, total_steps=10_000_000, grayscale=channels == 3)
        size = schedule.ring_bytes(settings_, (SIDE, SIDE, channels), 3)
        slots, new = sum(schedule.ring_size(settings_, image=True)), SIDE * SIDE * channels // 3
        rows.append(report.Row(f"1e6 slots and the slack, {name}, GB", size / 1e9, "<=", 12.8))
        rows.append(report.Row(f"bytes of a slot / the new pixels of a step, {name}", size / slots / new, "<=", 1.05))
        with tempfile.TemporaryDirectory() as directory:
            buffer, agent = filled_replay(channels, 20_000, Path(directory)), agent_of(channels, False)
            rows += _drawing(buffer, agent, name, rounds)
    return report.Part(
        "Minibatches through tf.data, one after the other with no update between; 20,000 slots on disk, "
        "in memory's cache.",
        rows,
    )


def _drawing(buffer: ReplayBuffer, agent, name: str, rounds: int) -> list[report.Row]:
    """A minibatch of all that is in `buffer` against an update."""
    blocks = schedule.blocks(buffer, settings(warmup_steps=buffer.rows, total_steps=10**9), image=True)
    batch = next(blocks)
    pieces = {
        "draw": (lambda: [next(blocks) for _ in range(10)], 10),
        "update": (lambda: agent.update_in_graph(batch).numpy(), 1),
    }
    drawing, updating = measure(pieces, rounds, seconds=0).values()
    return [
        report.Row(f"a minibatch, {name}, ms", drawing),
        report.Row(f"update, {name}, ms", updating),
        report.Row(f"a minibatch / update, {name}", drawing / updating, "<", 1 / 3),
    ]


def memory(rounds: int) -> report.Part:
    """A million RGB slots on disk, and as much memory as this process may have."""
    slots = 1_000_000
    with tempfile.TemporaryDirectory(dir=".") as directory:
        began = time.perf_counter()
        buffer = filled_replay(9, slots, Path(directory))
        filling = (time.perf_counter() - began) / slots * 1000
        size = sum(file.stat().st_size for file in Path(directory).rglob("*"))
        rows = _drawing(buffer, agent_of(9, False), "RGB", rounds)
    own = int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return report.Part(
        "Drawn with no update between. The memory is the machine's or the control group's, with the system's cache of "
        "files.",
        [
            report.Row("slots", slots),
            report.Row("on disk, GB", size / 1e9),
            report.Row("memory, GB", _memory_limit() / 1e9, "<", size / 1e9),
            report.Row("of it the process's own, GB", own / 1e9),
            report.Row("adding a row, ms", filling),
            *rows,
        ],
    )


def _memory_limit() -> float:
    """Bytes that this process and its files' cache may have: of the machine, or of a control group if that is less."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, group = line.split(":", 2)
        for file in (f"/sys/fs/cgroup{group}/memory.max", f"/sys/fs/cgroup/{kind}{group}/memory.limit_in_bytes"):
            if kind in ("", "memory") and Path(file).exists() and (text := Path(file).read_text().strip()) != "max":
                limits.append(float(text))
    return min(limits)


def step(rounds: int) -> report.Part:
    """Milliseconds of a CarRacing step with its update, one after the other and at once."""
    from ddpg_tf.collect.collector import Collector
    from ddpg_tf.training.core import Core

    settings_ = settings(env="CarRacing-v3", pixels=False, warmup_steps=3_000, total_steps=10**6, action_repeat=4)
    spaces, pieces, closing = factory.spaces_of(settings_), {}, []
    with tempfile.TemporaryDirectory() as directory:
        for name, overlap in (("update during the step", True), ("update after the step", False)):
            buffer, agent = filled_replay(3, 3_000, Path(directory) / name, actions=3), agent_of(3, False, actions=3)
            core = Core(settings_, agent, buffer, Collector(settings_, spaces), step=buffer.rows, overlap=overlap)
            closing.append(core.collector)
            pieces[name] = (lambda core=core: core.run(core.step + 10), 10)
        for name, env in (
            ("environment alone", factory.make_policy_env(settings_)),
            (
                "environment alone, drawn at each simulated step",
                frames.Frames(registry.make_env(settings_.env), settings_),
            ),
        ):
            closing.append(env)
            env.reset(seed=0)
            pieces[name] = (lambda env=env: [env.step(np.float32([0, 0.1, 0])) for _ in range(10)], 10)
        found = measure(pieces, rounds, seconds=0)
        for used in closing:
            used.close()
    rows = [report.Row(f"{name}, ms", value) for name, value in found.items()]
    during, after, *_ = found.values()
    return report.Part(
        "CarRacing-v3, four simulated steps an action, an update each step, grey.",
        [*rows, report.Row("during / after", during / after, "<", 1.0)],
    )


def request(rounds: int) -> report.Part:
    """Bytes of a question on each environment's own frames."""
    import base64

    from serve.pngs import to_pngs

    rows = []
    for env_id in ENVIRONMENTS:
        settings_ = settings(env=env_id, pixels=env_id != "CarRacing-v3")
        env, numbers, files = factory.make_policy_env(settings_), [], []
        env.action_space.seed(0)
        observation, _ = env.reset(seed=0)
        for _ in range(10 * rounds):
            numbers.append(len(json.dumps({"inputs": {"observation": [observation.tolist()]}})))
            pngs = [{"b64": base64.b64encode(png).decode()} for png in to_pngs(observation, settings_.frame_stack)]
            files.append(
                len(json.dumps({"signature_name": "observation_bytes", "inputs": {"observation_bytes": [pngs]}}))
            )
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                observation, _ = env.reset()
        env.close()
        rows += [
            report.Row(f"{env_id}, numbers, bytes", int(np.mean(numbers))),
            report.Row(f"{env_id}, PNG files, bytes", int(np.mean(files))),
            report.Row(f"{env_id}, PNG files / numbers", np.mean(files) / np.mean(numbers), "<=", 0.1),
        ]
    return report.Part("Whole bodies of requests, three grey frames.", rows)


def random_returns(_: int) -> report.Part:
    """Mean return of uniformly random actions over the ten episodes that evaluations begin with."""
    rows = []
    for env_id in ENVIRONMENTS:
        # The same steps with frames of 8 pixels; InvertedPendulum's curve has actions of two steps.
        repeat = {"InvertedPendulum-v5": 2, "CarRacing-v3": 4}.get(env_id, 3)
        config = settings(env=env_id, pixels=env_id != "CarRacing-v3", frame_size=8, action_repeat=repeat)
        with contextlib.closing(factory.make_policy_env(config)) as env:
            found = random_return(env, 10, FIRST_SEED)
        rows.append(report.Row(f"{env_id}, mean return of a random policy", found))
    return report.Part("Ten episodes from seeds 10000 to 10009, actions held as in the learning curves.", rows)


if __name__ == "__main__":
    cli.run(main)
