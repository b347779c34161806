"""Environments + policy -> transitions: what is stored is what happened."""

import contextlib
import copy
import dataclasses
import re
import warnings
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from ddpg_tf.collect import collector
from ddpg_tf.collect.collector import Collector, Transitions, episode_seed
from ddpg_tf.config import Config
from ddpg_tf.envs import factory
from ddpg_tf.envs.spaces import checked_spaces
from ddpg_tf.errors import UserError
from ddpg_tf.evaluation.evaluator import Evaluator
from ddpg_tf.learner.agent import DDPG
from ddpg_tf.replay.buffer import ReplayBuffer
from ddpg_tf.training.core import Core, make_replay
from tests import toy_envs
from tests.toy_envs import HIGH, LOW

MIDDLE = (LOW + HIGH) / 2


def middle(observations):
    return np.tile(MIDDLE, (len(observations), 1))


def wandering(observations):
    """Some policy: float32, inside the bounds, another action for each observation."""
    return (LOW + (HIGH - LOW) * (0.5 + 0.4 * np.sin(observations.sum(axis=1, keepdims=True)))).astype(np.float32)


def config(toy="Counter", num_envs=1, warmup_steps=0, noise="none", total_steps=12_000, **settings):
    return Config(
        env=f"tests.toy_envs:Toy{toy}-v0",
        num_envs=num_envs,
        warmup_steps=warmup_steps,
        noise=noise,
        total_steps=total_steps,
        **settings,
    )


class Run:
    """A collector and everything it gave."""

    def __init__(self, settings, steps, policy=wandering, first=0, state=None, place=None):
        env = factory.make_policy_env(settings)
        self.spaces = checked_spaces(env, settings.env)
        self.policy, self.collector = policy, Collector(settings, self.spaces, place)
        self.differs = None if state is None else self.collector.load_state(state)
        self.steps, self.finished = [], []
        self.more(first, steps)

    def more(self, first, steps):
        for t in range(first, first + steps):
            transitions, finished = self.collector.step(t, self.policy)
            self.steps.append(transitions)
            self.finished.append(finished)
        return self

    def __getattr__(self, name):
        """`run.observation` is [steps, N, ...]."""
        if name not in Transitions._fields:
            raise AttributeError(name)
        return np.stack([getattr(transitions, name) for transitions in self.steps])

    @property
    def ended(self):
        return self.terminated | self.truncated

    def close(self):
        self.collector.close()
        return self


def assert_same_run(found, expected):
    for name in Transitions._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.finished == expected.finished


@pytest.mark.parametrize("noise", ["gaussian", "ou"])
def test_a_run_split_among_collectors_meets_the_same_episodes_and_noise(noise):
    settings = config(num_envs=3, warmup_steps=30, noise=noise, noise_sigma=0.3)
    whole = Run(settings, 40).close()
    for place in (range(0, 1), range(1, 3)):
        part = Run(settings, 40, place=place).close()
        for name in Transitions._fields:
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, place.start : place.stop], name)


def test_an_episode_too_long_to_be_re_entered_starts_anew_and_its_checkpoint_stays_small(monkeypatch):
    monkeypatch.setattr(collector, "RECORDED", 5)
    settings = config("", num_envs=2)
    run = Run(settings, 9).close()
    state = run.collector.state()
    assert [len(state[f"actions_{i}"]) for i in range(2)] == [5, 5] and state["length"].tolist() == [9, 9]
    with pytest.warns(UserWarning, match="more than 5 steps: it starts anew"):
        resumed = Run(settings, 1, first=9, state=state).close()
    assert resumed.differs.all() and resumed.collector.state()["episode"].tolist() == [1, 1]


ODD = [
    ("column", r"observation of shape \(2, 1\), and its space says \(2,\)"),
    ("longer", r"of shape \(3,\)"),
    ("two rewards", r"a reward of shape \(2,\), not one value"),
    ("old step", "step .*old API"),
    ("old reset", "reset returns ndarray.*old API"),
]


