"""Actor and critic as Keras models: bounds, initialisation, where normalisation and the action go.

Where a layer sits is tested by what it does: a batch norm after a layer undoes a scaled kernel, and so on.
"""

import hypothesis
import numpy as np
import pytest
from conftest import layer_of, layers_of
from hypothesis import strategies as st

from ddpg_tf._tf import keras, tf
from ddpg_tf.config import Config
from ddpg_tf.learner.layers import Normalizer
from ddpg_tf.learner.networks import build_actor, build_critic

LOW, HIGH = np.array([-1, 0, 2], np.float32), np.array([3, 10, 2.5], np.float32)
OBSERVATION_SIZE = 4


def actor(low=LOW, high=HIGH, shared=None, **settings):
    return build_actor(config(**settings), (OBSERVATION_SIZE,), low, high, shared or keras.layers.Identity()).model


def critic(low=LOW, high=HIGH, shared=None, **settings):
    return build_critic(config(**settings), (OBSERVATION_SIZE,), low, high, shared or keras.layers.Identity()).model


def config(**settings):
    return Config(**dict(hidden_units=(8, 8), final_init=0.3) | settings)


def observations(n=64, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=(n, OBSERVATION_SIZE)), tf.float32)


def actions(n=64, seed=1):
    return tf.constant(np.random.default_rng(seed).uniform(LOW, HIGH, size=(n, len(LOW))), tf.float32)


def largest(x) -> float:
    return float(np.abs(x).max())


# Bounds


def test_tanh_at_its_ends_gives_the_bounds_exactly_and_at_zero_the_middle():
    model = actor()
    output = layer_of(model, "output")
    output.kernel.assign(tf.zeros_like(output.kernel))
    for bias, expected in ((np.inf, HIGH), (-np.inf, LOW), (0.0, (LOW + HIGH) / 2)):
        output.bias.assign(np.full(3, bias))
        np.testing.assert_array_equal(model(observations(5)), np.tile(expected, (5, 1)))
    output.bias.assign([np.inf, 0.0, -np.inf])  # each dimension has bounds of its own
    np.testing.assert_array_equal(model(observations(1)), [[3, 5, 2]])


bound = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
observed = st.floats(-(2.0**100), 2.0**100, width=32)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    st.lists(st.tuples(bound, bound).map(sorted), min_size=1, max_size=3),
    st.lists(observed, min_size=OBSERVATION_SIZE, max_size=OBSERVATION_SIZE),
    st.integers(0, 1000),
)
def test_actions_are_within_bounds_and_reach_them_whatever_bounds_and_observations(bounds, observation, seed):
    low, high = np.array(bounds, np.float32).T
    model = actor(low, high, seed=seed, final_init=3.0)
    action = model(tf.constant([observation])).numpy()
    assert action.shape == (1, len(low)) and action.dtype == np.float32
    assert (low <= action).all() and (action <= high).all()
    output = layer_of(model, "output")
    for infinity, end in ((np.inf, high), (-np.inf, low)):
        output.set_weights([np.zeros(output.kernel.shape), np.full(len(low), infinity)])
        np.testing.assert_array_equal(model(observations(1)), [end])


def test_actions_are_within_bounds_that_rounding_could_cross():
    """No range at all, or one unit in the last place: a mean of the two bounds can round to outside."""
    low = np.random.default_rng(0).uniform(-10, 10, size=100).astype(np.float32)
    high = np.where(np.arange(100) < 50, low, np.nextafter(low, np.float32(np.inf)))
    action = actor(low, high, final_init=3.0)(observations()).numpy()
    assert (low <= action).all() and (action <= high).all()


def test_the_critic_sees_actions_rescaled_by_the_bounds():
    """Two critics of the same weights: one knows [-1, 1], the other the environment's bounds."""
    unit, scaled = critic(-np.ones(3), np.ones(3)), critic()
    u = np.random.default_rng(0).uniform(-1, 1, size=(64, 3)).astype(np.float32)
    action = (LOW + HIGH) / 2 + u * (HIGH - LOW) / 2
    expected = unit([observations(), tf.constant(u)])
    np.testing.assert_allclose(scaled([observations(), tf.constant(action)]), expected, atol=1e-5)
    assert largest(unit([observations(), tf.constant(action)]) - expected) > 0.1  # the test can tell


def test_an_action_dimension_without_range_is_zero_to_the_critic():
    model = critic(np.array([-1, 2]), np.array([1, 2]))
    u = tf.constant(np.random.default_rng(0).uniform(-1, 1, size=(64, 1)), tf.float32)
    q = model([observations(), tf.concat([u, tf.fill([64, 1], 2.0)], axis=1)]).numpy()
    assert np.isfinite(q).all() and np.ptp(q) > 0.01


def test_q_has_rank_1():
    model = critic()
    assert model.output_shape == (None,)
    assert model([observations(1), actions(1)]).shape == (1,)
    assert model([observations(5), actions(5)]).shape == (5,)


# Initialisation (Lillicrap et al., section 7)


