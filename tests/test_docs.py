"""README and docs: links lead somewhere, commands and flags exist, the Python examples run."""

import contextlib
import functools
import importlib.util
import io
import pathlib
import re
import shlex
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import ROOT

from ddpg_tf import Config
from ddpg_tf.flags import flag_table, preset_table
from ddpg_tf.training.logger import COLUMNS, EVALUATION_COLUMNS, VALUE_COLUMNS, WAITS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))


def test_the_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    before, _, rest = text.partition("<!-- results")
    assert len((before + rest.partition("<!-- end")[2]).splitlines()) <= 115  # the table grows with what is published
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    for link in (link for link in links if not link.startswith("http")):
        assert (page.parent / unquote(link)).exists(), link


def test_the_table_of_flags_is_what_the_flags_are():
    for table in (flag_table(), preset_table()):
        assert table in (ROOT / "docs" / "flags.md").read_text(), "paste the output of python -m ddpg_tf.flags"


def test_every_column_is_explained():
    text = (ROOT / "docs" / "runs.md").read_text()
    explained = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", text, re.M))))
    assert {*COLUMNS, *WAITS, *VALUE_COLUMNS} <= explained
    assert f"`{', '.join(EVALUATION_COLUMNS)}`" in text


@functools.cache
def help_of(*program) -> str:
    """What a command says to --help; here, for a process of each takes seconds."""
    name = program[-1].removesuffix(".py")
    if importlib.util.find_spec(name).submodule_search_locations:
        name += ".__main__"
    assert 'if __name__ == "__main__":' in pathlib.Path(importlib.util.find_spec(name).origin).read_text()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit, match=r"^0$"):
        importlib.import_module(name).main([program[-1], "--help"])
    return said.getvalue()


def commands():
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
            for line in re.split(r"\n|&& |; do |& ", block.replace("\\\n", "")):
                words = shlex.split(line.removesuffix("; done").strip())
                if words[:1] == ["python"] and words[1:3] != ["-m", "pytest"]:
                    program = words[1:3] if words[1] == "-m" else words[1:2]
                    yield pytest.param(program, words, id=f"{page.stem}: {line[:40]}")


@pytest.mark.parametrize("program, words", list(commands()))
def test_a_command_and_its_flags_exist(program, words):
    explained = help_of(*program)
    for flag in re.findall(r"--(\w+)", " ".join(words)):
        assert f"--{flag}:" in explained, flag


def python_blocks(page) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def test_the_example_of_an_own_environment_keeps_its_promises():
    from ddpg_tf.envs import factory
    from ddpg_tf.envs.spaces import checked_spaces

    exec(next(block for block in python_blocks(ROOT / "docs/develop.md") if "gym.register" in block), {})
    env = factory.make_flat_env(Config(env="Tank-v0"))
    spaces = checked_spaces(factory.make_policy_env(Config(env="Tank-v0")), "Tank-v0")
    assert list(spaces.leaves) == ["level", "set_point"] and env.spec.max_episode_steps == 50
    seen, _ = env.reset(seed=0)
    level, *_ = env.step(np.float32([1.0]))[0]
    assert seen.shape == (2,) and level == pytest.approx(seen[0] + 0.1)


def test_the_python_examples_run(tmp_path, monkeypatch, capsys):
    """docs/develop.md's holds README's."""
    readme, code = (
        next(block for block in python_blocks(ROOT / page) if "Config(" in block)
        for page in ("README.md", "docs/develop.md")
    )
    assert all(line in code for line in readme.splitlines() if not line.startswith("from"))
    monkeypatch.chdir(tmp_path)
    exec(code.replace("2_000", "700"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "runs/Pendulum-v1-0-" in said and "critic_loss" in said
