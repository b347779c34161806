"""Where one environment step's time goes, and how far the update is from its bare matrix products (the floor).

    python -m benchmarks.speed.profile [--env=HalfCheetah-v5] [--hidden_units=256,256] [--batch_size=256] [--block=50]

Every piece is called alone, again and again, in rounds that take turns; figures are medians over the rounds.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from absl import flags

from benchmarks.report import Part, Row, installed, show, write
from benchmarks.speed import scale
from ddpg_tf import cli
from ddpg_tf.errors import UsageError

ROUNDS = 7
_KEPT = 300_000  # transitions in the replay
SECONDS = 1.0  # of each piece in each round


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("env", "HalfCheetah-v5", "Gymnasium environment id")
    define.list("hidden_units", ["256", "256"], "units of the hidden layers")
    define.integer("batch_size", 256, "transitions per update", lower_bound=1)
    define.integer("block", 50, "updates in one call", lower_bound=2)
    define.string("out", "benchmarks/results/profile.md", "file for the results")
    cli.parse(argv, values, __doc__)
    if not all(units.isdigit() and int(units) for units in values.hidden_units):
        raise UsageError(f"--hidden_units={','.join(values.hidden_units)} must be whole numbers, as 256,256")
    with TemporaryDirectory(prefix="profile-") as directory:
        pieces = _pieces(values, Path(directory))
        found = measure(pieces)
    block = values.block
    update, floor = found[f"update, in a block of {block}"], found[f"its matrix products, in a block of {block}"]
    rows = [Row(f"{name} [ms]", milliseconds) for name, milliseconds in found.items()]
    rows.append(Row("update in a block / its matrix products", update / floor, "<=", 1.25))
    about = f"""{values.env}, hidden layers of {" and ".join(values.hidden_units)} units, batch {values.batch_size},
        {_KEPT:,} transitions in the replay. Milliseconds for one step or one update; median of {ROUNDS} rounds."""
    out, parts = Path(values.out), {"pieces": Part(about, rows)}
    write(
        out,
        "Profile",
        "Pieces of one training step, each alone",
        argv,
        parts,
        installed("tensorflow", "keras", "numpy", "gymnasium", "mujoco"),
    )
    return show(out, parts)


def _pieces(values: flags.FlagValues, directory: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """{name: (call, how many steps or updates one call makes)}."""
    from ddpg_tf import DDPG, Config, ReplayBuffer
    from ddpg_tf.collect.collector import Collector
    from ddpg_tf.envs import factory
    from ddpg_tf.training import schedule

    hidden = tuple(map(int, values.hidden_units))

    def parts_of(block: int):
        config = Config(
            env=values.env, hidden_units=hidden, batch_size=values.batch_size, update_every=block, warmup_steps=0
        )
        spaces = factory.spaces_of(config)
        still = np.zeros([1, spaces.action_size], np.float32)
        agent = DDPG(config, spaces.observation_size, spaces.low, spaces.high)
        replay = ReplayBuffer(_KEPT, spaces.observation_size, spaces.action_size, directory=directory / str(block))
        collector = Collector(config, spaces)
        for t in range(10_000):
            transitions, _ = collector.step(t, lambda _: still)
            replay.add(*transitions)
        while len(replay) < _KEPT:  # more than the processor's caches hold, as in most of a training
            replay.add(*transitions)
        return config, spaces, agent, replay, collector

    config, spaces, agent, replay, collector = parts_of(1)
    rng, steps = np.random.default_rng(0), iter(range(10_000, 10**9))
    observation = np.zeros([1, spaces.observation_size], np.float32)
    still = np.zeros([1, spaces.action_size], np.float32)
    transitions, _ = collector.step(next(steps), lambda _: still)
    one = replay.sample(rng, (1, config.batch_size))
    blocks = schedule.blocks(replay, config, 8_000)
    block_config, _, block_agent, block_replay, _ = parts_of(values.block)
    many = block_replay.sample(rng, (values.block, config.batch_size))
    many_blocks = schedule.blocks(block_replay, block_config, 100)
    per_step, in_blocks = (
        scale.Steps(
            scale.settings(
                env=values.env,
                hidden_units=hidden,
                batch_size=values.batch_size,
                update_every=every,
                warmup_steps=200 * values.block,
                total_steps=10**9 // values.block * values.block,
            ),
            directory / f"loop-{every}",
        )
        for every in (1, values.block)
    )
    floor = _matrix_products((spaces.observation_size, *hidden), spaces.action_size, config.batch_size, values.block)
    return {
        "act": (lambda: agent.act(observation), 1),
        "environment, exploration and bookkeeping": (lambda: collector.step(next(steps), lambda _: still), 1),
        "add to the replay": (lambda: replay.add(*transitions), 1),
        "draw a minibatch": (lambda: replay.sample(rng, (1, config.batch_size)), 1),
        "draw a minibatch, through tf.data": (lambda: next(blocks), 1),
        f"draw a minibatch, {values.block} at a time through tf.data": (lambda: next(many_blocks), values.block),
        "update, one a call": (lambda: agent.update(one), 1),
        f"update, in a block of {values.block}": (lambda: block_agent.update(many), values.block),
        f"its matrix products, in a block of {values.block}": (floor, values.block),
        "training, one update per step": (lambda: per_step.run(values.block), values.block),
        f"training, in blocks of {values.block}": (lambda: in_blocks.run(values.block), values.block),
    }


def _matrix_products(sizes: tuple[int, ...], action_size: int, batch: int, block: int) -> Callable[[], object]:
    """The products of one update with nothing between them: an update of linear networks, compiled alike."""
    from ddpg_tf._tf import tf

    def network(*sizes):
        return [
            tf.Variable(tf.random.stateless_uniform([n, m], [n, m], -1, 1) * (3 / n) ** 0.5)
            for n, m in itertools.pairwise(sizes)
        ]

    actor, target_actor = network(*sizes, action_size), network(*sizes, action_size)
    critic, target_critic = (network(sizes[0] + action_size, *sizes[1:], 1) for _ in range(2))
    sinks = {id(kernels): [tf.Variable(kernel) for kernel in kernels] for kernels in (actor, critic)}

    def forward(kernels, x):
        inputs = []
        for kernel in kernels:
            inputs.append(x)
            x = tf.matmul(x, kernel)
        return x, inputs

    def backward(kernels, inputs, gradient, *, weights: bool, first: bool):
        """Gradients of the weights, and of the input if `first`."""
        found = []
        for i in reversed(range(len(kernels))):
            if weights:
                found.append((i, tf.matmul(inputs[i], gradient, transpose_a=True)))
            if i or first:
                gradient = tf.matmul(gradient, kernels[i], transpose_b=True)
        return gradient, found

    def update(x):
        action, _ = forward(target_actor, x)
        target, _ = forward(target_critic, tf.concat([x, action], 1))
        q, inputs = forward(critic, tf.concat([x, action], 1))
        _, critic_gradients = backward(critic, inputs, target - q, weights=True, first=False)
        action, actor_inputs = forward(actor, x)
        q, inputs = forward(critic, tf.concat([x, action], 1))
        gradient, _ = backward(critic, inputs, q, weights=False, first=True)
        _, actor_gradients = backward(actor, actor_inputs, gradient[:, sizes[0] :], weights=True, first=False)
        for kernels, gradients in ((critic, critic_gradients), (actor, actor_gradients)):
            for i, gradient in gradients:
                sinks[id(kernels)][i].assign(gradient)  # the cheapest use of every product

    @tf.function(jit_compile=True)
    def run(x):
        for k in tf.range(block):
            update(x[k])
        return x[0, 0, 0]

    x = tf.random.stateless_normal([block, batch, sizes[0]], [0, 0])
    return lambda: run(x).numpy()


def measure(
    pieces: dict[str, tuple[Callable[[], object], int]], rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, float]:
    """Milliseconds per step or update of each piece: {name: (call, how many of them one call makes)}.

    The pieces take turns, each for so many seconds, or one call; the median over rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in pieces}
    for call, _ in pieces.values():
        call(), call()  # traces and compiles
    for _ in range(rounds):
        for name, (call, count) in pieces.items():
            calls, spent, started = 0, 0.0, time.perf_counter()
            while not calls or spent < seconds:
                call()
                calls, spent = calls + 1, time.perf_counter() - started
            times[name].append(1000 * spent / calls / count)
    return {name: statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    cli.run(main)
