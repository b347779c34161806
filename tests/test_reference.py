"""The update against a float64 reference in NumPy, written from Lillicrap et al. and not from the code.

Backpropagation, Adam, both normalisations and the soft targets are spelt out by hand, so an error in the agent, or in
how it uses Keras, cannot also be in here. Weights are compared, not losses: everything an update does ends in them.
"""

import dataclasses

import numpy as np
import pytest

from ddpg_tf.config import Config
from ddpg_tf.learner.agent import DDPG
from ddpg_tf.replay.buffer import Batch

LOW, HIGH = np.array([-1.0, 0.0]), np.array([3.0, 10.0])  # asymmetric, and different per dimension
OBSERVATION_SIZE, BATCH_SIZE = 3, 16
# Large steps and large last layers, so that ten updates move the weights by 0.05 and more, tanh is in its curved part
# and the targets' values matter. The two learning rates differ, so that swapping them shows.
SETTINGS = dict(
    hidden_units=(8, 6),
    batch_size=BATCH_SIZE,
    warmup_steps=0,
    tau=0.1,
    final_init=0.5,
    actor_learning_rate=5e-3,
    critic_learning_rate=1e-2,
)
# float32 rounds to 6e-8 of numbers of order 1. After one update the largest difference is 9e-8, after ten 8e-7 (the
# weights feed back); another processor may sum in another order. Adam's epsilon 1e-8 for 1e-7 makes 1e-3.
TOLERANCE = 5e-6
NETWORKS = ("actor", "critic", "target_actor", "target_critic")


