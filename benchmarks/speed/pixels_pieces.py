"""What `pixels` times: the preset's agent, its minibatches, a replay full of noise, convolutions alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

from ddpg_tf.config import Config
from ddpg_tf.flags import PRESETS, define_flags, settings_of
from ddpg_tf.replay.buffer import ReplayBuffer

BATCH, SIDE = 128, 64


def settings(**changes) -> Config:
    """Preset pixels'."""
    values = flags.FlagValues()
    define_flags(values)
    values(["", f"--flagfile={PRESETS / 'pixels.flags'}"])
    return Config(**{**settings_of(values), **changes})


def agent_of(channels: int, jit: bool, actions: int = 1):
    """An untrained agent for images of so many channels."""
    from ddpg_tf import DDPG

    return DDPG(settings(), (SIDE, SIDE, channels), -np.ones(actions), np.ones(actions), jit_compile=jit)


def minibatch(channels: int):
    """A block of one minibatch of noise."""
    from ddpg_tf._tf import tf
    from ddpg_tf.replay.buffer import Batch

    rng = np.random.default_rng(0)
    image, other = (
        tf.constant(rng.integers(0, 256, (1, BATCH, SIDE, SIDE, channels), dtype=np.uint8)) for _ in range(2)
    )
    numbers = tf.constant(rng.random((1, BATCH), np.float32))
    return Batch(image, numbers[..., None], numbers, numbers, other)


def filled_replay(channels: int, slots: int, directory: Path, actions: int = 1):
    """A replay with `slots` rows of noise, in episodes of 250."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(
        slots, (SIDE, SIDE, channels), actions, n_step=3, frame_stack=3, slack=1000, directory=directory
    )
    image = rng.integers(0, 256, (1, SIDE, SIDE, channels), dtype=np.uint8)
    for t in range(slots):
        image = np.roll(image, 1, axis=1)
        buffer.add(image, np.zeros((1, actions)), np.zeros(1), image, np.array([t % 250 == 249]), np.array([False]))
    return buffer


def convolutions(channels_first: bool, jit: bool) -> Callable[[], object]:
    """Three convolutions: both passes over a batch, and one more forward."""
    from ddpg_tf._tf import keras, tf

    layers = [
        keras.layers.Conv2D(
            32, kernel, stride, activation="relu", data_format="channels_first" if channels_first else "channels_last"
        )
        for kernel, stride in ((8, 4), (4, 2), (3, 1))
    ]
    shape = (3, SIDE, SIDE) if channels_first else (SIDE, SIDE, 3)
    model = keras.Sequential([keras.Input(shape), *layers])
    x = tf.random.stateless_uniform([BATCH, *shape], [0, 0])

    @tf.function(jit_compile=jit)
    def run():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x))
        return [tf.reduce_sum(g) for g in tape.gradient(loss, model.trainable_variables)], tf.reduce_sum(model(x + 1))

    return lambda: run()[1].numpy()
