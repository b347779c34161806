"""What the learner knows of an environment, and whether DDPG can learn it."""

import dataclasses
import math
import re
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from ddpg_tf.errors import UserError

GOALS = ("achieved_goal", "desired_goal")


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

    @property
    def has_goals(self) -> bool:
        """Whether it has goals as Gymnasium-Robotics has them: arrays achieved_goal and desired_goal of one shape."""
        shapes = [self.leaves[goal] for goal in GOALS if self.keys.get(goal) == goal]
        return len(shapes) == len(GOALS) and len(set(shapes)) == 1

    def part(self, name: str) -> slice:
        """Where the array `name` lies in the flattened observation."""
        names, sizes = list(self.leaves), [math.prod(shape) for shape in self.leaves.values()]
        start = sum(sizes[: names.index(name)])
        return slice(start, start + math.prod(self.leaves[name]))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return dataclasses.asdict(self) | {"low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Spaces":
        leaves = {name: tuple(shape) for name, shape in saved["leaves"].items()}
        low, high = np.array(saved["low"], np.float32), np.array(saved["high"], np.float32)
        return cls(**saved | {"leaves": leaves, "low": low, "high": high})


_TRANSFORM = (
    "wrap the environment in gymnasium.wrappers.TransformAction(env, f, Box(-1, 1, [A])), f making its own action of A "
    "numbers"
)


def checked_spaces(env: gym.Env, env_id: str) -> Spaces:
    """Checks that DDPG can learn `env`.

    Raises:
      UserError: discrete, unbounded or oddly shaped actions; observations that are not numbers, or images among
        others.
    """
    space = env.action_space
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"{env_id} has the action space {space}: DDPG needs continuous actions (a float Box)")
    if space.shape is None or len(space.shape) != 1 or not space.shape[0]:
        raise UserError(f"{env_id} has actions of shape {space.shape}: ddpg_tf needs vectors; {_TRANSFORM}")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(f"{env_id} has unbounded actions {space}: ddpg_tf needs finite bounds; {_TRANSFORM}")
    leaves, keys = {}, {}
    for path, leaf in _observation_leaves(env.observation_space, ()):
        if not isinstance(leaf, Box):
            raise UserError(f"{env_id} has an observation of {leaf}: ddpg_tf needs Box, or Dict/Tuple of Box")
        if leaf.dtype == np.uint8 and len(leaf.shape) > 1 and not is_image(env.observation_space):
            raise UserError(
                f"{env_id} has images {leaf.shape} within its observations: ddpg_tf needs one image, "
                "[H, W], [H, W, 1] or [H, W, 3], and nothing else"
            )
        name = re.sub(r"[^A-Za-z0-9_]", "_", "_".join(path)) or "observation"
        if name.startswith("_"):
            raise UserError(
                f"{env_id}: the observation key {'/'.join(path)!r} would be {name!r} in a SavedModel, "
                "where names do not start with _: rename it"
            )
        alike = [keys[other] for other in leaves if other.lower() == name.lower()]  # TensorFlow takes them for one
        if alike or name.lower() == "action":
            raise UserError(
                f"{env_id}: the observation key {'/'.join(path)!r} is {name!r} in a SavedModel, and so is "
                f"{(alike or ['the action'])[0]!r}: rename one"
            )
        leaves[name], keys[name] = leaf.shape, "/".join(path)
    empty = [keys[name] for name, shape in leaves.items() if not math.prod(shape)]  # not all formats export them
    if empty or not leaves:
        which = f", {' and '.join(empty)}: leave them out" if any(empty) else f": {env.observation_space}"
        raise UserError(f"{env_id} has observations without a number in them{which}")
    return Spaces(leaves, keys, *_float32_bounds(space), image=is_image(env.observation_space))


def is_image(space: gym.Space) -> bool:
    """Whether observations of `space` are images, and nothing else."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


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
    return low, np.maximum(low, high)  # no float32 may lie between
