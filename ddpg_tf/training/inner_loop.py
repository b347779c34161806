"""Act, step, update: Algorithm 1's inner loop as one TensorFlow graph, which calls Python for the environments.

An update that Python calls on its own takes 1.3 times as long as one in a block (benchmarks/results/profile.md):
argument handling, threads that went to sleep, cold caches. Called from a graph, some of that is saved.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ddpg_tf._tf import tf
from ddpg_tf.learner.agent import DDPG, METRICS
from ddpg_tf.replay.buffer import Batch


class InnerLoop:
    """Vector steps with the policy, and a block of updates whenever one is due.

    Args:
      agent: acts and learns.
      blocks: what ReplayBuffer.blocks gave, starting with the first block that will be due.
      step: does the policy's actions [N, A] and returns the next observations [N, ...]. Called in threads of
        TensorFlow, one call at a time.
      every: vector steps between blocks.
      overlap: learn from a due block while the environments do the step before it; `blocks` must not need that step.
    """

    def __init__(
        self,
        agent: DDPG,
        blocks: Iterator[Batch],
        step: Callable[[np.ndarray], np.ndarray],
        every: int,
        overlap: bool = False,
    ):
        self._agent, self._blocks, self._step, self._every = agent, blocks, step, every
        self._overlap = overlap
        self._raised: Exception | None = None
        step_number = tf.TensorSpec([], tf.int32)
        self._run = tf.function(self._graph).get_concrete_function(agent.observation_spec, step_number, step_number)

    def run(self, observations: np.ndarray, first: int, last: int) -> list[dict[str, float]]:
        """Vector steps `first` to `last` - 1, counted over the whole run, beginning at `observations` [N, ...].

        How a run is cut into calls changes nothing.

        Returns:
          For each block of updates the mean of each of METRICS.
        Raises:
          What `step` raised.
        """
        try:
            metrics = self._run(tf.constant(observations), tf.constant(first), tf.constant(last))
        except tf.errors.OpError:
            if self._raised:
                raise self._raised from None
            raise
        return [dict(zip(METRICS, row, strict=True)) for row in metrics.numpy().tolist()]

    def _graph(self, observations, first, last):
        every, done = self._every, first // self._every
        metrics = tf.TensorArray(tf.float32, last // every - done, element_shape=[len(METRICS)])
        for t in tf.range(first + 1, last + 1):
            stepped = tf.numpy_function(self._stepped, [self._agent.newest_policy(observations)], observations.dtype)
            # The replay has the step before a block is taken; rendering takes long, and goes on during the update.
            with tf.control_dependencies([] if self._overlap else [stepped]):
                if every == 1 or t % every == 0:
                    metrics = metrics.write(t // every - done - 1, self._agent.update_in_graph(next(self._blocks)))
            with tf.control_dependencies([metrics.flow]):  # the next action is the updated policy's
                observations = tf.ensure_shape(stepped, observations.shape)
        return metrics.stack()

    def _stepped(self, actions: np.ndarray) -> np.ndarray:
        try:
            return self._step(actions)
        except Exception as error:  # TensorFlow would keep its text only
            self._raised = error
            raise
