"""Exploration: statistics of the noise, addressing, and what the collector makes of it."""

import gymnasium as gym
import numpy as np
import pytest

from ddpg_tf.collect.collector import Collector
from ddpg_tf.collect.noise import ActionNoise, RandomShare, Stream, WarmupActions, tfp
from ddpg_tf.config import Config
from ddpg_tf.envs import factory
from ddpg_tf.envs.spaces import checked_spaces

LOW, HIGH = np.array([-1, 0, 2], np.float32), np.array([3, 10, 2.5], np.float32)


def noise(kind="ou", num_envs=2, action_size=3, seed=0, sigma=0.2, theta=0.15, dt=1.0) -> ActionNoise:
    return ActionNoise(kind, num_envs, action_size, seed, sigma=sigma, theta=theta, dt=dt)


def rows(process, times) -> np.ndarray:
    """float32 [T, N, A]"""
    return np.stack([process(t) for t in times])


def correlation(x, y) -> float:
    return np.corrcoef(np.ravel(x), np.ravel(y))[0, 1]


# The Ornstein-Uhlenbeck process


@pytest.mark.parametrize("sigma, theta, dt", [(0.2, 0.15, 1.0), (0.3, 1.5, 0.04), (1.0, 0.9, 2.0)])
def test_ou_has_its_long_run_standard_deviation(sigma, theta, dt):
    """sigma sqrt(dt) / sqrt(2 theta dt - (theta dt)^2), exact for the recursion; 0.380 for the paper's and dt = 1."""
    expected = sigma * dt**0.5 / (2 * theta * dt - (theta * dt) ** 2) ** 0.5
    process = noise(num_envs=50, action_size=20, sigma=sigma, theta=theta, dt=dt)
    x = rows(process, range(1000))[200:]  # 200 steps: long after the start at zero
    assert x.std() == pytest.approx(expected, rel=0.01)
    assert abs(x.mean()) < 0.02 * expected
    # The correlation of neighbours is 1 - theta dt: noise that is really correlated in time.
    assert correlation(x[1:], x[:-1]) == pytest.approx(1 - theta * dt, abs=0.01)


def test_ou_is_the_recursion_on_standard_normal_innovations():
    innovations = rows(noise("gaussian", sigma=1.0), range(5))
    process, x = noise(sigma=0.3, theta=0.5, dt=0.25), np.zeros((2, 3))
    for t in range(5):
        x = x - 0.5 * x * 0.25 + 0.3 * 0.25**0.5 * innovations[t]
        np.testing.assert_allclose(process(t), x, rtol=1e-5, atol=1e-7)


def test_a_reset_zeroes_the_processes_of_the_mask_and_no_other():
    process, untouched = noise(num_envs=3), noise(num_envs=3)
    for t in range(10):
        process(t), untouched(t)
    process.reset(np.array([True, False, True]))
    np.testing.assert_array_equal(process.x[[0, 2]], 0)
    np.testing.assert_array_equal(process.x[1], untouched.x[1])
    after, expected = process(10), untouched(10)
    np.testing.assert_array_equal(after[1], expected[1])
    innovation = noise("gaussian", num_envs=3, sigma=0.2)(10)
    np.testing.assert_allclose(after[[0, 2]], innovation[[0, 2]], rtol=1e-6)  # from zero again, sqrt(dt) = 1


def test_ou_goes_on_from_its_position_alone():
    """x is the process's only state: what a checkpoint stores."""
    whole, resumed = noise(), noise()
    rows(whole, range(7))
    resumed.x = whole.x
    np.testing.assert_array_equal(rows(resumed, range(7, 12)), rows(whole, range(7, 12)))


def test_what_was_returned_does_not_change_with_the_process():
    process = noise()
    first = process(0)
    copy = first.copy()
    process(1)
    process.reset(np.array([True, True]))
    np.testing.assert_array_equal(first, copy)


# All kinds


@pytest.mark.parametrize("kind", ["gaussian", "ou"])
def test_environments_and_action_dimensions_have_uncorrelated_noise(kind):
    x = rows(noise(kind), range(20_000)).reshape(20_000, 6)
    # 5 standard errors; neighbouring values of the process are worth (1 - r) / (1 + r) independent ones, r = 0.85^2.
    independent = 20_000 * (0.16 if kind == "ou" else 1)
    correlations = np.corrcoef(x.T) - np.eye(6)
    assert np.abs(correlations).max() < 5 / independent**0.5


