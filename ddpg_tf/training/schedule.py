"""How much of the past a run keeps, and which of it each draw of minibatches may see."""

from collections.abc import Iterator

import numpy as np

from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError
from ddpg_tf.replay.buffer import Batch, ReplayBuffer, layout_of
from ddpg_tf.storage import checkpoint

_DRAWN_AHEAD = 10  # steps: an element of tf.data costs more than drawing a minibatch (benchmarks/results/profile.md)


def blocks(replay: ReplayBuffer, config: Config, first_block: int = 0, *, image: bool = False) -> Iterator[Batch]:
    """Blocks `first_block`, `first_block` + 1, ... of minibatches; block b is due at step learning_starts +
    (b + 1) x update_every.

    Small blocks are drawn some at a time. A draw sees the rows that were there when the first block of the draw before
    it was due: the prefetch makes it while that one is learnt from and the environments go on. With images, whose step
    goes on during its update, it sees one update_every less.
    """
    together = blocks_per_draw(config, image)

    def rows(draw: int) -> int:
        seen = max(0, (draw - 1) * together + (0 if image else 1))  # in blocks, from learning_starts on
        return (config.learning_starts + seen * config.update_every) // config.num_envs

    return replay.blocks((together, config.updates_per_block, config.batch_size), config.seed, rows, first_block)


def ring_size(config: Config, image: bool = False) -> tuple[int, int]:
    """(capacity, slack) of the ring of `config`.

    Slack is the transitions to keep beyond replay_capacity so that either of the two kept checkpoints can be resumed.
    Of images both are slots, of which a step takes two at worst.

    Raises:
      UsageError: the capacity is less than an image is made of.
    """
    slots = 1 + image
    if image and config.replay_capacity // config.num_envs <= stack_of(config):
        raise UsageError(
            f"replay_capacity ({config.replay_capacity}) must leave each of num_envs ({config.num_envs}) "
            f"more than frame_stack ({config.frame_stack}) frames"
        )
    interval = config.checkpoint_every or config.total_steps
    if config.collectors:  # checkpoints wait for the end of a round
        interval = -(-interval // config.update_every) * config.update_every
    oldest_draw = (2 * blocks_per_draw(config, image) - 1 + image) * config.update_every
    most = slots * config.total_steps
    slack = min(slots * (checkpoint.KEPT * interval + oldest_draw), max(0, most - config.replay_capacity))
    return min(config.replay_capacity, most), slack


def blocks_per_draw(config: Config, image: bool) -> int:
    return 1 if image else max(1, _DRAWN_AHEAD // config.update_every)


def stack_of(config: Config) -> int:
    """Slots that an image is made of: with frame_source=substeps all of its frames are new at each step."""
    return config.frame_stack if config.frame_source == "steps" else 1


def ring_bytes(config: Config, observation_shape: int | tuple[int, ...], action_size: int) -> int:
    """Bytes on disk of the ring of `config`."""
    layout = layout_of(config.num_envs, observation_shape, action_size, stack_of(config), config.hindsight != "none")
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())
    capacity, slack = ring_size(config, "frame" in layout)
    return row * -(-(capacity + slack) // config.num_envs)