@pytest.mark.parametrize("kind, says", ODD, ids=[kind for kind, _ in ODD])
def test_an_environment_that_breaks_its_promise_is_told_with_the_step(kind, says):
    with pytest.raises(UserError, match=rf"ToyOdd-v0.*{says}"):
        Run(config("Odd", env_kwargs={"kind": kind}), 4)


def test_in_a_process_of_its_own_it_is_told_alike():
    with pytest.raises(UserError, match="a reward of shape"):
        Run(config("Odd", env_kwargs={"kind": "two rewards"}, vectorization="async"), 4)


FAILURES = [
    ("raises", r"ToyOdd-v0 raised ArithmeticError: unstable \(toy_envs\.py, line \d+\) at step 3 of an episode"),
    ("nan", r"ToyOdd-v0 gave an observation with nan at \[1\] at step 3"),
    ("nan reward", "ToyOdd-v0 gave a reward of nan at step 3"),
    ("huge reward", r"ToyOdd-v0 gave a reward of 1e\+25 at step 3"),
]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("kind, says", FAILURES, ids=[kind for kind, _ in FAILURES])
def test_a_failing_environment_loses_its_episode_and_goes_on_with_the_next_seed(kind, says, vectorization):
    with pytest.warns(UserWarning, match=f"{says}.*: the episode ends there, 1 in a row"):
        run = Run(config("Odd", env_kwargs={"kind": kind}, vectorization=vectorization), 4).close()
    assert run.truncated.ravel().tolist() == [False, False, True, False] and not run.terminated.any()
    # What the failed step would have paid is not known, and counts as nothing in the episode's return.
    np.testing.assert_array_equal(run.next_observation[2], run.next_observation[1])
    np.testing.assert_array_equal(run.reward.ravel(), [1, 1, np.nan, 1])
    assert run.finished[2] == [(2.0, 3)]
    env = factory.make_flat_env(config("Odd", env_kwargs={"kind": ""}))
    np.testing.assert_array_equal(run.observation[3, 0], env.reset(seed=episode_seed(0, 0, 1))[0])


@pytest.mark.filterwarnings("ignore:ToyOdd")
def test_after_ten_failures_in_a_row_the_collector_says_that_it_is_no_use():
    run = Run(config("Odd", env_kwargs={"kind": "raises"}), 29)
    assert not run.collector.problem
    run.more(29, 1)
    assert re.search("ToyOdd-v0 raised .* and so ended 10 episodes in a row", run.collector.problem)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has been said
        run.more(30, 3).close()


def test_an_environment_whose_reset_fails_is_one_line():
    with pytest.raises(UserError, match=r"ToyOdd-v0\.reset raised OSError: no simulator \(toy_envs\.py, line \d+\)$"):
        Run(config("Odd", env_kwargs={"kind": "no simulator"}), 1)


def test_episodes_are_cut_at_max_episode_steps_in_training_and_evaluation():
    settings = config("Echo", max_episode_steps=5)
    assert Run(settings, 11).close().truncated.ravel().nonzero()[0].tolist() == [4, 9]
    assert [episode.length for episode in evaluate(settings, 2)[0]] == [5, 5]


def test_an_environment_without_time_limit_is_named_before_anything_runs():
    with pytest.warns(UserWarning, match="ToyCounter-v0 has no time limit: .*--max_episode_steps"):
        Evaluator(config("Counter"), 1).close()


def test_an_environment_that_takes_no_seed():
    with pytest.raises(UserError, match=r"ToyOldReset-v0\.reset does not take seed and options"):
        Run(config("OldReset"), 1)


def test_what_is_unambiguous_is_accepted():
    run = Run(config("Odd", env_kwargs={"kind": "arrays of one"}), 4).close()
    assert run.reward.tolist() == [[1.0]] * 4 and run.terminated.dtype == bool


