"""A round of steps as arrays for the wire, and back: what a collector's state and its answer say together.

An answer holds no more than what is new. From it and from the collector's last state, which the learner keeps, follow
the transitions and the next state: observations once, not twice; of stacked images the new frames only; of unfinished
episodes the new actions only.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ddpg_tf.collect.collector import RECORDED, Act, Collector, Transitions

State = Mapping[str, np.ndarray]  # as Collector.state gives it
Steps = list[tuple[Transitions, list[tuple[float, int]]]]  # as Collector.step gives each
_SMALL = ("episode", "noise", "return", "length")  # Collector.counts, which every answer holds whole


class Round(NamedTuple):
    """A round of all environments.

    Attributes:
      steps: vector step by vector step.
      anew: bool [N], where an episode was cut before the round, for it could not be re-entered.
      waited: {who: seconds} that learner and collectors (their mean) waited for each other.
    """

    steps: Steps
    anew: np.ndarray
    waited: dict[str, float]


def collect(collector: Collector, policy: Act, first: int, count: int, stack: int) -> dict[str, np.ndarray]:
    """Vector steps `first` to `first` + `count` - 1, as `unpack` takes them.

    Args:
      stack: equal parts of an observation's last axis, of which only the newest is new at each step.
    Returns:
      successor [R, n, ...], action [R, n, A], reward [R, n], terminated and truncated bool [R, n]; begun [m, ...], the
      first observations of the m episodes that began, and finished [m, 2], return and length of those that ended.
    """
    steps, begun, finished = [], [], []
    for t in range(first, first + count):
        transitions, ended = collector.step(t, policy)
        steps.append((_newest(transitions.next_observation, stack), *transitions[1:3], *transitions[4:]))
        begun.append(_newest(collector.observation[transitions.terminated | transitions.truncated], stack))
        finished += ended
    names = ("successor", "action", "reward", "terminated", "truncated")
    return {
        **dict(zip(names, map(np.array, zip(*steps, strict=True)), strict=True)),
        "begun": np.concatenate(begun),
        "finished": np.array(finished, np.float64).reshape(-1, 2),
        **collector.counts(),
    }


def unpack(answer: Mapping[str, np.ndarray], state: State, stack: int) -> tuple[Steps, dict[str, np.ndarray]]:
    """(the steps, the collector's state after them) of what `collect` gave, begun in `state`."""
    observation, begun, finished = state["observation"], iter(answer["begun"]), iter(answer["finished"])
    ended = answer["terminated"] | answer["truncated"]
    steps: Steps = []
    for t, successor in enumerate(answer["successor"]):
        older = observation[..., successor.shape[-1] :]  # frames of a stack; empty where there is none
        successor = np.concatenate([older, successor], axis=-1)
        following, found = successor, []
        if ended[t].any():
            following = successor.copy()
            for i in np.flatnonzero(ended[t]):
                following[i] = np.concatenate([next(begun)] * stack, axis=-1)
                episode_return, length = next(finished)
                found.append((float(episode_return), int(length)))
        parts = (answer[name][t] for name in ("action", "reward"))
        masks = (answer[name][t] for name in ("terminated", "truncated"))
        steps.append((Transitions(observation, *parts, successor, *masks), found))
        observation = following
    after = {name: np.array(answer[name]) for name in _SMALL} | {"observation": observation}
    for i in range(ended.shape[1]):
        made, ends = answer["action"][:, i], np.flatnonzero(ended[:, i])
        before = state[f"actions_{i}"] if not len(ends) else made[:0]
        since = made[ends[-1] + 1 :] if len(ends) else made
        after[f"actions_{i}"] = np.concatenate([before, since])[:RECORDED]
    return steps, after


def merge_steps(parts: Sequence[Steps]) -> Steps:
    """The steps of several collectors as those of one that has all their environments."""
    return [
        (
            Transitions(*map(np.concatenate, zip(*(transitions for transitions, _ in row), strict=True))),
            [ended for _, finished in row for ended in finished],
        )
        for row in zip(*parts, strict=True)
    ]


def merge_states(states: Sequence[State]) -> dict[str, np.ndarray]:
    """The states of several collectors, of equally many environments, as that of one."""
    n = len(states[0]["episode"])
    whole = {name: np.concatenate([state[name] for state in states]) for name in (*_SMALL, "observation")}
    return whole | {f"actions_{k * n + i}": state[f"actions_{i}"] for k, state in enumerate(states) for i in range(n)}


def split_state(state: State, place: range) -> dict[str, np.ndarray]:
    """The part of a whole state that belongs to the environments in `place`."""
    part = {name: state[name][place.start : place.stop] for name in (*_SMALL, "observation")}
    return part | {f"actions_{i}": state[f"actions_{number}"] for i, number in enumerate(place)}


def _newest(observation: np.ndarray, stack: int) -> np.ndarray:
    return observation[..., -(observation.shape[-1] // stack) :]
