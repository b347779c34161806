"""Scores a trained policy: deterministic episodes on environments of their own, reset with seeds 10000, 10001, ...

python -m ddpg_tf.evaluate --run_dir=DIR [--episodes=100] [--checkpoint=best|latest] [--video=FILE.mp4]

Evaluations in training played the first of these episodes, and chose the best weights by them; --first_seed names
others.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from ddpg_tf import cli
from ddpg_tf.errors import UserError
from ddpg_tf.evaluation import video
from ddpg_tf.evaluation.evaluator import FIRST_SEED, play


def main(argv: Sequence[str]):
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("run_dir", None, "directory of the run", required=True)
    define.integer("episodes", 100, "episodes to run", lower_bound=1)
    define.integer("first_seed", FIRST_SEED, "the first episode's reset seed", lower_bound=0)
    define.enum("checkpoint", "best", ["best", "latest"], "best: weights of the best evaluation; latest: the newest")
    define.string("video", None, "film the first episode into this file (mp4 or gif)")
    cli.parse(argv, values, __doc__)
    if values.video:
        video.require_format(Path(values.video))
    from ddpg_tf.storage.policy import load_policy

    policy = load_policy(Path(values.run_dir), values.checkpoint)
    episodes = play(policy.config, policy.agent.act, values.episodes, values.first_seed)
    returns = np.array([episode.episode_return for episode in episodes])
    success = np.mean([episode.success for episode in episodes])
    weights = "latest" if policy.score is None else "best"
    print(
        f"{policy.config.env}, {weights} weights, step {policy.step}: mean {returns.mean():.2f}, "
        f"std {returns.std():.2f}, min {returns.min():.2f}, max {returns.max():.2f} over {len(returns)} episodes"
        + ("" if np.isnan(success) else f", success {success:.2f}")
    )
    if values.video:
        if reason := video.record(Path(values.video), policy.config, values.first_seed, episodes[0].actions):
            raise UserError(reason)
        print(f"first episode: {values.video}")


if __name__ == "__main__":
    cli.run(main)
