"""Suites of runs: what a file may say, runs that survive anything, results made from them."""

import dataclasses
import json
import runpy
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TINY, timeless

from benchmarks import outcomes, planner, report, results, scoring
from benchmarks.pages import paper, side_by_side
from benchmarks.peers import peer_runs
from benchmarks.suite import __main__ as suite
from benchmarks.suite import entries, running
from ddpg_tf import Config, train
from ddpg_tf.envs.registry import make_env
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation.evaluator import Evaluator
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.files import read_rows
from ddpg_tf.flags import parse_command_line
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.checkpoint import newest_step

TASKS = (
    "task,average,best,pixels_average,pixels_best,entry,pixels_entry,differs\n"
    "cart,0.9,1.3,1.0,1.2,small/good,small/unknown,the wheels\ncanada,0.3,1.7,0.1,0.6,,,no maintained one\n"
)
FLAGS = {**TINY, "preset": "none", "total_steps": 900}
PEER = "[entries.a]\npeer = {{library = '{}', algorithm = '{}', settings = {{{}}}}}"
DIVERGES = {**FLAGS, "critic_learning_rate": 1e30, "actor_learning_rate": 1e30}


def toml(flags) -> str:
    def value(v):
        return json.dumps(list(v) if isinstance(v, tuple) else v)

    return f"flags = {{{', '.join(f'{name} = {value(v)}' for name, v in flags.items())}}}\n"


@pytest.fixture
def written(tmp_path):
    """`written(text)` is the path of a suite file with that text."""

    def write(text):
        path = tmp_path / "small.toml"
        path.write_text(text)
        return path

    return write


# What a file may say --------------------------------------------------------------------------------------------------


