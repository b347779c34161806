"""What a policy sees of an environment, and what the loop steps: frames or vectors, one environment or many.

Does not import TensorFlow: vector workers and the video process start from here.
"""

import functools
import warnings

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from ddpg_tf.config import Config
from ddpg_tf.envs import frames, quirks, rendering, workers
from ddpg_tf.envs.checked import Checked
from ddpg_tf.envs.registry import make_env
from ddpg_tf.envs.spaces import Spaces, checked_spaces, is_image
from ddpg_tf.errors import UserError


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


def sees_images(config: Config, env: gym.Env) -> bool:
    """Whether a policy is shown frames of `env`, as make_env gives it, and holds its actions."""
    return config.pixels or is_image(env.observation_space)


def warn_of_no_limit(env: gym.Env, env_id: str):
    """Warns unless episodes of `env` are known to end: its id gives a limit, or its suite does."""
    if not (env.spec and env.spec.max_episode_steps) and not env_id.startswith("dm_control/"):
        warnings.warn(
            f"{env_id} has no time limit: an episode that it does not end goes on for ever, and so would an "
            "evaluation; see --max_episode_steps",
            stacklevel=2,
        )


def make_policy_env(config: Config, *, isolate: bool = True) -> gym.Env:
    """The environment as a policy sees it: image observations as stacked frames, others as they are.

    Args:
      isolate: put what renders with OpenGL into a process of its own, where no TensorFlow is; without, and beside
        TensorFlow, it can be asked for its spaces but must not be reset.
    Raises:
      UserError: as `make_env` does, or it cannot render.
    """
    kwargs = config.env_arguments
    env = make_env(config.env, kwargs)
    if not sees_images(config, env):
        return env
    if config.pixels and "rgb_array" not in (env.metadata.get("render_modes") or ()):
        raise UserError(f"{config.env} cannot render, and --pixels needs that: its metadata names no mode rgb_array")
    if isolate and rendering.needs_own_process(env):
        env.close()
        make = functools.partial(make_checked_env, config, isolate=False)
        return workers.InOwnProcess(make, env.spec)
    if config.pixels:
        kwargs = rendering.arguments(env, config.frame_size) | kwargs
        env.close()
        env = make_env(config.env, kwargs, render_mode="rgb_array")
        rendering.simplify(env)
        env = Checked(env, config.env, observed=False)
    elif quirks.LazyCarRacing.fits(env):
        env = quirks.LazyCarRacing(env)
    else:  # frames of any size would be resized in silence
        env = Checked(env, config.env)
    return frames.Frames(env, config)


def make_checked_env(config: Config, *, isolate: bool = True) -> gym.Env:
    """As `make_policy_env`, and it is told where it breaks a promise."""
    env = make_policy_env(config, isolate=isolate)
    return env if isinstance(env, workers.InOwnProcess) else Checked(env, config.env)  # checked in its process


def make_flat_env(config: Config, *, isolate: bool = True) -> gym.Env:
    """As `make_policy_env`, with other than image observations flattened to one vector; what the loop steps."""
    env = make_checked_env(config, isolate=isolate)
    space = env.observation_space
    if not is_image(space) and (not isinstance(space, Box) or len(space.shape) != 1):
        env = gym.wrappers.FlattenObservation(env)
    return Replayable(env)


def make_vector_env(config: Config, count: int) -> gym.vector.VectorEnv:
    """`count` environments of `config` stepped together, autoreset disabled: `step` returns true successors.

    Raises:
      UserError: as `make_policy_env` does, or their spaces differ.
    """
    try:
        if config.vectorization == "async":
            make = functools.partial(make_flat_env, config, isolate=False)
            return workers.Workers([make] * count, config.env, draws=config.pixels)
        make = functools.partial(make_flat_env, config)
        return workers.InThisProcess([make] * count, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    except RuntimeError as error:
        if "space" not in str(error):
            raise
        raise UserError(f"the environments of {config.env} differ in their spaces: {error}") from None


def spaces_of(config: Config) -> Spaces:
    """The spaces of the environment of `config`; raises as `make_policy_env` and `checked_spaces` do."""
    env = make_policy_env(config, isolate=False)
    try:
        return checked_spaces(env, config.env)
    finally:
        env.close()
