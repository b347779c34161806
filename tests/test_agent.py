"""DDPG.act, update, state and load_state; one test for each trap an update can fall into.

tests/test_reference.py checks the update's numbers as a whole; here each property is taken alone, so that a failure
says what broke. The halves of the update are called eagerly, with plain gradient descent in place of Adam where the
gradient itself is the question.
"""

import contextlib

import numpy as np
import pytest
from conftest import layer_of

from ddpg_tf._tf import keras, tf
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError
from ddpg_tf.learner.agent import CRITIC_METRICS, DDPG, METRICS
from ddpg_tf.learner.networks import build_critic
from ddpg_tf.replay.buffer import Batch

LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32)
HALF_RANGE, MIDDLE = (HIGH - LOW) / 2, (HIGH + LOW) / 2
OBSERVATION_SIZE, BATCH_SIZE, BLOCK = 3, 8, 2
NETWORKS = ("actor", "critic", "target_actor", "target_critic")


def new_agent(jit_compile=None, **settings) -> DDPG:
    settings = dict(hidden_units=(8, 8), batch_size=BATCH_SIZE, warmup_steps=0, final_init=0.3) | settings
    return DDPG(Config(**settings), OBSERVATION_SIZE, LOW, HIGH, jit_compile=jit_compile)


@pytest.mark.parametrize(
    "shape, low, high",
    [
        (3, [2.0], [-2.0]),
        (3, [-np.inf], [np.inf]),
        (3, [-1, -1], [1]),
        (3, [[-1]], [[1]]),
        (3, [np.nan], [1]),
        ((3, 4), [-1], [1]),
        (0, [-1], [1]),
    ],
)
def test_what_cannot_be_a_space_is_refused(shape, low, high):
    with pytest.raises(UsageError, match=r"low <= high|shape of"):
        DDPG(Config(), shape, low, high)


def test_a_single_action_may_be_a_number_and_a_size_numpys():
    agent = DDPG(Config(hidden_units=(4,)), np.int64(3), -2.0, 2.0, jit_compile=False)
    assert agent.act(np.zeros([5, 3])).shape == (5, 1)


@pytest.mark.parametrize("observations", [np.zeros(3), np.zeros([5, 4]), np.zeros([2, 5, 3])])
def test_observations_of_another_shape_are_refused(observations):
    with pytest.raises(UsageError, match=r"expected is a batch, \(B, 3\)$"):
        DDPG(Config(hidden_units=(4,)), 3, -2.0, 2.0, jit_compile=False).act(observations)


def random_block(updates=BLOCK, size=BATCH_SIZE, seed=0) -> Batch:
    rng = np.random.default_rng(seed)
    shape = (updates, size)
    arrays = (
        rng.normal(size=(*shape, OBSERVATION_SIZE)),
        rng.uniform(LOW, HIGH, size=(*shape, len(LOW))),
        rng.normal(size=shape),
        np.full(shape, 0.99),
        rng.normal(size=(*shape, OBSERVATION_SIZE)),
    )
    return Batch(*(array.astype(np.float32) for array in arrays))


def random_minibatch(size=BATCH_SIZE, seed=0) -> Batch:
    """One minibatch as tensors: what the halves of the update take."""
    return Batch(*(tf.constant(array[0]) for array in random_block(1, size, seed)))


def values(variables) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def same(left, right) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def fill(model, value):
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, value))


def assert_learnt(model, before):
    """Every kernel and running statistic differs from `before`."""
    for variable, old in zip(model.variables, before, strict=True):
        if variable.path.endswith(("/kernel", "/moving_mean", "/moving_variance")):
            assert not np.array_equal(variable.numpy(), old), variable.path


def hold_still(agent):
    """Updates go on, weights stay."""
    agent.actor_optimizer.learning_rate.assign(0.0)
    agent.critic_optimizer.learning_rate.assign(0.0)


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# Compiling costs seconds, so agents are shared; `restored` gives each test the state after construction.
@pytest.fixture(scope="module")
def shared_agent():
    return new_agent(update_every=BLOCK, actor_learning_rate=1e-2, critic_learning_rate=1e-2)


@pytest.fixture(scope="module")
def shared_normalizing_agent():
    """Batch norm and observation normaliser: everything with running statistics."""
    return new_agent(normalization="batch", normalize_observations=True, action_layer=1)


@pytest.fixture
def agent(shared_agent):
    yield from restored(shared_agent)


@pytest.fixture
def normalizing_agent(shared_normalizing_agent):
    yield from restored(shared_normalizing_agent)