def test_an_entry_is_its_sets_in_their_order_and_then_its_own(written):
    path = written("""
        about = "All of it."
        [sets.pendulum]
        flags = {env = "Pendulum-v1", gamma = 0.9, tau = 0.1}
        published = {score = -150, steps = 20_000, source = "somebody"}
        seeds = [0, 1]
        [sets.short]
        about = "a thousand steps"
        flags = {total_steps = 1_000, gamma = 0.8, hidden_units = [64, 32], normalize_observations = true}
        [entries.one]
        sets = ["pendulum", "short"]
        flags = {preset = "none", tau = 0.2}
        [entries."two of them"]
        sets = ["pendulum"]
        seeds = [5]
        beside = "one"
        published = {score = -140}
        """)
    found = entries.read(path)
    assert (found.name, found.about, [entry.name for entry in found.entries]) == (
        "small",
        "All of it.",
        ["one", "two of them"],
    )
    assert found.legend == {"short": "a thousand steps"}
    assert "| short | a thousand steps |" in side_by_side.suite_page(found, {}).splitlines()
    one, two = found.entries
    assert one.config == Config(
        env="Pendulum-v1", gamma=0.8, tau=0.2, total_steps=1000, hidden_units=(64, 32), normalize_observations=True
    )
    assert one.seeds == (0, 1) and one.published.score == -150.0 and not one.beside
    assert two.seeds == (5,) and two.config.warmup_steps == 1000 and two.beside == "one"  # the environment's preset
    assert two.seed_config(7).seed == 7
    assert (two.published.score, two.published.steps, two.published.source) == (-140.0, 20_000, "somebody")


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "no entries"),
        ("[entries.a\n", "is not a suite"),
        ("[entries.a]\n[entries.a]\n", "is not a suite"),
        ("entries = 3", "entries must be"),
        ("runs = 3\n[entries.a]", "'runs' is not one of"),
        ("[entries.a]\nsteps = 3", "entry 'a': 'steps' is not one of"),
        ("[entries.a]\nflags = {tau = 0.1}", "entry 'a': flags lacks env"),
        ("[entries.a]\nsets = ['b']", "no set 'b'"),
        ("[sets.b]\nsets = ['c']\n[entries.a]\nsets = ['b']", "'sets' is not one of"),
        ("[entries.a]\nflags = {nonsense = 1}", "entry 'a': .*nonsense"),
        ("[entries.a]\nflags = {preset = 'nonsense'}", "no preset 'nonsense'"),
        ("[entries.a]\nflags = {tau = 2.0}", "tau must be at most 1"),
        ("[entries.a]\nflags = {env = 'Pendulu-v1'}", "no environment.*Pendulum-v1"),
        ("[entries.a]\nflags = {seed = 1}", "seed cannot be among"),
        ("[entries.a]\nseeds = [1, 1]", "seeds must be different"),
        ("[entries.a]\nseeds = []", "seeds must be different"),
        ("[entries.a]\nseeds = 'all'", "seeds must be a list"),
        ("[entries.a]\nseeds = [[1], [2]]", "seeds must be different whole numbers"),
        ("[entries.a]\nseeds = [0, -1]", "seed must be at least 0"),
        ("[entries]\na = 3", "3 is not a table"),
        ("[sets]\nb = 3\n[entries.a]\nsets = ['b']", "3 is not a table"),
        ("[entries.a]\nsets = [[1]]", "no set"),
        ("[entries.'a/b']", "no slash"),
        ("[entries.a]\npublished = {score = 1}", "published lacks source, steps"),
        ("[entries.a]\nflags = {env = 'Pendulum-v1'}\nbeside = 'b'", "no entry 'b'"),
        ("[entries.a]\npeer = {library = 'sbx'}", "peer lacks algorithm, settings"),
        ("[entries.a]\npeer = {library = 'sbx', seed = 1}", "'seed' is not one of library"),
        (PEER.format("SBX", "DDPG", "net_arch = [16]"), "library must be one of sbx, sb3, not 'SBX'"),
        (PEER.format("sb3", "TD9", "net_arch = [16]"), "algorithm must be one of DDPG, TD3"),
        (PEER.format("sb3", "TD3", "tau = 0.1"), "peer's settings lacks net_arch"),
        (PEER.format("sb3", "TD3", "net_arch = [16]") + "\nflags = {eval_every = 3_000}", "multiple of eval_every"),
        (
            PEER.format("sb3", "TD3", "net_arch = [16]") + "\nflags = {max_episode_steps = 9}",
            "does not know env_kwargs",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_what_is_wrong(written, text, says):
    path = written(text)
    with pytest.raises(UsageError, match=rf"(?s)small\.toml.*{says}"):
        entries.read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot read the suite"):
        entries.read(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "suites").glob("*.toml")), ids=lambda path: path.stem)
def test_the_projects_suites_can_be_read(path):
    assert entries.read(path).about


def test_a_run_that_goes_on_takes_no_preset(written, tmp_path):
    path = written("[entries.a]\nflags = {preset = 'modern', env = 'Pendulum-v1', total_steps = 500}")
    (run,) = running.plan(entries.read(path), tmp_path)
    first = parse_command_line(run.command()[1:], "")
    run_dir.create(run.path, first.config)
    assert first.preset and first.config.n_step == 3
    assert parse_command_line(run.command()[1:], "") == (first.config, True, None, False)


# What is refused before anything runs ---------------------------------------------------------------------------------


def test_a_directory_of_other_flags_is_refused(written, tmp_path):
    path = tmp_path / "runs" / "small" / "a-0"
    path.mkdir(parents=True)
    for changes, says in (
        (dict(gamma=0.5), "--gamma=0.5"),
        (dict(total_steps=2000), "--total_steps=2000"),
        (dict(total_steps=900, eval_every=50), "--eval_every=50"),
    ):
        (path / "flags.txt").write_text(Config(**{**TINY, **changes}).to_flags())
        with pytest.raises(UsageError, match=says):
            suite.main(["suite", str(written("[entries.a]\n" + toml(FLAGS))), f"--runs_dir={tmp_path / 'runs'}"])