class ReferenceDDPG:
    """The algorithm on dictionaries {variable name: float64 array}, one for each network."""

    ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7  # what Keras calls its defaults
    NORM_EPSILON = 1e-3

    def __init__(self, config: Config, weights: dict[str, dict[str, np.ndarray]]):
        self.config, self.weights = config, weights
        self.moments = {name: {} for name in NETWORKS}  # network -> variable -> (first, second)
        self.updates = 0

    def run(self, block: Batch):
        for k in range(len(block.reward)):
            self.update(*(array[k].astype(np.float64) for array in block))

    def update(self, observation, action, reward, discount, next_observation):
        config, w = self.config, self.weights
        self.updates += 1

        next_action, _ = self.actor(w["target_actor"], next_observation)
        next_q, _ = self.critic(w["target_critic"], next_observation, next_action)
        y = reward + discount * next_q
        q, critic_backward = self.critic(w["critic"], observation, action, update_statistics=True)
        gradients, _ = critic_backward(2 * (q - y) / len(q))  # of mean((y - q)^2)
        for name in gradients:
            if name.endswith("/kernel"):
                gradients[name] = gradients[name] + config.critic_l2 * w["critic"][name]
        self.adam("critic", gradients, config.critic_learning_rate, self.updates)
        if self.updates % config.actor_every:
            return

        policy_action, actor_backward = self.actor(w["actor"], observation, update_statistics=True)
        q, critic_backward = self.critic(w["critic"], observation, policy_action, training=False)
        self.saturation = config.saturation_penalty * np.abs(q).mean()
        _, action_gradient = critic_backward(np.full(len(q), -1 / len(q)))  # of -mean(q): Adam descends
        self.adam(
            "actor", actor_backward(action_gradient), config.actor_learning_rate, self.updates // config.actor_every
        )

        for network in ("actor", "critic"):
            target = w[f"target_{network}"]
            for name, value in w[network].items():
                if "/moving_" in name:
                    target[name] = value
                else:
                    target[name] = config.tau * value + (1 - config.tau) * target[name]

    def adam(self, network, gradients, learning_rate, t):
        moments, weights = self.moments[network], self.weights[network]
        for name, gradient in gradients.items():
            m, v = moments.get(name, (0.0, 0.0))
            m = self.ADAM_BETA_1 * m + (1 - self.ADAM_BETA_1) * gradient
            v = self.ADAM_BETA_2 * v + (1 - self.ADAM_BETA_2) * gradient**2
            moments[name] = m, v
            alpha = learning_rate * np.sqrt(1 - self.ADAM_BETA_2**t) / (1 - self.ADAM_BETA_1**t)
            weights[name] = weights[name] - alpha * m / (np.sqrt(v) + self.ADAM_EPSILON)

    def actor(self, weights, observation, training=True, update_statistics=False):
        """-> (action in environment units, backward: gradient of the loss by action -> gradients by name).

        `backward` adds the gradient of c x mean(|q|) x mean(x^2), x what the tanh gets.
        """
        x, backward = self.layers(weights, observation, None, np.inf, training, update_statistics)
        squashed, half_range = np.tanh(x), (HIGH - LOW) / 2

        def from_action(gradient):
            return backward(gradient * half_range * (1 - squashed**2) + 2 * self.saturation * x / x.size)[0]

        return (HIGH + LOW) / 2 + half_range * squashed, from_action

    def critic(self, weights, observation, action, training=True, update_statistics=False):
        """-> (q, backward: gradient of the loss by q -> (gradients by name, gradient by action))."""
        half_range = (HIGH - LOW) / 2
        scaled = (action - (HIGH + LOW) / 2) / half_range
        x, backward = self.layers(weights, observation, scaled, self.config.action_layer, training, update_statistics)

        def from_q(gradient):
            gradients, by_scaled = backward(gradient[:, None])
            return gradients, by_scaled / half_range

        return x[:, 0], from_q

    def layers(self, weights, x, action, enters, training, update_statistics):
        """[norm] (dense [norm] relu)* dense; `action` joins the input of layer `enters`, from where on no batch norm.

        Layer norm is not on the input, and in every layer.
        """
        steps, gradients, by_action = [], {}, []  # steps: gradient by a layer's output -> gradient by its input

        def layer_norm(x, name):
            gamma = weights[f"{name}/gamma"]
            std = np.sqrt(x.var(1, keepdims=True) + self.NORM_EPSILON)
            unit = (x - x.mean(1, keepdims=True)) / std

            def backward(gradient):
                gradients[f"{name}/gamma"] = (gradient * unit).sum(0)
                gradients[f"{name}/beta"] = gradient.sum(0)
                g = gradient * gamma
                return (g - g.mean(1, keepdims=True) - unit * (g * unit).mean(1, keepdims=True)) / std

            steps.append(backward)
            return unit * gamma + weights[f"{name}/beta"]

        def batch_norm(x, name):
            gamma, beta = weights[f"{name}/gamma"], weights[f"{name}/beta"]
            running = weights[f"{name}/moving_mean"], weights[f"{name}/moving_variance"]
            mean, variance = (x.mean(0), x.var(0)) if training else running
            if update_statistics:
                keep = self.config.batch_norm_momentum
                weights[f"{name}/moving_mean"] = keep * running[0] + (1 - keep) * mean
                weights[f"{name}/moving_variance"] = keep * running[1] + (1 - keep) * variance
            std = np.sqrt(variance + self.NORM_EPSILON)
            unit = (x - mean) / std

            def backward(gradient):
                gradients[f"{name}/gamma"] = (gradient * unit).sum(0)
                gradients[f"{name}/beta"] = gradient.sum(0)
                g = gradient * gamma
                if training:  # mean and variance depend on x too
                    g = g - g.mean(0) - unit * (g * unit).mean(0)
                return g / std

            steps.append(backward)
            return unit * gamma + beta

        def dense(x, name):
            kernel = weights[f"{name}/kernel"]

            def backward(gradient):
                gradients[f"{name}/kernel"] = x.T @ gradient
                gradients[f"{name}/bias"] = gradient.sum(0)
                return gradient @ kernel.T

            steps.append(backward)
            return x @ kernel + weights[f"{name}/bias"]

        def relu(x):
            steps.append(lambda gradient: gradient * (x > 0))
            return np.maximum(x, 0)

        def join(x):
            def backward(gradient):
                by_action.append(gradient[:, x.shape[1] :])
                return gradient[:, : x.shape[1]]

            steps.append(backward)
            return np.concatenate([x, action], axis=1)

        kind = self.config.normalization
        if kind == "batch":
            x = batch_norm(x, "norm_input")
        for i in range(len(self.config.hidden_units)):
            if i == enters:
                x = join(x)
            x = dense(x, f"hidden_{i}")
            if kind == "layer":
                x = layer_norm(x, f"norm_{i}")
            elif kind == "batch" and i < enters:
                x = batch_norm(x, f"norm_{i}")
            x = relu(x)
        x = dense(x, "output")

        def backward(gradient):
            for step in reversed(steps):
                gradient = step(gradient)
            return gradients, by_action[0] if by_action else None

        return x, backward


