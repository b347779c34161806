"""Goals: hindsight against brute force, environments that have goals and those that are odd, runs, success."""

import warnings

import numpy as np
import pytest
from conftest import TINY, Crash, assert_same_run, crash_at, without_xla
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddpg_tf import Config, evaluate, train
from ddpg_tf.envs import factory, goals
from ddpg_tf.errors import UserError
from ddpg_tf.evaluation.evaluator import Evaluator
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.replay.buffer import ReplayBuffer
from ddpg_tf.replay.hindsight import Hindsight
from ddpg_tf.training import loop
from tests import toy_envs

GOAL = "tests.toy_envs:ToyGoal-v0"
HINDSIGHT = dict(env=GOAL, hindsight="future", num_envs=2, n_step=2, random_share=0.3, normalize_observations=True)


class Close:
    """Goals of one number; steps that come within 3 of it are worth 1, and one that hits it ends an episode."""

    achieved, desired = slice(2, 3), slice(3, 4)

    def __init__(self, ends=True):
        self.ends = ends

    def reward(self, achieved, desired):
        return (abs(achieved - desired) <= 3)[:, 0].astype(np.float32)

    def terminated(self, achieved, desired):
        return (achieved == desired)[:, 0] if self.ends else None


def make_past(count, num_envs, end, seed, fail=0.0):
    """Rows [observation, action, reward, next_observation, terminated, truncated].

    An observation is (row, environment, achieved, desired). What a step achieves tells its row; the goals that were
    wanted are negative, and rewards of their own. A failed step stays where it is.
    """
    rng, rows, wanted = np.random.default_rng(seed), [], -rng_goals(num_envs, 0)
    for t in range(count):
        here = np.stack([np.full(num_envs, t), np.arange(num_envs), np.full(num_envs, t), wanted], 1)
        after = here + np.array([0, 0, 1, 0])
        terminated, truncated = rng.random([2, num_envs]) < end / 2
        action, reward, failed = rng.normal(size=[num_envs, 1]), rng.normal(size=num_envs), rng.random(num_envs) < fail
        after[failed], reward[failed], terminated[failed], truncated[failed] = here[failed], np.nan, False, True
        rows.append((here, action, reward, after, terminated, truncated))
        wanted = np.where(terminated | truncated, -rng_goals(num_envs, t + 1), wanted)
    return rows


def rng_goals(num_envs, t):
    return 100.0 + np.arange(num_envs) + 10 * t


def plain_reference(past, judge, t, env, goal, n_step, gamma, visible):
    """(reward, discount, row of the successor) of the step in row t by `goal`, None for its own."""
    total = 0.0
    for k in range(n_step):
        last = t + k
        _, _, reward, after, terminated, truncated = (part[env] for part in past[last])
        over = terminated or truncated
        if goal is not None:
            reward = float(abs(after[2] - goal) <= 3)
            if judge.ends:
                terminated = after[2] == goal
        total += gamma**k * np.float32(reward)
        if over or terminated or last + 1 == visible or has_failed(past, last + 1, env):
            break
    return total, 0.0 if terminated else gamma ** (last - t + 1), last


def has_failed(past, t, env):
    return np.isnan(past[t][2][env])


def last_seen(past, t, env, visible):
    """The last row of the episode of row t that can be seen."""
    while t + 1 < visible and not (past[t][4][env] or past[t][5][env]):
        t += 1
    return t


def make_buffer(judge, share, rows_kept, slack_rows, num_envs, **others):
    return ReplayBuffer(
        rows_kept * num_envs,
        4,
        1,
        num_envs=num_envs,
        slack=slack_rows * num_envs,
        hindsight=Hindsight(judge, share),
        **others,
    )


