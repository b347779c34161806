"""Trains with an algorithm of Stable-Baselines3 or SBX, in the peers' own Python; writes what our train.py writes.

    python benchmarks/peers/train.py JSON

Knows nothing of ddpg_tf; JSON is what benchmarks/peers/peer_runs.py makes. Writes metrics.csv, evaluations.csv,
versions.json, what it was told (peer.json, flags.txt) and, once the last evaluation is made, model.zip into the run
directory. An interrupted training begins anew.
"""

import csv
import importlib.metadata
import json
import sys
import time
import uuid
from pathlib import Path

import gymnasium
import numpy as np
import stable_baselines3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise


class Log(BaseCallback):
    """Tells in metrics.csv when steps were reached, and scores the policy in evaluations.csv."""

    def __init__(self, work: dict):
        super().__init__()
        self._work, self._directory = work, Path(work["run_dir"])
        episodes = work["eval_episodes"] if work["eval_every"] else 0
        self._envs = [gymnasium.make(work["env"]) for _ in range(episodes)]

    def _on_training_start(self) -> None:
        self._began, self._before = time.monotonic(), (0.0, 0)  # seconds and updates at the last row
        self._append("metrics.csv", "w", ["step", "seconds", "steps_per_second", "updates"])
        if self._envs:
            self._append("evaluations.csv", "w", ["step", "episode", "return", "length"])

    def _on_step(self) -> bool:
        step, work = self.num_timesteps, self._work
        if step % work["log_every"] == 0:
            now = time.monotonic() - self._began, self.model._n_updates  # neither library tells it otherwise
            seconds, updates = np.subtract(now, self._before)
            self._append(
                "metrics.csv", "a", [step, round(now[0], 3), round(work["log_every"] / seconds, 1), int(updates)]
            )
            self._before = now
        if self._envs and step % work["eval_every"] == 0:
            rows = [[step, i, *episode] for i, episode in enumerate(self._score())]
            self._append("evaluations.csv", "a", *rows)
        return True

    def _append(self, name: str, mode: str, *rows: list):
        with open(self._directory / name, mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _score(self) -> list[tuple[float, int]]:
        """(return, length) of deterministic episodes, stepped side by side for one call of the policy."""
        observations = np.stack([env.reset(seed=self._work["first_seed"] + i)[0] for i, env in enumerate(self._envs)])
        returns, lengths = np.zeros(len(self._envs)), np.zeros(len(self._envs), int)
        running = list(range(len(self._envs)))
        while running:
            actions, _ = self.model.predict(observations, deterministic=True)
            for i in list(running):
                observations[i], reward, terminated, truncated, _ = self._envs[i].step(actions[i])
                returns[i] += reward
                lengths[i] += 1
                if terminated or truncated:
                    running.remove(i)
        return list(zip(returns.tolist(), lengths.tolist(), strict=True))


def make(work: dict, env: gymnasium.Env):
    """The library's algorithm, with `settings` as its arguments; noise of 0.1 where actions are scaled to [-1, 1]."""
    library = stable_baselines3
    if work["peer"]["library"] == "sbx":
        import sbx

        library = sbx
    settings = dict(work["peer"]["settings"])
    return getattr(library, work["peer"]["algorithm"])(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": settings.pop("net_arch")},
        action_noise=NormalActionNoise(np.zeros(env.action_space.shape), np.full(env.action_space.shape, 0.1)),
        seed=work["seed"],
        device="cpu",
        **settings,
    )


def main(work: dict):
    directory = Path(work["run_dir"])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.zip").unlink(missing_ok=True)  # it says that the training is finished
    versions = {"run": uuid.uuid4().hex, **{name: importlib.metadata.version(name) for name in work["packages"]}}
    for name, text in (
        ("versions.json", json.dumps(versions)),
        ("peer.json", json.dumps(work["peer"])),
        ("flags.txt", work["flags"]),
    ):
        (directory / name).write_text(text)
    model = make(work, gymnasium.make(work["env"]))
    model.learn(work["total_steps"], callback=Log(work))
    model.save(directory / "model.zip")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