@pytest.mark.parametrize("kind", toy_envs.DTYPES)
def test_actions_come_in_the_dtype_of_their_space(kind):
    """The toy asserts it; an episode that raises is truncated."""
    assert not Run(config("Odd", env_kwargs={"kind": kind}), 4).close().ended.any()


# Transitions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs, vectorization", [(1, "sync"), (3, "sync"), (2, "async")])
def test_the_successor_is_the_true_one_in_every_row(num_envs, vectorization):
    """Staggered episodes of 1 to 7 steps: no row leads into the next episode, none comes from a reset."""
    run = Run(config(num_envs=num_envs, vectorization=vectorization), 60).close()
    assert run.ended.sum(axis=0).min() > 5 and (run.ended.any(axis=1) & ~run.ended.all(axis=1)).any() == (num_envs > 1)
    np.testing.assert_array_equal(run.next_observation, run.observation + 1)
    # The next row starts where this one led, or at a first observation.
    after_end = run.ended[:-1]
    np.testing.assert_array_equal(run.observation[1:][~after_end], run.next_observation[:-1][~after_end])
    assert (run.observation[1:, :, 0][after_end] == 0).all() and (run.observation[0, :, 0] == 0).all()


def test_there_are_as_many_rows_as_environment_steps():
    """No row for a reset: the toy pays 1, 2, 3, ... within each episode, and nothing else."""
    run = Run(config(num_envs=3), 50)
    assert run.observation.shape == (50, 3, 2) and run.reward.shape == run.terminated.shape == (50, 3)
    np.testing.assert_array_equal(run.reward, run.observation[:, :, 0] + 1)
    made = sum(length for finished in run.finished for _, length in finished)
    unfinished = sum(len(run.collector.state()[f"actions_{i}"]) for i in range(3))
    assert made + unfinished == 150


def test_everything_is_float32_but_the_masks():
    """The toy observes float64 and Gymnasium's rewards are float64."""
    transitions, _ = Run(config(num_envs=2), 1).collector.step(1, wandering)
    assert [array.dtype.name for array in transitions] == ["float32"] * 4 + ["bool"] * 2


def test_a_time_limit_bootstraps_and_a_termination_does_not():
    """Traps 1 and 2, through the replay: the discount is gamma where the limit struck."""
    for toy, kwargs in (("", {"max_episode_steps": 5}), ("Counter", {})):
        run = Run(config(toy, num_envs=2, env_kwargs=kwargs), 30)
        buffer = ReplayBuffer(60, 2, 3, num_envs=2, gamma=0.9)
        for transitions in run.steps:
            buffer.add(*transitions)
        batch = buffer.sample(np.random.default_rng(0), (2000,))
        key = {
            tuple(row): terminated
            for row, terminated in zip(run.observation.reshape(-1, 2).tolist(), run.terminated.ravel(), strict=True)
        }
        terminated = np.array([key[tuple(row)] for row in batch.observation.tolist()])
        np.testing.assert_array_equal(batch.discount, np.where(terminated, 0, np.float32(0.9)))
        assert run.truncated.any() and terminated.any() == (toy == "Counter")


def test_what_training_collects_is_what_it_stores_and_counts():
    """Traps 1, 2 and 36, through the loop that trains."""
    settings = config("Counter", num_envs=2, update_every=2, warmup_steps=200, normalize_observations=True, gamma=0.5)
    settings = dataclasses.replace(settings, hidden_units=(4,), batch_size=4, total_steps=400)
    spaces, told = factory.spaces_of(settings), []
    agent = DDPG(settings, spaces.observation_shape, spaces.low, spaces.high, jit_compile=False)
    replay = make_replay(settings, spaces.observation_shape, spaces.action_size)
    with contextlib.closing(Collector(settings, spaces)) as collecting:
        Core(settings, agent, replay, collecting, on_step=lambda transitions, _: told.append(transitions)).run(80)
    observation, _, _, following, terminated, truncated = (np.concatenate(part) for part in zip(*told, strict=True))
    assert agent.normalizer.seen == len(observation) == 80 and terminated.any() and truncated.any()
    np.testing.assert_allclose(agent.normalizer.mean64, observation.mean(0))
    rows = zip(observation.tolist(), np.where(terminated, 0, 0.5).tolist(), following.tolist(), strict=True)
    happened = {tuple(seen): (discount, after) for seen, discount, after in rows}
    batch = replay.sample(np.random.default_rng(0), (2000,))
    drawn = zip(batch.observation.tolist(), batch.discount.tolist(), batch.next_observation.tolist(), strict=True)
    assert {tuple(seen): (discount, after) for seen, discount, after in drawn} == happened


