"""Layers between raw units and those of the networks: observation normalisation, action bounds."""

from collections.abc import Mapping

import numpy as np

from ddpg_tf._tf import keras, tf


class Normalizer(keras.layers.Layer):
    """(observation - mean) / std, clipped to +-10; statistics of every observation `count` has seen.

    The statistics are kept in float64 on the host (Chan et al.'s parallel variance) and reach the model only by
    `assign_statistics`, so that evaluation and export see what the last update saw. One instance serves all
    networks.
    """

    CLIP = 10.0

    def __init__(self, size: int):
        super().__init__(name="normalizer", trainable=False)
        self.seen = 0
        self.mean64, self.m2 = np.zeros(size), np.zeros(size)
        self.mean = self.add_weight(shape=(size,), initializer="zeros", trainable=False, name="mean")
        self.std = self.add_weight(shape=(size,), initializer="ones", trainable=False, name="std")

    def call(self, observation):
        return tf.clip_by_value((observation - self.mean) / self.std, -self.CLIP, self.CLIP)

    def count(self, observations: np.ndarray):
        """Adds observations [N, O] to the statistics."""
        batch = observations.astype(np.float64)
        total = self.seen + len(batch)
        mean = batch.mean(0)
        delta = mean - self.mean64
        self.mean64 = self.mean64 + delta * (len(batch) / total)
        self.m2 = self.m2 + ((batch - mean) ** 2).sum(0) + delta**2 * (self.seen * len(batch) / total)
        self.seen = total

    def assign_statistics(self):
        """Makes the networks see what has been counted; may be part of a graph."""
        statistics = tf.numpy_function(self._statistics, [], [tf.float32, tf.float32])
        for variable, value in zip((self.mean, self.std), statistics, strict=True):
            variable.assign(tf.ensure_shape(value, variable.shape))

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        variance = self.m2 / self.seen + 1e-8 if self.seen else np.ones_like(self.m2)
        return self.mean64.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def host_state(self) -> dict[str, np.ndarray]:
        return {"seen": np.asarray(self.seen), "mean64": self.mean64, "m2": self.m2}

    def load_host_state(self, state: Mapping[str, np.ndarray]):
        self.seen, self.mean64, self.m2 = int(state["seen"]), state["mean64"], state["m2"]


class LayerNormalization(keras.layers.LayerNormalization):
    """Keras' own, over the last axis; its means are matrix products, which XLA does faster than reductions."""

    def call(self, x):
        mean_of = tf.fill([x.shape[-1], 1], 1.0 / x.shape[-1])
        centred = x - tf.matmul(x, mean_of)
        variance = tf.matmul(tf.square(centred), mean_of)
        return centred * tf.math.rsqrt(variance + self.epsilon) * self.gamma + self.beta


class ToBounds(keras.layers.Layer):
    """[-1, 1] -> [low, high] per dimension; +-1 give the bounds exactly, 0 the middle."""

    def __init__(self, low: np.ndarray, high: np.ndarray):
        super().__init__(name="to_bounds", trainable=False)
        self._low, self._high = np.asarray(low, np.float32), np.asarray(high, np.float32)

    def call(self, x):
        u = (x + 1.0) * 0.5
        return tf.clip_by_value(self._low * (1.0 - u) + self._high * u, self._low, self._high)


class FromBounds(keras.layers.Layer):
    """[low, high] -> [-1, 1] per dimension."""

    def __init__(self, low: np.ndarray, high: np.ndarray):
        super().__init__(name="from_bounds", trainable=False)
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        self._middle, half = low / 2 + high / 2, high / 2 - low / 2
        self._half = np.where(half > 0, half, np.float32(1))

    def call(self, action):
        return (action - self._middle) / self._half


class NanWhereNotFinite(keras.layers.Layer):
    """(output [B, ...], observation [B, O]) -> the output; NaN where the observation is not finite.

    ReLU, tanh and bounds would make a plausible action of a broken sensor's NaN.
    """

    def __init__(self):
        super().__init__(name="nan_where_not_finite", trainable=False)

    def call(self, output, observation):
        finite = tf.reduce_all(tf.math.is_finite(observation), axis=1)  # [B]
        if output.shape.rank == 2:
            finite = finite[:, None]
        return tf.where(finite, output, np.float32(np.nan))