def restored(agent):
    state = agent.state()
    yield agent
    agent.load_state(state)


@pytest.fixture(scope="module")
def eager_agent():
    """An agent whose `update` is never called, for the halves; tests overwrite its weights."""
    return new_agent()


@pytest.fixture(scope="module")
def eager_batch_norm_agent():
    return new_agent(normalization="batch", action_layer=1)


# Targets and the critic's loss


def test_a_discount_of_zero_leaves_the_reward_as_the_target(agent):
    """A terminated transition must not bootstrap, whatever the target critic says (100 here); any other must."""
    for critic in (agent.critic, agent.target_critic):
        fill(critic, 0.0)
        layer_of(critic, "output").bias.assign([100.0])
    hold_still(agent)
    block = random_block()
    ended = agent.update(block._replace(discount=np.zeros_like(block.discount)))
    assert ended["target_mean"] == pytest.approx(block.reward.mean(), abs=1e-5)
    going = agent.update(block._replace(discount=np.full_like(block.discount, 0.5)))
    assert going["target_mean"] == pytest.approx(block.reward.mean() + 50, abs=1e-3)


def test_the_loss_of_three_transitions_matches_a_hand_calculation(eager_agent):
    """[B, 1] - [B] would broadcast to [B, B], and the loss would still look fine."""
    batch = random_minibatch(3)
    next_action = eager_agent.target_actor(batch.next_observation)
    next_q = eager_agent.target_critic([batch.next_observation, next_action]).numpy()
    q = eager_agent.critic([batch.observation, batch.action]).numpy()
    error = [float(batch.reward[i] + batch.discount[i] * next_q[i] - q[i]) for i in range(3)]
    _, (loss, q_mean, target_mean, td_error, _) = eager_agent._update_critic(batch)
    assert float(loss) == pytest.approx(sum(e * e for e in error) / 3, rel=1e-5)
    assert float(td_error) == pytest.approx(sum(map(abs, error)) / 3, rel=1e-5)
    assert float(q_mean) == pytest.approx(sum(q) / 3, rel=1e-5)
    assert float(target_mean) == pytest.approx(sum(q + error) / 3, rel=1e-5)


@pytest.mark.parametrize("field", ["reward", "discount"])
def test_rewards_and_discounts_of_rank_2_per_minibatch_are_refused(agent, field):
    block = random_block()
    with pytest.raises(TypeError):
        agent.update(block._replace(**{field: getattr(block, field)[..., None]}))


def test_the_critic_half_changes_no_weight_but_the_critics(eager_batch_norm_agent):
    """No gradient reaches the targets or the online actor."""
    agent = eager_batch_norm_agent
    others = [
        agent.actor.variables,
        agent.actor_optimizer.variables,
        agent.target_actor.trainable_variables,
        agent.target_critic.trainable_variables,
    ]
    before, critic = [values(group) for group in others], values(agent.critic.variables)
    agent._update_critic(random_minibatch())
    for group, old in zip(others, before, strict=True):
        assert same(values(group), old)
    assert_learnt(agent.critic, critic)


def test_smoothing_moves_the_targets_action_by_clipped_noise_that_the_update_decides():
    """Target policy smoothing, in units of the half-range of each dimension."""
    agent = new_agent(target_noise_sigma=0.2, target_noise_clip=0.3)
    action = tf.tile(tf.constant(MIDDLE[None]), [20_000, 1])
    noise = (agent._smoothed(action).numpy() - MIDDLE) / HALF_RANGE
    assert np.abs(noise).max() == pytest.approx(0.3, abs=1e-5) and abs(noise.mean()) < 0.01
    inside = np.abs(noise) < 0.299
    assert inside.mean() == pytest.approx(0.866, abs=0.01)  # of a normal distribution within 1.5 sigma
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.03
    np.testing.assert_array_equal(agent._smoothed(action), agent._smoothed(action))
    agent.critic_optimizer.iterations.assign_add(1)
    assert not np.array_equal((agent._smoothed(action).numpy() - MIDDLE) / HALF_RANGE, noise)
    at_bound = agent._smoothed(tf.tile(tf.constant(HIGH[None]), [100, 1])).numpy()
    assert (at_bound <= HIGH).all() and (at_bound < HIGH).any()


def test_runs_of_other_seeds_smooth_with_other_noise():
    action = tf.tile(tf.constant(MIDDLE[None]), [10, 1])
    one, other = (new_agent(jit_compile=False, target_noise_sigma=0.2, seed=seed)._smoothed(action) for seed in (0, 1))
    assert (one.numpy() != other.numpy()).all()