@pytest.mark.parametrize("build", [actor, critic])
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_hidden_layers_start_uniform_within_one_over_the_root_of_their_fan_in(build, normalization):
    model = build(hidden_units=(200, 150), action_layer=1, normalization=normalization)
    for name in ("hidden_0", "hidden_1"):
        kernel, bias = (variable.numpy() for variable in (layer_of(model, name).kernel, layer_of(model, name).bias))
        limit = kernel.shape[0] ** -0.5  # the critic's second layer counts the action too
        for part in (kernel, bias):
            assert largest(part) <= limit
            assert largest(part) > 0.95 * limit
            assert part.std() == pytest.approx(limit / 3**0.5, rel=0.15)
            assert abs(part.mean()) < 0.2 * limit


@pytest.mark.parametrize("build", [actor, critic])
@pytest.mark.parametrize("final_init", [3e-3, 3e-4])
def test_the_last_layer_starts_within_final_init(build, final_init):
    output = layer_of(build(hidden_units=(400, 300), final_init=final_init), "output")
    assert 0.9 * final_init < largest(output.kernel.numpy()) <= final_init
    assert 0 < largest(output.bias.numpy()) <= final_init


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_greedy_actions_start_near_the_middle(normalization):
    """With the usual Glorot initialisation of the last layer tanh is half saturated from the first step on."""
    settings = dict(hidden_units=(400, 300), normalization=normalization)
    spread = {
        final_init: largest(
            (actor(final_init=final_init, **settings)(observations()) - (LOW + HIGH) / 2) / (HIGH - LOW)
        )
        for final_init in (3e-3, 0.1)
    }
    assert spread[3e-3] < 0.05  # of the range
    assert spread[0.1] > 0.05


def test_the_seed_decides_the_weights_and_no_two_layers_share_them():
    models = {(build, seed): build(seed=seed) for build in (actor, critic) for seed in (0, 1)}
    for build in (actor, critic):
        for variable, twin in zip(build(seed=1).variables, models[build, 1].variables, strict=True):
            np.testing.assert_array_equal(variable.numpy(), twin.numpy())
    # In units of the limit, the first numbers of each kernel and bias: all different.
    first = [
        np.ravel(variable.numpy())[0] / largest(variable.numpy())
        for model in models.values()
        for variable in model.variables
        if variable.shape != (1,)
    ]
    assert len(set(np.round(first, 6))) == len(first) == 4 * 6 - 2


# Where the action enters


@pytest.mark.parametrize("action_layer, widths", [(0, [4 + 3, 16, 8]), (1, [4, 16 + 3, 8])])
def test_the_action_enters_at_the_given_hidden_layer(action_layer, widths):
    model = critic(hidden_units=(16, 8), action_layer=action_layer)
    assert [layer_of(model, name).kernel.shape[0] for name in ("hidden_0", "hidden_1", "output")] == widths
    assert largest(model([observations(), actions()]) - model([observations(), actions(seed=2)])) > 0.01
    # The action's rows come after the layer's other inputs, and nowhere else: without them q does not see it.
    layer = layer_of(model, f"hidden_{action_layer}")
    layer.kernel.assign(tf.concat([layer.kernel[:-3], tf.zeros([3, layer.kernel.shape[1]])], axis=0))
    np.testing.assert_array_equal(model([observations(), actions()]), model([observations(), actions(seed=2)]))


def test_hidden_units_give_the_layers():
    for build, outputs in ((actor, 3), (critic, 1)):
        model = build(hidden_units=(7, 6, 5))
        assert [layer_of(model, name).kernel.shape[1] for name in ("hidden_0", "hidden_1", "hidden_2", "output")] == [
            7,
            6,
            5,
            outputs,
        ]


# Where normalisation sits


def outputs(model, observation):
    """In training mode, where a batch norm has the batch's statistics; an actor's in units of the range."""
    if len(model.inputs) == 1:
        return (model(observation, training=True) - LOW) / (HIGH - LOW)
    return model([observation, actions()], training=True)


def normalized_places(model) -> set[str]:
    """Where a norm takes scales away: "observation", or behind a layer whose weights can be tripled unseen."""
    observation = 20 * observations()  # variances far above the norms' epsilon of 1e-3
    before, places = outputs(model, observation), set()

    def unchanged(after):
        return largest(after - before) < 1e-3 * np.ptp(before)

    if unchanged(outputs(model, 3 * observation)):
        places.add("observation")
    for layer in (layer for layer in layers_of(model) if hasattr(layer, "kernel")):
        weights = layer.get_weights()
        layer.set_weights([3 * array for array in weights])
        if unchanged(outputs(model, observation)):
            places.add(layer.name)
        layer.set_weights(weights)
    return places