@pytest.mark.parametrize(
    "noise, warmup_steps, vectorization", [("none", 0, "sync"), ("gaussian", 20, "sync"), ("ou", 20, "async")]
)
def test_the_stored_action_is_the_executed_one_bit_for_bit(noise, warmup_steps, vectorization):
    """Traps 15 and 17: nothing scales or clips it on the way. The toy observes what it has executed."""
    run = Run(
        config(
            "Echo", num_envs=2, warmup_steps=warmup_steps, noise=noise, noise_sigma=1.0, vectorization=vectorization
        ),
        40,
    ).close()
    assert run.action.dtype == np.float32
    np.testing.assert_array_equal(run.action, run.next_observation)


def test_the_environment_receives_exactly_what_the_policy_returned():
    run = Run(config("Echo"), 5, policy=lambda observations: np.array([[2.9, 0.1, 2.45]], np.float32))
    np.testing.assert_array_equal(run.next_observation[:, 0], np.tile(np.float32([2.9, 0.1, 2.45]), (5, 1)))


def test_an_environment_that_reuses_its_observation_array_does_no_harm():
    run = Run(config("SameBuffer", num_envs=2), 6)
    np.testing.assert_array_equal(run.observation[:, :, 0], np.arange(6)[:, None] + [0, 0])
    np.testing.assert_array_equal(run.next_observation, run.observation + 1)


def test_an_environment_that_writes_into_its_action_does_no_harm():
    """The policy's action is what led to the successor, whatever the environment did to its array."""
    run = Run(config("ScalesInPlace", num_envs=2), 3, policy=middle)
    np.testing.assert_array_equal(run.action, np.tile(MIDDLE, (3, 2, 1)))
    state = run.collector.state()
    np.testing.assert_array_equal(state["actions_0"], np.tile(MIDDLE, (3, 1)))
    resumed = Run(config("ScalesInPlace", num_envs=2), 0, policy=middle, state=state)
    np.testing.assert_array_equal(resumed.collector.state()["actions_0"], np.tile(MIDDLE, (3, 1)))


@pytest.mark.parametrize("num_envs", [1, 3])
def test_returns_and_lengths_are_those_of_each_environment(num_envs):
    """Gymnasium's own vector statistics are wrong here: one environment's reset wipes the others' sums."""
    run = Run(config(num_envs=num_envs), 80)
    total, length = np.zeros(num_envs), np.zeros(num_envs, int)
    episodes = 0
    for t, finished in enumerate(run.finished):
        total, length = total + run.reward[t], length + 1
        ended = np.flatnonzero(run.ended[t])
        assert finished == [(total[i], length[i]) for i in ended]
        assert all(episode_return == n * (n + 1) / 2 for episode_return, n in finished)
        total[ended], length[ended] = 0, 0
        episodes += len(ended)
    assert episodes > 10 * num_envs


# Actions --------------------------------------------------------------------------------------------------------------