def test_smoothing_is_in_the_target_and_nowhere_else(agent):
    """With an own critic that reads the action, the target's mean moves and the actor's loss does not."""
    smooth = new_agent(update_every=BLOCK, target_noise_sigma=1.0, target_noise_clip=5.0)
    smooth.load_state(agent.state())
    for each in (agent, smooth):
        hold_still(each)
    plain, smoothed = agent.update(random_block()), smooth.update(random_block())
    assert plain["q_mean"] == pytest.approx(smoothed["q_mean"], abs=1e-6)
    assert plain["actor_loss"] == pytest.approx(smoothed["actor_loss"], abs=1e-6)
    assert abs(plain["target_mean"] - smoothed["target_mean"]) > 1e-4


# The actor's step


def test_the_actor_half_leaves_the_critic_bitwise_unchanged(eager_batch_norm_agent):
    """Neither weights nor running statistics nor the critic's optimizer."""
    agent = eager_batch_norm_agent
    still = [
        *agent.critic.variables,
        *agent.critic_optimizer.variables,
        *agent.target_critic.variables,
        *agent.target_actor.variables,
    ]
    before, actor = values(still), values(agent.actor.variables)
    agent._update_actor(random_minibatch().observation)
    assert same(values(still), before)
    assert_learnt(agent.actor, actor)


def test_the_actors_gradient_is_the_mean_of_dq_da_times_da_dtheta():
    """Linear networks, Q = w . scaled action and mu = middle + half-range x tanh(theta x) at theta = 0.

    The gradient by theta is -w x / B, summed: no factor 2, and no mean over action dimensions.
    """
    agent = new_agent(hidden_units=(4,))
    w, offset = np.array([0.7, -1.3], np.float32), 50.0  # the offset keeps ReLU in its linear half
    fill(agent.actor, 0.0)
    fill(agent.critic, 0.0)
    copy_observation, copy_action = np.zeros((3, 4)), np.zeros((5, 4))
    copy_observation[:3, :3] = np.eye(3)
    copy_action[3:, :2] = np.eye(2)
    layer_of(agent.actor, "hidden_0").kernel.assign(copy_observation)
    layer_of(agent.actor, "hidden_0").bias.assign(np.full(4, offset))
    layer_of(agent.critic, "hidden_0").kernel.assign(copy_action)
    layer_of(agent.critic, "hidden_0").bias.assign(np.full(4, offset))
    layer_of(agent.critic, "output").kernel.assign(np.append(w, [0, 0])[:, None])
    agent.actor_optimizer = keras.optimizers.SGD(1.0)
    observation = random_minibatch().observation
    loss, norm, _ = agent._update_actor(observation)
    gradient = -layer_of(agent.actor, "output").kernel.numpy()
    hidden = np.concatenate([observation + offset, np.full([BATCH_SIZE, 1], offset)], axis=1)
    np.testing.assert_allclose(gradient, -np.outer(hidden.mean(0), w), rtol=1e-5)
    np.testing.assert_allclose(-layer_of(agent.actor, "output").bias.numpy(), -w, rtol=1e-5)
    assert float(loss) == pytest.approx(-offset * w.sum(), rel=1e-5)
    assert float(norm) == pytest.approx(np.sqrt(((np.outer(hidden.mean(0), w)) ** 2).sum() + (w**2).sum()), rel=1e-4)


def test_action_saturation_is_the_share_of_actions_within_a_hundredth_of_the_range_of_a_bound(eager_agent):
    agent = eager_agent
    fill(agent.actor, 0.0)
    bias = layer_of(agent.actor, "output").bias
    observation = random_minibatch().observation
    for position, saturated in (
        ([0.5, 0.5], 0),
        ([0.02, 0.98], 0),
        ([0.005, 0.5], 0.5),
        ([0.5, 0.995], 0.5),
        ([0.005, 0.995], 1),
    ):
        bias.assign(np.arctanh(2 * np.array(position) - 1))
        *_, found = agent._update_actor(observation)
        assert float(found) == saturated, position


def test_the_penalty_on_saturation_is_in_units_of_q_also_where_its_mean_is_nothing():
    agent = new_agent(jit_compile=False, saturation_penalty=10.0)
    observation = random_minibatch().observation
    bias = layer_of(agent.critic, "output").bias
    bias.assign_sub([float(np.mean(agent.critic([observation, agent.actor(observation)])))])
    q, (_, before_tanh) = agent.critic([observation, agent.actor(observation)]), agent._actor_head(observation)
    expected = 10 * np.abs(q).mean() * np.square(before_tanh).mean() - np.mean(q)
    loss, *_ = agent._update_actor(observation)
    assert float(loss) == pytest.approx(expected, rel=1e-3) and expected > 1e-3