def test_a_directory_that_is_no_run_is_left_alone(written, tmp_path):
    path, small = tmp_path / "runs" / "small" / "a-0", written("[entries.a]\n" + toml(FLAGS))
    path.mkdir(parents=True)
    (path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="no run"):
        suite.main(["suite", str(small), f"--runs_dir={tmp_path / 'runs'}"])
    (path / "mine.txt").rename(path / ".mine")
    with pytest.raises(UsageError, match="no run"):
        running.plan(entries.read(small), tmp_path / "runs")
    assert (path / ".mine").read_text() == "precious"
    (path / ".mine").rename(path / f".flags.txt.{'0' * 32}")  # a start that was killed: train.py clears it away
    (run,) = running.plan(entries.read(small), tmp_path / "runs")
    assert "--resume" not in run.command()


def test_a_suite_that_another_process_runs_is_refused(written, tmp_path):
    directory = tmp_path / "runs" / "small"
    directory.mkdir(parents=True)
    with run_dir.lock(directory), pytest.raises(UserError, match="another process runs this suite"):
        suite.main(["suite", str(written("[entries.a]\n" + toml(FLAGS))), f"--runs_dir={tmp_path / 'runs'}"])


def test_a_disk_that_is_too_small_is_refused(written, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="the replay needs"):
        suite.main(["suite", str(written("[entries.a]\n" + toml(FLAGS))), f"--runs_dir={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "name one suite file"),
        (["a.toml", "b.toml"], "name one suite file"),
        (["SUITE", "--only=b*"], "no run matches --only=b.*; there are a-0"),
        (["SUITE", "--jobs=1000"], "--jobs=1000"),
    ],
)
def test_a_command_line_that_is_wrong(written, arguments, says):
    path = str(written("[entries.a]\n" + toml(FLAGS)))
    with pytest.raises(UsageError, match=says):
        suite.main(["suite", *(path if argument == "SUITE" else argument for argument in arguments)])


# Running --------------------------------------------------------------------------------------------------------------


