"""The actor alone, for processes that act and do not learn: no critic, no targets, no optimizers, no XLA."""

from collections.abc import Sequence

import numpy as np

from ddpg_tf._tf import tf
from ddpg_tf.config import Config
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.learner.agent import DDPG
from ddpg_tf.learner.networks import build_actor, build_shared


class Acting:
    """Observations [N, ...] -> actions float32 [N, A], as the agent's whose weights it was given."""

    def __init__(self, config: Config, spaces: Spaces):
        shape = spaces.observation_shape
        actor, _ = build_actor(config, shape, spaces.low, spaces.high, build_shared(config, shape))
        self.actor, self._dtype = actor, spaces.observation_dtype
        self._policy = tf.function(lambda observation: actor(observation, training=False)).get_concrete_function(
            tf.TensorSpec([None, *shape], self._dtype)
        )

    def assign(self, weights: Sequence[np.ndarray]):
        for variable, value in zip(self.actor.variables, weights, strict=True):
            variable.assign(value)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return self._policy(tf.constant(observations, self._dtype)).numpy()


def actor_weights(policy: DDPG | Acting) -> list[np.ndarray]:
    """What `Acting.assign` takes."""
    return [variable.numpy() for variable in policy.actor.variables]
