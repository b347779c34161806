"""How environments draw themselves: with OpenGL or without, cheaply, and with the camera on the robot.

Does not import TensorFlow: what renders MuJoCo runs without it.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from ddpg_tf.errors import UserError, located

NO_GL = (
    "cannot render with MuJoCo ({}): without a display it needs the packages libegl1 and libgl1-mesa-dri, and the "
    "environment variable MUJOCO_GL=egl (set by itself where no DISPLAY answers)"
)
_GL = {"mujoco", "dm_control", "OpenGL"}
_draws = False  # whether this process may draw


def needs_own_process(env: gym.Env) -> bool:
    """Whether `env` draws with OpenGL: Mesa's renderer and TensorFlow in one process end in a segmentation fault."""
    inner = env.unwrapped
    imported = {
        part.__name__.partition(".")[0]
        for part in vars(sys.modules[type(inner).__module__]).values()
        if isinstance(part, ModuleType)
    }
    return hasattr(inner, "mujoco_renderer") or _is_of_dm_control(env) or not imported.isdisjoint(_GL)


def _is_of_dm_control(env: gym.Env) -> bool:
    """Whether `env` is one of dm_control's tasks, through shimmy."""
    return type(env.unwrapped).__module__.startswith("shimmy.")


def arguments(env: gym.Env, size: int) -> dict[str, Any]:
    """Arguments of gymnasium.make that have `env` draw frames of `size` by itself; others are resized."""
    if hasattr(env.unwrapped, "mujoco_renderer"):
        return {"width": size, "height": size}
    if _is_of_dm_control(env):
        return {
            "render_kwargs": {
                "width": size,
                "height": size,
                "render_flag_overrides": {"shadow": False, "reflection": False},
            }
        }
    return {}


def simplify(env: gym.Env):
    """Turns off what makes software rendering slow and teaches nothing, shadows and reflections; follows the robot."""
    inner = env.unwrapped
    if _is_of_dm_control(env):
        model = inner._env.physics.model
    elif hasattr(inner, "mujoco_renderer"):
        model = inner.model
    else:
        return
    model.vis.quality.shadowsize = 0
    model.mat_reflectance[:] = 0
    follow(env)


def follow(env: gym.Env):
    """Uses the model's own camera, which follows a robot that moves: the free one stays where most have left."""
    inner = env.unwrapped
    if _is_of_dm_control(env) and inner._env.physics.model.ncam:
        inner.render_kwargs.setdefault("camera_id", 0)
    renderer = getattr(inner, "mujoco_renderer", None)
    if renderer is not None and renderer.camera_id == -1:
        import mujoco

        camera = mujoco.mj_name2id(inner.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        if camera != -1:
            renderer.camera_id = camera


def frames_per_second(env: gym.Env) -> float:
    """Of a film as fast as the world it shows; shimmy's render_fps is the length of a step in milliseconds instead."""
    if _is_of_dm_control(env):
        return 1 / env.unwrapped._env.control_timestep()
    return env.metadata.get("render_fps", 30)


def picture(env: gym.Env, name: str) -> np.ndarray:
    """uint8 [H, W] or [H, W, C], what `env` looks like now.

    Raises:
      UserError: it cannot draw itself, or into something else.
    """
    try:
        found = env.render()
    except Exception as error:  # GL libraries raise all kinds of things
        message = NO_GL.format(error) if is_about_gl(error) else f"{name} cannot render: {located(error)}"
        raise UserError(message) from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{name} renders {type(found).__name__}, not an array: a picture is uint8 [H, W, 3]")
    if found.dtype != np.uint8 or not (found.ndim == 2 or (found.ndim == 3 and found.shape[2] in (1, 3, 4))):
        raise UserError(
            f"{name} renders {found.dtype} {list(found.shape)}: a picture is uint8 [H, W, 3], or has 1 or 4 channels"
        )
    return found


def warn_of_one_colour(image: np.ndarray, message: str):
    """Warns with `message` where all pixels of `image` [H, W, C] are alike: nothing can be learnt from that."""
    if (image == image[:1, :1]).all():
        dummy = os.environ.get("SDL_VIDEODRIVER") == "dummy"
        why = ": SDL_VIDEODRIVER=dummy keeps some environments from drawing" if dummy else ""
        warnings.warn(f"{message}{why}", stacklevel=2)


def is_about_gl(error: Exception | str) -> bool:
    """Whether `error` is that of a missing GL library: they come as all kinds of exceptions."""
    return re.search(r"\bgl[A-Z]|\begl[A-Z]|OpenGL|EGL|OSMesa|MUJOCO_GL", str(error)) is not None


@contextlib.contextmanager
def without_gl() -> Iterator[None]:
    """Keeps dm_control, imported within, from opening a GL library, unless this process draws.

    A process that has TensorFlow too would be aborted at its end.
    """
    if _draws:
        yield
        return
    chosen = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]
        if chosen is not None:  # for the processes that draw
            os.environ["MUJOCO_GL"] = chosen


def use_display_or_egl():
    """Has this process draw, and chooses MuJoCo's renderer; to be called before MuJoCo is imported."""
    global _draws
    _draws = True
    sys.unraisablehook = lambda _: None  # a viewer of Gymnasium's that could not be made fails again when it is freed
    if "DISPLAY" not in os.environ or not _display_answers():
        os.environ.setdefault("MUJOCO_GL", "egl")


def _display_answers() -> bool:
    """Whether MuJoCo's windows could open; a DISPLAY outlives its screen in tmux, and when an SSH connection ends."""
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", glfw.GLFWError)
        answers = glfw.init()
    glfw.terminate()
    return bool(answers)
