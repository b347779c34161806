"""Episodes played with a deployed policy: how they went, on film, and beside the checkpoint it was exported from."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpg_tf.config import Config
from ddpg_tf.errors import UserError
from serve.client import PolicyClient

if TYPE_CHECKING:
    import gymnasium

TOLERANCE = 1e-5  # of an action's half-range


@dataclass
class Drive:
    """What one episode gave.

    Attributes:
      total_reward: the sum of rewards.
      latencies: for each step the seconds until the action came.
      actions: for each step the policy's, before it is rounded to the dtype of the environment's space.
      observations: float32 [O] for each step, flattened; empty unless `play` was to keep them.
      versions: the policy's version before and after the episode.
      success: 1 or 0, whether the goal was reached at the end; nan where the environment does not say.
    """

    total_reward: float = 0.0
    latencies: list[float] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    observations: list[np.ndarray] = field(default_factory=list)
    versions: tuple[int, ...] = ()
    success: float = math.nan

    @property
    def length(self) -> int:
        return len(self.latencies)


def play(act: Callable[[Any], np.ndarray], env: "gymnasium.Env", seed: int, *, keep: bool = False) -> Drive:
    """One episode with the actions of `act`, which takes an observation as the environment gives it.

    Args:
      keep: whether the episode holds its observations.
    Raises:
      PolicyError: from a client's `act`.
      UserError: the policy's action does not fit the environment, or the environment failed.
    """
    from ddpg_tf.envs import goals
    from ddpg_tf.envs.checked import FAILED

    episode, space = Drive(), env.action_space
    observation, _ = env.reset(seed=seed)
    ended = False
    while not ended:
        if keep:
            episode.observations.append(_flat(env, observation))
        start = time.perf_counter()
        action = act(observation)
        episode.latencies.append(time.perf_counter() - start)
        if space.shape is None or action.size != math.prod(space.shape):
            raise UserError(f"the policy's action has shape {action.shape}, the environment's {space.shape}")
        action = action.reshape(space.shape)
        episode.actions.append(action.copy())  # some environments write into what they are given
        observation, reward, terminated, truncated, info = env.step(action.astype(space.dtype))
        if FAILED in info:
            raise UserError(info[FAILED])
        episode.total_reward += float(reward)
        ended = terminated or truncated
    episode.success = goals.success(info)
    return episode


def _flat(env: "gymnasium.Env", observation: Any) -> np.ndarray:
    """float32 [O], or an image uint8 [H, W, C], as training sees it; a copy."""
    from gymnasium.spaces import flatten

    from ddpg_tf.envs.spaces import is_image

    if is_image(env.observation_space):
        return observation.copy()
    return flatten(env.observation_space, observation).astype(np.float32)


def drive(
    client: PolicyClient,
    env: "gymnasium.Env",
    episodes: int,
    seed: int,
    *,
    keep: bool = False,
    act: Callable[[Any], np.ndarray] | None = None,
) -> list[Drive]:
    """Plays `episodes` with the deployed policy, the first reset with `seed`, and prints a line for each.

    An answer does not say which version it is from, so the server is asked between episodes.

    Args:
      keep: whether the episodes hold their observations.
      act: asks the policy; default client.act.
    Raises:
      PolicyError: the server did not answer.
      UserError: the policy's action does not fit the environment, or the environment failed.
    """
    client.inputs()  # fetched before the first latency is taken
    version, played = _version(client), []
    for i in range(episodes):
        episode = play(act or client.act, env, seed + i, keep=keep)
        before, version = version, _version(client)
        episode.versions = (before, version)
        answered = f"version {version}" if before == version else f"versions {before}-{version}"
        print(f"episode {i}: return {episode.total_reward:.2f}, length {episode.length}, {answered}", flush=True)
        played.append(episode)
    return played


def _version(client: PolicyClient) -> int:
    """The version that answers now."""
    try:
        return int(client.metadata()["model_spec"]["version"])
    except (KeyError, TypeError, ValueError):
        raise UserError("the server does not say which version answers") from None


def summarise(episodes: Sequence[Drive], *, latency: bool = True):
    """Prints returns, latency and versions over all episodes."""
    returns = [episode.total_reward for episode in episodes]
    success = np.mean([episode.success for episode in episodes])
    told = "" if np.isnan(success) else f", success {success:.2f}"
    print(f"mean return {np.mean(returns):.2f}, standard deviation {np.std(returns):.2f}{told}")
    if latency:
        milliseconds = 1000 * np.concatenate([episode.latencies for episode in episodes])
        p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
        print(f"latency p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms over {len(milliseconds)} requests")
    versions = sorted({version for episode in episodes for version in episode.versions})
    print(f"answered by version{'s' if len(versions) > 1 else ''} {', '.join(map(str, versions))}", flush=True)


def film(path: Path, driven: Config, seed: int, episode: Drive) -> list[str]:
    """Films `episode` into `path`; returns what went wrong."""
    from ddpg_tf.evaluation import video

    if reason := video.record(path, driven, seed, np.array(episode.actions)):
        return [reason]
    print(f"first episode: {path}", flush=True)
    return []


def compare(run_dir: Path, checkpoint: str, env: "gymnasium.Env", episodes: Sequence[Drive], seed: int) -> list[str]:
    """Asks the actor of a run's checkpoint what the server was asked, then plays the same episodes with it.

    Prints the largest difference, and both mean returns: in contact with the ground, robots make a difference in the
    last bit of an action one in the return.

    Args:
      checkpoint: "best" or "latest".
      episodes: the deployed policy's, the first reset with `seed`, with their observations.
    Returns:
      What is wrong: how many of the actions are not the actor's, and the first of them.
    Raises:
      UserError: there is no such checkpoint.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # an accelerator rounds differently
    from ddpg_tf.storage.policy import load_policy

    policy = load_policy(run_dir, checkpoint)
    # One at a time: each batch size is compiled anew, and episodes have all lengths.
    expected = [
        np.concatenate([policy.agent.act(observation[None]) for observation in episode.observations])
        for episode in episodes
    ]  # float32 [length, A] for each episode
    half_range = np.maximum((policy.spaces.high.astype(np.float64) - policy.spaces.low) / 2, 1e-30)  # [A]
    apart = [
        (np.abs(np.array(episode.actions, np.float64) - actions) / half_range).max(axis=1)
        for episode, actions in zip(episodes, expected, strict=True)
    ]  # [length]
    own = [
        play(lambda observation: policy.agent.act(_flat(env, observation)[None])[0], env, seed + i)
        for i in range(len(episodes))
    ]
    print(
        f"largest difference to the {checkpoint} checkpoint's actor (step {policy.step}): "
        f"{np.max(np.concatenate(apart)):.1e} of the half-range"
    )
    deployed, local = (np.mean([episode.total_reward for episode in played]) for played in (episodes, own))
    print(f"mean return: deployed {deployed:.2f}, checkpoint {local:.2f}", flush=True)
    wrong = [(i, t) for i, row in enumerate(apart) for t in np.flatnonzero(~(row <= TOLERANCE))]  # NaN is wrong too
    return [
        f"{len(wrong)} actions are not those of the {checkpoint} checkpoint; first in episode {i}, step {t}: the "
        f"server's {episodes[i].actions[t]}, the checkpoint's {expected[i][t]}"
        for i, t in wrong[:1]
    ]