# Order, targets


def test_the_order_is_critic_then_actor_through_the_updated_critic_then_targets():
    """A critic whose slope turns from negative to positive in the update: the actor must follow the new slope.

    One unit each, weights that stay in ReLU's linear half; Adam's first step is the learning rate, up or down.
    """
    agent = DDPG(
        Config(
            hidden_units=(1,),
            batch_size=1,
            warmup_steps=0,
            tau=0.25,
            critic_learning_rate=0.5,
            actor_learning_rate=0.125,
        ),
        1,
        np.array([-1.0]),
        np.array([1.0]),
    )
    for model in (agent.actor, agent.critic, agent.target_actor, agent.target_critic):
        fill(model, 0.0)
        layer_of(model, "hidden_0").bias.assign([4.0])
    layer_of(agent.critic, "hidden_0").kernel.assign([[0.0], [1.0]])  # h = 4 + action
    layer_of(agent.critic, "output").kernel.assign([[-0.25]])
    layer_of(agent.target_critic, "output").kernel.assign([[-0.25]])
    one = np.ones([1, 1], np.float32)
    # y = 100: the error is large and positive, so the slope rises by 0.5 to 0.25.
    agent.update(Batch(one[..., None], one[..., None], 100 * one, 0 * one, one[..., None]))
    critic, actor = (float(layer_of(model, "output").kernel[0, 0]) for model in (agent.critic, agent.actor))
    target_critic, target_actor = (
        float(layer_of(model, "output").kernel[0, 0]) for model in (agent.target_critic, agent.target_actor)
    )
    assert critic == pytest.approx(0.25, abs=1e-5)
    assert actor == pytest.approx(0.125, abs=1e-5)  # along the slope before the update it would be -0.125
    assert target_critic == pytest.approx(0.75 * -0.25 + 0.25 * 0.25, abs=1e-5)
    assert target_actor == pytest.approx(0.25 * 0.125, abs=1e-5)  # before the actor's step it would be 0


def test_the_targets_start_as_copies_and_not_as_the_same_objects():
    agent = new_agent(normalization="batch", action_layer=1)
    for network in ("actor", "critic"):
        online, target = getattr(agent, network), getattr(agent, f"target_{network}")
        assert same(values(online.variables), values(target.variables))
        assert not {id(variable) for variable in online.variables} & {id(variable) for variable in target.variables}


def test_tau_is_the_share_of_the_online_weights(eager_agent):
    for network in ("actor", "critic"):
        fill(getattr(eager_agent, network), 1.0)
        fill(getattr(eager_agent, f"target_{network}"), 0.0)
    eager_agent._update_targets()
    for variable in (*eager_agent.target_actor.variables, *eager_agent.target_critic.variables):
        np.testing.assert_allclose(variable.numpy(), 0.005, rtol=1e-6)


def test_every_update_moves_both_targets(normalizing_agent):
    """No delayed target update as in TD3: each of the first three updates, one to a block, moves every kernel."""
    agent = normalizing_agent
    for k in range(3):
        targets = [v for v in (*agent.target_actor.variables, *agent.target_critic.variables) if "/kernel" in v.path]
        before = values(targets)
        agent.update(random_block(1, seed=k))
        for variable, old in zip(targets, before, strict=True):
            assert not np.array_equal(variable.numpy(), old), variable.path


# The averaged actor


