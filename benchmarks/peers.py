"""DDPG of Stable-Baselines3 or SBX on one piece of work; run by benchmarks.throughput with the peers' own Python.

    python benchmarks/peers.py JSON

Knows nothing of ddpg_tf. Prints a JSON line at each mark (`step`, `seconds` since learning began) or evaluation
(`step`, `mean`).
"""

import json
import sys
import time

import gymnasium
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise

FIRST_SEED = 10_000  # of the evaluation episodes, as in ddpg_tf.evaluate


class Marks(BaseCallback):
    """Tells when steps were reached, and scores the policy."""

    def __init__(self, work: dict):
        super().__init__()
        self._marks, self._every = set(work["marks"]), work["eval_every"]
        self._envs = [gymnasium.make(work["env"]) for _ in range(work["eval_episodes"])] if self._every else []

    def _on_training_start(self) -> None:
        self._began = time.monotonic()

    def _on_step(self) -> bool:
        if self.num_timesteps in self._marks:
            say(step=self.num_timesteps, seconds=time.monotonic() - self._began)
        if self._every and self.num_timesteps % self._every == 0:
            say(step=self.num_timesteps, mean=self._score())
        return True

    def _score(self) -> float:
        """Mean return of deterministic episodes, stepped side by side for one call of the policy."""
        observations = np.stack([env.reset(seed=FIRST_SEED + i)[0] for i, env in enumerate(self._envs)])
        returns, running = np.zeros(len(self._envs)), list(range(len(self._envs)))
        while running:
            actions, _ = self.model.predict(observations, deterministic=True)
            for i in list(running):
                observations[i], reward, terminated, truncated, _ = self._envs[i].step(actions[i])
                returns[i] += reward
                if terminated or truncated:
                    running.remove(i)
        return float(returns.mean())


def say(**what):
    print(json.dumps(what), flush=True)


def make(work: dict, env: gymnasium.Env):
    """The library's DDPG with the work's hyperparameters."""
    shared = dict(
        batch_size=work["batch_size"],
        buffer_size=work["replay_capacity"],
        learning_starts=work["warmup_steps"],
        train_freq=work["update_every"],
        gradient_steps=work["update_every"],
        gamma=0.99,
        tau=0.005,
        seed=work["seed"],
        learning_rate=1e-3,
        device="cpu",
        policy_kwargs={"net_arch": list(work["hidden_units"])},
        action_noise=NormalActionNoise(np.zeros(env.action_space.shape), 0.1 * env.action_space.high),
    )
    if work["library"] == "sbx":
        import sbx

        return sbx.DDPG("MlpPolicy", env, qf_learning_rate=1e-3, **shared)
    import stable_baselines3

    return stable_baselines3.DDPG("MlpPolicy", env, **shared)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    make(job, gymnasium.make(job["env"])).learn(job["total_steps"], callback=Marks(job))
