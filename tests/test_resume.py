"""A run that is killed and resumed ends as one that never was: checkpoints, signals, determinism."""

import contextlib
import dataclasses
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TRAINED, Crash, assert_same_run, crash_at, timeless

from ddpg_tf import Config, files, train
from ddpg_tf.envs import registry
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.flags import parse_command_line
from ddpg_tf.replay.buffer import ReplayBuffer
from ddpg_tf.storage import checkpoint, run_dir
from ddpg_tf.storage.policy import load_policy
from ddpg_tf.training import loop, signals
from ddpg_tf.training.core import Core, make_replay
from ddpg_tf.training.logger import Logger
from ddpg_tf.training.signals import Interrupted


def last_step(path):
    try:
        return int(timeless(path)[-1]["step"])
    except (OSError, IndexError, ValueError):
        return 0


def start(*argv):
    return subprocess.Popen(
        [sys.executable, "train.py", *map(str, argv)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_step(process, path, step):
    deadline = time.monotonic() + 90
    while last_step(path / "metrics.csv") < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def crash():
    raise Crash


def test_sigterm_then_sigkill_and_each_time_resume_equals_never_interrupted(trained, tmp_path, tiny):
    """SIGTERM to the whole group, as `timeout` and schedulers send it, spares the workers until all is saved.

    After SIGKILL they end without a traceback.
    """
    path = tmp_path / "run"
    (tmp_path / "tiny.flags").write_text(tiny("", **TRAINED, vectorization="async").to_flags())
    process = start(f"--flagfile={tmp_path / 'tiny.flags'}", f"--run_dir={path}")
    wait_for_step(process, path, 100)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert re.search(r"^step \d+: checkpoint$", output[1], re.MULTILINE)
    assert output[1].strip().splitlines()[-1].endswith(f"train.py --resume --run_dir={path}")
    assert 100 <= checkpoint.load(path / "checkpoints")[1]["step"] < 450
    process = start("--resume", f"--run_dir={path}")
    wait_for_step(process, path, 450)
    process.kill()
    assert "Traceback" not in process.communicate(timeout=60)[1]  # the pipe ends when the last of them has
    assert last_step(path / "metrics.csv") < 1200
    train(run_dir.read_config(path), resume=True)
    assert_same_run(trained, path)


# Episodes of 1 to 7 steps, so that frames outnumber steps; the ring of frames goes round.
PICTURES = dict(
    env="tests.toy_envs:ToyPicture-v0",
    pixels=True,
    frame_size=16,
    conv_filters=(4, 4),
    conv_kernels=(4, 3),
    conv_strides=(2, 1),
    bottleneck=6,
    random_shift=2,
    n_step=2,
    batch_size=4,
    total_steps=240,
    warmup_steps=40,
    update_every=2,
    eval_every=100,
    checkpoint_every=60,
    log_every=40,
    replay_capacity=100,
    normalize_observations=False,
)

BATCH_NORMED = dict(total_steps=600, normalization="batch", action_layer=1, hidden_units=(8, 8))


@pytest.mark.parametrize(
    "steps, changes",
    [
        ((131, 197), PICTURES | dict(update_every=1)),
        ((130,), PICTURES | dict(num_envs=2, frame_source="substeps", grayscale=True)),
        ((402,), dict(num_envs=3, update_every=15, updates_per_step=0.2, n_step=3, noise="ou", **BATCH_NORMED)),
        ((637,), dict(update_every=1, total_steps=700, checkpoint_every=83, actor_average=0.2, normalization="layer")),
    ],
)
def test_crash_and_resume(uncompiled, tmp_path, tiny, monkeypatch, steps, changes):
    """From pixels; several environments; an update per step, which draws minibatches for several steps at a time.

    The last one averages its actor: what is evaluated then shows whether that is saved. In all, updates follow the
    steps of the environments, however many these are.
    """
    changes = dict(checkpoint_every=100, normalize_observations=True) | changes
    config = tiny(tmp_path / "whole", **changes)
    train(config)
    updates = sum(int(row["updates"]) for row in timeless(tmp_path / "whole" / "metrics.csv"))
    assert updates == (config.total_steps - config.learning_starts) * config.updates_per_step
    for step in steps:
        with monkeypatch.context() as patch, pytest.raises(Crash):
            crash_at(patch, step)
            train(tiny(tmp_path / "crashed", **changes), resume=step != steps[0])
    train(tiny(tmp_path / "crashed", **changes), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "crashed")


def test_damaged_newest_checkpoint_falls_back_and_says_so(trained, tmp_path, tiny):
    shutil.copytree(trained, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").glob("*.npz"))
    content = newest.read_bytes()
    middle = len(content) // 2
    wrong = bytes(byte ^ 0xFF for byte in content[middle : middle + 1000])  # longer than headers are
    newest.write_bytes(content[:middle] + wrong + content[middle + 1000 :])
    with pytest.warns(UserWarning, match="damaged"):
        assert train(tiny(tmp_path / "run", **TRAINED), resume=True).steps_now == 150
    assert_same_run(trained, tmp_path / "run")


def test_all_checkpoints_damaged_is_an_error(tmp_path):
    (tmp_path / "000000000100.npz").write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(UserError, match="can be read: delete that"):
        checkpoint.load(tmp_path)


def test_whichever_bit_of_a_checkpoint_is_wrong_it_is_passed_over_or_read_as_it_was(tmp_path):
    """Also where zipfile raises neither OSError nor ValueError: encrypted, a compression unknown, ..."""
    arrays = {f"agent/{name}": np.arange(2, dtype=np.float32) for name in "ab"}
    for step in (100, 200):
        checkpoint.save(tmp_path, step, arrays, {})
    newest = tmp_path / "000000000200.npz"
    content = newest.read_bytes()
    passed_over = 0
    for i in range(len(content)):
        newest.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, meta = checkpoint.load(tmp_path)
        passed_over += meta["step"] == 100
        assert found.keys() == arrays.keys() and all((found[name] == arrays[name]).all() for name in arrays), i
    assert passed_over > len(content) / 2


@pytest.mark.parametrize("right, wrong", [(b"(64, 64)", b"(24, 64)"), (b"<f4", b"<f2")])
def test_a_checkpoint_whose_array_seems_smaller_is_passed_over(tmp_path, right, wrong):
    """NumPy reads as much as the array's header says, and zipfile compares the checksum at the member's end only."""
    for step in (100, 200):
        checkpoint.save(tmp_path, step, {"agent/kernel": np.ones([64, 64], np.float32)}, {})
    newest = tmp_path / "000000000200.npz"
    at = newest.read_bytes().index(right)
    with newest.open("r+b") as file:
        file.seek(at)
        file.write(wrong)
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.load(tmp_path)[1]["step"] == 100


def test_a_run_killed_before_its_first_checkpoint_starts_over(trained, tmp_path, tiny, monkeypatch):
    """And the same flags and seed are the same run: nothing but them is left of the first start."""
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, 120)
        train(tiny(tmp_path / "run", **TRAINED))
    assert checkpoint.load(tmp_path / "run" / "checkpoints") is None
    train(tiny(tmp_path / "run", **TRAINED), resume=True)
    assert_same_run(trained, tmp_path / "run")


def test_a_run_killed_while_it_wrote_its_flags_or_gave_way_to_another_starts_over(tmp_path, tiny, monkeypatch):
    path = tmp_path / "run"
    path.mkdir()
    (path / f".flags.txt.{'0' * 32}").write_text("--env=Pend")
    run_dir.create(path, tiny(path))
    assert os.listdir(path) == ["flags.txt"]

    (path / "metrics.csv").touch()
    (path / "replay").mkdir()
    with monkeypatch.context() as patch, pytest.raises(Crash):  # while it clears the directory
        patch.setattr(type(path), "unlink", lambda file, **_: os.unlink(file) if file.suffix == ".csv" else crash())
        run_dir.create(path, tiny(path))
    run_dir.create(path, tiny(path))
    assert os.listdir(path) == ["flags.txt"]


@pytest.mark.parametrize("mine", [".git/HEAD", "notes.csv"])
def test_what_a_user_keeps_in_a_run_directory_is_never_cleared(tmp_path, tiny, mine):
    path = tmp_path / "run"
    run_dir.create(path, tiny(path))
    (path / mine).parent.mkdir(exist_ok=True)
    (path / mine).write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        run_dir.create(path, tiny(path))
    assert (path / mine).read_text() == "mine"


def test_a_users_copy_of_a_checkpoint_stays_and_is_none(tmp_path):
    copy = tmp_path / "000000000100-good.npz"
    for step in (100, 200, 300, 400):
        checkpoint.save(tmp_path, step, {}, {})
        copy.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [copy.name, "000000000300.npz", "000000000400.npz"]
    assert checkpoint.newest_step(tmp_path) == 400 and checkpoint.load(tmp_path)[1]["step"] == 400


def test_what_killed_processes_left_half_written_is_cleared(uncompiled, tmp_path, tiny):
    path = tmp_path / "run"
    run_dir.create(path, tiny(path, total_steps=300))
    (path / "checkpoints").mkdir()
    left = [path / name for name in (f".metrics.csv.{'a' * 32}", f"checkpoints/.1.npz.{'b' * 32}", ".mine")]
    for file in left:
        file.touch()
    train(run_dir.read_config(path), resume=True)
    assert [file.exists() for file in left] == [False, False, True]


def test_tensorboard_on_a_full_disk_is_an_error_of_the_system(tmp_path):
    """A limit on the size of files stands for the disk."""
    logger = Logger(tmp_path, 100)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        with pytest.raises(OSError, match=rf"^{tmp_path}/events.*$"):
            logger._to_board("train", {"step": 1, "seconds": 1.0})
        with pytest.raises(OSError, match=r"evaluations\.csv"):
            logger.evaluation(1, [(0.0, 1, np.nan)], np.zeros(1), np.zeros(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(tmp_path):
    for step in (100, 200):
        checkpoint.save(tmp_path, step, {}, {})
    (tmp_path / "000000000200.npz").write_bytes(b"damaged")
    checkpoint.save(tmp_path, 150, {}, {})  # the resumed run's next one
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000000100.npz", "000000000150.npz"]


def test_returns_under_another_time_limit_are_not_compared(uncompiled, tmp_path, tiny):
    """Pendulum's costs add up: of 10 steps they are less than of 200, whatever the policy."""
    short = dict(max_episode_steps=10, total_steps=300, eval_every=300)
    before = train(tiny(tmp_path / "run", **short))
    with pytest.warns(UserWarning, match="max_episode_steps is 200 now, and was 10"):
        after = train(tiny(tmp_path / "run", **{**short, "max_episode_steps": 200, "total_steps": 600}), resume=True)
    assert before.best_return > -200 > -1000 > after.best_return
    assert load_policy(tmp_path / "run").score == after.best_return
    with pytest.warns(UserWarning, match=r"max_episode_steps is 10 now, and was 200: .* at step \d+, no longer counts"):
        again = train(tiny(tmp_path / "run", **{**short, "total_steps": 600}), resume=True)
    assert (again.steps_now, again.best_step) == (0, 600) and again.best_return > after.best_return
    evaluations = read_evaluations(tmp_path / "run" / "evaluations.csv")
    assert list(evaluations) == [300, 600] and len(evaluations[600]) == len(evaluations[300])


def test_means_of_more_episodes_are_not_compared(uncompiled, tmp_path, tiny):
    train(tiny(tmp_path / "run", total_steps=300, eval_every=300))
    with pytest.warns(UserWarning, match=r"eval_episodes is 3 now, and was 2: .* at step 300, no longer counts"):
        after = train(tiny(tmp_path / "run", total_steps=300, eval_every=300, eval_episodes=3), resume=True)
    assert (after.steps_now, after.best_step) == (0, 300)
    evaluations = read_evaluations(tmp_path / "run" / "evaluations.csv")
    assert len(evaluations[300]) == 3 and after.best_return == pytest.approx(np.mean(evaluations[300]))


@pytest.mark.parametrize(
    "file, damage, says",
    [
        ("flags.txt", b"", "flags.txt is empty"),
        ("versions.json", b'{"run": ', "versions.json is damaged .*: delete it"),
        ("replay/*/reward", b"short", r"reward has 5 bytes instead of \d+: the run cannot be resumed"),
    ],
)
def test_a_damaged_file_is_named(trained, tmp_path, file, damage, says):
    shutil.copytree(trained, tmp_path / "run")
    (found,) = (tmp_path / "run").glob(file)
    found.write_bytes(damage)
    with pytest.raises(UserError, match=says):
        train(dataclasses.replace(run_dir.read_config(tmp_path / "run"), total_steps=1300), resume=True)


def test_a_row_of_an_evaluation_that_is_none_is_passed_over(trained, tmp_path):
    """As the system may leave it where the power went."""
    shutil.copytree(trained, tmp_path / "run")
    with open(tmp_path / "run" / "evaluations.csv", "ab") as file:
        file.write(b"\0\0,\0,\0,\0\n")
    train(run_dir.read_config(tmp_path / "run"), resume=True)
    assert_same_run(trained, tmp_path / "run")


def test_a_resumed_run_publishes_where_it_did(uncompiled, tmp_path, tiny, monkeypatch):
    """Wherever it is resumed from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "Publisher", lambda *_: SimpleNamespace(submit=lambda *_: None, finish=lambda: None))
    train(tiny("run", total_steps=60, warmup_steps=60, export_dir="models"))
    assert run_dir.read_config("run").export_dir == str(tmp_path / "models")


def test_extending_a_run_equals_having_trained_longer(uncompiled, tmp_path, tiny):
    changes = dict(noise="ou", checkpoint_every=0, eval_every=300)
    train(tiny(tmp_path / "long", **changes))
    train(tiny(tmp_path / "run", **changes, total_steps=600))
    assert checkpoint.load(tmp_path / "run" / "checkpoints")[1]["step"] == 600  # written though checkpoint_every=0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(tiny(tmp_path / "run", **changes), resume=True)
    assert result.steps_now == 600
    assert_same_run(tmp_path / "long", tmp_path / "run")


def test_a_signal_that_comes_while_the_loop_looks_is_seen_with_a_checkpoint(uncompiled, tmp_path, tiny, monkeypatch):
    def late(before, now, every):  # when it has looked for a signal, and asks whether a checkpoint is due
        if (now, every) == (100, 150):
            os.kill(os.getpid(), signal.SIGTERM)
        return due(before, now, every)

    due = loop._due
    monkeypatch.setattr(loop, "_due", late)
    with pytest.raises(Interrupted):
        train(tiny(tmp_path / "run"))
    assert checkpoint.newest_step(tmp_path / "run" / "checkpoints") >= 100


def test_resuming_with_total_steps_at_the_interruption_evaluates_there(uncompiled, tmp_path, tiny, monkeypatch):
    received = []

    def interrupted_at_300(self, policy):
        observations = collect(self, policy)
        if self.step == 300:
            received.append(signal.SIGINT)
        return observations

    collect = Core._collect
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        patch.setattr(loop.signals, "collected", lambda: contextlib.nullcontext(received))
        patch.setattr(Core, "_collect", interrupted_at_300)
        train(tiny(tmp_path / "run", eval_every=0))
    result = train(tiny(tmp_path / "run", eval_every=0, total_steps=300), resume=True)
    assert list(read_evaluations(tmp_path / "run" / "evaluations.csv")) == [300] and result.last_return < 0
    again = train(tiny(tmp_path / "run", eval_every=0, total_steps=300), resume=True)
    assert list(read_evaluations(tmp_path / "run" / "evaluations.csv")) == [300] and again == result


def test_the_same_flags_with_resume_are_the_same_run(tmp_path, tiny):
    """Spelt as the user spelt them: 0 for the default of update_every, JSON without spaces."""
    path = tmp_path / "run"
    flags = ["--env=Pendulum-v1", "--preset=none", '--env_kwargs={"g":5}', "--update_every=0", f"--run_dir={path}"]
    run_dir.create(path, parse_command_line(["train.py", *flags], "").config)
    assert parse_command_line(["train.py", *flags, "--resume"], "").config == run_dir.read_config(path)


def test_a_run_that_python_started_goes_on_from_the_command_line(uncompiled, tmp_path, tiny):
    """It knows the environment by the id that runs, not by a short or retired one."""
    path = tmp_path / "run"
    train(tiny(path, env="Pendulum", total_steps=100))
    found = parse_command_line(["train.py", "--resume", f"--run_dir={path}"], "", registry.resolve_id).config
    assert found == run_dir.read_config(path) and found.env == "Pendulum-v1"


def test_resuming_needs_a_run_directory():
    with pytest.raises(UsageError, match="--resume needs --run_dir"):
        train(Config(total_steps=150), resume=True)


def test_a_run_too_short_to_learn_is_warned_of(uncompiled, tmp_path, tiny):
    with pytest.warns(UserWarning, match="nothing will be learnt"):
        train(tiny(tmp_path / "run", total_steps=100, warmup_steps=100))


def test_only_one_process_trains_in_a_run_directory(tmp_path):
    with run_dir.lock(tmp_path):
        held_open = os.listdir("/proc/self/fd")
        with pytest.raises(UserError, match="another process"), run_dir.lock(tmp_path):
            pass
        assert os.listdir("/proc/self/fd") == held_open  # a suite asks every two seconds
    with run_dir.lock(tmp_path):
        pass


def test_a_filesystem_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("ddpg_tf.files.fcntl.flock", no_locks)
    held_open = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=f"No locks available: '{tmp_path}'"), run_dir.lock(tmp_path):
        pass
    assert os.listdir("/proc/self/fd") == held_open


def test_diverging_weights_stop_the_run_and_leave_the_last_checkpoint(uncompiled, tmp_path, tiny, monkeypatch):
    def poisoned(self, until):
        if self.step == 400:
            kernel = self.agent.critic.trainable_variables[0]
            kernel.assign(np.full(kernel.shape, np.nan, np.float32))
        return learn(self, until)

    learn = Core._learn
    monkeypatch.setattr(Core, "_learn", poisoned)
    with pytest.raises(UserError, match=r"diverged.*\. The last checkpoint is of step 300, in "):
        train(tiny(tmp_path / "run"))
    with pytest.raises(UserError, match=r"diverged.*\. There is no checkpoint, in "):
        train(tiny(tmp_path / "none", checkpoint_every=0, normalize_observations=True))
    arrays, meta = checkpoint.load(tmp_path / "run" / "checkpoints")
    assert meta["step"] == 300
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_an_incompatible_checkpoint_is_named(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    flagfile = tmp_path / "run" / "flags.txt"
    flagfile.write_text(flagfile.read_text().replace("--hidden_units=8", "--hidden_units=9"))
    with pytest.raises(UserError, match="incompatible checkpoint"):
        train(run_dir.read_config(tmp_path / "run"), resume=True)


def test_atomic_writes_leave_the_old_file_when_they_fail(tmp_path):
    def fail(file):
        file.write(b"half")
        raise RuntimeError

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        files.write_atomically(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def replays(monkeypatch):
    """The replays of the trainings within, in their order."""
    made = []

    def make(*args, **others):
        made.append(make_replay(*args, **others))
        return made[-1]

    monkeypatch.setattr(loop, "make_replay", make)
    return made


def assert_no_return_crosses_an_episodes_end(replay):
    """Of a toy that counts its steps: each return of up to three steps goes up by as many."""
    batch = replay.sample(np.random.default_rng(0), (2000,))
    made = batch.next_observation[:, 0] - batch.observation[:, 0]
    assert set(made.tolist()) <= {1, 2, 3}


def test_a_return_does_not_go_on_in_the_episode_that_begins_where_one_cannot_be_re_entered(
    uncompiled, tmp_path, tiny, replays
):
    settings = dict(env="tests.toy_envs:ToyForgetful-v0", num_envs=4, n_step=3, eval_every=0, warmup_steps=200)
    settings |= dict(max_episode_steps=0, checkpoint_every=0)
    train(tiny(tmp_path / "run", **settings, total_steps=80))
    with pytest.warns(UserWarning, match="does not repeat"):
        train(tiny(tmp_path / "run", **settings, total_steps=120), resume=True)
    assert_no_return_crosses_an_episodes_end(replays[-1])


def test_a_return_does_not_go_on_behind_an_evaluation_on_the_same_environment(uncompiled, tmp_path, tiny, replays):
    settings = dict(env="tests.toy_envs:ToyForgetful-v0", n_step=3, eval_every=20, eval_envs=0, warmup_steps=200)
    train(tiny(tmp_path / "run", **settings, max_episode_steps=0, total_steps=120))
    assert_no_return_crosses_an_episodes_end(replays[-1])


def test_the_replay_is_on_the_disk_before_the_checkpoint_that_counts_on_it(uncompiled, tmp_path, tiny, monkeypatch):
    done, flush, save = [], ReplayBuffer.flush, checkpoint.save
    monkeypatch.setattr(ReplayBuffer, "flush", lambda replay: (done.append(f"replay {replay.rows}"), flush(replay)))
    monkeypatch.setattr(checkpoint, "save", lambda path, step, *rest: (done.append(step), save(path, step, *rest)))
    train(tiny(tmp_path / "run", total_steps=100, checkpoint_every=50, warmup_steps=100))
    assert done == ["replay 50", 50, "replay 100", 100]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_goes_on(tmp_path, disk):
    files.write_text(tmp_path / "file", "text")
    partial = disk[0].removeprefix("sync ")
    assert partial.startswith(".file.")
    assert disk == [f"sync {partial}", f"rename {partial}", f"sync {tmp_path.name}"]


def test_signals_are_the_callers_again_afterwards():
    every = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    numbers = [number for number in every if signal.getsignal(number) != signal.SIG_IGN]  # as under nohup
    before = [signal.getsignal(number) for number in numbers]
    with signals.collected():
        assert all(signal.getsignal(number) is not handler for number, handler in zip(numbers, before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before and signal.set_wakeup_fd(-1) == -1
