"""Pixels: an environment seen through stacked frames. Does not import TensorFlow."""

from collections import deque

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from PIL import Image

from ddpg_tf.config import Config
from ddpg_tf.envs import rendering
from ddpg_tf.envs.checked import FAILED
from ddpg_tf.envs.quirks import LazyCarRacing
from ddpg_tf.errors import UserError


class Frames(gym.Wrapper):
    """Observes uint8 [H, W, frame_stack x channels], frames oldest first; holds each action for action_repeat steps.

    An episode begins with its first frame repeated. Rewards of the steps an action was held for are summed. With
    frame_source=substeps the frames are those of one action (Lillicrap et al. section 7), else of the last actions.

    Args:
      env: made with render_mode="rgb_array" where `config.pixels`; else its observations are images.
    """

    def __init__(self, env: gym.Env, config: Config):
        super().__init__(env)
        shape = env.observation_space.shape or ()
        if not config.pixels and shape[2:] not in ((), (1,), (3,)):
            raise UserError(f"{config.env} has images of shape {shape}: ddpg_tf takes [H, W], [H, W, 1] and [H, W, 3]")
        self._config, self._frames = config, deque(maxlen=config.frame_stack)
        channels = (1 if config.grayscale else 3) * config.frame_stack
        self.observation_space = Box(0, 255, (config.frame_size, config.frame_size, channels), np.uint8)

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([self._frame(observation)] * self._config.frame_stack)
        return np.concatenate(self._frames, axis=2), info

    def step(self, action):
        config, total, before = self._config, 0.0, tuple(self._frames)
        seen = config.frame_stack if config.frame_source == "substeps" else 1  # frames of one action
        for k in range(config.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(np.array(action))  # it may write into it
            total += float(reward)
            over = terminated or truncated
            if FAILED in info:  # the whole action counts for nothing
                return np.concatenate(before, axis=2), 0.0, terminated, truncated, info
            if over or k >= config.action_repeat - seen:
                self._frames.append(self._frame(observation))
            if over:
                break
        return np.concatenate(self._frames, axis=2), total, terminated, truncated, info

    def _frame(self, observation) -> np.ndarray:
        """uint8 [H, W, channels] of the environment's state."""
        if self._config.pixels:
            picture = rendering.picture(self.env, self._config.env)
        else:
            picture = self.env.picture() if isinstance(self.env, LazyCarRacing) else observation
        size = self._config.frame_size
        image = Image.fromarray(picture.squeeze(2) if picture.shape[2:] == (1,) else picture)
        image = image.convert("L" if self._config.grayscale else "RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BOX)  # the mean of the area
        return np.asarray(image).reshape(size, size, -1)
