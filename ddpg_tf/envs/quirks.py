"""What single environments of Gymnasium need to be as the others are."""

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit


class FreshWorld(gym.Wrapper):
    """BipedalWalker keeps its Box2D world, and with it a memory of earlier episodes, over a reset."""

    def reset(self, *, seed=None, options=None):
        import Box2D

        env = self.unwrapped
        env._destroy()
        env.world = Box2D.b2World()
        return self.env.reset(seed=seed, options=options)


class LazyCarRacing(gym.Wrapper):
    """CarRacing whose steps do not draw what they return: most of their time (benchmarks/results/pixels-cost.md).

    Observations are meaningless; `picture` gives the true one. Of the steps that an action is held for most are not
    looked at.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._draw, env.unwrapped._render = env.unwrapped._render, self._draw_later
        self._blank = np.zeros(env.observation_space.shape, np.uint8)
        self._score = 0.0

    @staticmethod
    def fits(env: gym.Env) -> bool:
        """Whether `env` is CarRacing itself, with no wrapper that would miss its observations."""
        while isinstance(env, TimeLimit | OrderEnforcing):
            env = env.env
        kind = type(env)  # not imported: Box2D may not be there
        return (kind.__module__, kind.__name__) == ("gymnasium.envs.box2d.car_racing", "CarRacing")

    def _draw_later(self, mode: str):
        if mode != "state_pixels":
            return self._draw(mode)
        self._score = self.unwrapped.reward  # the picture shows it before the step's own cost
        return self._blank

    def picture(self) -> np.ndarray:
        """uint8 [96, 96, 3], what the last reset or step would have returned."""
        env = self.unwrapped
        reward, env.reward = env.reward, self._score
        try:
            return self._draw("state_pixels")
        finally:
            env.reward = reward
