"""The core of training where others collect: take a round, begin the next one, learn meanwhile."""

from collections.abc import Callable, Iterator
from typing import Any

from ddpg_tf.collect.collector import Collector
from ddpg_tf.config import Config
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.replay.buffer import Batch
from ddpg_tf.training import schedule
from ddpg_tf.training.acting import Acting, actor_weights
from ddpg_tf.training.core import Core


class Rounds(Core):
    """As Core, but the steps come from a Fleet, a round of update_every at a time.

    A round is collected with the policy from before the block of updates that runs meanwhile.
    """

    _blocks: Iterator[Batch] | None = None  # once learning has started

    def run(self, until: int, stopped: Callable[[], object] = lambda: False) -> list[dict[str, float]]:
        """Steps to the end of the round that `until` is in; stopped between rounds only."""
        config, found = self._config, []
        if self._blocks is None and self.step >= config.learning_starts:
            self._blocks = self._next_blocks()
        while self.step < until and not self.collector.problem and not stopped():
            made = self.collector.round(self.step // config.num_envs, actor_weights(self.agent), stopped)
            if made is None:
                break
            if made.anew.any():
                self.replay.end_episodes(made.anew)
            for transitions, finished in made.steps:
                self._absorb(transitions, finished)
            self._on_wait(made.waited)
            if self._blocks is not None:
                with self._drawing():
                    found.append(self.agent.update(next(self._blocks)))
        return found


def make_collector(config: Config, spaces: Spaces) -> tuple[Any, type[Core]]:
    """(what collects for a run of `config`, a Collector or a Fleet, and the core that takes from it)."""
    if not config.collectors:
        return Collector(config, spaces), Core
    from ddpg_tf.collect.remote import Fleet

    return Fleet(config, spaces, Acting, schedule.stack_of(config) if spaces.image else 1), Rounds
