"""The core of training: act, step, add, count, learn. What is logged, evaluated and saved is the loop's business."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from ddpg_tf.collect.collector import Act, Collector, Transitions
from ddpg_tf.config import Config
from ddpg_tf.learner.agent import DDPG
from ddpg_tf.replay.buffer import Batch, ReplayBuffer
from ddpg_tf.training import schedule
from ddpg_tf.training.inner_loop import InnerLoop

Finished = Sequence[tuple[float, int]]  # (return, length) of the episodes that ended with a step


class Core:
    """Environments -> replay -> agent. A step is one action in one environment.

    Args:
      config: when learning starts, and how often and how much is learnt.
      step: environment steps made before; `replay` and `collector` stand there.
      on_step: told of every vector step, after it is in the replay.
      on_wait: told who waited how long for whom, in seconds, where others collect.
      overlap: learn from a due block while the environments step; default where observations are images, whose step
        takes long.
    """

    def __init__(
        self,
        config: Config,
        agent: DDPG,
        replay: ReplayBuffer,
        collector: Collector,
        *,
        step: int = 0,
        on_step: Callable[[Transitions, Finished], object] = lambda transitions, finished: None,
        on_wait: Callable[[Mapping[str, float]], object] = lambda waited: None,
        overlap: bool | None = None,
    ):
        self.agent, self.replay, self.collector, self.step = agent, replay, collector, step
        self._config, self._on_step, self._on_wait = config, on_step, on_wait
        self._overlap = agent.image if overlap is None else overlap
        self._inner_loop: InnerLoop | None = None

    def run(self, until: int, stopped: Callable[[], object] = lambda: False) -> list[dict[str, float]]:
        """Steps to `until`, a multiple of num_envs, and not across learning_starts.

        Args:
          stopped: looked at between the steps before learning starts; true ends them early.
        Returns:
          For each block of updates the mean of each of METRICS.
        """
        if self.step >= self._config.learning_starts:
            return self._learn(until)
        while self.step < until and not stopped():
            self._collect(self.agent.act)  # the averaged actor's, but before the first update both are the same
        return []

    def _learn(self, until: int) -> list[dict[str, float]]:
        config, n = self._config, self._config.num_envs
        if self._inner_loop is None:
            self._inner_loop = InnerLoop(
                self.agent,
                self._next_blocks(),
                lambda actions: self._collect(lambda _: actions),
                config.update_every // n,
                self._overlap,
            )
        with self._drawing():
            return self._inner_loop.run(self.collector.observation, self.step // n, until // n)

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Raises what a draw raised, of which TensorFlow keeps the text only."""
        try:
            yield
        except Exception:
            if self.replay.failure:
                raise self.replay.failure from None
            raise

    def _collect(self, policy: Act):
        """One vector step. Returns the observations that follow, [N, ...]."""
        self._absorb(*self.collector.step(self.step // self._config.num_envs, policy))
        return self.collector.observation

    def _absorb(self, transitions: Transitions, finished: Finished):
        self.replay.add(*transitions)
        self.agent.count_observations(transitions.observation)
        self.step += self._config.num_envs
        self._on_step(transitions, finished)

    def _next_blocks(self) -> Iterator[Batch]:
        """Blocks of minibatches, beginning with the one that is due next."""
        due = (self.step - self._config.learning_starts) // self._config.update_every
        return schedule.blocks(self.replay, self._config, due, image=self.agent.image)


def make_replay(config: Config, observation_shape: tuple[int, ...], action_size: int, **others) -> ReplayBuffer:
    """The replay of a run of `config`; `others` are ReplayBuffer's directory, rows and hindsight."""
    capacity, slack = schedule.ring_size(config, len(observation_shape) == 3)
    return ReplayBuffer(
        capacity,
        observation_shape,
        action_size,
        num_envs=config.num_envs,
        n_step=config.n_step,
        gamma=config.gamma,
        frame_stack=schedule.stack_of(config),
        slack=slack,
        **others,
    )
