"""Gymnasium ids -> environments the loop can trust: spaces checked, Dict observations flattened, resets that forget.

Does not import TensorFlow: vector workers and the video process start from here.
"""

import dataclasses
import difflib
import functools
import importlib
import multiprocessing
import os
import re
import signal
import warnings
from typing import Any

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from ddpg_tf.cli import UserError


def resolve_id(env_id: str) -> str:
    """`env_id`, or the current version of a retired one, with a warning.

    Raises:
      UserError: no such environment (near matches are named), or its module does not import.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except (ImportError, TypeError, ValueError) as error:
            raise UserError(f"cannot import {module!r}, the module of --env={env_id}: {error}") from None
    _register_dm_control(name)
    current = _current_version(name)
    if current is None:
        near = difflib.get_close_matches(name, gym.registry.keys(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; gymnasium.pprint_registry() lists what there is"
        raise UserError(f"no environment {env_id!r}{hint}")
    if current != name and re.search(r"-v\d+$", name):
        warnings.warn(f"{name} is retired: running {current}", stacklevel=2)
    return f"{module}:{current}" if module else current


def _register_dm_control(name: str):
    if name.startswith("dm_control/"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # glfw complains of the missing display
                importlib.import_module("shimmy")
        except ImportError as error:
            raise UserError(f"{name} needs shimmy and dm_control (see requirements.txt): {error}") from None


def _current_version(name: str) -> str | None:
    """The id that runs today: itself, the newest version of a retired or unversioned id, or None."""
    match = re.fullmatch(r"(?P<base>.+?)(?:-v(?P<version>\d+))?", name)
    if match is None:
        return None
    versions = {spec.version: spec.id for spec in gym.registry.values()
                if spec.version is not None and spec.id == f"{match['base']}-v{spec.version}"}
    asked = match["version"]
    # Gymnasium still registers the v2 and v3 MuJoCo ids, with an entry point that only raises.
    gone = name in gym.registry and "mujoco" in str(gym.registry[name].entry_point) and asked in ("2", "3")
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
            rendering = {"render_mode": render_mode} if render_mode else {}  # not every environment knows the argument
            env = gym.make(env_id.rpartition(":")[2], disable_env_checker=True, **(env_kwargs or {}), **rendering)
    except Exception as error:  # constructors raise all kinds of things at arguments they do not like
        raise UserError(f"cannot make {env_id}: {error}") from None
    return FreshWorld(env) if "bipedal_walker" in type(env.unwrapped).__module__ else env


class FreshWorld(gym.Wrapper):
    """BipedalWalker keeps its Box2D world, and with it a memory of earlier episodes, over a reset."""

    def reset(self, *, seed=None, options=None):
        import Box2D

        env = self.unwrapped
        env._destroy()
        env.world = Box2D.b2World()
        return self.env.reset(seed=seed, options=options)


class Replayable(gym.Wrapper):
    """`reset(options={"actions": [L, A]})` steps those actions too: how a resumed run re-enters an episode."""

    def reset(self, *, seed=None, options=None):
        actions = (options or {}).get("actions", ())
        observation, info = self.env.reset(seed=seed)
        for action in actions:
            observation, _, terminated, truncated, info = self.env.step(np.array(action))
            if terminated or truncated:
                break
        return observation, info


@dataclasses.dataclass(frozen=True)
class Spaces:
    """What the learner knows of an environment.

    Attributes:
      leaves: {name in the SavedModel: shape} of each observation array, in the order they are flattened; a Box is
        {"observation": shape}.
      keys: {name in the SavedModel: path in the observation space}, for policy.json.
      low, high: float32 [A], action bounds in environment units, rounded inwards.
    """

    leaves: dict[str, tuple[int, ...]]
    keys: dict[str, str]
    low: np.ndarray
    high: np.ndarray

    @property
    def observation_size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.leaves.values())

    @property
    def action_size(self) -> int:
        return len(self.low)


def read_spaces(env: gym.Env, env_id: str) -> Spaces:
    """Checks that DDPG can learn `env`.

    Raises:
      UserError: discrete, unbounded or oddly shaped actions; observations that are not numbers, or are images.
    """
    space = env.action_space
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"{env_id} has the action space {space}: DDPG needs continuous actions (a float Box)")
    if space.shape is None or len(space.shape) != 1:
        raise UserError(f"{env_id} has actions of shape {space.shape}: ddpg_tf needs vectors")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(f"{env_id} has unbounded actions {space}: ddpg_tf needs finite bounds; wrap the environment "
                        "in gymnasium.wrappers.RescaleAction")
    leaves, keys = {}, {}
    for path, leaf in _observation_leaves(env.observation_space, ()):
        if not isinstance(leaf, Box):
            raise UserError(f"{env_id} has an observation of {leaf}: ddpg_tf needs Box, or Dict/Tuple of Box")
        if leaf.dtype == np.uint8 and len(leaf.shape) > 1:
            raise UserError(f"{env_id} has image observations {leaf.shape}: learning from pixels is not there yet")
        name = re.sub(r"[^A-Za-z0-9_]", "_", "_".join(path)) or "observation"
        if name.startswith("_"):
            raise UserError(f"{env_id}: the observation key {'/'.join(path)!r} would be {name!r} in a SavedModel, "
                            "where names do not start with _: rename it")
        if name in leaves or name == "action":
            raise UserError(f"{env_id}: the observation key {'/'.join(path)!r} is {name!r} in a SavedModel, and so is "
                            f"{keys.get(name, 'the action')!r}: rename one")
        leaves[name], keys[name] = leaf.shape, "/".join(path)
    return Spaces(leaves, keys, *_float32_bounds(space))


def _observation_leaves(space: gym.Space, path: tuple[str, ...]):
    """(path, space) of each leaf, in the order of gymnasium.spaces.flatten."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from _observation_leaves(part, (*path, str(key)))
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.spaces):
            yield from _observation_leaves(part, (*path, f"observation_{index}"))
    else:
        yield path, space


def _float32_bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(low.astype(np.float64) < space.low, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high.astype(np.float64) > space.high, np.nextafter(high, np.float32(-np.inf)), high)
    return low, high


def make_flat_env(env_id: str, env_kwargs: dict[str, Any] | None = None) -> gym.Env:
    """As `make_env`, with observations flattened to one vector; what training and evaluation step."""
    env = make_env(env_id, env_kwargs)
    if not isinstance(env.observation_space, Box) or len(env.observation_space.shape) != 1:
        env = gym.wrappers.FlattenObservation(env)
    return Replayable(env)


def make_vector_env(env_id: str, env_kwargs: dict[str, Any], num_envs: int, vectorization: str) -> gym.vector.VectorEnv:
    """`num_envs` environments stepped together, autoreset disabled: `step` returns true successors.

    Workers are spawned, not forked: TensorFlow's threads do not survive a fork.
    """
    make = functools.partial(make_flat_env, env_id, env_kwargs)
    disabled = gym.vector.AutoresetMode.DISABLED
    if vectorization == "async":
        make = functools.partial(_make_in_worker, env_id, env_kwargs)
        return gym.vector.AsyncVectorEnv([make] * num_envs, context="spawn", autoreset_mode=disabled)
    return gym.vector.SyncVectorEnv([make] * num_envs, autoreset_mode=disabled)


def _make_in_worker(env_id: str, env_kwargs: dict[str, Any]) -> gym.Env:
    if multiprocessing.parent_process() is not None:  # Gymnasium makes one in the parent too, to learn its spaces
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which still needs its workers
    return make_flat_env(env_id, env_kwargs)
