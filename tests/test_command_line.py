"""What train.py, export.py and ddpg_tf.evaluate answer to mistakes: one line, non-zero exit, nothing changed."""

import dataclasses
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from conftest import without_xla
from other_values import OTHER

import export
import train
from ddpg_tf import cli, evaluate
from ddpg_tf.config import FIELDS, Config
from ddpg_tf.flags import parse_command_line
from ddpg_tf.storage import run_dir
from ddpg_tf.training import loop

ROOT = Path(__file__).parents[1]
TOY = "tests.toy_envs:ToyCounter-v0"
# A run that never learns: nothing to compile but the policy.
QUICK = [
    "--total_steps=40",
    "--warmup_steps=1000",
    "--eval_episodes=2",
    "--hidden_units=8",
    "--batch_size=8",
    "--replay_capacity=64",
    "--log_every=10",
]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """What is compiled is not what commands are about."""
    with without_xla():
        yield


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs a command as its script would; (exit status, stdout, stderr)."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            warnings.resetwarnings()  # Python's own filters rather than pytest's
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)
            cli.run(main)
        return end.value.code, *capfd.readouterr()

    return run


def contents(directory):
    """{path below: bytes, or None for a directory}"""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """Runs a command that must fail: checks the one line and that nothing changed; returns the line.

    What would train if it were not refused is kept short: a test that hangs says less than one that fails.
    """
    monkeypatch.chdir(tmp_path)

    def run(status, main, *arguments):
        before = contents(tmp_path)
        found, out, err = command(main, *arguments)
        assert re.fullmatch(r"error: [^\n]+\n", err), err
        assert (found, out) == (status, "")
        assert contents(tmp_path) == before
        return err

    return run


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run of 40 steps that is done. Copy it before changing it."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115
        assert not train.main(["train.py", f"--env={TOY}", f"--run_dir={path}", *QUICK])
    return path


@pytest.fixture
def finished(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "finished")


@pytest.fixture
def no_checkpoint(tmp_path):
    """A run killed before its first checkpoint."""
    run_dir.create(tmp_path / "new", Config(env=TOY))
    return tmp_path / "new"


# Help -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull", "--helpshort"])
@pytest.mark.parametrize("main", [train.main, export.main, evaluate.main], ids=lambda main: main.__module__)
def test_help_exits_0_and_explains_itself(command, main, flag):
    status, out, err = command(main, flag)
    assert (status, err) == (0, "") and out.startswith(sys.modules[main.__module__].__doc__.strip()[:40])
    assert "--run_dir" in out and "--checkpoint" in out and "--flagfile" in out


def test_help_names_every_field_with_its_default_under_its_heading(command):
    _, out, _ = command(train.main, "--help")
    for name, field in FIELDS.items():
        line = re.search(rf"^  --{name}: (.*)$", out, re.MULTILINE)
        assert line, name
        text = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default).lower()
        assert field.metadata["help"] in line[1] and f"(default: '{text}')" in line[1].lower(), line[0]
        for choice in field.metadata["choices"]:
            assert choice in line[1]
        assert out.index(f"{field.metadata['group']}:\n") < line.start()
    assert "--resume:" in out and "--preset:" in out


# train.py -------------------------------------------------------------------------------------------------------------

ENVIRONMENTS = [
    ("Pendulam-v1", "did you mean Pendulum-v1"),
    ("Nothing-like-it", "no environment"),
    ("", "no environment"),
    ("CartPole-v1", "continuous"),
    ("tests.toy_envs:ToyUnboundedAction-v0", "unbounded"),
    ("tests.toy_envs:ToyDeepImage-v0", "images of shape"),
    ("no_such_module:A-v0", "no_such_module"),
    ("tests.toy_envs:ToyDiscreteObservation-v0", "needs Box"),
    ("tests.toy_envs:ToyKeyAction-v0", "action"),
]


@pytest.mark.parametrize("env_id, says", ENVIRONMENTS)
def test_an_environment_that_cannot_be_trained(refused, env_id, says):
    assert says in refused(1, train.main, f"--env={env_id}", "--run_dir=new", "--total_steps=40")


