"""Replays one episode from its seed and actions, and films it.

A process of its own, without TensorFlow: Mesa's software renderer and TensorFlow crash when they share one.
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from ddpg_tf import child
from ddpg_tf.config import Config
from ddpg_tf.envs import factory, registry, rendering
from ddpg_tf.errors import UsageError, UserError


def save_stack(path: Path, observation: np.ndarray, stack: int):
    """What the networks see: the `stack` frames of an image uint8 [H, W, C] side by side, the oldest at the left."""
    from PIL import Image

    image = np.concatenate(np.split(observation, stack, axis=2), axis=1)
    scale = max(1, 256 // len(image))
    image = image.squeeze(2) if image.shape[2] == 1 else image
    Image.fromarray(image.repeat(scale, 0).repeat(scale, 1)).save(path)


def require_format(path: Path):
    """Raises UsageError unless the suffix of `path` is a film's."""
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise UsageError(f"the film {path} must end in .mp4 or .gif")


def record(path: Path, config: Config, seed: int, actions: np.ndarray) -> str:
    """Films the episode into `path`, whose suffix chooses the format: mp4, gif.

    Args:
      config: names the environment, and from pixels how long actions are held.
      actions: float32 [L, A], environment units.
    Returns:
      Why it could not be, in one line; empty if it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, actions)
            file.flush()
            given = (json.dumps(dataclasses.asdict(config)), seed, file.name, path)
            reason = child.failure("ddpg_tf.evaluation.video", *given)
    except OSError as error:  # no room, no such directory, ...
        reason = str(error)
    if rendering.is_about_gl(reason):
        reason = rendering.NO_GL.format(reason)
    return reason and f"no video of {config.env}: {reason}"


def _main(settings: str, seed: str, actions: str, out: str):
    import imageio

    rendering.use_display_or_egl()
    config = Config(**json.loads(settings))
    env = registry.make_env(config.env, config.env_arguments, render_mode="rgb_array")
    repeat = config.action_repeat if factory.sees_images(config, env) else 1
    env.reset(seed=int(seed))
    rendering.follow(env)
    pictures = [rendering.picture(env, config.env)]
    for action in np.load(actions).repeat(repeat, axis=0):
        _, _, terminated, truncated, _ = env.step(np.asarray(action, env.action_space.dtype))
        pictures.append(rendering.picture(env, config.env))
        if terminated or truncated:
            break
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])  # H.264 wants even sides
    partial = f"{Path(out).with_suffix('')}.partial{Path(out).suffix}"
    imageio.mimwrite(partial, [frame[:height, :width] for frame in pictures], fps=rendering.frames_per_second(env))
    os.replace(partial, out)
    env.close()


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except (UserError, OSError, ValueError, AttributeError) as problem:
        sys.exit(str(problem))
