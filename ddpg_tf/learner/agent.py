"""DDPG: act and update (Lillicrap et al., Algorithm 1). Knows minibatches; no environment, no ring, no file."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddpg_tf._tf import keras, tf
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError
from ddpg_tf.learner.layers import Normalizer
from ddpg_tf.learner.networks import build_actor, build_critic, build_shared, require_spaces
from ddpg_tf.learner.vision import random_shift
from ddpg_tf.replay.buffer import Batch

CRITIC_METRICS = ("critic_loss", "q_mean", "target_mean", "td_error", "critic_gradient_norm")
METRICS = (*CRITIC_METRICS, "actor_loss", "actor_gradient_norm", "action_saturation")


class DDPG:
    """Actor, critic, their targets and optimizers.

    | symbol | shape | |
    |---|---|---|
    | observation | [B, O] float32, or [B, H, W, C] uint8 | raw, as the environment gives it |
    | action | [B, A] float32 | environment units, inside [low, high] |
    | q, target, reward, discount | [B] float32 | rank 1, asserted |

    Args:
      config: hyperparameters; the seed decides the initial weights.
      observation_shape: O, or (H, W, C) of images.
      low, high: [A], action bounds in environment units, per dimension.
      jit_compile: whether XLA compiles the update; default where observations are vectors: with convolutions it
        takes longer so on a CPU (benchmarks/results/pixels-cost.md).
    Raises:
      UsageError: shape or bounds are not what they must be, or settings do not fit images.
    """

    def __init__(
        self,
        config: Config,
        observation_shape: int | tuple[int, ...],
        low: np.ndarray,
        high: np.ndarray,
        *,
        jit_compile: bool | None = None,
    ):
        self.config = config
        shape = self._shape = tuple(np.atleast_1d(observation_shape).tolist())
        self.low, self.high = (np.atleast_1d(np.asarray(bound, np.float32)) for bound in (low, high))
        require_spaces(shape, self.low, self.high)
        self.image = len(shape) == 3
        self._jit_compile = not self.image if jit_compile is None else jit_compile
        self.observation_spec = tf.TensorSpec([None, *shape], tf.uint8 if self.image else tf.float32)
        shared = build_shared(config, shape)
        self.normalizer = shared if isinstance(shared, Normalizer) else None
        common = (config, shape, self.low, self.high, shared)
        self.actor, self._actor_head = build_actor(*common)
        self.critic, self._critic_head = build_critic(*common)
        self.target_actor, self._target_actor_head = build_actor(*common, name="target_actor")
        self.target_critic, self._target_critic_head = build_critic(*common, name="target_critic")
        self.averaged_actor = build_actor(*common, name="averaged_actor").model if config.actor_average else self.actor
        self._targets = [*_twins(self.actor, self.target_actor), *_twins(self.critic, self.target_critic)]
        self._averages = _twins(self.actor, self.averaged_actor)
        for online, twin in self._targets + self._averages:
            twin.assign(online)
        self.actor_optimizer = keras.optimizers.Adam(config.actor_learning_rate, name="actor_optimizer")
        self.critic_optimizer = keras.optimizers.Adam(config.critic_learning_rate, name="critic_optimizer")
        self._shared = shared
        # The head's: what networks share is trained by the critic's loss only.
        self.actor_optimizer.build(self._actor_head.trainable_variables)
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.variables()  # a name that is there twice is told now

    # Tensors in, tensors out. Concrete functions: tf.function would look for the trace that fits at every call.

    def update_in_graph(self, batch: Batch) -> tf.Tensor:
        """`update` for tensors, to be called from a graph; METRICS float32 [len(METRICS)]."""
        if self.normalizer:
            self.normalizer.assign_statistics()
        return self._update(batch)

    @functools.cached_property
    def newest_policy(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """What explores, for tensors, to be called from a graph: the newest actor."""
        return self._acting(self.actor)

    @functools.cached_property
    def _averaged_policy(self) -> Callable[[tf.Tensor], tf.Tensor]:
        return self._acting(self.averaged_actor) if self._averages else self.newest_policy

    def _acting(self, actor: keras.Model):
        return tf.function(
            lambda observation: actor(observation, training=False), jit_compile=self._jit_compile
        ).get_concrete_function(self.observation_spec)

    @functools.cached_property
    def _update(self):
        k = self.config.updates_per_block
        observations = tf.TensorSpec([k, None, *self._shape], self.observation_spec.dtype)
        actions = tf.TensorSpec([k, None, len(self.low)], tf.float32)
        scalars = tf.TensorSpec([k, None], tf.float32)
        return tf.function(self._update_block, jit_compile=self._jit_compile).get_concrete_function(
            Batch(observations, actions, scalars, scalars, observations)
        )

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Deterministic actions [B, A] for observations [B, ...]; each batch size B is compiled once.

        They are the averaged actor's where config.actor_average has one: what is evaluated, and exported.

        Raises:
          UsageError: observations have another shape.
        """
        return self._averaged_policy(self._batch(observations)).numpy()

    def value(self, observations: np.ndarray) -> np.ndarray:
        """Q(s, mu(s)) [B] of observations [B, ...]: what the critic expects of the policy; raises as `act`."""
        observations = self._batch(observations)
        return self.critic([observations, self._averaged_policy(observations)], training=False).numpy()

    def _batch(self, observations: np.ndarray) -> tf.Tensor:
        if (shape := tuple(np.shape(observations)))[1:] != self._shape:
            one = ", ".join(map(str, self._shape))
            raise UsageError(f"observations have the shape {shape}: expected is a batch, (B, {one})")
        return tf.constant(observations, self.observation_spec.dtype)

    def count_observations(self, observations: np.ndarray):
        """Tells the normaliser of observations [N, O] that were acted on; takes effect at the next update."""
        if self.normalizer:
            self.normalizer.count(observations)

    def update(self, batch: Batch) -> dict[str, float]:
        """K updates, one for each minibatch of the block [K, B, ...], in one compiled call.

        Returns:
          The mean over the block of each of METRICS.
        Raises:
          TypeError: K is not config.updates_per_block, or an array is not float32 (images: uint8).
        """
        image = np.uint8 if self.image else np.float32
        kinds = (image if "observation" in name else np.float32 for name in Batch._fields)
        metrics = self.update_in_graph(Batch(*map(_typed, batch, kinds)))
        return dict(zip(METRICS, metrics.numpy().tolist(), strict=True))

    def _update_block(self, batch: Batch):
        every = self.config.actor_every
        cycles = self.config.updates_per_block // every
        if cycles == 1:  # a graph loop around a single update costs 1 ms
            return self._update_cycle(batch, 0)
        total = tf.zeros([len(METRICS)])
        for k in tf.range(cycles):
            total += self._update_cycle(batch, k * every)
        return total / cycles

    @tf.autograph.experimental.do_not_convert  # nothing below branches on a tensor; tracing is quicker so
    def _update_cycle(self, batch: Batch, first):
        """Critic, `actor_every` times; then actor through the updated critic, then both targets and the average."""
        total = tf.zeros([len(CRITIC_METRICS)])
        for i in range(self.config.actor_every):
            minibatch = Batch(*(array[first + i] for array in batch))
            if self.image and self.config.random_shift:
                minibatch = self._augment(minibatch)
            features, metrics = self._update_critic(minibatch)
            total += tf.stack(metrics)
        metrics = tf.concat([total / self.config.actor_every, self._update_actor(features)], 0)
        self._update_targets()
        self._update_average()
        return metrics

    def _augment(self, batch: Batch) -> Batch:
        """Images shifted at random (DrQ, Yarats et al. 2021); update i's shifts are a function of (seed, i)."""
        seed = tf.stack([self.config.seed, tf.cast(self.critic_optimizer.iterations, tf.int32)])
        seeds = tf.random.experimental.stateless_split(seed, 2)
        return batch._replace(
            observation=random_shift(batch.observation, self.config.random_shift, seeds[0]),
            next_observation=random_shift(batch.next_observation, self.config.random_shift, seeds[1]),
        )

    def _update_critic(self, batch: Batch):
        """One step on L = mean((y - Q(s, a))^2), y = r + discount Q'(s', mu'(s')), plus the kernels' L2."""
        # The targets too use batch statistics: in inference mode Q and Q' are two different functions, and diverge.
        next_features = self._shared(batch.next_observation)
        next_action = self._smoothed(self._target_actor_head(next_features, training=True)[0])  # [B, A]
        next_q = self._target_critic_head([next_features, next_action], training=True)  # [B]
        target = batch.reward + batch.discount * next_q  # [B]
        variables = self.critic.trainable_variables
        with tf.GradientTape() as tape:
            features = self._shared(batch.observation)
            q = self._critic_head([features, batch.action], training=True)  # [B]
            for tensor in (q, next_q, target, batch.reward, batch.discount):
                tensor.shape.assert_has_rank(1)
            error = target - q
            loss = tf.reduce_mean(tf.square(error))
        gradients = tape.gradient(loss, variables)
        if self.config.critic_l2:
            gradients = [
                gradient + self.config.critic_l2 * variable if variable.path.endswith("/kernel") else gradient
                for gradient, variable in zip(gradients, variables, strict=True)
            ]
        self.critic_optimizer.apply(gradients, variables)
        means = [tf.reduce_mean(values) for values in (q, target, tf.abs(error))]
        return features, [loss, *means, _norm(gradients)]

    def _smoothed(self, action):
        """Target policy smoothing (Fujimoto et al. 2018, section 5.3); update i's noise is a function of (seed, i)."""
        sigma, clip = self.config.target_noise_sigma, self.config.target_noise_clip
        if not sigma:
            return action
        seed = tf.stack([self.config.seed, tf.cast(self.critic_optimizer.iterations, tf.int32)])
        # Named: where TensorFlow chooses the algorithm itself, a draw takes several times as long.
        noise = tf.random.stateless_normal(tf.shape(action), seed, alg="philox")
        noise = tf.clip_by_value(sigma * noise, -clip, clip)
        return tf.clip_by_value(action + (self.high / 2 - self.low / 2) * noise, self.low, self.high)

    def _update_actor(self, features):
        """One step up mean(Q(s, mu(s))); the critic in inference mode, and unchanged."""
        variables = self._actor_head.trainable_variables
        with tf.GradientTape() as tape:
            action, before_tanh = self._actor_head(features, training=True)  # [B, A]
            q = self._critic_head([features, action], training=False)  # [B]
            loss = -tf.reduce_mean(q)
            if self.config.saturation_penalty:  # in proportion to q: the same for rewards of any unit
                scale = self.config.saturation_penalty * tf.stop_gradient(tf.reduce_mean(tf.abs(q)))
                loss += scale * tf.reduce_mean(tf.square(before_tanh))
        gradients = tape.gradient(loss, variables)
        self.actor_optimizer.apply(gradients, variables)
        position = (action - self.low) / tf.maximum(self.high - self.low, 1e-12)  # 0 at low, 1 at high
        saturated = tf.logical_or(position < 0.01, position > 0.99)
        return [loss, _norm(gradients), tf.reduce_mean(tf.cast(saturated, tf.float32))]

    def _update_targets(self):
        """theta' <- tau theta + (1 - tau) theta'; running statistics are copied."""
        for online, target in self._targets:
            target.assign(target + self.config.tau * (online - target) if online.trainable else online)

    def _update_average(self):
        """A mean of the actor's past (Nikishin et al. 2018) that forgets: its mean age is share / (1 + share) of t."""
        new = 1.0 / (1.0 + self.config.actor_average * tf.cast(self.actor_optimizer.iterations, tf.float32))
        for online, average in self._averages:
            average.assign(average + new * (online - average))

    def variables(self) -> dict[str, keras.Variable]:
        """{unique name: variable} of everything a resumed run needs: networks, targets, optimizers.

        Raises:
          ValueError: two variables have one name, as can happen where one optimizer trains two networks.
        """
        named = {}
        networks = (self.actor, self.critic, self.target_actor, self.target_critic, self.averaged_actor)
        for owner in (*networks, self.actor_optimizer, self.critic_optimizer):
            for variable in owner.variables:  # what is shared counts once, as the actor's
                named.setdefault(id(variable), (f"{owner.name}/{variable.path}", variable))
        found = {}
        for name, variable in named.values():
            if name in found:
                raise ValueError(f"two variables are called {name}: build each network in keras.name_scope(its name)")
            found[name] = variable
        return found

    def state(self) -> dict[str, np.ndarray]:
        """Everything with state, by name."""
        state = {name: variable.numpy() for name, variable in self.variables().items()}
        if self.normalizer:
            state |= {f"normalizer/{name}": array for name, array in self.normalizer.host_state().items()}
        return state

    def load_state(self, state: Mapping[str, np.ndarray]):
        """Restores what `state` returned.

        Raises:
          ValueError: a name is missing, unknown, or of another shape; nothing has been changed then.
        """
        _check_same(self.state(), state)
        self._assign(state)
        if self.normalizer:
            self.normalizer.load_host_state(
                {name: state[f"normalizer/{name}"] for name in self.normalizer.host_state()}
            )

    def policy_state(self) -> dict[str, np.ndarray]:
        """The part of `state` that `act` and the exported signatures need: the actor, averaged if it is, and critic."""
        return {name: variable.numpy() for name, variable in self.policy_part(self.variables()).items()}

    @staticmethod
    def policy_part(state: Mapping[str, Any]) -> dict[str, Any]:
        """Of what `state` or `variables` returned, the part that `policy_state` has, under the same names."""
        newest = {name: array for name, array in state.items() if name.startswith(("actor/", "critic/"))}
        averaged = {name: array for name, array in state.items() if name.startswith("averaged_actor/")}
        return newest | {name.removeprefix("averaged_"): array for name, array in averaged.items()}

    def load_policy_state(self, state: Mapping[str, np.ndarray]):
        """Restores what `policy_state` returned; raises as `load_state` does."""
        _check_same(self.policy_part(self.variables()), state)
        self._assign(state)
        for online, average in self._averages:
            average.assign(online)

    def _assign(self, state: Mapping[str, np.ndarray]):
        for name, variable in self.variables().items():
            if name in state:
                variable.assign(state[name])