@pytest.mark.parametrize(
    "env_id, kwargs",
    [
        ("Pendulum-v1", '{"no_such_argument": 1}'),
        ("LunarLanderContinuous-v3", '{"gravity": 5}'),
        ("HalfCheetah-v5", '{"xml_file": "no_such_file.xml"}'),
    ],
)
def test_arguments_that_the_environment_rejects(refused, env_id, kwargs):
    assert "cannot make" in refused(
        1, train.main, f"--env={env_id}", f"--env_kwargs={kwargs}", "--preset=none", "--total_steps=40"
    )


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--seed=-1"], "seed"),
        (["--gamma=1.5"], "gamma"),
        (["--tau=0"], "tau"),
        (["--noise=brown"], "noise"),
        (["--seed=one"], "seed"),
        (["--total_steps=1e6"], "total_steps"),
        (["--hidden_units=64,x"], "hidden_units"),
        (["--replay_capacity=100"], "batch_size"),
        (["--total_steps=1001", "--num_envs=4"], "num_envs"),
        (["--update_every=3", "--updates_per_step=0.5"], "updates_per_step"),
        (["--action_layer=1", "--hidden_units=64"], "action_layer"),
        (["--env_kwargs={g: 1}"], "env_kwargs"),
        (["--noise=ou", "--noise_theta=3"], "noise_theta"),
        (["--learning_rate=1"], "learning_rate"),
        (["Pendulum-v1"], "'Pendulum-v1'"),
        (["--seed=1", "stray", "--seed=2"], "'stray'"),
        (["-"], "'-'"),
        (["--preset=papers"], "paper"),
        (["--flagfile=nothing"], "nothing"),
        (["--seed"], "seed"),
        (["--preset"], "preset"),
        (["--resume"], "--run_dir"),
        (["--resume", "--run_dir=missing"], "missing"),
        (["--resume", "--run_dir="], "--run_dir"),
        (["--resume", "--run_dir=runs/x", "--preset=modern"], "--preset has no effect"),
        (["--run_dir=caf\udce9"], "--run_dir=caf\\xe9 is not UTF-8"),
        (["--flagfile=caf\udce9"], "--flagfile=caf\\xe9 is not UTF-8"),
    ],
)
def test_a_command_line_that_is_wrong(refused, arguments, says):
    assert says in refused(2, train.main, f"--env={TOY}", "--total_steps=40", *arguments)


@pytest.mark.parametrize(
    "line, option, says",
    [
        ("--preset=modern", "preset", "a.flags has the line --preset=modern, which a preset cannot"),
        ("--resume", "preset", "a.flags has the line --resume, which a preset cannot"),
        ("--gama=0.9", "preset", "a.flags: Unknown command line flag 'gama'"),
        (
            "--update_every=10",
            "preset",
            "must be a multiple of num_envs (4) (what is not on the command line comes from",
        ),
        ("--gamma 0.9", "flagfile", "in a flagfile write --gamma=0.9"),
        ("--pixels=maybe", "flagfile", "Non-boolean argument to boolean flag: maybe"),
    ],
)
def test_a_line_of_a_file_that_is_wrong(refused, tmp_path, line, option, says):
    (tmp_path / "a.flags").write_text(f"{line}\n")
    flags = [f"--env={TOY}", "--total_steps=40", "--num_envs=4", f"--{option}=a.flags"]
    assert says in refused(2, train.main, *flags)


@pytest.mark.parametrize(
    "place, says", [("file/below", "Not a directory"), ("e[1]", "TensorFlow reads no paths with [")]
)
def test_a_place_for_exports_that_cannot_be_is_known_before_training(refused, tmp_path, finished, place, says):
    (tmp_path / "file").touch()
    line = refused(1, train.main, f"--env={TOY}", "--run_dir=new", f"--export_dir={place}", *QUICK)
    assert re.search(rf"cannot export to /.*{re.escape(place)}: {re.escape(says)}", line)
    assert says in refused(1, export.main, f"--run_dir={finished}", f"--export_dir={place}")


@pytest.mark.parametrize("name", ["film", "film.mp5"])
def test_a_film_of_no_format_is_known_before_the_episodes(refused, finished, name):
    assert "must end in .mp4 or .gif" in refused(2, evaluate.main, f"--run_dir={finished}", f"--video={name}")


