"""Gymnasium ids -> environments."""

import contextlib
import difflib
import importlib
import io
import re
import warnings
from typing import Any

import gymnasium as gym

from ddpg_tf.envs import rendering
from ddpg_tf.envs.quirks import FreshWorld
from ddpg_tf.errors import UserError, located


def resolve_id(env_id: str) -> str:
    """`env_id`, or the current version of a retired one, with a warning.

    Raises:
      UserError: no such environment (near matches are named), or its module does not import.
    """
    module, _, name = env_id.rpartition(":")
    if "/" in module or module.endswith(".py"):
        raise UserError(f"cannot import {module!r}: --env takes a module, as in PYTHONPATH=. --env=module:{name}")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            here = f"{error.name}.".startswith(f"{module.partition('.')[0]}.")
            hint = ": PYTHONPATH must name the folder that holds it" if here else ""
            raise UserError(f"cannot import {module!r}, the module of --env={env_id}: {error}{hint}") from None
        except Exception as error:  # a module may do anything when it is imported
            raise UserError(f"cannot import {module!r}, the module of --env={env_id}: {located(error)}") from None
    _register_dm_control(name)
    _register_robotics(name)
    current = _current_version(name)
    if current is None:
        near = difflib.get_close_matches(name, gym.registry.keys(), n=3, cutoff=0.8 if module else 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "gymnasium.pprint_registry() lists what there is."
        if module:
            elsewhere = f" {module} has been imported, and registers none of that name"
        else:
            elsewhere = f" One of another package is named with it: --env=PACKAGE:{name}"
        raise UserError(f"no environment {env_id!r}; {hint}{elsewhere}")
    if current != name and re.search(r"-v\d+$", name):
        warnings.warn(f"{name} is retired: running {current}", stacklevel=2)
    return f"{module}:{current}" if module else current


def _register_dm_control(name: str):
    if name.startswith("dm_control/"):
        try:
            with warnings.catch_warnings(), rendering.without_gl():
                warnings.simplefilter("ignore")  # glfw complains of the missing display
                importlib.import_module("shimmy")
        except Exception as error:  # dm_control opens its GL library at import
            if rendering.is_about_gl(error):
                raise UserError(rendering.NO_GL.format(error)) from None
            raise UserError(f"{name} needs shimmy and dm_control (see requirements.txt): {error}") from None


def _register_robotics(name: str):
    """Gymnasium-Robotics' ids, where `name` is none of Gymnasium's."""
    if _current_version(name) is None:
        with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):  # it prints news at import
            importlib.import_module("gymnasium_robotics")


def _current_version(name: str) -> str | None:
    """The id that runs today: itself, the newest version of a retired or unversioned id, or None."""
    match = re.fullmatch(r"(?P<base>.+?)(?:-v(?P<version>\d+))?", name)
    if match is None:
        return None
    versions = {
        spec.version: spec.id
        for spec in gym.registry.values()
        if spec.version is not None and spec.id == f"{match['base']}-v{spec.version}"
    }
    asked = match["version"]
    # Gymnasium still registers the v2 and v3 MuJoCo ids, with an entry point that only raises, and Gymnasium-Robotics
    # these and others, which need a package that no longer installs.
    entry = str(gym.registry[name].entry_point) if name in gym.registry else ""
    old = entry.startswith("gymnasium_robotics.envs.mujoco.") and asked in ("2", "3")
    gone = old or "_raise_mujoco_py_error" in entry or "MujocoPy" in entry
    if name in gym.registry and not gone:
        return name
    newest = max(versions, default=None)
    return versions[newest] if newest is not None and (asked is None or int(asked) < newest) else None


def make_env(env_id: str, env_kwargs: dict[str, Any] | None = None, render_mode: str | None = None) -> gym.Env:
    """The environment behind `env_id`, with its own (unflattened) observations.

    Raises:
      UserError: unknown id, a package it needs is missing, or it rejects `env_kwargs`.
    """
    env_id = resolve_id(env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            mode = {"render_mode": render_mode} if render_mode else {}  # not every environment knows the argument
            env = gym.make(env_id.rpartition(":")[2], disable_env_checker=True, **(env_kwargs or {}), **mode)
    except Exception as error:  # constructors raise all kinds of things at arguments they do not like
        if rendering.is_about_gl(error):
            raise UserError(rendering.NO_GL.format(error)) from None
        raise UserError(f"cannot make {env_id}: {error}") from None
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gym.Space):  # forgotten, or one of the old gym's
            raise UserError(f"{env_id} has no {name} of gymnasium.spaces")
    return FreshWorld(env) if "bipedal_walker" in type(env.unwrapped).__module__ else env