@pytest.mark.parametrize(
    "changes", [{}, dict(normalization="layer", normalize_observations=True, update_every=2, actor_every=2)]
)
def test_the_averaged_actor_is_what_acts_and_an_average_that_forgets(changes):
    """By the actor's steps: the second agent's critic takes two for each of them."""
    agent = new_agent(jit_compile=False, actor_average=0.5, actor_learning_rate=1e-2, **changes)
    plain = new_agent(jit_compile=False, **changes)
    agent.count_observations(np.random.default_rng(0).normal(2, 3, size=(50, OBSERVATION_SIZE)))
    expected = values(agent.actor.trainable_variables)
    for t in (1, 2, 3):
        agent.update(random_block(agent.config.updates_per_block, seed=t))
        newest = values(agent.actor.trainable_variables)
        expected = [old + (new - old) / (1 + 0.5 * t) for old, new in zip(expected, newest, strict=True)]
    for variable, average in zip(agent.averaged_actor.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), average, rtol=1e-5, atol=1e-7)
    observations = random_block().observation[0]
    np.testing.assert_allclose(agent.act(observations), agent.averaged_actor(observations), rtol=1e-5)
    explored = agent.newest_policy(tf.constant(observations)).numpy()  # without it
    np.testing.assert_allclose(explored, agent.actor(observations), rtol=1e-5)
    assert np.abs(agent.act(observations) - explored).max() > 1e-3
    value = agent.critic([tf.constant(observations), agent.averaged_actor(observations)])
    np.testing.assert_allclose(agent.value(observations), value, rtol=1e-4)
    # What is kept of the policy is the average, as an actor that any agent can load.
    plain.load_policy_state(agent.policy_state())
    np.testing.assert_allclose(plain.act(observations), agent.act(observations), rtol=1e-5)
    other = new_agent(jit_compile=False, actor_average=0.5, seed=1, **changes)
    other.load_policy_state(agent.policy_state())
    np.testing.assert_allclose(other.act(observations), agent.act(observations), rtol=1e-5)
    other.load_state(agent.state())
    assert_same_state(other.state(), agent.state())


def test_averaging_changes_nothing_that_is_learnt():
    averaging, plain = (
        new_agent(jit_compile=False, actor_average=share, normalize_observations=True) for share in (0.1, 0.0)
    )
    for k in range(3):
        for agent in (averaging, plain):
            agent.count_observations(np.random.default_rng(k).normal(2, 3, size=(5, OBSERVATION_SIZE)))
        assert averaging.update(random_block(1, seed=k)) == plain.update(random_block(1, seed=k))
    found = {name: array for name, array in averaging.state().items() if not name.startswith("averaged_actor/")}
    assert_same_state(found, plain.state())


# L2


@pytest.mark.parametrize("critic_l2", [0.0, 0.01])
def test_l2_shrinks_the_critics_kernels_by_lr_c_w_and_nothing_else(critic_l2):
    """Zero data loss and plain gradient descent leave L2 alone; Keras' weight_decay would shrink biases too."""
    agent = new_agent(critic_l2=critic_l2, normalization="layer", action_layer=1)
    agent.critic_optimizer = keras.optimizers.SGD(0.1)
    batch = random_minibatch()
    q = agent.critic([batch.observation, batch.action], training=True)
    actor, before = values(agent.actor.variables), values(agent.critic.trainable_variables)
    _, (loss, *_) = agent._update_critic(batch._replace(reward=q, discount=tf.zeros_like(q)))
    assert float(loss) == 0.0
    decayed = []
    for variable, old in zip(agent.critic.trainable_variables, before, strict=True):
        if variable.path.endswith("/kernel"):
            decayed.append(variable.path)
            np.testing.assert_allclose(variable.numpy(), old * (1 - 0.1 * critic_l2), rtol=1e-6)
        else:
            np.testing.assert_array_equal(variable.numpy(), old, err_msg=variable.path)
    assert decayed == ["hidden_0/kernel", "hidden_1/kernel", "output/kernel"]
    assert same(values(agent.actor.variables), actor)


# Batch norm


def test_a_target_pass_in_training_mode_does_not_reach_what_acts(eager_batch_norm_agent):
    agent = eager_batch_norm_agent
    batch = random_minibatch()
    before = agent.act(batch.observation)
    running = values(agent.target_actor.non_trainable_variables)
    for _ in range(3):
        agent.target_actor(batch.next_observation * 10 + 5, training=True)
    assert not same(values(agent.target_actor.non_trainable_variables), running)
    np.testing.assert_array_equal(agent.act(batch.observation), before)


def test_an_update_copies_the_running_statistics_to_the_targets(normalizing_agent):
    """Copied, not mixed by tau, and what the target passes did to them is gone."""
    agent = normalizing_agent
    copied = 0
    agent.update(random_block(1))
    for online, target in ((agent.actor, agent.target_actor), (agent.critic, agent.target_critic)):
        for variable, twin in zip(online.variables, target.variables, strict=True):
            if "/moving_" in variable.path:
                initial = float("variance" in variable.path)
                assert np.abs(variable.numpy() - initial).max() > 1e-4, variable.path
                np.testing.assert_array_equal(twin.numpy(), variable.numpy(), err_msg=variable.path)
                copied += 1
    assert copied == 2 * 3 + 2 * 2  # mean and variance: actor input and two layers; critic input and one layer


