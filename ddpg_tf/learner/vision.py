"""What images need of the networks: scaling, convolutions, random shifts."""

from collections.abc import Callable

from ddpg_tf._tf import keras, tf
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError


class ToUnit(keras.layers.Layer):
    """uint8 [...] -> float32 [...] in [0, 1]: here and nowhere else are pixels scaled."""

    def __init__(self):
        super().__init__(name="to_unit", trainable=False, dtype="float32", autocast=False)

    def call(self, image):
        return tf.cast(image, tf.float32) / 255.0


def convolutions(config: Config, x, init, normalized: Callable = lambda x, name: x):
    """float32 [B, H, W, C] -> features [B, F]: the convolutions of `config`, without padding, each with a ReLU.

    Lillicrap et al. section 7 give three layers of 32 filters, and neither kernels nor strides.

    Args:
      init: makes the layers.
      normalized: applied before each ReLU.
    """
    for i, (filters, kernel, stride) in enumerate(
        zip(config.conv_filters, config.conv_kernels, config.conv_strides, strict=True)
    ):
        x = init.convolution(filters, kernel, stride, x.shape[-1], f"conv_{i}")(x)
        x = keras.layers.ReLU()(normalized(x, f"norm_conv_{i}"))
    return keras.layers.Flatten()(x)


def require_fits(config: Config, size: int):
    """UsageError unless frames of `size` x `size` pixels are large enough for the convolutions."""
    left = size
    for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
        if left < kernel:
            raise UsageError(
                f"frame_size {size} is too small for the convolutions: {left} pixels are left for a "
                f"kernel of {kernel}; see --conv_kernels and --conv_strides"
            )
        left = (left - kernel) // stride + 1


def random_shift(images: tf.Tensor, pad: int, seed: tf.Tensor) -> tf.Tensor:
    """uint8 [B, H, W, C], each image moved by up to `pad` pixels both ways, its edge repeated (DrQ).

    Args:
      seed: int32 [2].
    """
    batch, (height, width, channels) = tf.shape(images)[0], images.shape[1:]
    shift = tf.random.stateless_uniform([batch, 2], seed, -pad, pad + 1, tf.int32)
    row = tf.clip_by_value(tf.range(height) + shift[:, :1], 0, height - 1)  # [B, H]
    column = tf.clip_by_value(tf.range(width) + shift[:, 1:], 0, width - 1)  # [B, W]
    pixel = (tf.range(batch)[:, None, None] * height + row[:, :, None]) * width + column[:, None, :]  # [B, H, W]
    return tf.gather(tf.reshape(images, [-1, channels]), pixel)