def test_a_warning_is_one_line_and_told_once(monkeypatch, capsys):
    def main(argv):
        for _ in range(2):
            warnings.showwarning("\x1b[33mWARN: two\nlines\x1b[0m", UserWarning, "file", 1)

    monkeypatch.setattr(sys, "argv", ["main"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit):
        cli.run(main)
    assert capsys.readouterr().err == "warning: two lines\n"


def test_a_run_directory_that_is_not_empty_needs_resume(refused, finished, tmp_path):
    assert "--resume" in refused(2, train.main, f"--env={TOY}", f"--run_dir={finished}", *QUICK)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert "mine is not empty" in refused(2, train.main, f"--env={TOY}", "--run_dir=mine", *QUICK)
    line = refused(2, train.main, f"--env={TOY}", "--run_dir=mine/thesis.tex", *QUICK)
    assert "thesis.tex is not a directory" in line


def test_a_start_that_came_to_nothing_does_not_block_the_next(refused, command, tmp_path):
    """It had neither a checkpoint nor an evaluation. What else lies there is not touched."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "flags.txt").write_text(Config(env=TOY, gamma=0.5).to_flags())
    (path / "metrics.csv").write_text("step\n")
    (path / "replay" / "ring-7").mkdir(parents=True)
    (path / "thesis.tex").write_text("precious")
    assert "is not empty" in refused(2, train.main, f"--env={TOY}", "--run_dir=run", *QUICK)
    assert (path / "thesis.tex").read_text() == "precious"
    (path / "thesis.tex").unlink()
    (path / "evaluations.csv").write_text("step,episode,return,length\n5000,0,1.0,9\n")  # a result
    assert "is not empty" in refused(2, train.main, f"--env={TOY}", "--run_dir=run", *QUICK)
    (path / "evaluations.csv").write_text("step,episode,return,length\n")
    status, out, err = command(train.main, f"--env={TOY}", "--run_dir=run", *QUICK)
    assert status == 0 and "40 steps" in out, err
    assert run_dir.read_config(path).gamma == 0.99


@pytest.mark.parametrize("export_dir", ["./r", "r/model"])
def test_a_run_cannot_be_published_into_its_own_directory(refused, export_dir):
    """Training and publication would wait for each other's lock for ever, and a new run's directory must be empty."""
    said = refused(2, train.main, f"--env={TOY}", "--run_dir=r", f"--export_dir={export_dir}", *QUICK)
    assert "is the run's own directory, or in it" in said


def test_a_run_directory_that_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make file/below" in refused(1, train.main, f"--env={TOY}", "--run_dir=file/below", *QUICK)


def test_a_disk_that_is_too_small(refused, monkeypatch):
    small = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    message = refused(1, train.main, f"--env={TOY}", "--run_dir=new", *QUICK)  # 40 rows of 34 bytes
    assert "the replay needs" in message and "GB free" in message and "--replay_capacity" in message


def test_a_retired_id_is_warned_of_once(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    status, _, err = command(train.main, "--env=LunarLanderContinuous-v2", "--run_dir=mine")
    assert status == 2 and err.count("retired") == 1, err
    assert "warning: LunarLanderContinuous-v2 is retired: running LunarLanderContinuous-v3\n" in err


def test_a_preset_is_announced(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    assert command(train.main, "--env=Pendulum-v1", "--run_dir=mine")[1] == "preset: Pendulum-v1\n"
    assert command(train.main, "--env=dm_control/reacher-easy-v0", "--run_dir=mine")[1] == (
        "preset: dm_control/reacher-easy-v0\n"
    )
    assert command(train.main, "--env=Pendulum-v1", "--run_dir=mine", "--preset=none")[1] == ""
    result, hint = command(train.main, f"--env={TOY}", "--run_dir=auto", *QUICK)[1].splitlines()
    assert result.startswith("auto: 40 steps")
    assert hint.startswith(f"no preset for {TOY}, so its settings were plain: ")
    (result,) = command(train.main, f"--env={TOY}", "--run_dir=none", *QUICK, "--preset=none")[1].splitlines()
    assert result.startswith("none: 40 steps")


def test_a_flagfile_without_a_name(refused):
    """As from a shell's variable that is not set."""
    assert "--flagfile needs the name of a file" in refused(2, train.main, "--flagfile=", *QUICK)


# train.py --resume ----------------------------------------------------------------------------------------------------


def test_resume_on_a_directory_that_is_no_run(refused, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("precious")
    assert "not a run directory" in refused(2, train.main, "--resume", "--run_dir=foreign")
    assert "thesis.tex" in refused(2, train.main, "--resume", "--run_dir=foreign/thesis.tex")


@pytest.mark.parametrize("text", ["--no_such_flag=1\n", "not flags\n", "--seed=-4\n", "--env_kwargs={\n"])
def test_resume_on_somebody_elses_flags_txt(refused, tmp_path, text):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "flags.txt").write_text(text)
    refused(2, train.main, "--resume", "--run_dir=foreign")


RESUMABLE = (
    *("total_steps", "run_dir", "export_dir", "keep_versions", "max_episode_steps", "eval_every", "eval_episodes"),
    *("eval_envs", "checkpoint_every", "log_every", "video_every", "ray_address", "collector_cpus"),
    "collector_timeout",
)
# action_layer needs a second layer.
FIXED = [name for name, field in FIELDS.items() if not field.metadata["resumable"] and name != "action_layer"]


def test_what_may_change_when_resuming_is_no_more_than_this():
    assert {name for name, field in FIELDS.items() if field.metadata["resumable"]} == set(RESUMABLE)


@pytest.mark.parametrize("name", FIXED)
def test_a_flag_that_may_not_change_when_resuming(refused, finished, name):
    text, _ = OTHER[name]
    message = refused(2, train.main, "--resume", f"--run_dir={finished}", f"--{name}={text}")
    assert f"--{name} cannot change" in message


def test_a_flag_is_judged_beside_the_runs_own_settings_when_resuming(refused, finished):
    """100 is below the default batch_size, but not below this run's 8: what is wrong is the change."""
    message = refused(2, train.main, "--resume", f"--run_dir={finished}", "--replay_capacity=100")
    assert "--replay_capacity cannot change" in message


@pytest.fixture
def settings_of(command, monkeypatch):
    """The Config that train.py would resume with."""

    def run(*arguments):
        def train_nothing(settings, *, resume):
            assert resume
            given.append(settings)
            return loop.Result(Path(settings.run_dir), 1, 1, 0.0, 0.0, 1)

        given = []
        monkeypatch.setattr(loop, "train", train_nothing)
        status, _, err = command(train.main, "--resume", *arguments)
        assert status == 0, err
        return given[0]

    return run


def test_a_run_may_be_resumed_with_the_flags_it_was_started_with(settings_of, tmp_path):
    """Also where they made sense with the preset only: 0.02 updates a step need its update_every=50."""
    path, flags = tmp_path / "run", ["--env=Pendulum-v1", "--updates_per_step=0.02", "--total_steps=50"]
    settings, *_ = parse_command_line(["train.py", *flags], "")
    run_dir.create(path, settings)
    found = settings_of(*flags, f"--run_dir={path}")
    assert (found.update_every, found.updates_per_step, found.total_steps) == (50, 0.02, 50)


@pytest.mark.parametrize(
    "name, value",
    [
        ("total_steps", "80"),
        ("eval_every", "7"),
        ("checkpoint_every", "3"),
        ("log_every", "0"),
        ("video_every", "9"),
        ("export_dir", "models"),
    ],
)
def test_a_flag_that_may_change_when_resuming(settings_of, finished_run, name, value):
    found, saved = settings_of(f"--run_dir={finished_run}", f"--{name}={value}"), run_dir.read_config(finished_run)
    assert str(getattr(found, name)) == value != str(getattr(saved, name))
    assert found == dataclasses.replace(saved, **{name: getattr(found, name)})


def test_more_steps_take_a_finished_run_further(command, finished):
    status, out, _ = command(train.main, "--resume", f"--run_dir={finished}", "--total_steps=60")
    assert status == 0 and "60 steps" in out
    assert run_dir.read_config(finished).total_steps == 60
    assert (finished / "metrics.csv").read_text().splitlines()[-1].startswith("60,")


def test_a_finished_run_says_so_and_exits_0(command, finished):
    before = contents(finished)
    status, out, err = command(train.main, "--resume", f"--run_dir={finished}")
    assert status == 0 and "is finished: raise --total_steps" in err and "40 steps" in out
    after = contents(finished)
    assert {name for name, data in before.items() if after.get(name) != data and "tfevents" not in name} <= {
        "learning_curve.png"
    }


@pytest.mark.parametrize("steps", [39, 10])
def test_a_run_cannot_be_shortened_to_less_than_it_has_made(refused, finished, steps):
    assert "total_steps" in refused(2, train.main, "--resume", f"--run_dir={finished}", f"--total_steps={steps}")


def test_a_disk_too_small_for_the_longer_run_leaves_the_run_as_it_is(refused, finished, monkeypatch):
    small = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    assert "GB free" in refused(1, train.main, "--resume", f"--run_dir={finished}", "--total_steps=4000")


def test_a_run_that_another_process_trains(refused, finished):
    with run_dir.lock(finished):
        assert "another process" in refused(1, train.main, "--resume", f"--run_dir={finished}")


def test_commands_to_copy_are_those_that_exist_here(tmp_path, monkeypatch):
    assert cli.train_command("--run_dir=a b") == "python train.py '--run_dir=a b'"
    monkeypatch.chdir(tmp_path)  # as where the package is installed
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["/home/me/ddpg_tf/train.py"])
        assert cli.train_command("--resume") == "python /home/me/ddpg_tf/train.py --resume"
    assert cli.train_command("--resume") == "python -m ddpg_tf.training --resume"


