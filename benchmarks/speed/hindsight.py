"""What hindsight costs: minibatches relabelled when they are drawn, beside the same without and beside the update.

    python -m benchmarks.speed.hindsight [--env=FetchReach-v4] [--steps=20000]

The settings are those of the environment's preset. Figures are medians over rounds that take turns.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from absl import flags

from benchmarks.report import Part, Row, installed, show, write
from benchmarks.speed.profile import ROUNDS, measure
from ddpg_tf import cli


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("env", "FetchReach-v4", "Gymnasium environment id, with goals")
    define.integer("steps", 20_000, "random steps in the replay", lower_bound=1000)
    define.string("out", "benchmarks/results/hindsight.md", "file for the results")
    cli.parse(argv, values, __doc__)
    with TemporaryDirectory(prefix="hindsight-") as directory:
        config, pieces = _pieces(values, Path(directory))
        found = measure(pieces)
    rows = [Row(f"{name} [ms]", milliseconds) for name, milliseconds in found.items()]
    rows.append(Row("a minibatch with hindsight / update", found["draw, hindsight"] / found["update"], "<=", 1 / 3))
    units = "-".join(map(str, config.hidden_units))
    about = f"""{values.env}, {values.steps:,} steps in the replay, hidden layers {units}, batch {config.batch_size}.
        Milliseconds a minibatch or an update, in blocks of {config.updates_per_block}; median of {ROUNDS} rounds."""
    out, parts = Path(values.out), {"pieces": Part(about, rows)}
    write(
        out,
        "Hindsight",
        "Relabelling when sampling, beside the update",
        argv,
        parts,
        installed("tensorflow", "keras", "numpy", "gymnasium", "gymnasium-robotics", "mujoco"),
    )
    return show(out, parts)


def _pieces(values: flags.FlagValues, directory: Path):
    """(config, {name: (call, how many minibatches or updates one call makes)})."""
    from ddpg_tf import DDPG
    from ddpg_tf.collect.collector import Collector
    from ddpg_tf.envs import factory, registry
    from ddpg_tf.envs.goals import goals_of
    from ddpg_tf.flags import parse_command_line
    from ddpg_tf.replay.hindsight import Hindsight
    from ddpg_tf.training.core import make_replay

    config = parse_command_line(["", f"--env={values.env}", "--hindsight=future"], "", registry.resolve_id).config
    config = dataclasses.replace(config, warmup_steps=values.steps)
    spaces, block = factory.spaces_of(config), config.updates_per_block
    hindsight = Hindsight(goals_of(config, spaces), config.hindsight_share)
    replays = {
        name: make_replay(
            config, spaces.observation_shape, spaces.action_size, directory=directory / name, hindsight=relabels
        )
        for name, relabels in (("draw", None), ("draw, hindsight", hindsight))
    }
    collector = Collector(config, spaces)
    still = np.zeros([1, spaces.action_size], np.float32)
    for t in range(values.steps):
        transitions, _ = collector.step(t, lambda _: still)
        for replay in replays.values():
            replay.add(*transitions)
    agent, rng = DDPG(config, spaces.observation_shape, spaces.low, spaces.high), np.random.default_rng(0)
    batch = replays["draw, hindsight"].sample(rng, (block, config.batch_size))

    def draws(replay) -> tuple[Callable[[], object], int]:
        return lambda: replay.sample(rng, (block, config.batch_size)), block

    pieces = {name: draws(replay) for name, replay in replays.items()}
    return config, pieces | {"update": (lambda: agent.update(batch), block)}


if __name__ == "__main__":
    cli.run(main)
