"""--env=benchmarks.speed.sleeping:Sleeping-v0: Pendulum whose step takes 10 ms, as a simulator's elsewhere would."""

import time

import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv


class Sleeping(PendulumEnv):
    """Its step takes 10 ms, and next to no processor time."""

    def step(self, action):
        time.sleep(0.01)
        return super().step(action)


gym.register("Sleeping-v0", entry_point=Sleeping, max_episode_steps=200)