@pytest.mark.parametrize("number, ends_with", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_run_tells_how_to_go_on_and_does(command, tmp_path, finished_run, request, number, ends_with):
    if number == signal.SIGHUP:  # pytest may have been started with nohup
        request.addfinalizer(functools.partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
    path, kwargs = tmp_path / "a run", json.dumps({"at": 25, "number": number})
    flags = ["--env=tests.toy_envs:ToyInterrupted-v0", f"--env_kwargs={kwargs}", f"--run_dir={path}", *QUICK]
    status, out, err = command(train.main, *flags)
    assert (status, out) == (ends_with, "")
    said, _, to_copy = err.splitlines()[-1].partition(": ")
    assert said == "interrupted; continue with"
    assert shlex.split(to_copy) == ["python", "train.py", "--resume", f"--run_dir={path}"]
    assert [file.stem for file in (path / "checkpoints").iterdir()] == ["000000000025"]
    status, out, _ = command(train.main, "--resume", f"--run_dir={path}")
    assert status == 0 and "40 steps" in out
    # The environment is the finished run's, Ctrl-C aside.
    assert (path / "evaluations.csv").read_text() == (finished_run / "evaluations.csv").read_text()


def test_a_second_signal_ends_what_does_not_listen_and_nohup_is_respected():
    code = (
        "import hashlib\n"
        "from ddpg_tf.training import signals\n"
        "with signals.collected():\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"  # as TensorFlow: Python's handlers wait for its end
    )
    ignored = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=ignored)
    try:
        process.stdout.readline()
        for number, seconds in ((signal.SIGHUP, 1.2), (signal.SIGTERM, 0.2), (signal.SIGTERM, 1.2)):
            process.send_signal(number)
            time.sleep(seconds)
            assert process.poll() is None  # the second SIGTERM comes too soon to be another wish
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    finally:
        process.kill()
        process.wait()


def test_a_run_without_an_evaluation_cannot_be_shortened_either(command, tmp_path):
    """There is no return to report yet."""
    path = tmp_path / "run"
    command(train.main, "--env=tests.toy_envs:ToyInterrupted-v0", f"--run_dir={path}", *QUICK)
    status, _, err = command(train.main, "--resume", f"--run_dir={path}", "--total_steps=5")
    assert status == 2 and err.count("\n") == 1 and "total_steps" in err


# export.py and ddpg_tf.evaluate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "main, others", [(export.main, ["--export_dir=models"]), (evaluate.main, [])], ids=["export", "evaluate"]
)
class TestOfARun:
    def test_no_run_named(self, refused, main, others):
        assert "--run_dir is missing" in refused(2, main, *others)

    def test_a_directory_that_is_not_there(self, refused, main, others):
        assert "no run directory missing" in refused(2, main, "--run_dir=missing", *others)

    def test_a_directory_that_is_no_run(self, refused, main, others, tmp_path):
        (tmp_path / "foreign").mkdir()
        assert "not a run directory" in refused(2, main, "--run_dir=foreign", *others)

    def test_a_run_without_checkpoint(self, refused, main, others, no_checkpoint):
        assert "no checkpoint yet" in refused(1, main, f"--run_dir={no_checkpoint}", *others)

    def test_an_unknown_checkpoint(self, refused, main, others, finished):
        assert "best|latest" in refused(2, main, f"--run_dir={finished}", "--checkpoint=newest", *others)

    def test_a_stray_argument(self, refused, main, others, finished):
        assert "'stray'" in refused(2, main, f"--run_dir={finished}", *others, "stray")

    def test_a_path_that_is_not_utf_8(self, refused, main, others):
        assert "--run_dir=caf\\xe9 is not UTF-8" in refused(2, main, "--run_dir=caf\udce9", *others)

    def test_an_unknown_flag(self, refused, main, others, finished):
        assert "episode" in refused(2, main, f"--run_dir={finished}", *others, "--episode=3")

    def test_a_run_whose_checkpoints_are_all_damaged(self, command, main, others, finished, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for file in (finished / "checkpoints").iterdir():
            file.write_bytes(file.read_bytes()[:200])
        before = contents(tmp_path)
        status, _, err = command(main, f"--run_dir={finished}", *others)
        assert status == 1 and "can be read" in err.splitlines()[-1] and "Traceback" not in err
        assert contents(tmp_path) == before

    def test_a_checkpoint_that_does_not_fit_the_flags(self, refused, main, others, finished):
        flags = finished / "flags.txt"
        flags.write_text(flags.read_text().replace("--hidden_units=8\n", "--hidden_units=9\n"))
        assert "incompatible checkpoint" in refused(1, main, f"--run_dir={finished}", *others)


def test_export_needs_a_directory_to_export_to(refused, finished):
    assert "--export_dir is missing" in refused(2, export.main, f"--run_dir={finished}")


@pytest.mark.parametrize("version", ["0", "-1", "one", "1.5"])
def test_a_version_that_is_no_positive_integer(refused, finished, version):
    assert "version" in refused(2, export.main, f"--run_dir={finished}", "--export_dir=models", f"--version={version}")


@pytest.mark.parametrize("version", [7, 3])
def test_a_version_that_is_not_above_the_newest(refused, finished, tmp_path, version):
    (tmp_path / "models" / "7").mkdir(parents=True)
    assert f"version {version} is not above" in refused(
        1, export.main, f"--run_dir={finished}", "--export_dir=models", f"--version={version}"
    )


def test_an_export_directory_that_is_a_file(refused, finished, tmp_path):
    (tmp_path / "models").write_text("precious")
    assert "cannot export to models" in refused(1, export.main, f"--run_dir={finished}", "--export_dir=models")


@pytest.mark.parametrize("episodes", ["0", "-3", "many"])
def test_a_number_of_episodes_that_is_none(refused, finished, episodes):
    assert "episodes" in refused(2, evaluate.main, f"--run_dir={finished}", f"--episodes={episodes}")


def test_evaluate_prints_the_score_of_both_checkpoints(command, finished):
    for which in ("best", "latest"):
        status, out, err = command(evaluate.main, f"--run_dir={finished}", "--episodes=3", f"--checkpoint={which}")
        assert status == 0 and re.fullmatch(f"warning: {TOY} has no time limit: .*\n", err)
        scores = r"mean \S+, std \S+, min \S+, max \S+ over 3 episodes\n"
        assert re.fullmatch(f"{TOY}, {which} weights, step 40: {scores}", out)


# As processes ---------------------------------------------------------------------------------------------------------


def process(directory, *command):
    """Runs a command in `directory`, away from the sources; checks the one line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=directory, env=environment, capture_output=True, text=True)
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert done.stdout == "" and not list(directory.iterdir())
    return done


def test_train_as_a_process_fails_in_one_line(tmp_path):
    done = process(tmp_path, ROOT / "train.py", "--env=Pendulam-v1")
    assert done.returncode == 1 and "Pendulum-v1" in done.stderr


def test_export_as_a_process_fails_in_one_line(tmp_path):
    """TensorFlow is loaded by then, and has written nothing of its own."""
    done = process(tmp_path, ROOT / "export.py", "--run_dir=missing", "--export_dir=models")
    assert done.returncode == 2


def test_help_and_mistakes_answer_without_loading_tensorflow():
    code = (
        "import sys, train\n"
        "for flag in ('--help', '--seed=x', '--env=Pendulam-v1'):\n"
        "    try: train.main(['train.py', flag])\n"
        "    except (SystemExit, train.cli.UserError): pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nobody_listening_to_help_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} {ROOT / 'train.py'} --help | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout.startswith("Trains")


def test_a_closed_stderr_a_home_directory_as_the_shell_left_it_and_its_keras_json_change_nothing(
    tmp_path, finished_run
):
    """bash does not expand the ~ of --run_dir=~/run."""
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"}'
    )
    export_it = f"{sys.executable} {ROOT}/export.py --run_dir=~/run --export_dir=~/model 2>&-"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", export_it], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "serving_default" in done.stdout  # verified against the live policy
    assert (tmp_path / "model" / "1").is_dir() and not (tmp_path / "~").exists()
    assert Config(run_dir="~/run").run_dir == os.path.expanduser("~/run")


def test_another_backend_of_keras_is_one_line(tmp_path, finished_run):
    command = [sys.executable, ROOT / "export.py", f"--run_dir={finished_run}", "--export_dir=model"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == (
        "error: ddpg_tf needs KERAS_BACKEND=tensorflow, the environment says 'jax'\n"
    )
