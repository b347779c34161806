"""The graph that acts, steps and updates against the same in plain Python."""

import functools
import itertools
import threading
import time

import numpy as np
import pytest

from ddpg_tf import DDPG, Config
from ddpg_tf._tf import tf
from ddpg_tf.replay.buffer import Batch
from ddpg_tf.training.inner_loop import InnerLoop

OBSERVATION, ACTION, ENVS = 3, 2, 2
FIRST = np.zeros([ENVS, OBSERVATION], np.float32)


class Refused(Exception):
    pass


@functools.cache
def agent_of(name, normalize_observations):
    """(agent, its first state): compiled once for all tests, for nothing in it depends on when it is updated."""
    config = Config(
        num_envs=ENVS,
        update_every=ENVS,
        batch_size=4,
        hidden_units=(8,),
        total_steps=1000,
        actor_learning_rate=0.01,
        normalize_observations=normalize_observations,
    )
    agent = DDPG(config, OBSERVATION, -np.ones(ACTION), np.ones(ACTION))
    return agent, agent.state()


class World:
    """Everything that InnerLoop is given; notes what happens in which order.

    An observation is a function of the actions so far; block b is made of b. Worlds of one name share an agent, which
    begins anew.
    """

    def __init__(self, every, name="graph", normalize_observations=False, overlap=False):
        self.every, self.overlap, self.block_begun = every, overlap, threading.Semaphore(0)
        self.agent, first = agent_of(name, normalize_observations)
        self.agent.load_state(first)
        self.events, self.actions, self.observation = [], [], FIRST

    def step(self, actions):
        if self.overlap and self.every == 1:
            assert self.block_begun.acquire(timeout=30)  # each step has a block, taken meanwhile
        else:
            time.sleep(0.002)  # whoever does not wait for it comes too early
        self.actions.append(actions.copy())
        self.observation = np.float32(np.sin(self.observation + actions.sum() + np.arange(OBSERVATION)))
        self.agent.count_observations(self.observation)
        self.events.append("step")
        return self.observation

    def block(self, b):
        self.events.append("block")
        self.block_begun.release()
        rng = np.random.default_rng(int(b))
        shapes = {"observation": [OBSERVATION], "action": [ACTION], "next_observation": [OBSERVATION]}
        return Batch(*(rng.uniform(-1, 1, [2, 4, *shapes.get(name, [])]).astype(np.float32) for name in Batch._fields))

    def blocks(self):
        tails = [OBSERVATION], [ACTION], [], [], [OBSERVATION]

        def tensors(b):
            arrays = tf.numpy_function(self.block, [b], [tf.float32] * len(Batch._fields))
            return Batch(*(tf.ensure_shape(array, [2, 4, *tail]) for array, tail in zip(arrays, tails, strict=True)))

        options = tf.data.Options()
        options.autotune.enabled = False  # it would prefetch
        return iter(tf.data.Dataset.counter().map(tensors).with_options(options))

    def in_graph(self, *cuts):
        loop, metrics = InnerLoop(self.agent, self.blocks(), self.step, self.every, self.overlap), []
        for first, last in itertools.pairwise(cuts):
            metrics += loop.run(self.observation, first, last)
        return metrics

    def in_python(self, first, last):
        metrics, b = [], 0
        for t in range(first + 1, last + 1):
            self.step(self.agent.act(self.observation))
            if t % self.every == 0:
                metrics.append(self.agent.update(self.block(b)))
                b += 1
        return metrics


@pytest.mark.parametrize("every, cuts", [(1, (0, 12)), (1, (5, 6, 17)), (3, (0, 12)), (3, (6, 7, 11, 12, 17))])
@pytest.mark.parametrize("normalize_observations, overlap", [(False, False), (True, False), (False, True)])
def test_the_graph_does_what_python_would_however_it_is_cut(every, cuts, normalize_observations, overlap):
    """Bit for bit, and in the same order: every action is the updated policy's, every block sees the step before.

    With overlap the block does not wait for that step, and its numbers are the same.
    """
    graph = World(every, "graph", normalize_observations, overlap)
    python = World(every, "python", normalize_observations)
    assert graph.in_graph(*cuts) == python.in_python(cuts[0], cuts[-1])
    np.testing.assert_array_equal(graph.actions, python.actions)
    if overlap:
        assert sorted(graph.events) == sorted(python.events)
    else:
        assert graph.events == python.events
    assert len(graph.actions) == cuts[-1] - cuts[0]
    expected = python.agent.state()
    for name, array in graph.agent.state().items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_an_environments_exception_comes_through_as_it_is():
    world, step = World(1), World.step
    world.step = lambda actions: raise_refused() if len(world.actions) == 3 else step(world, actions)
    with pytest.raises(Refused, match="no more") as caught:
        world.in_graph(0, 10)
    assert caught.traceback[-1].name == "raise_refused"  # where it happened, not where it came through
    assert world.events.count("step") == 3


def raise_refused():
    raise Refused("no more")


def test_an_error_of_tensorflows_own_comes_through_too():
    world = World(1)
    world.block = lambda b: 1 / 0
    with pytest.raises(tf.errors.OpError, match="ZeroDivisionError"):
        world.in_graph(0, 3)