def start(path, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.suite", str(path), *options],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_checkpoint(run, beyond=0):
    deadline = time.monotonic() + 60
    while (newest_step(run / "checkpoints") or 0) <= beyond:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """(runs directory, suite file, what the last command said) of a suite interrupted, killed, and then left alone."""
    tmp_path = tmp_path_factory.mktemp("suite")
    path, runs = tmp_path / "small.toml", tmp_path / "runs"
    path.write_text("[entries.good]\n" + toml(FLAGS) + "seeds = [0]\n[entries.bad]\n" + toml(DIVERGES))
    options = [f"--runs_dir={runs}", "--jobs=1"]
    process = start(path, *options)
    wait_for_checkpoint(runs / "small" / "good-0")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors
    step = newest_step(runs / "small" / "good-0" / "checkpoints")
    process = start(path, *options)
    if step < 750:
        wait_for_checkpoint(runs / "small" / "good-0", beyond=step)
    process.kill()
    process.communicate(timeout=60)
    process = start(path, *options)
    output, errors = process.communicate(timeout=120)
    return runs, path, process.returncode, output, errors


def test_a_suite_interrupted_and_killed_ends_as_one_that_was_not(disturbed, tmp_path):
    runs, *_ = disturbed
    train(Config(**{**TINY, "total_steps": 900, "run_dir": str(tmp_path / "run")}))
    for name in ("evaluations.csv", "values.csv"):
        assert (runs / "small" / "good-0" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert timeless(runs / "small" / "good-0" / "metrics.csv") == timeless(tmp_path / "run" / "metrics.csv")


def test_a_run_that_diverges_is_told_and_the_others_go_on(disturbed, capsys):
    runs, path, status, output, errors = disturbed
    assert status == 1 and "diverged: bad-0" in errors and "training diverged" in errors
    assert "Traceback" not in errors and "1 finished" in output
    assert suite.main(["suite", str(path), f"--runs_dir={runs}"]) == 1  # not tried again
    assert "diverged: bad-0" in capsys.readouterr().err


def test_a_dry_run_lists_states_and_estimates(disturbed, capsys):
    runs, path, *_ = disturbed
    assert suite.main(["suite", str(path), f"--runs_dir={runs}", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "good-0: finished, 0 of 900 steps left" in said and "bad-0: diverged" in said and "nothing is left" in said
    path.with_name("more").mkdir()
    more = path.with_name("more") / "small.toml"  # the same suite, with a second seed
    more.write_text(path.read_text().replace("seeds = [0]", "seeds = [0, 1]"))
    plan = running.plan(entries.read(more), runs)
    speed = plan[0].steps_per_second
    assert running.dry_run(plan, 4).endswith(f"about {900 / speed / 3600:.1f} h with 4 at once")
    longer = path.with_name("longer.toml")
    longer.write_text("[entries.good]\n" + toml({**FLAGS, "total_steps": 360_000}) + "seeds = [0, 1]")
    suite.main(["suite", str(longer), f"--runs_dir={runs}", "--dry_run"])
    assert "good-1: open, 360,000 of 360,000" in (said := capsys.readouterr().out) and "none has run yet" in said


# Results --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project of its own to publish in."""
    monkeypatch.setattr(outcomes, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "SUITES", tmp_path)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/results.md"):
        (tmp_path / page).write_text(f"before\n{results._BEGIN}\nold\n{results._END}\nafter\n")
    (tmp_path / "tasks.csv").write_text(TASKS)
    monkeypatch.setattr(paper, "TASKS", tmp_path / "tasks.csv")
    return tmp_path


def test_results_come_from_the_runs_and_later_from_what_was_published(disturbed, place, monkeypatch):
    monkeypatch.setattr(scoring, "_SCATTER_POINTS", 400)  # of 500 that the short episodes give
    runs, path, *_ = disturbed
    text = path.read_text().replace(
        "seeds = [0]",
        'seeds = [0, 1]\nreadme = "Good"\nscatter = true\n'
        'published = {score = -2000, steps = 10_000, source = "somebody"}',
    )
    (place / "small.toml").write_text(text)
    results.main(["results", f"--runs_dir={runs}", "--episodes=2"])
    folder = place / "results" / "small" / "good"
    (outcome,) = outcomes.read(folder).outcomes
    scores = outcomes.read_scores(runs / "small" / "good-0" / "evaluations.csv")
    assert outcome.scores == scores and outcome.rescored == pytest.approx(scores[900])  # the same two episodes
    assert outcome.best not in (None, outcome.rescored)  # two others, for the README's row
    assert (folder / "seed-0.csv").read_bytes() == (runs / "small" / "good-0" / "evaluations.csv").read_bytes()
    estimates = np.loadtxt(folder / "scatter.csv", delimiter=",", skiprows=1)
    assert estimates.shape == (400, 3) and (estimates[:, 2] < 0).all()
    table, page = (place / "results" / "README.md").read_text(), (place / "results" / "small.md").read_text()
    assert f"| 900 | 1 | {scores[900]:.1f} |" in table and "| -2,000.0 (somebody, 10,000 steps) | yes |" in table
    assert "seed 0 diverged at step" in table and "seed 0 diverged at step" in page
    assert "All published figures are reached: 1." in table
    readme = (place / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme
    assert "[Good](benchmarks/results/small/good)" in readme and "bad" not in readme
    tasks = (place / "docs" / "results.md").read_text()
    assert tasks.startswith("before\n") and tasks.endswith("after\n") and "old" not in tasks
    second_half = np.mean(list(scores.values())[len(scores) // 2 :])
    ours = f"[small/good](../benchmarks/results/small/good) | {second_half:.1f} | - | the wheels |"
    assert f"| cart | 0.9, 1.3 | 1.0, 1.2 | {ours}" in tasks and "small/unknown, not run yet" in tasks
    assert "| canada | 0.3, 1.7 | 0.1, 0.6 | - | - | - | no maintained one |" in tasks
    for name in ("curves.png", "values.png", "small/good/curve.png"):
        assert (place / "results" / name).read_bytes().startswith(b"\x89PNG")

    results.main(["results", f"--runs_dir={place / 'gone'}"])  # the runs are lost: what is published stays
    assert (place / "results" / "README.md").read_text() == table and (place / "README.md").read_text() == readme
    plan = running.plan(entries.read(place / "small.toml"), place / "gone")
    assert [(run.name, run.state) for run in plan] == [
        ("good-0", running.PUBLISHED),
        ("bad-0", running.PUBLISHED),
        ("good-1", running.OPEN),
    ]

    text = text.replace("batch_size = 16", "batch_size = 16, gamma = 0.5").replace("score = -2000", "score = 1")
    (place / "small.toml").write_text(text.replace("readme =", 'note = "cold"\nreadme ='))
    with pytest.warns(UserWarning, match=r"passed over: .*good-0 was run with --gamma=0.99"):
        assert results.main(["results", f"--runs_dir={runs}"]) == 1
    table = (place / "results" / "README.md").read_text()
    assert "0 of 1 published figures are reached" in table
    assert (
        f"| [good](small/good) | {second_half:.1f} | 1.0 (somebody, 10,000 steps) | " in table and "| cold |" in table
    )
    for page in ("README.md", "results/README.md", "results/small.md"):
        assert "small/good) (of earlier settings) | " in (place / page).read_text()


def test_an_entry_catches_up_with_itself_and_with_others_when_its_seeds_together_do(written):
    text = "".join(
        f"[entries.{name}]\nflags = {{env = 'Pendulum-v1'}}\n" for name in ("first", "fast", "slow", "short")
    )
    suite_, of = entries.read(written(text)), {}
    for name, seeds in {
        "first": [[0] * 5 + [10] * 5, [0] * 5 + [30] * 5],  # 20 in the end, which only the second seed has
        "fast": [[0] + [40] * 9, [0] * 10],  # 20 on average from the sixth evaluation on
        "slow": [[0] * 9 + [90], [0] * 10],
        "short": [[0, 0, 60, 60], [0, 0, 60, 60]],
    }.items():
        outcomes_ = (
            outcomes.Outcome(
                seed, "finished", {100 * (i + 1): float(x) for i, x in enumerate(scores)}, {}, None, 0, None, {}
            )
            for seed, scores in enumerate(seeds)
        )
        of[name] = outcomes.Results(written("").parent, Config(total_steps=1000), tuple(outcomes_))
    rows = [line.split(" | ") for line in side_by_side.suite_page(suite_, of).splitlines() if "](small/" in line]
    assert [cells[6] for cells in rows] == ["1.00", "0.60", "no", "-"]
    of = {name: of[name] for name in ("short", "fast")}  # its last two count
    rows = [line.split(" | ") for line in side_by_side.suite_page(suite_, of).splitlines() if "](small/" in line]
    assert [cells[6] for cells in rows] == ["0.40", "no"]


def test_a_report_keeps_the_parts_that_were_not_measured_now(tmp_path):
    out, figures = tmp_path / "page.md", {"one": 1.0, "two": 2.0}
    for words, names in (("one two", ["one", "two"]), ("one", ["one"])):
        argv = ["/home/benchmarks/speed/measure.py", *words.split(), "--out=my page.md"]
        parts = {name: report.Part(f"of {name}", [report.Row("it", figures[name], ">=", 1.5)]) for name in names}
        report.write(out, "Page", "About it", argv, parts, {"numpy": "2"})
        figures["one"] = 3.0
    sections, made = report.read_sections(out), "Made by `python -m benchmarks.speed.measure"
    assert list(sections) == ["one", "two"] and out.read_text().startswith("# Page\n\nAbout it.\n\n## one\n\nof one\n")
    assert "| it | 3 | >= 1.5 | yes |" in sections["one"] and f"{made} one '--out=my page.md'`; " in sections["one"]
    assert "| it | 2 | >= 1.5 | yes |" in sections["two"] and f"{made} one two '--out=my page.md'`; " in sections["two"]
    rows = [(row["part"], row["measured"]) for row in read_rows(tmp_path / "page.csv")]
    assert rows == [("one", "3.0"), ("two", "2.0")]


# A training of another library: only its files count here. Told as benchmarks/peers/train.py is.
TRAINS = """
import json, pathlib, sys
work = json.loads(sys.argv[2])
home = pathlib.Path(work["run_dir"])
home.mkdir()
versions = {"run": "1", "sbx-rl": "0.1"}
for name, text in (("flags.txt", work["flags"]), ("peer.json", json.dumps(work["peer"])),
                   ("versions.json", json.dumps(versions)), ("model.zip", ""),
                   ("metrics.csv", "step,seconds,steps_per_second,updates\\n300,2,150,10\\n900,6,100,300\\n"),
                   ("evaluations.csv", "step,episode,return,length\\n900,0,-3,200\\n")):
    home.joinpath(name).write_text(text)
"""


def test_another_librarys_training_is_run_and_published_beside_ours(place):
    python = place / "peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable}\n{TRAINS}")
    python.chmod(0o755)
    (place / "peers" / "complete").touch()
    path, runs = place / "small.toml", place / "runs"
    entry = PEER.format("sbx", "DDPG", "net_arch = [16], tau = 0.1").replace("entries.a", "entries.theirs")
    path.write_text(f"{entry}\n{toml({**FLAGS, 'eval_every': 300, 'max_episode_steps': 0})}")
    assert suite.main(["suite", str(path), f"--runs_dir={runs}", f"--peers={place / 'peers'}"]) == 0
    results.main(["results", f"--runs_dir={runs}"])
    found = outcomes.read(place / "results" / "small" / "theirs")
    (outcome,) = found.outcomes
    assert found.peer.settings == {"net_arch": [16], "tau": 0.1}
    assert outcome.scores == {900: -3.0} and outcome.steps_per_second == 125
    page = (found.path / "README.md").read_text()
    assert "DDPG of sbx" in page and "sbx-rl 0.1" in page and "benchmarks.suite" in page and "train.py" not in page
    assert [run.state for run in running.plan(entries.read(path), place / "gone")] == [running.PUBLISHED]

    path.write_text(path.read_text().replace("tau = 0.1", "tau = 0.2"))
    with pytest.raises(UsageError, match="with other settings"):
        suite.main(["suite", str(path), f"--runs_dir={runs}"])
    with pytest.raises(UsageError, match="on this machine only"):
        suite.main(["suite", str(path), f"--runs_dir={place / 'gone'}", "--ray_address=auto"])


def test_the_script_that_trains_with_another_library_leaves_the_files_of_a_run(tmp_path, monkeypatch):
    class Model:  # as Stable-Baselines3's, as far as the script asks
        def __init__(self, policy, env, *, policy_kwargs, **settings):
            assert (policy, policy_kwargs, settings["tau"]) == ("MlpPolicy", {"net_arch": [16]}, 0.1)
            self._n_updates = 0

        def predict(self, observations, deterministic):
            return np.zeros((len(observations), 1), np.float32), None

        def learn(self, steps, callback):
            callback.model = self
            callback._on_training_start()
            for callback.num_timesteps in range(1, steps + 1):
                callback._on_step()
                self._n_updates += callback.num_timesteps > 10

        def save(self, path):
            path.touch()

    parts = {"": {"DDPG": Model}, ".common.callbacks": {"BaseCallback": object}, ".common.noise": {}}
    parts[".common.noise"]["NormalActionNoise"] = lambda mean, sigma: sigma
    for name, has in ({".common": {}} | parts).items():
        monkeypatch.setitem(sys.modules, f"stable_baselines3{name}", SimpleNamespace(**has))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")
    peer = peer_runs.Peer("sb3", "DDPG", {"net_arch": [16], "tau": 0.1})
    work = Config(env="Pendulum-v1", total_steps=40, log_every=20, eval_every=40, eval_episodes=2)
    *_, job = peer_runs.command(ROOT, peer, tmp_path / "run", work)
    runpy.run_path(str(ROOT / "benchmarks" / "peers" / "train.py"))["main"](json.loads(job))
    assert outcomes.is_finished(tmp_path / "run", 40) and outcomes.read_peer(tmp_path / "run") == peer
    assert [(row["step"], row["updates"]) for row in read_rows(tmp_path / "run" / "metrics.csv")] == [
        ("20", "9"),
        ("40", "20"),
    ]
    scores = read_evaluations(tmp_path / "run" / "evaluations.csv")
    evaluator = Evaluator(Config(env="Pendulum-v1"), 2)
    ours = evaluator.run(lambda observations: np.zeros((len(observations), 1), np.float32))
    evaluator.close()
    assert scores == {40: pytest.approx([episode.episode_return for episode in ours])}  # the same episodes


def test_scores_beside_the_papers_have_their_zero_at_random_actions(disturbed, place):
    runs, *_ = disturbed
    folder = place / "results" / "small" / "good"
    outcomes.collect(runs / "small" / "good-0", folder, 0)
    found = outcomes.read(folder)
    half_way = found.outcomes[0].last(10)  # between random actions and the most that a task pays
    random_csv = f"env,episodes,return\ndm_control/cart-v0,1,{2 * half_way - 1000}\n"
    (place / "results" / "random.csv").write_text(random_csv)
    config = dataclasses.replace(found.config, env="dm_control/cart-v0")
    lines = paper.table({"small/good": dataclasses.replace(found, config=config)})
    assert f"| {half_way:.1f} | 0.50 | the wheels |" in lines[2]
    for name, value in (("random", half_way - 1), ("planner", half_way + 3)):  # where no most is known
        (place / "results" / f"{name}.csv").write_text(f"env,episodes,return\nPendulum-v1,1,{value}\n")
    assert f"| {half_way:.1f} | 0.25 | the wheels |" in paper.table({"small/good": found})[2]


def test_a_planner_follows_the_gradient_of_what_an_episode_pays():
    env = make_env("Reacher-v5")
    env.reset(seed=10_000)
    model, steps = planner.Model(env), 12
    first, actions = model.state, np.random.default_rng(0).uniform(-0.5, 0.5, (steps, 2))
    cost, gradient = model.descent(first, actions)
    assert cost == pytest.approx(-planner.play(env, 10_000, actions), rel=1e-6)
    for t in (0, 5, steps - 1):
        apart = np.zeros((steps, 2))
        apart[t, 1] = 1e-4
        slope = (model.total(first, actions - apart) - model.total(first, actions + apart)) / 2e-4
        assert gradient[t, 1] == pytest.approx(slope, rel=1e-3)
    planned = planner.plan(env, 10_000, steps, starts=2)
    assert np.abs(planned).max() <= 1
    returns = [planner.play(env, 10_000, one) for one in (planned, actions, np.zeros((steps, 2)))]
    assert returns[0] > max(returns[1:]) + 0.2


def test_a_planner_refuses_episodes_that_end_before_their_limit():
    with pytest.raises(UserError, match="nothing ends but the time limit"):
        planner.play(make_env("InvertedPendulum-v5"), 10_000, np.ones((100, 1)))


@pytest.mark.parametrize(("env", "why"), [("Ant-v5", "no free body"), ("Pendulum-v1", "MuJoCo environments")])
def test_a_planner_says_what_it_is_not_for(env, why):
    with pytest.raises(UserError, match=why):
        planner.Model(make_env(env))


def test_results_of_other_flags_are_replaced_and_the_same_are_not_scored_twice(disturbed, place, monkeypatch):
    runs, *_ = disturbed
    folder = place / "results" / "small" / "good"
    outcomes.collect(runs / "small" / "good-0", folder, 1)
    outcomes.collect(runs / "small" / "good-0", folder, 1, best=True)  # which was not asked for before
    assert outcomes.read(folder).outcomes[0].best is not None
    monkeypatch.setattr(scoring, "score", lambda *_: pytest.fail("scored again"))
    outcomes.collect(runs / "small" / "good-0", folder, 1, best=True)
    outcomes.collect(runs / "small" / "good-0", folder, 0)
    assert outcomes.read(folder).outcomes[0].best is not None
    flags = (folder / "flags.txt").read_text()
    (folder / "flags.txt").write_text(flags.replace("--gamma=0.99", "--gamma=0.5"))
    (folder / "seed-7.csv").write_text("of another time")
    outcomes.collect(runs / "small" / "good-0", folder, 0)
    assert (folder / "flags.txt").read_text() == flags and not (folder / "seed-7.csv").exists()


def test_the_page_says_how_soon_an_entry_catches_up_with_the_first():
    def entry(name, scores, diverged=0):
        ran = outcomes.Outcome(0, "finished", scores, {}, None, 0, None, {})
        others = [dataclasses.replace(ran, seed=i, ended="diverged at step 7") for i in range(1, 1 + diverged)]
        return name, outcomes.Results(outcomes.folder("small", name), Config(total_steps=10_000), (ran, *others))

    steps = range(1000, 11_000, 1000)
    found = dict(
        [
            entry("first", {step: step / 100 for step in steps}),  # last five: 80
            entry("twice as good", {step: step / 50 for step in steps}),  # 80 over five evaluations at step 6,000
            entry("worse", {step: 0.0 for step in steps}),
            entry("at once", {step: 100.0 for step in steps}),
            entry("few last", {step: step / 50 for step in steps}, diverged=2),
            entry("too few", {step: 0.0 for step in (5_000, 10_000)}),
        ]
    )
    page = side_by_side.suite_page(entries.Suite("small", "", ()), found).splitlines()
    cells = {line.split("]")[0][3:]: line.split(" | ")[6] for line in page if line.startswith("| [")}
    assert cells == {
        "first": "1.00",
        "twice as good": "0.60",
        "worse": "no",
        "at once": "<= 0.50",
        "few last": "no",
        "too few": "-",
    }


def test_a_suite_of_another_place_publishes_nothing_over_this_ones(place):
    (place / "small.toml").write_text("[entries.a]\n" + toml(FLAGS))
    (place / "other").mkdir()
    (place / "other" / "small.toml").write_text("[entries.a]\n" + toml(FLAGS))
    results.main(["results", str(place / "small.toml"), f"--runs_dir={place / 'gone'}"])
    with pytest.raises(UsageError, match=r"other/small\.toml is not in "):
        results.main(["results", str(place / "other" / "small.toml")])


def test_a_run_that_cannot_be_scored_is_passed_over_and_named(disturbed, place, monkeypatch):
    runs, path, *_ = disturbed
    (place / "small.toml").write_text(path.read_text())

    def score(*_):
        raise UserError("incompatible checkpoint")

    monkeypatch.setattr(scoring, "score", score)
    with pytest.warns(UserWarning, match=r"passed over: .*good-0: incompatible checkpoint"):
        assert results.main(["results", f"--runs_dir={runs}"]) == 1
    assert "seed 0 diverged at step" in (place / "results" / "README.md").read_text()  # the other entry's


def test_a_readme_without_a_place_for_the_results_is_refused(place):
    (place / "README.md").write_text("nothing")
    (place / "small.toml").write_text("[entries.a]\n" + toml(FLAGS))
    with pytest.raises(UsageError, match="no place for the results"):
        results.main(["results"])
    assert (place / "README.md").read_text() == "nothing"