def test_an_action_does_not_depend_on_the_other_observations_of_its_batch(normalizing_agent):
    agent = normalizing_agent
    for k in range(3):
        agent.update(random_block(1, seed=k))
    observations = np.random.default_rng(1).normal(size=(5, OBSERVATION_SIZE))
    together = agent.act(observations)
    np.testing.assert_allclose(agent.act(observations[:1]), together[:1], atol=1e-5)
    assert np.ptp(together, axis=0).min() > 1e-3  # in training mode at batch 1 all actions would be the same


# The observation normaliser


def test_statistics_are_the_float64_mean_and_std_of_the_counted_observations(normalizing_agent):
    """Far from zero, where float32 sums of squares would have no correct digit."""
    rng, counted = np.random.default_rng(0), []
    for n in (1, 4, 4, 7, 300):
        counted.append((rng.normal(size=(n, OBSERVATION_SIZE)) * [1, 2, 1e-2] + [0, 1000, 1000]).astype(np.float32))
        normalizing_agent.count_observations(counted[-1])
    normalizing_agent.update(random_block(1))
    everything = np.concatenate(counted).astype(np.float64)
    normalizer = normalizing_agent.normalizer
    np.testing.assert_allclose(normalizer.mean.numpy(), everything.mean(0), rtol=1e-6)
    np.testing.assert_allclose(normalizer.std.numpy(), np.sqrt(everything.var(0) + 1e-8), rtol=1e-6)
    assert normalizer.seen == 316


def test_counted_observations_take_effect_at_the_next_update_in_learning_and_acting():
    """The critic reads off the normalised first observation, so q_mean shows what the update's minibatch became."""
    agent = new_agent(jit_compile=False, hidden_units=(1,), normalize_observations=True)
    hold_still(agent)
    fill(agent.critic, 0.0)
    layer_of(agent.critic, "hidden_0").kernel.assign(np.eye(5)[:, :1])
    layer_of(agent.critic, "hidden_0").bias.assign([20.0])
    layer_of(agent.critic, "output").kernel.assign([[1.0]])
    unit = np.random.default_rng(1).normal(size=(BATCH_SIZE, OBSERVATION_SIZE)).astype(np.float32)
    before = agent.act(unit)
    counted = np.random.default_rng(0).normal(7, 5, size=(40, OBSERVATION_SIZE)).astype(np.float32)
    agent.count_observations(counted)
    np.testing.assert_array_equal(agent.act(unit), before)
    observation = unit * counted.std(0) + counted.mean(0)
    metrics = agent.update(random_block(1)._replace(observation=observation[None]))
    assert metrics["q_mean"] == pytest.approx(20 + unit[:, 0].mean(), abs=1e-4)
    np.testing.assert_allclose(agent.act(observation), before, atol=1e-4)
    assert np.abs(agent.act(unit) - before).max() > 1e-2


def test_acting_and_the_networks_leave_the_statistics_alone(normalizing_agent):
    agent = normalizing_agent
    agent.count_observations(np.random.default_rng(0).normal(size=(50, OBSERVATION_SIZE)))
    agent.update(random_block(1))
    state = agent.state()
    agent.act(np.full([3, OBSERVATION_SIZE], 100.0))
    agent.actor(tf.fill([3, OBSERVATION_SIZE], 100.0))
    assert_same_state(agent.state(), state)
    statistics = agent.normalizer.host_state(), agent.normalizer.mean.numpy()
    agent.update(random_block(1, seed=5))  # learning counts nothing either: replayed observations were counted
    assert_same_state(agent.normalizer.host_state(), statistics[0])
    np.testing.assert_array_equal(agent.normalizer.mean.numpy(), statistics[1])


def test_the_four_networks_share_one_normalizer(normalizing_agent):
    for network in NETWORKS:
        assert layer_of(getattr(normalizing_agent, network), "normalizer") is normalizing_agent.normalizer


def test_without_a_normalizer_counting_does_nothing(agent):
    state = agent.state()
    agent.count_observations(np.ones([2, OBSERVATION_SIZE]))
    assert_same_state(agent.state(), state)


# act


def test_act_gives_float32_actions_and_the_bounds_exactly(agent):
    """The compiled actor: float64 observations are welcome (MuJoCo gives them), bounds are exact under XLA too."""
    observations = np.random.default_rng(0).normal(size=(5, OBSERVATION_SIZE))
    actions = agent.act(observations)
    assert actions.dtype == np.float32 and actions.shape == (5, 2)
    np.testing.assert_array_equal(actions, agent.act(observations.astype(np.float32)))
    np.testing.assert_allclose(actions, agent.actor(tf.constant(observations, tf.float32)), rtol=1e-5)
    output = layer_of(agent.actor, "output")
    output.kernel.assign(tf.zeros_like(output.kernel))
    for bias, expected in (
        ([np.inf, -np.inf], [3, 0]),
        ([-np.inf, np.inf], [-1, 10]),
        ([-30, 30], [-1, 10]),
        ([0, 0], [1, 5]),
    ):
        output.bias.assign(bias)
        np.testing.assert_array_equal(agent.act(observations), np.tile(np.float32(expected), (5, 1)))