def test_warm_up_is_uniform_over_each_dimension_of_the_action_space():
    action = Run(config("", num_envs=2, warmup_steps=4000), 2000).action.reshape(-1, 3)
    assert (action >= LOW).all() and (action <= HIGH).all()
    unit = np.sort((action - LOW) / (HIGH - LOW), axis=0)
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded by one uniform sample in a thousand.
    distance = np.abs(unit - np.linspace(0, 1, len(unit))[:, None]).max(axis=0)
    assert (distance < 1.95 / len(unit) ** 0.5).all(), distance
    correlation = np.corrcoef(action.T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 0.07  # 4.4 standard deviations of 1 / sqrt(4000)


@pytest.mark.parametrize("num_envs, warmup_steps, random", [(1, 10, 10), (3, 12, 4), (3, 10, 4), (2, 0, 0)])
def test_the_policy_acts_once_warm_up_steps_are_made_over_all_environments(num_envs, warmup_steps, random):
    run = Run(config("", num_envs=num_envs, warmup_steps=warmup_steps), 20, policy=middle)
    by_policy = (run.action == MIDDLE).all(axis=(1, 2))
    np.testing.assert_array_equal(by_policy, np.arange(20) >= random)


def test_gaussian_noise_is_in_units_of_the_half_range_and_the_action_stays_inside():
    run = Run(config("", num_envs=2, noise="gaussian", noise_sigma=0.1), 2000, policy=middle)
    noise = (run.action - MIDDLE) / ((HIGH - LOW) / 2)
    columns = noise.reshape(2000, 6).T  # each environment and dimension has its own
    assert np.abs(np.corrcoef(columns)[np.triu_indices(6, 1)]).max() < 0.12
    noise = noise.reshape(-1, 3)
    np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=0.06)  # 5 standard deviations
    assert np.abs(noise.mean(axis=0)).max() < 0.008
    wild = Run(config("", num_envs=2, noise="gaussian", noise_sigma=3.0), 100).action
    assert (wild >= LOW).all() and (wild <= HIGH).all()
    assert (wild == LOW).any(axis=(0, 1)).all() and (wild == HIGH).any(axis=(0, 1)).all()


def test_ou_noise_starts_at_zero_in_every_episode_of_its_own_environment_only():
    """Trap 18. With theta = 0 the process is a sum, so a step's jump is one innovation, and stays small."""
    run, before = Run(config(num_envs=3, noise="ou", noise_sigma=0.1), 0, policy=middle), np.zeros([3, 3])
    partial = 0
    for t in range(40):
        run.more(t, 1)
        after, ended = run.collector.state()["noise"], run.ended[-1]
        assert (after[ended] == 0).all() and (after[~ended] != 0).all()
        going = ~(before == 0).all(axis=1) & ~ended
        # x - 0.85 x is one innovation.
        assert np.abs(after - 0.85 * before)[going].max(initial=0) < 0.5
        partial += ended.any() and not ended.all()
        before = after
    assert partial > 5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_policy_that_is_not_finite_stops_the_run_with_a_message(bad):
    calls = iter([MIDDLE, np.array([0, bad, 2], np.float32)])
    run = Run(config("Echo"), 1, policy=lambda observations: next(calls)[None])
    with pytest.raises(UserError, match=r"not finite at step 1: .*diverged"):
        run.collector.step(1, run.policy)
    np.testing.assert_array_equal(run.collector.state()["observation"][0], MIDDLE)  # it did not reach the environment


# Seeds ----------------------------------------------------------------------------------------------------------------


def first_observations(run):
    """{environment: its episodes' first observations}, the start of the counter standing for the whole."""
    starts = run.observation[:, :, 0] == 0
    return [run.observation[starts[:, i], i, 1].tolist() for i in range(run.observation.shape[1])]


def test_episode_k_of_environment_i_is_reset_with_the_seed_of_both():
    for i, starts in enumerate(first_observations(Run(config(num_envs=3, seed=7), 60))):
        assert len(starts) > 5
        for k, start in enumerate(starts):
            env = gym.make("ToyCounter-v0")
            assert env.reset(seed=episode_seed(7, i, k))[0][1] == start


