"""Replays one episode from its seed and actions, and films it.

A process of its own, without TensorFlow: Mesa's software renderer and TensorFlow crash when they share one.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from ddpg_tf import child
from ddpg_tf.cli import UserError


def record(path: Path, env_id: str, env_kwargs: str, seed: int, actions: np.ndarray) -> bool:
    """Films the episode into `path` (the suffix chooses the format: mp4, gif). False, with a warning, if it cannot.

    Args:
      env_kwargs: JSON, as Config has it.
      actions: float32 [L, A], environment units.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    gl = {} if "DISPLAY" in os.environ or "MUJOCO_GL" in os.environ else {"MUJOCO_GL": "egl"}
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, actions)
        file.flush()
        done = child.run("ddpg_tf.video", env_id, env_kwargs, seed, file.name, path, **gl)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        warnings.warn(f"no video of {env_id}: {reason} (MuJoCo without a display needs the packages libegl1 and "
                      "libgl1-mesa-dri)", stacklevel=2)
    return done.returncode == 0


def _main(env_id: str, env_kwargs: str, seed: str, actions: str, out: str):
    import imageio

    from ddpg_tf import envs

    env = envs.make_env(env_id, json.loads(env_kwargs), render_mode="rgb_array")
    env.reset(seed=int(seed))
    _follow(env)
    frames = [env.render()]
    for action in np.load(actions):
        env.step(action)
        frames.append(env.render())
    fps = env.metadata.get("render_fps", 30)
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])  # H.264 wants even sides
    partial = f"{Path(out).with_suffix('')}.partial{Path(out).suffix}"
    imageio.mimwrite(partial, [frame[:height, :width] for frame in frames], fps=fps)
    os.replace(partial, out)
    env.close()


def _follow(env):
    """Uses the model's tracking camera: since 1.4, Gymnasium's own stays where most MuJoCo robots have left."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco

        camera = mujoco.mj_name2id(env.unwrapped.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        if camera != -1:
            renderer.camera_id = camera


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except (UserError, OSError, ValueError, AttributeError) as problem:
        sys.exit(str(problem))