def _twins(online: keras.Model, copy: keras.Model) -> list[tuple[keras.Variable, keras.Variable]]:
    """(variable, its copy) of two networks alike; what they share is no copy."""
    return [pair for pair in zip(online.variables, copy.variables, strict=True) if pair[0] is not pair[1]]


def _norm(gradients) -> tf.Tensor:
    """The length of all gradients as one vector. XLA sums a matrix faster by a product than by a reduction."""
    gradients = [tf.reshape(g, [-1, g.shape[-1]]) if g.shape.rank > 2 else g for g in gradients]  # convolutions
    rows = [
        tf.linalg.matvec(tf.square(g), tf.ones(g.shape[1:])) if g.shape.rank == 2 else tf.square(g) for g in gradients
    ]
    return tf.sqrt(tf.add_n([tf.reduce_sum(row) for row in rows]))


def _check_same(expected: Mapping[str, Any], found: Mapping[str, np.ndarray]):
    """The test that a restore is whole: same names, same shapes."""
    for name in sorted(expected.keys() | found.keys()):
        shapes = [tuple(state[name].shape) if name in state else "nothing" for state in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name}: found {shapes[0]}, expected {shapes[1]}")


def _typed(array, dtype):
    if array.dtype != dtype:
        raise TypeError(f"minibatches are {np.dtype(dtype)}, not {array.dtype}")
    return tf.convert_to_tensor(array)
