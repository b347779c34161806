"""A round as arrays, and back: the wire loses nothing and repeats nothing; a fleet whose processes die. Without Ray."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from ddpg_tf.collect import remote, wire
from ddpg_tf.collect.collector import Collector, Transitions
from ddpg_tf.config import Config
from ddpg_tf.envs import factory
from ddpg_tf.training.rounds import Rounds
from tests.toy_envs import HIGH, LOW

PIXELS = dict(pixels=True, frame_size=16, action_repeat=2)


def wandering(observations):
    """Some policy: another action for each observation."""
    flat = observations.reshape(len(observations), -1).astype(np.float64).sum(axis=1, keepdims=True)
    return (LOW + (HIGH - LOW) * (0.5 + 0.4 * np.sin(flat))).astype(np.float32)


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize(
    "toy, stack, changes",
    [
        ("Steered", 1, dict(noise="ou")),
        ("Picture", 3, PIXELS),
        ("Picture", 1, PIXELS | dict(frame_source="substeps", frame_stack=2, grayscale=True)),
    ],
)
def test_three_collectors_over_the_wire_are_one_collector(toy, stack, changes):
    config = Config(
        env=f"tests.toy_envs:Toy{toy}-v0", num_envs=6, update_every=24, warmup_steps=30, total_steps=240, **changes
    )
    spaces = factory.spaces_of(config)
    whole = Collector(config, spaces)
    parts = [Collector(config, spaces, range(i, i + 2)) for i in (0, 2, 4)]
    states = [part.state() for part in parts]
    for first in range(0, 40, 4):
        expected = [whole.step(t, wandering) for t in range(first, first + 4)]
        answers = [wire.collect(part, wandering, first, 4, stack) for part in parts]
        found = [wire.unpack(answer, state, stack) for answer, state in zip(answers, states, strict=True)]
        states = [state for _, state in found]
        for (row, ended), (expected_row, expected_ended) in zip(
            wire.merge_steps([steps for steps, _ in found]), expected, strict=True
        ):
            for name in Transitions._fields:
                np.testing.assert_array_equal(getattr(row, name), getattr(expected_row, name), err_msg=name)
                assert getattr(row, name).dtype == getattr(expected_row, name).dtype
            assert ended == expected_ended
        assert_same_state(wire.merge_states(states), whole.state())
        assert_same_state(wire.split_state(whole.state(), range(2, 4)), parts[1].state())
    assert whole.state()["episode"].min() > 1
    for collector in (whole, *parts):
        collector.close()


def test_an_answer_holds_each_new_frame_once():
    """A frame for each step, and one for each episode that begins; nothing of what the learner has."""
    config = Config(env="tests.toy_envs:ToyPicture-v0", num_envs=2, total_steps=200, frame_stack=4, **PIXELS)
    collector = Collector(config, factory.spaces_of(config))
    answer = wire.collect(collector, wandering, 0, 50, stack=4)
    begun = int((answer["terminated"] | answer["truncated"]).sum())
    assert answer["successor"].shape == (50, 2, 16, 16, 3) and answer["begun"].shape == (begun, 16, 16, 3) and begun
    others = sum(array.nbytes for name, array in answer.items() if name not in ("successor", "begun"))
    assert others < 50 * 2 * (3 * 4 + 4 + 2) + begun * 16 + 200  # action, reward, two bits; no past actions, no stacks
    collector.close()


def test_a_cut_that_was_not_handed_over_yet_is_told_when_the_run_goes_on(monkeypatch):
    from ddpg_tf.collect import remote

    monkeypatch.setattr(remote, "join", lambda *_: (MagicMock(), lambda: None))
    config = Config(env="tests.toy_envs:ToySteered-v0", num_envs=4, collectors=2, update_every=8, total_steps=80)
    spaces = factory.spaces_of(config)
    state = Collector(config, spaces).state()
    fleet = remote.Fleet(config, spaces, MagicMock())
    assert not fleet.load_state(state | {"weights_0": np.zeros(1)}).any()
    fleet._members[1].anew[0] = True  # its collector could not re-enter the episode; the round has not come in
    saved = fleet.state()
    again = remote.Fleet(config, spaces, MagicMock())
    assert again.load_state(saved).tolist() == [False, False, True, False]
    assert not again.state()["anew"].any()  # the replay has been told


def test_unfinished_episodes_keep_no_more_actions_than_can_be_re_entered(monkeypatch):
    for module in (wire, __import__("ddpg_tf.collect.collector", fromlist=["x"])):
        monkeypatch.setattr(module, "RECORDED", 5)
    config = Config(env="tests.toy_envs:Toy-v0", num_envs=1, total_steps=200)
    collector = Collector(config, factory.spaces_of(config))
    state = collector.state()
    for first in (0, 3, 6):
        _, state = wire.unpack(wire.collect(collector, wandering, first, 3, 1), state, 1)
        assert_same_state(state, collector.state())
    assert len(state["actions_0"]) == 5
    collector.close()


def test_an_episode_that_was_cut_before_a_round_ends_in_the_replay_before_its_steps():
    config = Config(env="tests.toy_envs:ToySteered-v0", num_envs=4, collectors=2, update_every=8, total_steps=80)
    row = Transitions(*np.zeros([6, 4, 1]))
    anew = np.array([False, False, True, False])
    fleet = MagicMock(problem="")
    fleet.round.return_value = wire.Round([(row, []), (row, [])], anew, {})
    replay, agent = MagicMock(), MagicMock(image=False)
    agent.actor.variables = []
    core = Rounds(config, agent, replay, fleet, step=16)
    core.run(24)
    assert [call[0] for call in replay.method_calls] == ["end_episodes", "add", "add"]
    assert replay.end_episodes.call_args.args[0] is anew
    assert fleet.round.call_args.args[0] == 4  # vector steps: the noise and the warm-up go by them


class Dead(Exception):
    """As Ray says that a process is gone."""


class Here:
    """Ray as a fleet knows it, without processes: what is asked for is done when its answer is fetched.

    Attributes:
      dies: for each round that is asked for, in order, whether its process dies in it; then none does.
    """

    def __init__(self, dies):
        self.dies = list(dies)
        failed = type("RayTaskError", (Exception,), {})
        self.exceptions = SimpleNamespace(RayTaskError=failed, RayError=Dead)

    def remote(self, cls):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: self._actor(cls(*given))))

    def _actor(self, process):
        def method(name):
            def call(*given):
                if name == "round" and self.dies and self.dies.pop(0):
                    raise Dead("exit detail: killed")
                return getattr(process, name)(*given)

            return SimpleNamespace(remote=lambda *given: SimpleNamespace(fetch=lambda: call(*given)))

        where = SimpleNamespace(remote=lambda: SimpleNamespace(fetch=lambda: "here"))
        return SimpleNamespace(where=where, begin=method("begin"), round=method("round"))

    def get(self, asked):
        return asked.fetch()

    def wait(self, asked, **_):
        return list(asked), []

    def put(self, value):
        return value

    def kill(self, actor):
        pass


class Wandering:
    """Acts as `wandering` does, whatever it was taught."""

    def __init__(self, config, spaces):
        pass

    def assign(self, weights):
        pass

    def __call__(self, observations):
        return wandering(observations)


@pytest.fixture
def fleet(monkeypatch):
    """`fleet(dies)` is a fleet of one collector, of one environment, rounds of 4 steps."""
    made = []

    def make(dies=()):
        monkeypatch.setattr(remote, "join", lambda *_: (Here(dies), lambda: None))
        config = Config(env="tests.toy_envs:ToySteered-v0", collectors=1, update_every=4, total_steps=400)
        made.append(remote.Fleet(config, factory.spaces_of(config), Wandering))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.filterwarnings("ignore:.*has died")
def test_only_deaths_in_one_round_are_too_many(fleet):
    """A run of days may lose many a process, one by one."""
    seldom, often = fleet([True, False] * 8), fleet([True] * 5)
    for k in range(8):
        assert seldom.round(4 * k, []) is not None and not seldom.problem
    assert often.round(0, []) is None and "5 of 5 deaths in one round" in often.problem


@pytest.mark.filterwarnings("ignore:.*has died")
def test_a_cut_episode_is_told_though_its_process_dies_before_the_round_is_in(fleet, monkeypatch):
    """The second process enters the episode that the first began anew, and has nothing to tell."""
    begin, cut = remote.Process.begin, [True, False]

    def not_re_entered(process, state):
        state, anew, told = begin(process, state)
        return state, anew | cut.pop(0), told

    monkeypatch.setattr(remote.Process, "begin", not_re_entered)
    assert fleet([True, False]).round(0, []).anew.tolist() == [True]
