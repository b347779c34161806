"""Evaluation, its command, logging and the curves drawn from them."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import time
import warnings
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import TRAINED, timeless
from tensorboard.backend.event_processing import event_accumulator

import ddpg_tf
from ddpg_tf import Config, evaluate, train
from ddpg_tf.envs import factory
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation.evaluator import Evaluator
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.files import read_rows
from ddpg_tf.learner.agent import METRICS
from ddpg_tf.storage import checkpoint, run_dir
from ddpg_tf.storage.policy import load_policy
from ddpg_tf.training import loop
from ddpg_tf.training.logger import COLUMNS, EVALUATION_COLUMNS, Logger
from tests import toy_envs


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_csv_files_hold_what_they_promise(trained):
    metrics, evaluations = rows(trained / "metrics.csv"), rows(trained / "evaluations.csv")
    assert tuple(metrics[0]) == COLUMNS and metrics[0][:2] == ["step", "seconds"]
    assert [int(row[0]) for row in metrics[1:]] == list(range(50, 1201, 50))
    assert evaluations[0] == list(EVALUATION_COLUMNS) == ["step", "episode", "return", "length", "success"]
    assert [row[:2] for row in evaluations[1:]] == [
        [str(step), str(i)] for step in (250, 500, 750, 1000, 1200) for i in range(2)
    ]
    seconds = [float(row[1]) for row in metrics[1:]]
    assert seconds == sorted(seconds)
    updates = sum(int(row[COLUMNS.index("updates")]) for row in metrics[1:])
    assert updates == 1000  # one per step after the 200 of warm-up


def test_a_run_directory_holds_what_a_user_looks_for(trained):
    names = {path.name for path in trained.iterdir()}
    assert {
        "flags.txt",
        "versions.json",
        "metrics.csv",
        "evaluations.csv",
        "values.csv",
        "checkpoints",
        "replay",
        "learning_curve.png",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {"python", "tensorflow", "keras", "gymnasium", "mujoco", "ddpg_tf"} <= json.loads(
        (trained / "versions.json").read_text()
    ).keys()
    assert len(list((trained / "checkpoints").iterdir())) == 2
    assert (trained / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_versions_name_the_commit_of_a_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
        alone = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=alone).stdout

    monkeypatch.setattr(ddpg_tf, "__file__", str(tmp_path / "ddpg_tf" / "__init__.py"))
    assert "commit" not in run_dir.package_versions()
    (tmp_path / "code.py").write_text("a = 1")
    for arguments in ["init"], ["add", "."], ["commit", "-m", "first"]:
        git(*arguments)
    commit = run_dir.package_versions()["commit"]
    assert len(commit) >= 10 and git("rev-parse", "HEAD").startswith(commit)
    (tmp_path / "code.py").write_text("a = 2")
    assert run_dir.package_versions()["commit"] == f"{commit}-dirty"


def test_versions_name_what_a_resumed_run_went_on_with(tmp_path, monkeypatch):
    def start(tensorflow, step):
        monkeypatch.setattr(run_dir, "package_versions", lambda: {"tensorflow": tensorflow})
        run_dir.write_versions(tmp_path, "CPU", step)
        return json.loads((tmp_path / "versions.json").read_text())

    run = start("2.18.0", 0)["run"]  # killed before its first checkpoint
    assert start("2.19.0", 0) == {"run": run, "device": "CPU", "tensorflow": "2.19.0", "resumed": []}
    start("2.19.0", 10)
    start("2.20.0", 20)  # killed before the next one
    told = start("2.21.0", 20)
    assert told["tensorflow"] == "2.19.0" and start("2.21.0", 30) == told
    assert told["resumed"] == [{"step": 20, "device": "CPU", "tensorflow": "2.21.0"}]
    found = {"run": run, "device": "CPU", "tensorflow": "2.19.0, 2.21.0"}
    assert run_dir.read_versions(tmp_path) == found and run_dir.identity(tmp_path) == run


def test_rows_say_what_happened(tmp_path):
    logger = Logger(tmp_path, 100)
    logger.steps(5, [(3.0, 2), (6.0, 5)])
    logger.update({name: 2.0 for name in METRICS}, 1)
    logger.update({name: 5.0 for name in METRICS}, 3)
    logger.write_row(5)
    logger.evaluation(5, [(7.0, 1, 1.0), (8.0, 2, np.nan)], np.array([2.0, 4.0]), np.array([1.0, 1.0]))
    logger.close()
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    told = {name: float(row[name]) for name in ("step", "episodes", "episode_return", "episode_length", "updates")}
    assert told == dict(step=5, episodes=2, episode_return=4.5, episode_length=3.5, updates=4)
    assert {float(row[name]) for name in METRICS} == {(2 + 3 * 5) / 4}
    assert rows(tmp_path / "evaluations.csv")[1:] == [["5", "0", "7.0", "1", ""], ["5", "1", "8.0", "2", ""]]
    assert rows(tmp_path / "values.csv")[1:] == [["5", "3.0", "1.0", "2.0"]]


def test_an_episodes_discounted_return_is_that_from_its_first_step():
    (episode,) = Evaluator(Config(), 1).run(lambda observations: np.zeros([len(observations), 1], np.float32))
    rewards = np.asarray(episode.rewards, np.float64)
    assert len(rewards) == episode.length == 200 and rewards.sum() == pytest.approx(episode.episode_return)
    assert episode.discounted_return(0.5) == pytest.approx((rewards * 0.5 ** np.arange(200)).sum())


def test_reopening_the_log_cuts_rows_beyond_the_checkpoint_and_torn_ones(tmp_path):
    logger = Logger(tmp_path, 100)
    for step in (10, 20, 30):
        logger.evaluation(step, [(1.5, 3, 0.0)], np.array([2.0]), np.array([1.0]))
        logger.write_row(step)
    logger.close()
    with open(tmp_path / "evaluations.csv", "a") as file:
        file.write("20,1")  # torn by a kill
    Logger(tmp_path, 100, step=20, evaluated=20).close()
    assert rows(tmp_path / "evaluations.csv")[1:] == [[step, "0", "1.5", "3", "0.0"] for step in ("10", "20")]
    assert [row[0] for row in rows(tmp_path / "metrics.csv")[1:]] == ["10", "20"]
    board = event_accumulator.EventAccumulator(str(tmp_path)).Reload()  # all event files of the directory
    for tag in ("train/updates", "evaluation/return", "evaluation/q_start"):
        assert [event.step for event in board.Tensors(tag)] == [10, 20]


def test_reopening_the_log_of_another_version_keeps_what_it_knows(tmp_path):
    Logger(tmp_path, 100).close()
    columns = ["step", "gone", *COLUMNS[1:-1]]  # one more, one less
    with open(tmp_path / "metrics.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, [10, *range(1, len(columns))]])
    Logger(tmp_path, 100, step=20).close()
    header, row = rows(tmp_path / "metrics.csv")
    assert header == list(COLUMNS) and row == ["10", *map(str, range(2, len(columns))), ""]


def test_best_policy_is_kept(trained):
    scores = {step: np.mean(returns) for step, returns in read_evaluations(trained / "evaluations.csv").items()}
    policy = load_policy(trained, "best")
    assert policy.step == max(scores, key=scores.get) and policy.score == pytest.approx(max(scores.values()))
    episodes = Evaluator(policy.config, 2).run(policy.agent.act)
    assert np.mean([episode.episode_return for episode in episodes]) == pytest.approx(policy.score)
    assert load_policy(trained, "latest").step == 1200


def test_evaluate_command_scores_and_films(trained, tmp_path, capsys):
    evaluate.main(
        ["evaluate", f"--run_dir={trained}", "--episodes=2", "--checkpoint=latest", f"--video={tmp_path / 'film.gif'}"]
    )
    output = capsys.readouterr().out
    last = np.mean(list(read_evaluations(trained / "evaluations.csv").values())[-1])
    assert f"step 1200: mean {last:.2f}" in output and "over 2 episodes" in output
    assert (tmp_path / "film.gif").stat().st_size > 1000


def test_evaluate_command_plays_the_episodes_that_are_asked_for(trained, capsys):
    for first_seed, count in ((10_000, 2), (10_001, 1), (10_000, 1)):
        evaluate.main(["evaluate", f"--run_dir={trained}", f"--first_seed={first_seed}", f"--episodes={count}"])
    output = capsys.readouterr().out
    assert output.count(f"best weights, step {load_policy(trained, 'best').step}:") == 3
    both, second, first = (float(re.search(r"mean (\S+),", line)[1]) for line in output.splitlines())
    assert both == pytest.approx((first + second) / 2, abs=0.02) and first != second


def test_an_environment_that_cannot_be_made_is_told_without_advice_for_trainings(trained, monkeypatch):
    def gone(config):
        raise UserError("the simulator is gone")

    monkeypatch.setattr(factory, "make_flat_env", gone)
    with pytest.raises(UserError, match=r"^the simulator is gone$"):
        evaluate.main(["evaluate", f"--run_dir={trained}"])


def test_an_evaluation_that_an_environment_cut_short_is_not_the_best(uncompiled, tmp_path, tiny, monkeypatch):
    """Where steps cost, an episode that fails at once would look better than any that is whole."""
    run = Evaluator.run
    broken = iter([True, True, False, False, True])  # of nothing that is whole yet, the first is the best

    def fails(self, *rest):
        episodes = run(self, *rest)
        return [episode._replace(episode_return=0.0, failed=True) for episode in episodes] if next(broken) else episodes

    monkeypatch.setattr(loop.Evaluator, "run", fails)
    best = []
    for total_steps in (200, 300, 500):  # each from the checkpoint of the one before
        config = tiny(tmp_path / "run", total_steps=total_steps, eval_every=100, warmup_steps=500)
        best.append(train(config, resume=total_steps > 200))
    assert (best[0].best_step, best[0].best_return) == (100, 0)
    assert best[1].best_step == 300 and best[1].best_return < 0
    assert best[2].best_step in (300, 400) and 0 > best[2].best_return >= best[1].best_return


def test_what_is_evaluated_and_how_often_changes_nothing_that_is_learnt(uncompiled, tmp_path, tiny):
    """Noise, normaliser, environments and replay stay as they are; evaluated and kept is the averaged actor."""
    for name, share, eval_every in (("newest", 0.0, 0), ("averaged", 0.5, 100)):
        train(tiny(tmp_path / name, **TRAINED, total_steps=400, eval_every=eval_every, actor_average=share))
    newest, averaged = ((tmp_path / name) for name in ("newest", "averaged"))
    assert list(read_evaluations(newest / "evaluations.csv")) == [400]  # always at the end
    assert timeless(newest / "metrics.csv") == timeless(averaged / "metrics.csv")
    assert rows(newest / "evaluations.csv")[1:] != rows(averaged / "evaluations.csv")[-2:]
    arrays, _ = checkpoint.load(averaged / "checkpoints")
    kernel = load_policy(averaged, "latest").agent.actor.get_layer("actor_head").get_layer("output").kernel.numpy()
    np.testing.assert_array_equal(kernel, arrays["agent/averaged_actor/output/kernel"])
    assert (kernel != arrays["agent/actor/output/kernel"]).any()


def test_an_episode_knows_that_its_environment_failed():
    with pytest.warns(UserWarning, match="its return ends there"):
        config = Config(env="tests.toy_envs:ToyOdd-v0", env_kwargs='{"kind": "raises"}', max_episode_steps=5)
        (episode,) = Evaluator(config, 1).run(lambda observations: np.zeros([len(observations), 3], np.float32))
    assert episode.failed and episode.length == 3


def test_episodes_that_do_not_begin_as_their_seed_says_are_told_once(monkeypatch):
    monkeypatch.setattr(toy_envs.Forgetful, "visits", itertools.count(0, 10_000))
    for name, times in (("Forgetful", 1), ("Counter", 0)):
        evaluator = Evaluator(Config(env=f"tests.toy_envs:Toy{name}-v0", max_episode_steps=5), 8)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(3):
                evaluator.run(lambda observations: np.zeros([len(observations), 3], np.float32))
        assert sum("does not begin the same episode" in str(warning.message) for warning in told) == times


def test_videos_are_taken_at_evaluations(uncompiled, tmp_path, tiny, monkeypatch):
    taken = []
    monkeypatch.setattr(loop.video, "record", lambda path, *rest: taken.append((path.name, len(rest[-1]))))
    train(tiny(tmp_path / "run", total_steps=660, eval_every=100, video_every=300, warmup_steps=660))
    assert taken == [("step-300.mp4", 50), ("step-600.mp4", 50)]


def test_why_a_video_cannot_be_made_is_told(uncompiled, trained, tmp_path, tiny, monkeypatch):
    from ddpg_tf.evaluation import video

    actions = np.zeros([1, 1], np.float32)
    said = video.record(tmp_path / "film.gif", Config(env="Nonsense-v0"), 0, actions)
    assert re.match("no video of Nonsense-v0: (?!.*libegl1)", said)
    said = video.record(tmp_path / "film.gif", Config(env="tests.toy_envs:ToyOddPicture-v0"), 0, np.zeros([1, 3]))
    assert re.search("ToyOddPicture-v0 renders NoneType, not an array", said)
    (tmp_path / "file").touch()
    said = video.record(tmp_path / "file" / "film.gif", Config(), 0, actions)
    assert re.match("no video of Pendulum-v1: .*file", said)
    monkeypatch.setattr(video.child, "run", lambda *_: SimpleNamespace(returncode=1, stderr="no eglInitialize\n"))
    said = "no video of Pendulum-v1: .*eglInitialize.*libegl1"
    assert re.match(said, video.record(tmp_path / "film.gif", Config(), 0, actions))
    with pytest.raises(UserError, match=said):
        evaluate.main(["evaluate", f"--run_dir={trained}", "--episodes=1", f"--video={tmp_path / 'film.gif'}"])
    with pytest.warns(UserWarning, match=said):  # training goes on
        train(tiny(tmp_path / "run", total_steps=60, eval_every=60, video_every=60, warmup_steps=60))


def test_films_of_policies_side_by_side(trained, tmp_path):
    """Two runs are two tiles of one moving picture, which begins again for ever."""
    from PIL import Image

    from benchmarks import films

    out = tmp_path / "films.gif"
    films.main(["films", str(trained), str(trained), f"--out={out}", "--seconds=0.5"])
    with Image.open(out) as picture:
        assert (picture.size, picture.n_frames, picture.info["loop"]) == ((2 * films.SIDE, films.SIDE), 6, 0)
        assert np.unique(picture.convert("L")).size > 2  # something is to be seen
    with pytest.raises(UsageError, match="at least one run directory"):
        films.main(["films"])


def test_rows_are_on_the_disk_when_they_are_told(tmp_path, disk):
    """A checkpoint may follow at once, and counts on them."""
    logger = Logger(tmp_path, 100)
    disk.clear()
    logger.write_row(10)
    logger.evaluation(10, [(1.5, 3, np.nan)], np.array([2.0]), np.array([1.0]))
    logger.close()
    assert [line for line in disk if ".csv" in line] == ["sync metrics.csv", "sync evaluations.csv", "sync values.csv"]


def test_values_are_those_of_the_evaluated_episodes(trained):
    """What the critic expects where they begin, and what follows, discounted as the critic does."""
    policy, row = load_policy(trained, "latest"), read_rows(trained / "values.csv")[-1]
    episodes = Evaluator(policy.config, 2).run(policy.agent.act)
    discounted = np.mean([episode.discounted_return(policy.config.gamma) for episode in episodes])
    q = policy.agent.value(np.stack([episode.first_observation for episode in episodes])).mean()
    assert float(row["discounted_return"]) == pytest.approx(discounted, rel=1e-4)
    assert float(row["q_start"]) == pytest.approx(q, rel=1e-3, abs=1e-5)


def test_the_clock_goes_on_from_what_the_run_has_taken(tmp_path):
    logger = Logger(tmp_path, 100, step=20, seconds=1000.0)
    logger.write_row(30)
    logger.close()
    (row,) = read_rows(tmp_path / "metrics.csv")
    assert 1000 <= float(row["seconds"]) < 1010


def test_steps_per_second_are_those_since_the_last_row(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    logger = Logger(tmp_path, 100, step=20, seconds=1000.0, waits=True)
    for step, seconds in ((30, 2.0), (70, 4.0)):
        now[0] = seconds
        logger.waited({"learner_waited": 0.5, "collectors_waited": 1.0})
        logger.waited({"learner_waited": 0.25, "collectors_waited": 0.0})
        logger.write_row(step)
    logger.close()
    told = [(row["seconds"], row["steps_per_second"]) for row in read_rows(tmp_path / "metrics.csv")]
    assert told == [("1002.0", "5.0"), ("1004.0", "20.0")]
    waits = [(row["learner_waited"], row["collectors_waited"]) for row in read_rows(tmp_path / "metrics.csv")]
    assert waits == [("0.75", "1.0")] * 2


def test_a_bias_is_in_units_of_the_mean_absolute_return(tmp_path):
    logger = Logger(tmp_path, 100)
    logger.evaluation(5, [(7.0, 1, 0.0), (8.0, 2, 1.0)], np.array([2.0, 4.0]), np.array([1.0, -3.0]))
    logger.close()
    (row,) = read_rows(tmp_path / "values.csv")
    assert (row["q_start"], row["discounted_return"], row["q_bias"]) == ("3.0", "-1.0", "2.0")


def test_an_episode_knows_whether_it_ended_itself():
    evaluator = Evaluator(Config(env="tests.toy_envs:ToyCounter-v0"), 8)
    found = [episode.terminated for episode in evaluator.run(lambda seen: np.tile(toy_envs.LOW, (len(seen), 1)))]
    evaluator.close()
    expected = []
    for i in range(8):
        env = gym.make("ToyCounter-v0")
        env.reset(seed=10_000 + i)
        expected.append(env.unwrapped.terminates)
    assert found == expected and len(set(found)) == 2
