"""What uniformly random actions come to in every environment of the suites: the zero that scores are measured from.

    python -m benchmarks.random_policy [--episodes=100] [--out=benchmarks/results/random.csv]

Environments that the file has already, with as many episodes or more, are left out, and those that observe pictures,
for they are slow and no score is measured from them.
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
from absl import flags

from benchmarks.suite.entries import SUITES, read
from ddpg_tf import cli
from ddpg_tf.envs.registry import make_env
from ddpg_tf.envs.spaces import is_image
from ddpg_tf.files import read_rows, write_rows

_COLUMNS = ("env", "episodes", "return")


def main(argv):
    values = flags.FlagValues()
    define = cli.definers(values)
    define.integer("episodes", 100, "episodes in each environment", lower_bound=1)
    define.string("out", "benchmarks/results/random.csv", "file for the results")
    cli.parse(argv, values, __doc__)
    out = Path(values.out)
    rows = {row["env"]: row for row in read_rows(out)}
    entries = [entry for path in SUITES.glob("*.toml") for entry in read(path).entries]
    for env in sorted({entry.config.env for entry in entries}):
        if env in rows and int(rows[env]["episodes"]) >= values.episodes:
            continue
        made = make_env(env)
        if not is_image(made.observation_space):
            found = random_return(made, values.episodes)
            rows[env] = {"env": env, "episodes": values.episodes, "return": f"{found:.4g}"}
            print(f"{env}: {rows[env]['return']}", flush=True)
            write_rows(out, _COLUMNS, [[rows[name][column] for column in _COLUMNS] for name in sorted(rows)])
        made.close()


def random_return(env: gym.Env, episodes: int, first_seed: int = 0) -> float:
    """Mean undiscounted return of `episodes` of uniformly random actions, reset with `first_seed` and those after."""
    env.action_space.seed(0)
    returns = []
    for seed in range(first_seed, first_seed + episodes):
        env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


if __name__ == "__main__":
    cli.run(main)