def test_gaussian_noise_is_normal_with_deviation_sigma_and_independent_in_time():
    process = noise("gaussian", sigma=0.3)
    x = rows(process, range(10_000))
    assert x.dtype == np.float32 and x.shape == (10_000, 2, 3)
    assert x.std() == pytest.approx(0.3, rel=0.02)
    assert abs(x.mean()) < 0.01
    assert (np.abs(x) < 0.3).mean() == pytest.approx(0.6827, abs=0.01)
    assert abs(correlation(x[1:], x[:-1])) < 0.02
    process.reset(np.array([True, True]))  # has no state to lose
    np.testing.assert_array_equal(process(3), x[3])


def test_none_is_zero():
    x = rows(noise("none"), range(3))
    assert x.dtype == np.float32 and x.shape == (3, 2, 3)
    np.testing.assert_array_equal(x, 0)


# Addressing


TIMES = [0, 1, 1023, 1024, 1025, 5000]  # on both sides of the edge of a block


@pytest.mark.parametrize(
    "make", [lambda: noise("gaussian"), lambda: WarmupActions(LOW, HIGH, 2, 0)], ids=["noise", "warmup"]
)
def test_a_row_depends_on_its_time_and_not_on_what_was_drawn_before(make):
    in_order, backwards, alone = make(), make(), make()
    expected = rows(in_order, TIMES)
    np.testing.assert_array_equal(rows(backwards, TIMES[::-1])[::-1], expected)
    np.testing.assert_array_equal(alone(1024), expected[3])
    np.testing.assert_array_equal(rows(in_order, TIMES), expected)  # and again
    assert len(np.unique(expected)) == expected.size


def test_another_seed_gives_other_rows():
    for make in (lambda seed: noise("gaussian", seed=seed), lambda seed: WarmupActions(LOW, HIGH, 2, seed)):
        tables = [rows(make(seed), range(1000)) for seed in (0, 1, 2**31 - 1)]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert np.intersect1d(tables[i], tables[j]).size < 0.01 * tables[i].size
            assert abs(correlation(tables[i] - tables[i].mean(0), tables[j] - tables[j].mean(0))) < 0.1


def test_streams_of_other_names_are_independent():
    unit = tfp.distributions.Normal([0.0] * 4, [1.0] * 4)
    one, same, other = (np.stack([Stream(unit, 0, name)[t] for t in range(3)]) for name in ("one", "one", "other"))
    np.testing.assert_array_equal(one, same)
    assert np.intersect1d(one, other).size == 0


# Warm-up actions


def test_warm_up_actions_are_uniform_over_the_action_space():
    """Over [low, high] of each dimension: [-1, 1] would miss most of this space, and leave it in the third."""
    x = rows(WarmupActions(LOW, HIGH, num_envs=2, seed=0), range(5000)).astype(np.float64)
    assert x.shape == (5000, 2, 3)
    assert (x >= LOW).all() and (x <= HIGH).all()
    unit = ((x - LOW) / (HIGH - LOW)).reshape(-1, 3)
    for dimension in unit.T:
        assert dimension.min() < 0.002 and dimension.max() > 0.998
        # Kolmogorov-Smirnov: 10,000 numbers are within 2/100 of their distribution but for one case in 1,000.
        assert np.abs(np.sort(dimension) - (np.arange(10_000) + 0.5) / 10_000).max() < 0.02
    assert np.abs(np.corrcoef(x.reshape(5000, 6).T) - np.eye(6)).max() < 0.07


def test_warm_up_actions_are_float32_and_stay_inside_bounds_that_rounding_could_cross():
    """No range at all, and one that float32 cannot hold."""
    low = np.append(np.random.default_rng(0).uniform(-10, 10, size=50), -3e38).astype(np.float32)
    high = np.append(low[:50], np.float32(3e38))
    x = rows(WarmupActions(low, high, num_envs=4, seed=0), range(100))
    assert x.dtype == np.float32
    assert (x >= low).all() and (x <= high).all()
    assert x[..., 50].min() < -2.5e38 and x[..., 50].max() > 2.5e38


