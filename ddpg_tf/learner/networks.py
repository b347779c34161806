"""Keras actor and critic: observation normalisation, hidden layers, initialisation, action scaling.

The actor owns everything between a raw observation and an action in environment units, so that the exported model
is the acting model.
"""

from collections.abc import Sequence

import numpy as np

from ddpg_tf._tf import keras
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError
from ddpg_tf.learner.layers import FromBounds, Normalizer, ToBounds, ToUnit
from ddpg_tf.learner.vision import convolutions, require_fits

Shape = int | tuple[int, ...]


def require_buildable(config: Config, shape: tuple[int, ...]):
    """Raises UsageError when a setting does not fit observations of `shape`."""
    if len(shape) == 3:
        require_fits(config, shape[0])
        if config.normalize_observations:
            raise UsageError("normalize_observations is for vectors: images are scaled to [0, 1]")


def build_shared(config: Config, shape: tuple[int, ...]) -> keras.Layer | None:
    """What stands between the observation and all four networks: the normaliser, the encoder of images, or nothing.

    Raises:
      UsageError: as `require_buildable`.
    """
    require_buildable(config, shape)
    if len(shape) == 1:
        return Normalizer(shape[0]) if config.normalize_observations else None
    if config.encoder == "separate":
        return ToUnit()
    image = keras.Input(shape, dtype="uint8", name="observation")
    x = convolutions(config, ToUnit()(image), Initialisation(config.seed, "encoder"))
    return keras.Model(image, x, name="encoder")


def behind_shared(model: keras.Model, *more) -> keras.Model:
    """The part of an actor or critic behind what all share: takes features in the observation's place.

    Args:
      more: tensors of `model` to return after its output.
    """
    inputs, outputs = [model.features, *model.inputs[1:]], [*model.outputs, *more]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs if more else outputs[0],
                       name=f"{model.name}_behind_shared")


def build_actor(config: Config, shape: Shape, low: np.ndarray, high: np.ndarray,
                shared: keras.Layer | None, name: str = "actor") -> keras.Model:
    """observation [B, ...], raw -> action float32 [B, A] in environment units, inside [low, high].

    Lillicrap et al. section 7: ReLU layers, tanh output, batch norm on the state and every hidden layer.

    Args:
      shape: O of vectors, float32 [B, O]; (H, W, C) of images, uint8 [B, H, W, C].
      shared: what `build_shared` gave.
    """
    init = Initialisation(config.seed, "actor")
    observation = _observation(shape)
    features, x = _input_layers(config, observation, shared, init)
    for i, units in enumerate(config.hidden_units):
        x = init.dense(units, x.shape[-1], f"hidden_{i}")(x)
        x = keras.layers.ReLU()(_normalized(config, x, f"norm_{i}"))
    x = init.dense(len(low), x.shape[-1], "output", limit=config.final_init)(x)
    model = keras.Model(observation, ToBounds(low, high)(keras.ops.tanh(x)), name=name)
    model.features, model.before_tanh = features, x
    return model


def build_critic(config: Config, shape: Shape, low: np.ndarray, high: np.ndarray,
                 shared: keras.Layer | None, name: str = "critic") -> keras.Model:
    """(observation [B, ...], action [B, A] in environment units) -> q float32 [B].

    The action enters at hidden layer `config.action_layer` (paper: the second), rescaled to [-1, 1]; batch norm only
    before that.
    """
    init = Initialisation(config.seed, "critic")
    observation = _observation(shape)
    action = keras.Input([len(low)], name="action")
    features, x = _input_layers(config, observation, shared, init)
    for i, units in enumerate(config.hidden_units):
        if i == config.action_layer:
            x = keras.layers.Concatenate()([x, FromBounds(low, high)(action)])
        x = init.dense(units, x.shape[-1], f"hidden_{i}")(x)
        if config.normalization == "layer" or i < config.action_layer:
            x = _normalized(config, x, f"norm_{i}")
        x = keras.layers.ReLU()(x)
    q = init.dense(1, x.shape[-1], "output", limit=config.final_init)(x)
    model = keras.Model([observation, action], keras.layers.Reshape([])(q), name=name)
    model.features = features
    return model


def _observation(shape: Shape):
    shape = (shape,) if isinstance(shape, int) else shape
    return keras.Input(shape, dtype="uint8" if len(shape) == 3 else "float32", name="observation")


def _input_layers(config: Config, observation, shared, init: "Initialisation"):
    """(what `shared` makes of the observation, what the hidden layers start from)."""
    features = x = shared(observation) if shared is not None else observation
    if config.normalization == "batch":
        x = _normalized(config, x, "norm_input")
    if len(observation.shape) == 2:
        return features, x
    if config.encoder == "separate":
        x = convolutions(config, x, init, lambda x, name: _normalized(config, x, name))
    if config.bottleneck:
        x = init.dense(config.bottleneck, x.shape[-1], "bottleneck")(x)
        x = keras.ops.tanh(keras.layers.LayerNormalization(name="bottleneck_norm")(x))
    return features, x


def _normalized(config: Config, x, name: str):
    if config.normalization == "batch":
        return keras.layers.BatchNormalization(momentum=config.batch_norm_momentum, name=name)(x)
    return keras.layers.LayerNormalization(name=name)(x) if config.normalization == "layer" else x


class Initialisation:
    """Layers as the paper starts them: uniform in +-1/sqrt(fan-in), the last one in +-`limit`."""

    def __init__(self, seed: int, network: str):
        self._seeds = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *network.encode()])))

    def dense(self, units: int, fan_in: int, name: str, limit: float | None = None) -> keras.layers.Dense:
        return keras.layers.Dense(units, **self._uniform(fan_in**-0.5 if limit is None else limit), name=name)

    def convolution(self, filters: int, kernel: int, stride: int, channels: int, name: str) -> keras.layers.Conv2D:
        return keras.layers.Conv2D(filters, kernel, stride, **self._uniform((kernel * kernel * channels) ** -0.5),
                                   name=name)

    def _uniform(self, limit: float) -> dict[str, keras.initializers.Initializer]:
        kernel, bias = (keras.initializers.RandomUniform(-limit, limit, seed=int(seed))
                        for seed in self._seeds.integers(2**31, size=2))
        return {"kernel_initializer": kernel, "bias_initializer": bias}


def kernels(model: keras.Model) -> Sequence[bool]:
    """For each trainable variable of `model`: is it a kernel (what critic_l2 acts on)?"""
    return [variable.path.endswith("/kernel") for variable in model.trainable_variables]
