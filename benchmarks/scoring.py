"""What the weights of a finished run come to, played again."""

from pathlib import Path

import numpy as np

_OTHER_EPISODES = 20_000  # the first seed; evaluations have lower ones
_SCATTER_EPISODES, _SCATTER_POINTS = 20, 1000


def score(run: Path, weights: str, episodes: int) -> tuple[float, float | str]:
    """(mean return, share of successes or "") of the "latest" weights, or of the "best", on other episodes."""
    from ddpg_tf.evaluation.evaluator import FIRST_SEED, play
    from ddpg_tf.storage.policy import load_policy

    policy = load_policy(run, weights)
    first_seed = _OTHER_EPISODES if weights == "best" else FIRST_SEED
    found = play(policy.config, policy.agent.act, episodes, first_seed)
    success = float(np.mean([episode.success for episode in found]))
    return float(np.mean([episode.episode_return for episode in found])), "" if np.isnan(success) else success


def estimates(run: Path) -> list[tuple[float, float]]:
    """(Q(s, mu(s)), discounted return from there) at steps of test episodes (Lillicrap et al., Fig. 3).

    Where a time limit ends an episode, the steps before it lack a part of their return: those that lack more than a
    hundredth are left out, or the second half of the episode if that is less.
    """
    from ddpg_tf.evaluation.evaluator import play
    from ddpg_tf.storage.policy import load_policy

    policy = load_policy(run, "latest")
    gamma, found = policy.config.gamma, []
    for i in range(_SCATTER_EPISODES):
        seen: list[np.ndarray] = []

        def act(observations, seen=seen):
            seen.append(observations[0].copy())
            return policy.agent.act(observations)

        (episode,) = play(policy.config, act, 1, _OTHER_EPISODES + i)
        returns, following = np.zeros(episode.length), 0.0
        for t in reversed(range(episode.length)):
            returns[t] = following = episode.rewards[t] + gamma * following
        lacking = np.searchsorted(-(gamma ** np.arange(episode.length)), -0.01)  # steps until gamma^t is below 0.01
        whole = episode.length - (0 if episode.terminated else min(lacking, episode.length // 2))
        found += zip(policy.agent.value(np.stack(seen[:whole])).tolist(), returns[:whole].tolist(), strict=True)
    chosen = np.random.default_rng(0).permutation(len(found))[:_SCATTER_POINTS]
    return [found[i] for i in sorted(chosen)]