def new_agent(seed=0, **settings) -> DDPG:
    """An agent whose targets are not its networks, so that the first update can tell them apart."""
    agent = DDPG(Config(seed=seed, **SETTINGS | settings), OBSERVATION_SIZE, LOW, HIGH)
    rng = np.random.default_rng(1)
    for model in (agent.target_actor, agent.target_critic):
        for variable in model.trainable_variables:
            variable.assign(variable + rng.uniform(-0.2, 0.2, variable.shape))
    return agent


def minibatches(updates: int) -> Batch:
    rng = np.random.default_rng(2)
    shape = (updates, BATCH_SIZE)
    discount = rng.choice([0.0, 0.97, 0.99], size=shape)  # terminated, two steps, one step
    arrays = (
        rng.normal(size=(*shape, OBSERVATION_SIZE)),
        rng.uniform(LOW, HIGH, size=(*shape, len(LOW))),
        rng.normal(size=shape),
        discount,
        rng.normal(size=(*shape, OBSERVATION_SIZE)),
    )
    return Batch(*(array.astype(np.float32) for array in arrays))


def weights_of(agent: DDPG) -> dict[str, dict[str, np.ndarray]]:
    return {
        network: {variable.path: variable.numpy().astype(np.float64) for variable in getattr(agent, network).variables}
        for network in NETWORKS
    }


def singles(block: Batch):
    """The block's minibatches as blocks of one."""
    return (Batch(*(array[k : k + 1] for array in block)) for k in range(len(block.reward)))


def reference_after(agent: DDPG, block: Batch) -> ReferenceDDPG:
    """The reference, started from the agent's weights, after every minibatch of `block`."""
    reference = ReferenceDDPG(agent.config, weights_of(agent))
    reference.run(block)
    return reference


def assert_same_weights(agent: DDPG, reference: ReferenceDDPG, tolerance: float = TOLERANCE):
    for network, found in weights_of(agent).items():
        expected = reference.weights[network]
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_allclose(
                found[name], expected[name], rtol=0, atol=tolerance, err_msg=f"{network}: {name}"
            )


@pytest.fixture(scope="module")
def shared_paper_agent():
    return new_agent(critic_l2=0.01, action_layer=1)


@pytest.fixture
def paper_agent(shared_paper_agent):
    """Action at layer 1 and L2, as in the paper; compiled once, and put back after each test."""
    state = shared_paper_agent.state()
    yield shared_paper_agent
    shared_paper_agent.load_state(state)


@pytest.mark.parametrize("critic_l2, action_layer", [(0.0, 0), (0.01, 1)])
def test_one_and_ten_updates_equal_the_reference(critic_l2, action_layer, paper_agent):
    paper = (critic_l2, action_layer) == (0.01, 1)
    agent = paper_agent if paper else new_agent(critic_l2=critic_l2, action_layer=action_layer)
    block = minibatches(10)
    reference_after_one = reference_after(agent, Batch(*(array[:1] for array in block)))
    reference_after_ten = reference_after(agent, block)
    for k, minibatch in enumerate(singles(block)):
        agent.update(minibatch)
        if k == 0:
            assert_same_weights(agent, reference_after_one)
    assert_same_weights(agent, reference_after_ten)


def test_the_modern_recipe_equals_the_reference():
    """Layer norm in both networks, the actor and the targets every second update, a penalty on saturation."""
    agent = new_agent(normalization="layer", update_every=2, actor_every=2, saturation_penalty=0.1)
    block = minibatches(6)
    first, after = reference_after(agent, Batch(*(array[:2] for array in block))), reference_after(agent, block)
    for i in range(0, 6, 2):
        agent.update(Batch(*(array[i : i + 2] for array in block)))
        if i == 0:
            assert_same_weights(agent, first)
    assert_same_weights(agent, after, 4 * TOLERANCE)  # behind a norm, as below


@pytest.mark.parametrize(
    "mistake",
    [
        dict(critic_l2=0.011),
        dict(tau=0.101),
        dict(actor_learning_rate=5.05e-3),
        dict(ADAM_EPSILON=1e-8),
        dict(ADAM_BETA_2=0.9991),
    ],
    ids=lambda m: next(iter(m)),
)
def test_the_comparison_notices_small_mistakes(mistake, paper_agent, monkeypatch):
    """The tolerance means something: each of these is far outside it after ten updates."""
    block = minibatches(10)
    right = reference_after(paper_agent, block)
    wrong = ReferenceDDPG(paper_agent.config, weights_of(paper_agent))
    for name, value in mistake.items():
        if name.startswith("ADAM"):
            monkeypatch.setattr(wrong, name, value)
        else:
            wrong.config = dataclasses.replace(wrong.config, **{name: value})
    wrong.run(block)
    differences = [
        np.abs(right.weights[network][name] - wrong.weights[network][name]).max()
        for network in NETWORKS
        for name in right.weights[network]
    ]
    assert max(differences) > 10 * TOLERANCE