# In the collector


class Idle(gym.Env):
    """Asymmetric bounds; nothing happens, and it never ends."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(np.float32([-0.4, 0]), np.float32([0.4, 10]))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.fixture
def idle_id():
    gym.register("NoiseTestIdle-v0", Idle)
    yield "NoiseTestIdle-v0"
    gym.registry.pop("NoiseTestIdle-v0")


def collect(env_id, greedy, steps, **settings):
    """(actions [T, A], of one environment and a policy that always answers `greedy`)"""
    config = Config(env=env_id, **settings)
    env = factory.make_flat_env(config)
    collector = Collector(config, checked_spaces(env, env_id))
    actions = np.concatenate([collector.step(t, lambda _: np.float32([greedy]))[0].action for t in range(steps)])
    collector.close()
    return actions


def test_every_setting_of_the_noise_arrives(idle_id):
    """As the process by hand, in units of the half-range: theta, dt, sigma and its fall over environment steps."""
    fall = dict(noise_sigma=0.2, noise_final_sigma=0.05, noise_decay_steps=20)
    settings = dict(noise="ou", noise_theta=0.5, noise_dt=0.25, warmup_steps=0, seed=3)
    found = collect(idle_id, [0.0, 5.0], 40, **settings, **fall)
    innovations, x = noise("gaussian", num_envs=1, action_size=2, seed=3, sigma=1.0), np.zeros(2)
    for t in range(40):
        sigma = 0.2 + min(1, t / 20) * (0.05 - 0.2)
        x = x - 0.5 * 0.25 * x + sigma * 0.25**0.5 * innovations(t)[0]
        np.testing.assert_allclose((found[t] - [0, 5]) / [0.4, 5], x, atol=1e-5)


def test_noisy_actions_stay_inside_the_bounds_and_reach_them(idle_id):
    actions = collect(idle_id, [0.0, 5.0], 500, noise="gaussian", noise_sigma=0.8, warmup_steps=0)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions.min(0), np.float32([-0.4, 0]))
    np.testing.assert_array_equal(actions.max(0), np.float32([0.4, 10]))
    share = ((actions == actions.min(0)) | (actions == actions.max(0))).mean(0)
    np.testing.assert_allclose(share, 0.211, atol=0.06)  # of a normal variable, beyond 1 / 0.8 deviations


def test_a_share_of_the_actions_is_uniformly_random_and_the_same_whoever_acts_beside(idle_id):
    config = dict(noise="none", warmup_steps=0, random_share=0.3)
    actions = collect(idle_id, [0.25, 7.5], 2000, **config)
    random = (actions != np.float32([0.25, 7.5])).any(1)
    assert random.mean() == pytest.approx(0.3, abs=0.04)
    # Uniform over both dimensions: means of about 600 numbers, known to 5 deviations.
    np.testing.assert_allclose(actions[random].mean(0), [0, 5], atol=5 / 12**0.5 / random.sum() ** 0.5 * 10)
    assert actions[random].min(0)[0] < -0.38 and actions[random].max(0)[1] > 9.5
    share = RandomShare(0.3, 2, 0)
    second = RandomShare(0.3, 2, 0, range(1, 2))
    np.testing.assert_array_equal(rows(share, range(50))[:, 1:], rows(second, range(50)))
    assert (rows(share, range(200))[:, 0] != rows(share, range(200))[:, 1]).any()


def test_noise_falls_over_the_steps_of_all_environments(idle_id):
    fall = dict(noise="gaussian", noise_sigma=0.5, noise_final_sigma=0.0, noise_decay_steps=20, warmup_steps=0)
    for num_envs in (1, 2):
        actions = collect(idle_id, [0.0, 5.0], 40 // num_envs, num_envs=num_envs, **fall)
        noisy = (actions != np.float32([0, 5])).any(1)
        assert noisy.tolist() == [True] * 20 + [False] * 20


def test_that_an_action_is_random_says_nothing_of_which_it_is():
    unit = WarmupActions(np.zeros(1, np.float32), np.ones(1, np.float32), 2, 0)
    drawn = rows(unit, range(1000))[rows(RandomShare(0.3, 2, 0), range(1000))]
    assert drawn.mean() == pytest.approx(0.5, abs=0.06)  # 5 standard errors of 600