def test_first_observations_differ_between_episodes_and_environments():
    starts = [start for starts in first_observations(Run(config(num_envs=3), 60)) for start in starts]
    assert len(set(starts)) == len(starts) > 20


def test_episode_seeds_do_not_collide():
    seeds = {episode_seed(*address) for address in np.ndindex(10, 10, 50)}
    assert len(seeds) == 5000 and min(seeds) >= 0 and max(seeds) < 2**31


@pytest.mark.parametrize("noise", ["ou", "gaussian"])
def test_the_same_seed_repeats_a_run_and_another_does_not(noise):
    settings = dict(num_envs=2, noise=noise, warmup_steps=100)
    first, second = (Run(config("Steered", seed=1, **settings), 250) for _ in range(2))
    assert_same_run(second, first)
    other = Run(config("Steered", seed=2, **settings), 250)
    assert not np.array_equal(other.action[:50], first.action[:50])
    assert not np.array_equal(other.action[50:], first.action[50:])
    assert not np.array_equal(other.observation[0], first.observation[0])


def test_sync_and_async_environments_give_the_same_run():
    runs = [
        Run(config("Steered", num_envs=2, noise="ou", warmup_steps=10, vectorization=vectorization), 30).close()
        for vectorization in ("sync", "async")
    ]
    assert_same_run(*runs)


# Unfinished episodes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "toy, num_envs, vectorization", [("Steered", 1, "sync"), ("Steered", 3, "sync"), ("Steered", 2, "async")]
)
def test_a_resumed_collector_goes_on_exactly_where_the_other_was(toy, num_envs, vectorization):
    settings = config(toy, num_envs, 12, noise="ou", vectorization=vectorization)
    whole = Run(settings, 21)
    state = copy.deepcopy(whole.collector.state())
    assert max(len(state[f"actions_{i}"]) for i in range(num_envs)) > 0
    resumed = Run(settings, 40, first=21, state=state).close()
    whole.steps, whole.finished = [], []
    whole.more(21, 40).close()
    assert not resumed.differs.any()
    assert_same_run(resumed, whole)
    for name, array in whole.collector.state().items():
        np.testing.assert_array_equal(resumed.collector.state()[name], array, err_msg=name)


def test_the_state_survives_npz_and_is_not_changed_by_going_on(tmp_path):
    run = Run(config("Steered", 3, noise="ou"), 20)
    state = run.collector.state()
    np.savez(tmp_path / "state.npz", **state)
    run.more(20, 20)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as saved:
        assert set(saved.files) == set(state)
        for name in saved.files:
            np.testing.assert_array_equal(state[name], saved[name], err_msg=name)


def test_an_environment_that_does_not_repeat_itself_starts_a_new_episode_with_a_warning():
    """And only there: the others are re-entered. The toy's seed decides which kind of episode it is."""
    settings = config("Forgetful", 6, noise="ou")
    whole = Run(settings, 20)
    state = copy.deepcopy(whole.collector.state())
    with pytest.warns(UserWarning, match="does not repeat"):
        resumed = Run(settings, 0, state=state)
    forgets = np.array([forgetful(0, i, k) for i, k in enumerate(state["episode"])])
    assert forgets.any() and not forgets.all()
    np.testing.assert_array_equal(resumed.differs, forgets)
    now = resumed.collector.state()
    np.testing.assert_array_equal(now["episode"], state["episode"] + forgets)
    for i, anew in enumerate(forgets):
        assert len(now[f"actions_{i}"]) == (0 if anew else 20)
    np.testing.assert_array_equal(now["return"], np.where(forgets, 0, state["return"]))
    np.testing.assert_array_equal(now["noise"], np.where(forgets[:, None], 0, state["noise"]))
    resumed.more(20, 10)
    np.testing.assert_array_equal(resumed.next_observation, resumed.observation + 1)
    np.testing.assert_array_equal(resumed.observation[0, :, 0], np.where(forgets, 0, 20))


