"""The rooms of ddpg_tf and of benchmarks, and which may know which; what must do without TensorFlow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command

from ddpg_tf import cli

# Each line may import from those above it, and from its own room; rooms of one line do not know each other.
ORDER = {
    "ddpg_tf": [
        ["_tf", "child", "cli", "errors", "files"],
        ["settings", "consistency"],
        ["config"],
        ["flags"],
        ["envs", "replay"],
        ["learner", "collect"],
        ["storage"],
        ["evaluation", "export"],
        ["training"],
        ["evaluate", "tune"],
    ],
    "benchmarks": [
        ["processes", "scoring"],
        ["report", "peers"],
        ["outcomes"],
        ["curves", "suite"],
        ["pages", "random_policy"],
        ["results", "speed", "serving", "films", "planner"],
        ["reliability"],
    ],
}
FLOOR = {
    (package, room): floor for package, floors in ORDER.items() for floor, rooms in enumerate(floors) for room in rooms
}
PACKAGE = ROOT / "ddpg_tf"


def modules_of(path: Path, package: str = "ddpg_tf") -> list[str]:
    """The modules of a package that a file imports, anywhere in it, as dotted paths below the package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")]
    return found


def rooms_of(path: Path, package: str = "ddpg_tf") -> set[str]:
    return {module.partition(".")[0] for module in modules_of(path, package)}


def place_of(path: Path) -> tuple[str, str]:
    """(package, room)"""
    package, *parts = path.relative_to(ROOT).parts
    return package, parts[0].removesuffix(".py")


FILES = sorted(
    path
    for package in ORDER
    for path in (ROOT / package).rglob("*.py")
    if path != ROOT / package / "__init__.py" and "/." not in str(path.relative_to(ROOT))  # environments of others
)


def test_every_room_has_a_floor_and_says_what_it_is_for():
    assert {place_of(path) for path in FILES} == FLOOR.keys()
    for folder in {path.parent for path in FILES} - {ROOT / package for package in ORDER}:
        assert len(ast.get_docstring(ast.parse((folder / "__init__.py").read_text())).splitlines()) in (1, 2, 3, 4)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    package, room = place_of(path)
    floor = FLOOR[package, room]
    for other in rooms_of(path, package) - {room, "__version__"}:
        needed = FLOOR[package, other]
        assert needed < floor or needed == floor == 0, f"{room} imports {other}"


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda path: path.name)
def test_there_is_no_circle_within_a_room(folder):
    package, *parts = folder.relative_to(ROOT).parts
    prefix = "".join(f"{part}." for part in parts)
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    left = {
        name: {
            module.removeprefix(prefix).partition(".")[0]
            for module in modules_of(folder / f"{name}.py", package)
            if module.startswith(prefix)
        }
        & names - {name}
        for name in names
    }
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    assert not left


def test_the_replay_knows_neither_config_nor_networks():
    known = set().union(*(rooms_of(path) for path in PACKAGE.glob("replay/*.py")))
    assert known <= {"replay", "_tf", "errors", "files"}


def test_the_client_needs_nothing_of_the_project():
    assert not any(modules_of(ROOT / "serve" / f"{name}.py") for name in ("client", "connection"))


def test_clients_workers_films_and_help_do_without_tensorflow():
    """One after the other in one process; serve.client and making an environment have tests of their own."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    print(name, *{'tensorflow', 'keras'} & sys.modules.keys())"
    )
    modules = [
        "ddpg_tf.flags",
        "ddpg_tf.evaluation.video",
        "ddpg_tf.export.runtimes",
        "ddpg_tf.tune",
        "benchmarks.suite.__main__",
    ]
    assert command("-c", code, *modules).stdout.split("\n") == [*modules, ""]


def test_commands_do_not_wait_for_what_only_keras_would_use():
    code = (
        "import sys\n"
        "from ddpg_tf import cli\n"
        "def main(argv):\n"
        "    from ddpg_tf.collect import noise\n"
        "    print({'h5py', 'matplotlib', 'pandas', 'scipy'} & sys.modules.keys())\n"
        "    import h5py, matplotlib\n"
        "cli.run(main)"
    )
    environ = {name: value for name, value in os.environ.items() if name != cli.OWN_PROCESS}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
