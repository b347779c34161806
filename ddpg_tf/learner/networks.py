"""Keras actor and critic: observation normalisation, hidden layers, initialisation, action scaling.

The actor owns everything between a raw observation and an action in environment units, so that the exported model
is the acting model.
"""

from typing import NamedTuple

import numpy as np

from ddpg_tf._tf import keras
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError
from ddpg_tf.learner.layers import FromBounds, LayerNormalization, NanWhereNotFinite, Normalizer, ToBounds
from ddpg_tf.learner.vision import ToUnit, convolutions, require_fits


def require_buildable(config: Config, shape: tuple[int, ...]):
    """Raises UsageError when a setting does not fit observations of `shape`."""
    if len(shape) == 3:
        require_fits(config, shape[0])
        if config.normalize_observations:
            raise UsageError("normalize_observations is for vectors: images are scaled to [0, 1]")
        if config.actor_average and config.encoder == "shared":
            raise UsageError("actor_average needs an encoder that is the actor's own: --encoder=separate")


def require_spaces(shape: tuple[int, ...], low: np.ndarray, high: np.ndarray):
    """Raises UsageError unless observations are vectors or images, and the bounds an interval for each action."""
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise UsageError(f"observations have a shape of (O,) or (H, W, C), not {shape}")
    if low.ndim != 1 or low.shape != high.shape or not np.isfinite([low, high]).all() or not (low <= high).all():
        raise UsageError(f"low and high must be finite, one number for each action, low <= high: not {low}, {high}")


def build_shared(config: Config, shape: tuple[int, ...]) -> keras.Layer:
    """What stands between the observation and all networks: the normaliser, the encoder of images, or identity.

    Raises:
      UsageError: as `require_buildable`.
    """
    require_buildable(config, shape)
    if len(shape) == 1:
        return Normalizer(shape[0]) if config.normalize_observations else keras.layers.Identity()
    if config.encoder == "separate":
        return ToUnit()
    image = keras.Input(shape, dtype="uint8", name="observation")
    x = convolutions(config, ToUnit()(image), Initialisation(config.seed, "encoder"))
    return keras.Model(image, x, name="encoder")


class Network(NamedTuple):
    """The same weights from two starting points.

    Attributes:
      model: takes raw observations; what acts, is saved and exported.
      head: takes the features that `shared` makes of them, which an update computes once for all networks.
    """

    model: keras.Model
    head: keras.Model


def build_actor(
    config: Config,
    shape: tuple[int, ...],
    low: np.ndarray,
    high: np.ndarray,
    shared: keras.Layer,
    name: str = "actor",
) -> Network:
    """observation [B, ...], raw -> action float32 [B, A] in environment units, inside [low, high].

    The head also returns what its tanh gets, [B, A]. Lillicrap et al. section 7: ReLU layers, tanh output.

    Args:
      shape: (O,) of vectors, float32 [B, O]; (H, W, C) of images, uint8 [B, H, W, C].
      shared: what `build_shared` gave.
    """
    init = Initialisation(config.seed, _role(name))
    observation, features = _inputs(shape, shared)
    x = _trunk(config, features, init, observation.dtype == "uint8")
    x = init.dense(len(low), x.shape[-1], "output", limit=config.final_init)(x)
    head = keras.Model(features, [ToBounds(low, high)(keras.ops.tanh(x)), x], name=f"{name}_head")
    action = _checked(head(shared(observation))[0], observation)
    return Network(keras.Model(observation, action, name=name), head)


def build_critic(
    config: Config,
    shape: tuple[int, ...],
    low: np.ndarray,
    high: np.ndarray,
    shared: keras.Layer,
    name: str = "critic",
) -> Network:
    """(observation [B, ...], action [B, A] in environment units) -> q float32 [B]; arguments as for `build_actor`.

    The action enters at hidden layer `config.action_layer` (paper: the second), rescaled to [-1, 1].
    """
    init = Initialisation(config.seed, _role(name))
    observation, features = _inputs(shape, shared)
    action = keras.Input([len(low)], name="action")
    x = _trunk(config, features, init, observation.dtype == "uint8", FromBounds(low, high)(action))
    q = keras.layers.Reshape([])(init.dense(1, x.shape[-1], "output", limit=config.final_init)(x))
    head = keras.Model([features, action], q, name=f"{name}_head")
    q = _checked(head([shared(observation), action]), observation)
    return Network(keras.Model([observation, action], q, name=name), head)


def _role(name: str) -> str:
    """Whose start a network shares: a target's is that of what it follows; "critic_2" would have one of its own."""
    return name.removeprefix("target_").removeprefix("averaged_")


def _checked(output, observation):
    """NaN instead of `output` where the observation is not finite; pixels always are."""
    return output if observation.dtype == "uint8" else NanWhereNotFinite()(output, observation)


def _inputs(shape: tuple[int, ...], shared: keras.Layer):
    """(observation, features), both inputs."""
    observation = keras.Input(shape, dtype="uint8" if len(shape) == 3 else "float32", name="observation")
    return observation, keras.Input(shared(observation).shape[1:], name="features")


def _trunk(config: Config, x, init: "Initialisation", image: bool, action=None):
    """[batch norm] [convolutions] [bottleneck] (dense [norm] ReLU)*, of actor and critic alike.

    The critic's action joins at hidden layer `config.action_layer`; from there on there is no batch norm (paper).
    """
    if config.normalization == "batch":
        x = _normalized(config, x, "norm_input")
    if len(x.shape) == 4:
        x = convolutions(config, x, init, lambda x, name: _normalized(config, x, name))
    if image and config.bottleneck:
        x = init.dense(config.bottleneck, x.shape[-1], "bottleneck")(x)
        x = keras.ops.tanh(LayerNormalization(name="bottleneck_norm")(x))
    for i, units in enumerate(config.hidden_units):
        if action is not None and i == config.action_layer:
            x = keras.layers.Concatenate()([x, action])
        x = init.dense(units, x.shape[-1], f"hidden_{i}")(x)
        if config.normalization != "batch" or action is None or i < config.action_layer:
            x = _normalized(config, x, f"norm_{i}")
        x = keras.layers.ReLU()(x)
    return x


def _normalized(config: Config, x, name: str):
    if config.normalization == "batch":
        return keras.layers.BatchNormalization(momentum=config.batch_norm_momentum, name=name)(x)
    return LayerNormalization(name=name)(x) if config.normalization == "layer" else x


class Initialisation:
    """Layers as the paper starts them: uniform in +-1/sqrt(fan-in), the last one in +-`limit`."""

    def __init__(self, seed: int, network: str):
        self._seeds = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *network.encode()])))

    def dense(self, units: int, fan_in: int, name: str, limit: float | None = None) -> keras.layers.Dense:
        return keras.layers.Dense(units, **self._uniform(fan_in**-0.5 if limit is None else limit), name=name)

    def convolution(self, filters: int, kernel: int, stride: int, channels: int, name: str) -> keras.layers.Conv2D:
        return keras.layers.Conv2D(
            filters, kernel, stride, **self._uniform((kernel * kernel * channels) ** -0.5), name=name
        )

    def _uniform(self, limit: float) -> dict[str, keras.initializers.Initializer]:
        kernel, bias = (
            keras.initializers.RandomUniform(-limit, limit, seed=int(seed))
            for seed in self._seeds.integers(2**31, size=2)
        )
        return {"kernel_initializer": kernel, "bias_initializer": bias}