def forgetful(seed, i, k):
    env = gym.make("ToyForgetful-v0")
    return len({env.reset(seed=episode_seed(seed, i, k))[0][1] for _ in range(2)}) == 2


def test_re_entering_warns_of_nothing_when_all_is_well():
    settings = config("Steered", 3, noise="ou")
    state = Run(settings, 20).collector.state()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Run(settings, 5, first=20, state=state)


# Evaluation -----------------------------------------------------------------------------------------------------------


def evaluate(settings, episodes, policy=wandering):
    evaluator = Evaluator(settings, episodes)
    found = [evaluator.run(policy) for _ in range(2)]
    evaluator.close()
    return found


def test_two_evaluations_of_a_policy_are_identical():
    """No noise, environments of their own, the same seeds each time, whatever --seed and warm-up are."""
    first, second = evaluate(config("Steered", noise="ou", warmup_steps=1000), 13)
    other, _ = evaluate(config("Steered", num_envs=2, seed=9), 13)
    assert len(first) == 13 and len({episode.length for episode in first}) > 2
    for a, b, c in zip(first, second, other, strict=True):
        assert a.episode_return == b.episode_return == c.episode_return and a.length == b.length == c.length
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.actions, c.actions)


def test_episode_i_of_an_evaluation_is_seeded_with_10000_plus_i_and_plays_alone():
    """13 episodes: more than are stepped side by side."""
    episodes, _ = evaluate(config("Steered"), 13)
    for i, episode in enumerate(episodes):
        env, total, actions, over = gym.make("ToySteered-v0"), 0.0, [], False
        observation, _ = env.reset(seed=10_000 + i)
        while not over:
            actions.append(wandering(observation[None].astype(np.float32))[0])
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            total, over = total + reward, terminated or truncated
        assert (episode.episode_return, episode.length) == (total, len(actions))
        np.testing.assert_array_equal(episode.actions, actions)


def test_an_evaluation_leaves_training_as_it_was():
    settings = config("Steered", 2, noise="ou")
    plain, watched = Run(settings, 40), Run(settings, 20)
    evaluate(settings, 3)
    assert_same_run(watched.more(20, 20), plain)


def test_an_evaluation_reports_the_actions_of_the_policy_whatever_the_environment_does_to_its_array():
    """They are what a video of the episode is made from."""
    episodes, _ = evaluate(config("ScalesInPlace", env_kwargs={"max_episode_steps": 2}), 1, middle)
    np.testing.assert_array_equal(episodes[0].actions, np.tile(MIDDLE, (2, 1)))


def test_an_evaluation_of_a_policy_that_is_not_finite_stops_with_a_message():
    with pytest.raises(UserError, match="not finite"):
        evaluate(config("Steered"), 2, policy=lambda observations: np.full([len(observations), 3], np.nan))


def test_training_counts_vector_steps():
    """Core passes vector steps, not steps: its actions are those of a Collector that is stepped 0, 1, 2, ..."""
    settings = config(num_envs=2, update_every=2, warmup_steps=40, noise="gaussian", batch_size=100)
    told = []
    collector = Collector(settings, factory.spaces_of(settings))
    agent = SimpleNamespace(act=wandering, image=False, count_observations=lambda _: None)
    replay = make_replay(settings, (2,), 3)
    Core(settings, agent, replay, collector, on_step=lambda row, _: told.append(row)).run(80)
    collector.close()
    expected = Run(settings, 40).close()
    np.testing.assert_array_equal(np.stack([row.action for row in told]), expected.action)


def test_first_observations_are_those_of_the_resets():
    settings = config("Steered")
    evaluator, env = Evaluator(settings, 3), factory.make_flat_env(settings)
    for i, episode in enumerate(evaluator.run(wandering)):
        np.testing.assert_array_equal(episode.first_observation, env.reset(seed=10_000 + i)[0].astype(np.float32))
    evaluator.close()
