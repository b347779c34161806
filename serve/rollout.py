"""Drives a Gymnasium environment with a deployed policy: returns, and how long the server took.

python -m serve.rollout --url=http://localhost:8501 --model_name=policy --env=Pendulum-v1 --episodes=10
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from ddpg_tf.cli import UsageError, UserError, parse, run
from serve.client import PolicyClient, PolicyError
from serve.query import client_from_flags, define_server_flags

if TYPE_CHECKING:
    import gymnasium


@dataclass
class Episode:
    """What one episode gave: the sum of rewards, and for each step the seconds until the action came."""

    total_reward: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.latencies)


def play(client: PolicyClient, env: "gymnasium.Env", seed: int) -> Episode:
    """One episode with the client's actions.

    Raises:
      PolicyError: from the client.
      UserError: the policy's action does not fit the environment.
    """
    episode = Episode()
    observation, _ = env.reset(seed=seed)
    ended = False
    while not ended:
        start = time.perf_counter()
        action = client.act(observation)
        episode.latencies.append(time.perf_counter() - start)
        if action.size != np.prod(env.action_space.shape):
            raise UserError(f"the policy's action has shape {action.shape}, the environment's {env.action_space.shape}")
        action = action.astype(env.action_space.dtype).reshape(env.action_space.shape)
        observation, reward, terminated, truncated, _ = env.step(action)
        episode.total_reward += float(reward)
        ended = terminated or truncated
    return episode


def _env_kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--env_kwargs is not JSON: {error}") from None
    if not isinstance(kwargs, dict):
        raise UsageError("--env_kwargs must be a JSON object")
    return kwargs


def main(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    define_server_flags(values)
    flags.DEFINE_string("env", None, "Gymnasium environment id; required", flag_values=values)
    flags.DEFINE_integer("episodes", 10, "how many episodes", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 10000, "episode i (from 0) is reset with this + i", lower_bound=0, flag_values=values)
    flags.DEFINE_string("env_kwargs", "{}", "JSON object of arguments to the environment", flag_values=values)
    parse(argv, values, __doc__)
    if not values.env:
        raise UsageError("--env is required. See --help.")
    env_kwargs = _env_kwargs(values.env_kwargs)
    client = client_from_flags(values)
    from ddpg_tf.envs import make_env  # imports Gymnasium: not for --help and mistakes

    env = make_env(values.env, env_kwargs)
    episodes = []
    try:
        client.inputs()  # fetched before the first latency is taken
        for i in range(values.episodes):
            episodes.append(play(client, env, values.seed + i))
            print(f"episode {i}: return {episodes[-1].total_reward:.2f}, length {episodes[-1].length}", flush=True)
    except PolicyError as error:
        raise UserError(error.message) from None
    finally:
        env.close()
        client.close()
    returns = [episode.total_reward for episode in episodes]
    print(f"mean return {np.mean(returns):.2f}, standard deviation {np.std(returns):.2f}")
    milliseconds = 1000 * np.concatenate([episode.latencies for episode in episodes])
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    print(f"latency p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms over {len(milliseconds)} requests")


if __name__ == "__main__":
    run(main)