@settings(max_examples=60, deadline=None)
@given(
    num_envs=st.integers(1, 3),
    rows_kept=st.integers(1, 8),
    slack_rows=st.integers(0, 5),
    n_step=st.integers(1, 4),
    laps=st.floats(0.1, 3.2),
    end=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    lag=st.integers(0, 5),
    share=st.sampled_from([0.0, 0.8, 1.0]),
    ends=st.booleans(),
    fail=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_relabelled_transitions_equal_a_plain_reference(
    num_envs, rows_kept, slack_rows, n_step, laps, end, lag, share, ends, fail, seed
):
    """Random episodes and failed steps, the ring wrapped; a draw that lags sees no rows and no ends that came later."""
    judge, gamma = Close(ends), 0.9
    past = make_past(max(1, round(laps * (rows_kept + slack_rows))), num_envs, end, seed, fail)
    visible = max(1, len(past) - min(lag, slack_rows))
    oldest = max(0, visible - rows_kept)
    drawable = {(t, i) for t in range(oldest, visible) for i in range(num_envs) if not has_failed(past, t, i)}
    assume(drawable)
    buffer = make_buffer(judge, share, rows_kept, slack_rows, num_envs, n_step=n_step, gamma=gamma)
    for row in past[:visible]:
        buffer.add(*row)
    early = buffer.sample(np.random.default_rng(seed), (400,))
    for row in past[visible:]:
        buffer.add(*row)
    batch = buffer.sample(np.random.default_rng(seed), (400,), rows=visible)
    for array, same in zip(batch, early, strict=True):
        np.testing.assert_array_equal(array, same)
    relabelled, seen = 0, set()
    for observation, _, reward, discount, following in zip(*batch, strict=True):
        t, env, goal = int(observation[0]), int(observation[1]), float(observation[3])
        is_own = goal == past[t][0][env][3]
        total, expected, last = plain_reference(past, judge, t, env, None if is_own else goal, n_step, gamma, visible)
        assert reward == pytest.approx(total, rel=1e-6, abs=1e-6) and discount == pytest.approx(expected, rel=1e-6)
        np.testing.assert_array_equal(following, [*past[last][3][env][:3], goal])
        np.testing.assert_array_equal(observation[:3], past[t][0][env][:3])
        if not is_own:
            assert t + 1 <= goal <= last_seen(past, t, env, visible) + 1
            relabelled += 1
            seen.add((t, env, goal))
    assert {0.0: relabelled == 0, 0.8: 0.65 < relabelled / 400 < 0.95, 1.0: relabelled == 400}[share]
    if share == 1 and rows_kept * num_envs <= 4:  # each goal that may be drawn is
        assert seen == {
            (t, env, past[later][3][env][2])
            for t, env in drawable
            for later in range(t, last_seen(past, t, env, visible) + 1)
        }


def test_goals_are_drawn_alike_from_all_later_outcomes_the_steps_own_and_the_newest_too():
    buffer = make_buffer(Close(), 1.0, 5, 0, 1)
    for row in make_past(5, 1, 0.0, 0):  # of one episode, under way
        buffer.add(*row)
    drawn = buffer.sample(np.random.default_rng(0), (5000,)).observation
    for t in range(5):
        goals, counts = np.unique(drawn[drawn[:, 0] == t, 3], return_counts=True)
        assert goals.tolist() == list(range(t + 1, 6)) and counts.min() > 0.7 * counts.mean()


def test_a_share_of_nothing_draws_what_is_drawn_without_hindsight():
    plain = ReplayBuffer(40, 4, 1, num_envs=2, n_step=3)
    nothing = make_buffer(Close(), 0.0, 20, 0, 2, n_step=3)
    for row in make_past(30, 2, 0.2, 0):
        plain.add(*row)
        nothing.add(*row)
    for one, other in zip(*(b.sample(np.random.default_rng(1), (100,)) for b in (plain, nothing)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_reopened_ring_knows_its_episodes(tmp_path):
    """Also where it was left in the middle of one, which then goes on, or is ended for want of its environment."""
    past = make_past(30, 2, 0.1, 3)
    whole = make_buffer(Close(), 1.0, 20, 10, 2, directory=tmp_path / "whole")
    killed = make_buffer(Close(), 1.0, 20, 10, 2, directory=tmp_path / "killed")
    for row in past:
        whole.add(*row)
    for row in past[:25]:  # the checkpoint was at 17
        killed.add(*row)
    again = make_buffer(Close(), 1.0, 20, 10, 2, directory=tmp_path / "killed", rows=17)
    for row in past[17:]:
        again.add(*row)
    for one, other in zip(*(b.sample(np.random.default_rng(0), (300,)) for b in (whole, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    ended = make_buffer(Close(), 1.0, 20, 10, 2, directory=tmp_path / "killed", rows=17)
    ended.end_episodes(np.array([True, True]))
    for row in make_past(30, 2, 0, 4)[17:]:
        ended.add(*row)
    batch = ended.sample(np.random.default_rng(0), (500,))
    before = batch.observation[:, 0] < 17
    assert before.any() and (batch.observation[before, 3] <= 17).all() and (batch.observation[~before, 3] > 17).all()


def goals_of(odd="", **changes):
    config = Config(**{"env": GOAL, "hindsight": "future", "env_kwargs": {"odd": odd}, **changes})
    return goals.goals_of(config, factory.spaces_of(config))


def test_an_environments_own_functions_judge_other_goals():
    judge = goals_of()
    achieved, desired = np.float32([[0, 0], [0, 0], [1, 1]]), np.float32([[0, 0.01], [0, 0.05], [0, 0]])
    np.testing.assert_array_equal(judge.reward(achieved, desired), np.float32([0, 0, -1]))
    np.testing.assert_array_equal(judge.terminated(achieved, desired), [True, False, False])
    assert judge.reward(achieved, desired).dtype == np.float32 and goals_of(hindsight="none") is None


def test_goals_may_end_no_episode_but_need_rewards(monkeypatch):
    monkeypatch.delattr(toy_envs.Goal, "compute_terminated")
    assert goals_of().terminated(np.zeros([1, 2]), np.zeros([1, 2])) is None
    monkeypatch.delattr(toy_envs.Goal, "compute_reward")
    with pytest.raises(UserError, match=r"ToyGoal-v0 has no compute_reward: --hindsight needs"):
        goals_of()


def test_a_reward_that_is_none_is_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "does not take many goals at once"
        judge = goals_of("not a number")
    with pytest.raises(UserError, match=r"ToyGoal-v0\.compute_reward gave nan, not a number"):
        judge.reward(np.float32([[0, 0], [1, 1]]), np.float32([[0, 0], [0, 0]]))


def test_functions_of_two_goals_are_asked_row_by_row_with_a_warning():
    with pytest.warns(UserWarning, match="compute_reward does not take many goals at once.*slow"):
        slow = goals_of("two at a time")
    rng = np.random.default_rng(0)
    achieved, desired = rng.uniform(-0.1, 0.1, (2, 50, 2)).astype(np.float32)
    for one, other in ((slow.reward, goals_of().reward), (slow.terminated, goals_of().terminated)):
        np.testing.assert_array_equal(one(achieved, desired), other(achieved, desired))
    assert len(slow.reward(achieved[:0], desired[:0])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "Pendulum-v1", "env_kwargs": {}}, "Pendulum-v1 has no goals.*Dict with achieved_goal"),
        ({"odd": "two shapes"}, "has no goals .*of one shape"),
        ({"odd": "images"}, "has images .*within its observations"),
        ({"odd": "raises"}, "compute_reward raised KeyError: 'distance'; --hindsight gives it an empty info"),
        ({"odd": "two rewards"}, r"compute_reward gives \(2,\) for a pair of goals, not one number"),
        ({"hindsight_share": 1.5}, "hindsight_share must be at most 1, not 1.5"),
        ({"hindsight_share": -0.5}, "hindsight_share must be at least 0, not -0.5"),
        ({"hindsight": "past"}, "hindsight must be one of none, future, not 'past'"),
    ],
)
def test_what_cannot_be_learnt_from_in_hindsight_is_told_in_a_line(changes, message):
    with pytest.raises(UserError, match=message) as found:
        goals_of(**changes)
    assert "\n" not in str(found.value)


@pytest.mark.usefixtures("uncompiled")
def test_a_reward_that_cannot_be_had_any_more_ends_the_run_in_a_line(tmp_path, tiny):
    with pytest.raises(UserError, match="compute_reward raised RuntimeError: tired") as found:
        train(tiny(tmp_path / "run", env=GOAL, env_kwargs={"odd": "tires"}, hindsight="future", max_episode_steps=0))
    assert "\n" not in str(found.value)


def test_a_reward_that_goals_do_not_explain_is_told_once(uncompiled, tmp_path, tiny):
    """What hindsight would lose, as a crash's penalty at the end of some episodes."""
    quick = dict(env=GOAL, hindsight="future", max_episode_steps=0, total_steps=200)
    with pytest.warns(
        UserWarning, match=r"gave a reward of -[56] for goals of which compute_reward says -?[10]"
    ) as told:
        train(tiny(tmp_path / "crashes", env_kwargs={"odd": "crashes"}, **quick))
    assert sum("compute_reward" in str(warning.message) for warning in told) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*compute_reward")
        train(tiny(tmp_path / "good", **quick))


def test_fetch_runs_without_a_prefix_and_judges_many_goals_at_once():
    config = Config(env="FetchReach-v4", hindsight="future")
    spaces = factory.spaces_of(config)
    assert spaces.has_goals and spaces.leaves == {"achieved_goal": (3,), "desired_goal": (3,), "observation": (10,)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge = goals.goals_of(config, spaces)
    env = factory.make_flat_env(config)
    before, _ = env.reset(seed=0)
    after, reward, *_, info = env.step(np.zeros(4, np.float32))
    pair = after[None, judge.achieved], after[None, judge.desired]
    assert judge.reward(*pair) == reward == -1 and not judge.terminated(*pair) and goals.success(info) == 0
    np.testing.assert_array_equal(before[judge.desired], after[judge.desired])
    assert judge.reward(pair[0].repeat(3, 0), pair[0].repeat(3, 0)).tolist() == [0, 0, 0]
    env.close()


@pytest.fixture(scope="module")
def goal_run(tmp_path_factory):
    """An uninterrupted run with hindsight, two environments, and a ring that wraps."""
    path = tmp_path_factory.mktemp("goal") / "run"
    with without_xla():
        train(Config(**{**TINY, **HINDSIGHT, "run_dir": str(path)}))
    return path


def test_crash_and_resume_of_a_goal_task_is_identical(uncompiled, goal_run, tmp_path, tiny, monkeypatch):
    path = tmp_path / "crashed"
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, 560)
        train(tiny(path, **HINDSIGHT))
    train(tiny(path, **HINDSIGHT), resume=True)
    assert_same_run(goal_run, path)


def test_a_run_keeps_what_hindsight_needs_only_where_it_is_asked_for(goal_run, trained):
    def arrays(run):
        return {path.name for path in run.glob("replay/ring-*/*")}

    assert arrays(goal_run) - arrays(trained) == {"episode_first", "episode_last"}


def test_success_is_the_fifth_column_and_reaches_command_board_and_curve(goal_run, trained, tmp_path, capsys):
    from PIL import Image
    from tensorboard.backend.event_processing import event_accumulator

    success = read_evaluations(goal_run / "evaluations.csv", "success")
    assert set(np.concatenate(list(success.values()))) <= {0.0, 1.0} and success[1200]
    assert read_evaluations(trained / "evaluations.csv", "success") == {}
    (tmp_path / "old.csv").write_text("step,episode,return,length\n9,0,1,5\n")  # from before that column
    assert read_evaluations(tmp_path / "old.csv", "success") == {}
    with Image.open(goal_run / "learning_curve.png") as two, Image.open(trained / "learning_curve.png") as one:
        assert two.height > one.height and two.width == one.width  # a second curve
    board = event_accumulator.EventAccumulator(str(goal_run)).Reload()
    assert [event.step for event in board.Tensors("evaluation/success")] == list(success)
    evaluate.main(["evaluate", f"--run_dir={goal_run}", "--episodes=2", "--checkpoint=latest"])
    assert f"over 2 episodes, success {np.mean(success[1200]):.2f}" in capsys.readouterr().out
    evaluate.main(["evaluate", f"--run_dir={trained}", "--episodes=1"])
    assert "success" not in capsys.readouterr().out


def test_a_run_relabels_the_share_that_it_is_told_to(uncompiled, tmp_path, tiny, monkeypatch):
    shares = []
    monkeypatch.setattr(loop, "Hindsight", lambda of, share: shares.append(share) or Hindsight(of, share))
    train(tiny(tmp_path / "run", **HINDSIGHT, hindsight_share=0.3, total_steps=20, warmup_steps=20))
    assert shares == [0.3]


def test_an_evaluation_tells_who_reached_the_goal():
    """Observations are the flattened dictionary: achieved goal, desired goal, the rest."""
    evaluator = Evaluator(Config(env=GOAL), 3)
    to_the_goal = evaluator.run(lambda seen: np.clip(10 * (seen[:, 2:4] - seen[:, :2]), -1, 1).astype(np.float32))
    still = evaluator.run(lambda seen: np.zeros([len(seen), 2], np.float32))
    assert [episode.success for episode in to_the_goal] == [1] * 3 and 0 in [episode.success for episode in still]
    silent = Evaluator(Config(env=GOAL, env_kwargs={"odd": "silent"}), 1)
    assert np.isnan(silent.run(lambda seen: np.zeros([len(seen), 2], np.float32))[0].success)


def test_success_is_that_of_the_last_step_as_the_environment_says():
    assert [goals.success(info) for info in ({"is_success": np.float32(1)}, {"success": False})] == [1, 0]
    assert np.isnan(goals.success({}))


def test_a_goal_policy_takes_three_named_inputs_and_rollout_tells_of_success(goal_run, tmp_path, capsys):
    import tensorflow as tf

    from ddpg_tf.export import saved_model
    from ddpg_tf.storage.policy import load_policy
    from serve.episodes import play, summarise

    version = saved_model.write_version(load_policy(goal_run), tmp_path)
    serving = tf.saved_model.load(str(version)).signatures["serving_default"]
    shapes = {name: spec.shape.as_list() for name, spec in serving.structured_input_signature[1].items()}
    assert shapes == {"achieved_goal": [None, 2], "desired_goal": [None, 2], "observation": [None, 1]}

    def act(observation):
        given = {name: tf.constant(part[None], tf.float32) for name, part in observation.items()}
        return serving(**given)["action"].numpy()[0]

    def to_the_goal(observation):
        return np.clip(10 * (observation["desired_goal"] - observation["achieved_goal"]), -1, 1)

    env = factory.make_policy_env(Config(env=GOAL))
    assert play(act, env, 0).length <= 10
    reached = play(to_the_goal, env, 0)
    reached.versions = (1, 1)
    summarise([reached])
    assert reached.success == 1 and "success 1.00" in capsys.readouterr().out


def test_no_environment_of_a_run_stays_open(uncompiled, tmp_path, tiny, monkeypatch):
    opened = set()
    made, closed = toy_envs.Goal.__init__, toy_envs.Goal.close
    monkeypatch.setattr(toy_envs.Goal, "__init__", lambda env, **given: (made(env, **given), opened.add(env))[0])
    monkeypatch.setattr(toy_envs.Goal, "close", lambda env: (closed(env), opened.discard(env))[0])
    train(tiny(tmp_path / "run", **HINDSIGHT, total_steps=20, warmup_steps=20))
    assert not opened