def test_a_nan_weight_gives_nan_actions(agent):
    """Clipping must not turn a diverged policy into one that looks alive: the collector stops on NaN."""
    layer_of(agent.actor, "output").bias.assign([np.nan, 0.0])
    assert np.isnan(agent.act(np.zeros([5, OBSERVATION_SIZE]))[:, 0]).all()


# update: metrics, types, tracing, reproducibility


def test_update_reports_every_metric_as_a_finite_float(agent):
    metrics = agent.update(random_block())
    assert tuple(metrics) == METRICS
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
    assert all(metrics[name] > 0 for name in ("critic_loss", "td_error", "critic_gradient_norm", "actor_gradient_norm"))
    assert 0 <= metrics["action_saturation"] <= 1


def test_the_critics_metrics_are_means_over_its_updates_however_seldom_the_actor_moves():
    each, second = (new_agent(jit_compile=False, update_every=BLOCK, actor_every=every) for every in (1, 2))
    for agent in (each, second):
        hold_still(agent)
    expected, found = (agent.update(random_block()) for agent in (each, second))
    for name in CRITIC_METRICS:
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_metrics_are_the_mean_over_the_block(agent):
    hold_still(agent)
    block = random_block(2)
    q = [agent.critic([tf.constant(block.observation[k]), tf.constant(block.action[k])]).numpy().mean() for k in (0, 1)]
    assert abs(q[0] - q[1]) > 1e-3
    metrics = agent.update(block)
    assert metrics["q_mean"] == pytest.approx((q[0] + q[1]) / 2, rel=1e-4)
    doubled = [agent.update(Batch(*(array[[k, k]] for array in block))) for k in (0, 1)]
    for name in METRICS:
        assert metrics[name] == pytest.approx((doubled[0][name] + doubled[1][name]) / 2, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("field", Batch._fields)
def test_update_refuses_float64(agent, field):
    block, state = random_block(), agent.state()
    with pytest.raises(TypeError, match="minibatches are float32, not float64"):
        agent.update(block._replace(**{field: getattr(block, field).astype(np.float64)}))
    assert_same_state(agent.state(), state)


def test_update_is_traced_once_whatever_the_minibatches_are(agent, monkeypatch):
    agent.update(random_block())
    monkeypatch.setattr(agent, "_update_block", None)  # what a trace would call
    for k in range(25):
        agent.update(random_block(seed=k))
        agent.update(Batch(*map(tf.constant, random_block(seed=k))))
    assert int(agent.critic_optimizer.iterations) == int(agent.actor_optimizer.iterations) == 51 * BLOCK


def test_no_variable_is_made_after_construction(agent):
    fresh = new_agent()  # never updated
    assert fresh.variables().keys() == agent.variables().keys()
    agent.update(random_block())
    assert fresh.variables().keys() == agent.variables().keys()
    for optimizer, model in ((agent.actor_optimizer, agent.actor), (agent.critic_optimizer, agent.critic)):
        assert len(optimizer.variables) == 2 + 2 * len(model.trainable_variables)  # counter, rate, two moments each


def test_agents_of_different_seeds_start_differently(agent):
    other = new_agent(seed=1)
    for network in NETWORKS:
        for variable, twin in zip(getattr(other, network).variables, getattr(agent, network).variables, strict=True):
            assert not np.array_equal(variable.numpy(), twin.numpy()), variable.path


# state and load_state


def test_state_names_every_variable_once(normalizing_agent):
    agent, owners = normalizing_agent, {}
    for owner in vars(agent).values():
        if isinstance(owner, keras.Model | keras.optimizers.Optimizer):
            owners |= {id(variable): variable for variable in owner.variables}
    assert len(agent.state()) == len(owners) + 3  # the normaliser's float64 count, mean and sum of squares
    assert {id(variable) for variable in agent.variables().values()} == owners.keys()


def test_two_variables_of_one_name_are_refused():
    """As a second critic's would be in the same optimizer, of which one would be saved."""

    def with_two_critics(scope):
        agent = new_agent(jit_compile=False)
        with scope:
            second = build_critic(agent.config, (OBSERVATION_SIZE,), LOW, HIGH, keras.layers.Identity(), "critic_2")
        agent.critic_optimizer = keras.optimizers.Adam(name="critic_optimizer")
        agent.critic_optimizer.build([*agent.critic.variables, *second.model.variables])
        return agent

    with pytest.raises(ValueError, match=r"two variables are called critic_optimizer/.*hidden_0_kernel"):
        with_two_critics(contextlib.nullcontext()).state()
    agent = with_two_critics(keras.name_scope("critic_2"))
    found = {id(variable) for variable in agent.variables().values()}
    assert {id(variable) for variable in agent.critic_optimizer.variables} <= found


def test_a_restored_agent_goes_on_as_the_one_that_was_saved(normalizing_agent):
    """Weights, targets, both optimizers and the normaliser: the same bits after further updates."""

    def go_on(agent, seed):
        agent.count_observations(np.random.default_rng(seed).normal(2, 3, size=(5, OBSERVATION_SIZE)))
        return agent.update(random_block(1, seed=seed))

    agent = normalizing_agent
    for k in range(3):
        go_on(agent, k)
    saved = {name: np.array(array) for name, array in agent.state().items()}
    expected = [go_on(agent, k) for k in (3, 4)], agent.state(), agent.act(np.ones([5, OBSERVATION_SIZE]))
    assert int(saved["actor_optimizer/actor_optimizer/iteration"]) == 3
    agent.load_state(saved)
    assert_same_state(agent.state(), saved)
    assert [go_on(agent, k) for k in (3, 4)] == expected[0]
    assert_same_state(agent.state(), expected[1])
    np.testing.assert_array_equal(agent.act(np.ones([5, OBSERVATION_SIZE])), expected[2])


def test_a_state_does_not_change_with_the_agent_it_was_taken_from(normalizing_agent):
    agent = normalizing_agent
    agent.count_observations(np.ones([2, OBSERVATION_SIZE]))
    state = agent.state()
    copy = {name: np.array(array) for name, array in state.items()}
    agent.count_observations(np.full([2, OBSERVATION_SIZE], 5.0))
    agent.update(random_block(1))
    assert_same_state(state, copy)


def broken(state):
    """(what is wrong, state, the name the message must give) for each way a state can be wrong."""
    yield "missing", {k: v for k, v in state.items() if k != "critic/output/bias"}, "critic/output/bias"
    yield "unknown", state | {"critic/hidden_9/kernel": np.zeros(3)}, "critic/hidden_9/kernel"
    yield "misshapen", state | {"actor/hidden_0/kernel": np.zeros([3, 1])}, "actor/hidden_0/kernel"
    if "normalizer/m2" in state:
        yield "misshapen normaliser", state | {"normalizer/m2": np.zeros(2)}, "normalizer/m2"
    yield "empty", {}, "actor/"


def test_load_state_refuses_what_does_not_fit_and_changes_nothing(normalizing_agent):
    agent = normalizing_agent
    state = agent.state()
    wrong = {name: array + 1 for name, array in state.items()}
    for problem, wrong_state, name in broken(wrong):
        with pytest.raises(ValueError, match=name):
            agent.load_state(wrong_state)
            pytest.fail(f"a state that is {problem} was accepted")
        assert_same_state(agent.state(), state)


def test_a_policy_state_is_what_acting_needs_and_nothing_more(normalizing_agent):
    agent, observations = normalizing_agent, np.ones([5, OBSERVATION_SIZE])
    agent.count_observations(np.random.default_rng(0).normal(2, 3, size=(50, OBSERVATION_SIZE)))
    agent.update(random_block(1))
    policy, action = agent.policy_state(), agent.act(observations)
    for k in range(3):
        agent.update(random_block(1, seed=k))
    assert not np.array_equal(agent.act(observations), action)
    after = agent.state()
    agent.load_policy_state(policy)
    np.testing.assert_array_equal(agent.act(observations), action)
    assert_same_state(
        {k: v for k, v in agent.state().items() if k not in policy}, {k: v for k, v in after.items() if k not in policy}
    )
    assert {name.split("/")[0] for name in policy} == {"actor", "critic"}
    for problem, wrong_state, name in broken(policy):
        with pytest.raises(ValueError, match=name):
            agent.load_policy_state(wrong_state)
            pytest.fail(f"a policy state that is {problem} was accepted")
        np.testing.assert_array_equal(agent.act(observations), action)


def test_a_block_of_another_number_of_updates_is_refused(agent):
    with pytest.raises(TypeError):
        agent.update(random_block(BLOCK + 1))