def test_a_block_of_ten_equals_ten_single_updates_and_the_reference(paper_agent):
    block = minibatches(10)
    agent = new_agent(critic_l2=0.01, action_layer=1, update_every=10)
    assert agent.config.updates_per_block == 10
    reference = reference_after(agent, block)
    block_metrics = agent.update(block)
    single_metrics = [paper_agent.update(minibatch) for minibatch in singles(block)]
    assert_same_weights(agent, reference)
    for (network, found), single in zip(weights_of(agent).items(), weights_of(paper_agent).values(), strict=True):
        for name in found:  # not bit for bit: XLA may fuse a loop's body in another way
            np.testing.assert_allclose(found[name], single[name], rtol=0, atol=TOLERANCE, err_msg=f"{network}: {name}")
    for name, value in block_metrics.items():
        assert value == pytest.approx(np.mean([metrics[name] for metrics in single_metrics]), abs=1e-5), name


class CriticInTrainingMode(ReferenceDDPG):
    """A mistake: the actor's update too sees the critic on batch statistics."""

    def critic(self, weights, observation, action, training=True, update_statistics=False):
        return super().critic(weights, observation, action, True, update_statistics)


class TargetsOnRunningStatistics(ReferenceDDPG):
    """A mistake, and one that diverges (paper's settings on Pendulum)."""

    def layers(self, weights, x, action, enters, training, update_statistics):
        is_target = any(weights is self.weights[network] for network in ("target_actor", "target_critic"))
        return super().layers(weights, x, action, enters, training and not is_target, update_statistics)


def test_batch_norm_equals_the_reference():
    """Q, Q' and mu' on batch statistics, the critic of the actor's update on running ones, statistics copied."""
    agent = new_agent(critic_l2=0.01, action_layer=1, normalization="batch", batch_norm_momentum=0.9)
    rng = np.random.default_rng(3)
    for variable in agent.variables().values():
        if variable.path.endswith(("/gamma", "/beta", "/moving_mean", "/moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    reference, *wrong = (
        kind(agent.config, weights_of(agent))
        for kind in (ReferenceDDPG, CriticInTrainingMode, TargetsOnRunningStatistics)
    )
    # Gradients behind a norm nearly cancel, and Adam makes their rounding a part of its step: some processors come to
    # 6e-6 in three updates.
    tolerance = 4 * TOLERANCE
    for minibatch in singles(minibatches(3)):
        for one in (reference, *wrong):
            one.run(minibatch)
        agent.update(minibatch)
        # What a batch norm takes away again has no gradient but rounding, which Adam blows up to a step: not compared,
        # and carried over, for it moves the running mean of the next update.
        without_gradient = {
            network: {name for name, (m, _) in reference.moments[network].items() if np.abs(m).max() < 1e-12}
            for network in ("actor", "critic")
        }
        assert without_gradient == {
            "actor": {"norm_input/beta", "hidden_0/bias", "hidden_1/bias"},
            "critic": {"norm_input/beta", "hidden_0/bias"},
        }
        for network, found in weights_of(agent).items():
            for name in without_gradient[network.removeprefix("target_")]:
                for one in (reference, *wrong):
                    one.weights[network][name] = found[name]
        assert_same_weights(agent, reference, tolerance)
    for one in wrong:
        differences = [
            np.abs(one.weights[network][name] - array).max()
            for network, weights in reference.weights.items()
            for name, array in weights.items()
        ]
        assert max(differences) > 100 * tolerance


def test_a_block_of_several_steps_of_the_actor_equals_the_reference():
    """Each takes minibatches of its own: the second cycle of the block begins with the third."""
    agent = DDPG(Config(**SETTINGS, update_every=6, actor_every=2), OBSERVATION_SIZE, LOW, HIGH, jit_compile=False)
    reference = reference_after(agent, block := minibatches(6))
    agent.update(block)
    assert_same_weights(agent, reference)
