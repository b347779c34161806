"""Environments that are odd in the middle of a run: nothing learnt is lost, and one line says what is wrong."""

import os
import signal

import numpy as np
import pytest
from conftest import timeless

from ddpg_tf import Config, train
from ddpg_tf.collect.collector import Collector
from ddpg_tf.envs import factory
from ddpg_tf.errors import UserError
from ddpg_tf.evaluation.evaluator import Evaluator
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.storage import checkpoint
from ddpg_tf.storage.policy import load_policy
from ddpg_tf.training import loop
from tests import toy_envs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no time limit", "ignore:.*raised FloatingPointError"),
    pytest.mark.usefixtures("uncompiled"),
]


@pytest.fixture
def short(tiny):
    """`short(run_dir, toy, **changes)`: a run on a toy, of 300 steps."""
    return lambda run_dir, toy, **changes: tiny(
        run_dir,
        **{"env": f"tests.toy_envs:Toy{toy}-v0", "max_episode_steps": 0, "total_steps": 300, "warmup_steps": 100}
        | changes,
    )


def newest(run):
    return checkpoint.load(run / "checkpoints")[1]


def test_a_signal_ends_an_evaluation_that_never_ends_and_the_run_goes_on_from_there(tmp_path, short):
    """The evaluation that was cut is made anew, and then the run is the one that was not interrupted."""
    whole = short(tmp_path / "whole", "Counter", eval_every=140)
    train(whole)
    cut = short(tmp_path / "cut", "Counter", eval_every=140)
    stops = iter([False] * 5 + [True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Evaluator, "run", _stopped(loop.Evaluator.run, stops))
        with pytest.raises(loop.Interrupted):
            train(cut)
    assert newest(tmp_path / "cut")["step"] == 140 and not read_evaluations(tmp_path / "cut" / "evaluations.csv")
    train(cut, resume=True)
    for name in ("evaluations.csv", "metrics.csv"):
        assert timeless(tmp_path / "cut" / name) == timeless(tmp_path / "whole" / name)


def _stopped(run, stops):
    """Evaluator.run, in which SIGTERM comes when `stops` says so."""

    def replaced(self, policy, stopped):
        def asked():
            if next(stops, False):
                os.kill(os.getpid(), signal.SIGTERM)
            return stopped()

        return run(self, policy, asked)

    return replaced


def test_an_evaluation_without_end_can_be_ended_by_a_signal_and_by_a_limit(tmp_path, short):
    settings = dict(env_kwargs={"at": 50}, eval_every=140)
    with pytest.raises(loop.Interrupted):
        train(short(tmp_path / "run", "Endless", **settings))
    assert newest(tmp_path / "run")["step"] == 140
    train(short(tmp_path / "run", "Endless", **settings, max_episode_steps=20), resume=True)
    assert list(read_evaluations(tmp_path / "run" / "evaluations.csv")) == [140, 280, 300]


def test_what_was_learnt_is_saved_before_a_long_evaluation_ends(tmp_path, short, monkeypatch):
    monkeypatch.setattr(loop, "_LONG_EVALUATION", 0.0)
    seen, save = [], checkpoint.save

    def noted(path, step, arrays, meta):
        seen.append((step, meta["scores"]["due"]))
        save(path, step, arrays, meta)

    monkeypatch.setattr(checkpoint, "save", noted)
    train(short(tmp_path / "run", "Counter", eval_every=140, checkpoint_every=0))
    assert seen == [(140, True), (280, True), (300, True), (300, False)]


def test_ten_failures_in_a_row_end_the_run_with_a_checkpoint(tmp_path, short):
    with pytest.raises(UserError, match=r"ToyWeary-v0 raised .*ended 10 episodes in a row\. The last checkpoint"):
        train(short(tmp_path / "run", "Weary", env_kwargs={"after": 150}, eval_every=0, checkpoint_every=0))
    assert 150 <= newest(tmp_path / "run")["step"] < 250
    assert load_policy(tmp_path / "run").step == newest(tmp_path / "run")["step"]


def test_where_only_one_environment_can_exist_evaluations_use_it(tmp_path, short):
    with pytest.raises(UserError, match=r"Address already in use\. .*--eval_envs=1 .*--eval_envs=0"):
        train(short(tmp_path / "refused", "Alone"))
    assert not toy_envs.Alone.taken
    result = train(short(tmp_path / "run", "Alone", eval_envs=0))
    assert result.step == 300
    # Their episodes are those that environments of their own would have had.
    own = train(short(tmp_path / "own", "Counter", total_steps=140, eval_every=140))
    lent = train(short(tmp_path / "lent", "Counter", total_steps=140, eval_every=140, eval_envs=0))
    assert own.last_return == lent.last_return


def test_evaluations_on_the_training_environment_resume_exactly(tmp_path, short):
    settings = dict(eval_every=70, eval_envs=0, total_steps=250)
    train(short(tmp_path / "whole", "Steered", **settings))
    train(short(tmp_path / "parts", "Steered", **{**settings, "total_steps": 210}))
    train(short(tmp_path / "parts", "Steered", **settings), resume=True)
    whole, parts = (read_evaluations(tmp_path / name / "evaluations.csv") for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_what_several_environments_tell_beside_need_not_fit_together(vectorization):
    config = Config(env="tests.toy_envs:ToyChatty-v0", vectorization=vectorization, num_envs=2)
    collector = Collector(config, factory.spaces_of(config))
    for t in range(12):
        collector.step(t, lambda _: np.zeros([2, 3], np.float32))
    collector.close()


@pytest.mark.parametrize("together", [1, 10])
def test_eval_envs_changes_no_result(tmp_path, short, together):
    evaluator = Evaluator(short(tmp_path, "Counter", eval_envs=together), 2)
    episodes = evaluator.run(lambda observations: np.zeros([len(observations), 3], np.float32))
    assert [episode.length for episode in episodes] == [episode_length(10_000), episode_length(10_001)]


def test_eval_envs_bounds_the_environments(tmp_path, short):
    Evaluator(short(tmp_path, "Alone", eval_envs=1), 2).close()
    with pytest.raises(UserError, match="Address already in use"):
        Evaluator(short(tmp_path, "Alone", eval_envs=10), 2)


def test_an_evaluation_from_pixels_has_two_environments(monkeypatch):
    made, make = [], factory.make_flat_env
    monkeypatch.setattr(factory, "make_flat_env", lambda config: made.append(make(config)) or made[-1])
    Evaluator(Config(env="Pendulum-v1", pixels=True), 10).close()
    assert len(made) == 2  # each may be a process that renders


def episode_length(seed):
    env = toy_envs.Counter()
    env.reset(seed=seed)
    return env.length


def test_an_environment_bound_to_its_thread_is_sent_to_a_process_of_its_own(tmp_path, short):
    with pytest.raises(UserError, match=r"ToyBoundToItsThread-v0.* another thread .*--vectorization=async") as told:
        train(short(tmp_path / "run", "BoundToItsThread"))
    assert "\n" not in str(told.value)
    assert train(short(tmp_path / "async", "BoundToItsThread", vectorization="async")).step == 300
