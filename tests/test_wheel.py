"""The wheel, built and installed: nothing of the packages is missing where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGES = ("ddpg_tf", "serve")


def run(cwd, *argv, **environ):
    """What `python ARGV` prints, in `cwd`; the checkout is not on its path."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environ
    done = subprocess.run([sys.executable, *map(str, argv)], cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the wheel is installed. It is built from a copy: setuptools writes beside what it builds."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    run(source, "-m", "pip", "wheel", *quiet, "--no-build-isolation", "--wheel-dir=dist", ".")
    (wheel,) = (source / "dist").iterdir()
    run(source, "-m", "pip", "install", *quiet, "--no-compile", f"--target={target}", wheel)
    return target


def test_the_wheel_holds_every_module_and_preset_and_nothing_else(installed):
    def files(root, kind):
        return {path.relative_to(root) for package in PACKAGES for path in (root / package).rglob(kind)}

    for kind in ("*.py", "*.flags"):
        assert files(installed, kind) == files(ROOT, kind) != set()
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == set(PACKAGES)


def test_the_installed_package_finds_its_own_presets(installed, tmp_path):
    code = (
        "import json, ddpg_tf; from ddpg_tf import flags; "
        "parsed = flags.parse_command_line(['train.py', '--env=Pendulum-v1'], '', str); "
        "print(json.dumps([ddpg_tf.__file__, str(parsed[2])]))"
    )
    found = json.loads(run(tmp_path, "-c", code, PYTHONPATH=str(installed)))
    assert found == [str(installed / "ddpg_tf" / "__init__.py"), str(installed / "ddpg_tf/presets/Pendulum-v1.flags")]


@pytest.mark.parametrize(
    "module", ["ddpg_tf.training", "ddpg_tf.tune", "ddpg_tf.evaluate", "serve.query", "serve.rollout", "serve.local"]
)
def test_commands_of_the_installed_package(installed, tmp_path, module):
    assert f"python -m {module}" in run(tmp_path, "-m", module, "--help", PYTHONPATH=str(installed))
