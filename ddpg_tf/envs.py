"""Gymnasium ids -> environments the loop can trust: spaces checked, Dict observations flattened, resets that forget.

Does not import TensorFlow: vector workers and the video process start from here.
"""

import dataclasses
import difflib
import functools
import importlib
import json
import os
import re
import warnings
from typing import Any

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
if not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():  # or SDL complains before it finds this by itself
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from ddpg_tf import frames, rendering, workers
from ddpg_tf.cli import UserError
from ddpg_tf.config import Config


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
        except Exception as error:  # dm_control opens its GL library at import
            if rendering.is_about_gl(error):
                raise UserError(rendering.NO_GL.format(error)) from None
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
            mode = {"render_mode": render_mode} if render_mode else {}  # not every environment knows the argument
            env = gym.make(env_id.rpartition(":")[2], disable_env_checker=True, **(env_kwargs or {}), **mode)
    except Exception as error:  # constructors raise all kinds of things at arguments they do not like
        if rendering.is_about_gl(error):
            raise UserError(rendering.NO_GL.format(error)) from None
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
        {"observation": shape}. An image is the only leaf.
      keys: {name in the SavedModel: path in the observation space}, for policy.json.
      low, high: float32 [A], action bounds in environment units, rounded inwards.
      image: whether the observation is an image, uint8 [H, W, C]; else it is a vector, float32 [O].
    """

    leaves: dict[str, tuple[int, ...]]
    keys: dict[str, str]
    low: np.ndarray
    high: np.ndarray
    image: bool = False

    @property
    def observation_size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.leaves.values())

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(O,), or (H, W, C) of an image."""
        return self.leaves["observation"] if self.image else (self.observation_size,)

    @property
    def observation_dtype(self) -> type:
        return np.uint8 if self.image else np.float32

    @property
    def action_size(self) -> int:
        return len(self.low)


def read_spaces(env: gym.Env, env_id: str) -> Spaces:
    """Checks that DDPG can learn `env`.

    Raises:
      UserError: discrete, unbounded or oddly shaped actions; observations that are not numbers, or images among
        others.
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
        if leaf.dtype == np.uint8 and len(leaf.shape) > 1 and not is_image(env.observation_space):
            raise UserError(f"{env_id} has images {leaf.shape} within its observations: ddpg_tf needs one image, "
                            "[H, W], [H, W, 1] or [H, W, 3], and nothing else")
        name = re.sub(r"[^A-Za-z0-9_]", "_", "_".join(path)) or "observation"
        if name.startswith("_"):
            raise UserError(f"{env_id}: the observation key {'/'.join(path)!r} would be {name!r} in a SavedModel, "
                            "where names do not start with _: rename it")
        if name in leaves or name == "action":
            raise UserError(f"{env_id}: the observation key {'/'.join(path)!r} is {name!r} in a SavedModel, and so is "
                            f"{keys.get(name, 'the action')!r}: rename one")
        leaves[name], keys[name] = leaf.shape, "/".join(path)
    return Spaces(leaves, keys, *_float32_bounds(space), image=is_image(env.observation_space))


def is_image(space: gym.Space) -> bool:
    """Whether observations of `space` are images, and nothing else."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def sees_images(config: Config, env: gym.Env) -> bool:
    """Whether a policy is shown frames of `env`, as make_env gives it, and holds its actions."""
    return config.pixels or is_image(env.observation_space)


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


def make_policy_env(config: Config, *, isolate: bool = True) -> gym.Env:
    """The environment as a policy sees it: image observations as stacked frames, others as they are.

    Args:
      isolate: put what renders with OpenGL into a process of its own, where no TensorFlow is; without, and beside
        TensorFlow, it can be asked for its spaces but must not be reset.
    Raises:
      UserError: as `make_env` does, or it cannot render.
    """
    kwargs = json.loads(config.env_kwargs)
    env = make_env(config.env, kwargs)
    if not sees_images(config, env):
        return env
    if config.pixels and "rgb_array" not in env.metadata.get("render_modes", ()):
        raise UserError(f"{config.env} cannot render, and --pixels needs that: its metadata names no mode rgb_array")
    if isolate and rendering.needs_own_process(env):
        env.close()
        make = functools.partial(make_policy_env, config, isolate=False)
        return workers.Isolated(make, config.env, rendering.NO_GL.format("perhaps"))
    if config.pixels:
        kwargs = rendering.arguments(env, config.frame_size) | kwargs
        env.close()
        env = make_env(config.env, kwargs, render_mode="rgb_array")
        rendering.simplify(env)
    elif frames.DrawnWhenSeen.fits(env):
        env = frames.DrawnWhenSeen(env)
    return frames.Frames(env, config)


def make_flat_env(config: Config, *, isolate: bool = True) -> gym.Env:
    """As `make_policy_env`, with other than image observations flattened to one vector; what the loop steps."""
    env = make_policy_env(config, isolate=isolate)
    space = env.observation_space
    if not is_image(space) and (not isinstance(space, Box) or len(space.shape) != 1):
        env = gym.wrappers.FlattenObservation(env)
    return Replayable(env)


def make_vector_env(config: Config) -> gym.vector.VectorEnv:
    """The environments of `config` stepped together, autoreset disabled: `step` returns true successors."""
    if config.vectorization == "async":
        make = functools.partial(make_flat_env, config, isolate=False)
        return workers.Workers([make] * config.num_envs, config.env, hide_main=config.pixels)
    make = functools.partial(make_flat_env, config)
    return gym.vector.SyncVectorEnv([make] * config.num_envs, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