@pytest.mark.parametrize(
    "normalization, action_layer, in_actor, in_critic",
    [
        ("none", 1, set(), set()),
        # Lillicrap et al.: the state, all layers of mu, and all layers of Q prior to the action. "All layers" is read
        # as all hidden ones: after the output a norm would take away the scale of actions.
        ("batch", 0, {"observation", "hidden_0", "hidden_1"}, {"observation"}),
        ("batch", 1, {"observation", "hidden_0", "hidden_1"}, {"observation", "hidden_0"}),
        ("layer", 0, {"hidden_0", "hidden_1"}, {"hidden_0", "hidden_1"}),
        ("layer", 1, {"hidden_0", "hidden_1"}, {"hidden_0", "hidden_1"}),
    ],
)
def test_batch_norm_sits_where_the_paper_has_it_layer_norm_everywhere(normalization, action_layer, in_actor, in_critic):
    for build, expected in ((actor, in_actor), (critic, in_critic)):
        model = build(normalization=normalization, action_layer=action_layer)
        for name in ("hidden_0", "hidden_1"):  # again because of epsilon
            layer = layer_of(model, name)
            layer.set_weights([10 * array for array in layer.get_weights()])
        output = layer_of(model, "output")
        output.set_weights([array / 100 for array in output.get_weights()])  # tanh not saturated
        assert normalized_places(model) == expected, build.__name__


def test_batch_norm_takes_its_momentum_from_the_config():
    model = actor(normalization="batch", batch_norm_momentum=0.9)
    model(observations() + 5, training=True)
    np.testing.assert_allclose(
        layer_of(model, "norm_input").moving_mean, 0.1 * np.mean(observations() + 5, axis=0), rtol=1e-5
    )


def test_models_are_in_inference_mode_unless_told():
    model = actor(normalization="batch")
    np.testing.assert_array_equal(model(observations()), model(observations(), training=False))
    assert largest(model(observations()) - model(observations(), training=True)) > 1e-3


# The observation normaliser


def test_the_normalizer_standardises_and_clips_at_ten():
    normalizer = Normalizer(2)
    x = np.array([[-50, 0], [0.5, 50]], np.float32)
    np.testing.assert_array_equal(normalizer(tf.constant(x)), [[-10, 0], [0.5, 10]])  # nothing counted: mean 0, std 1
    normalizer.count(np.array([[1, 100], [3, 100], [5, 100]]))
    np.testing.assert_array_equal(normalizer(tf.constant(x)), [[-10, 0], [0.5, 10]])  # counted, not assigned
    normalizer.assign_statistics()
    std = (8 / 3) ** 0.5
    found = normalizer(tf.constant([[3, 100], [3 + std, 100], [3 - 9 * std, 100], [1e9, 101]], tf.float32))
    # A dimension that never varied has the std 1e-4, of a variance of 1e-8, and must not divide by zero.
    np.testing.assert_allclose(found, [[0, 0], [1, 0], [-9, 0], [10, 10]], atol=1e-5)


def test_assigning_before_anything_was_counted_changes_nothing():
    normalizer = Normalizer(2)
    normalizer.assign_statistics()
    np.testing.assert_array_equal(normalizer(tf.constant([[0.5, -2.0]])), [[0.5, -2.0]])


def test_a_normalizer_restored_from_its_host_state_counts_on():
    rng = np.random.default_rng(0)
    whole, first, second = Normalizer(3), Normalizer(3), Normalizer(3)
    for k in range(4):
        batch = rng.normal(5, 2, size=(6, 3))
        whole.count(batch)
        (first if k < 2 else second).count(batch)
        if k == 1:
            second.load_host_state(first.host_state())
    whole.assign_statistics(), second.assign_statistics()
    np.testing.assert_array_equal(whole.mean.numpy(), second.mean.numpy())
    np.testing.assert_array_equal(whole.std.numpy(), second.std.numpy())


def test_both_networks_see_normalised_observations():
    for build in (actor, critic):
        normalizer = Normalizer(OBSERVATION_SIZE)
        model = build(shared=normalizer)
        before = outputs(model, observations())
        normalizer.mean.assign(np.full(OBSERVATION_SIZE, 5.0))
        normalizer.std.assign(np.full(OBSERVATION_SIZE, 2.0))
        np.testing.assert_allclose(outputs(model, observations() * 2 + 5), before, atol=1e-5)


def test_the_normalizer_is_not_trained():
    normalizer = Normalizer(OBSERVATION_SIZE)
    model = actor(shared=normalizer)
    assert len(model.variables) == len(model.trainable_variables) + 2
    assert not {id(v) for v in model.trainable_variables} & {id(v) for v in normalizer.variables}


# Observations that are none


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(OBSERVATION_SIZE))
def test_a_number_that_is_not_finite_gives_no_action_and_leaves_its_neighbours_alone(bad, place):
    """ReLU, tanh and bounds would make a plausible action of it: a robot would act on a broken sensor."""
    seen = observations().numpy()
    broken = seen.copy()
    broken[1, place] = bad
    for model, inputs in (
        (actor(shared=Normalizer(OBSERVATION_SIZE)), lambda x: x),
        (critic(normalization="layer"), lambda x: [tf.constant(x), actions()]),
    ):
        found, whole = model(inputs(broken)).numpy(), model(inputs(seen)).numpy()
        assert np.isnan(found[1]).all()
        np.testing.assert_array_equal(np.delete(found, 1, 0), np.delete(whole, 1, 0))
