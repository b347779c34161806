"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv 1707.01495): past steps, seen with other goals.

Relabelled when sampling: the ring holds what happened. A step's new goal is one that its episode achieved later, the
step's own outcome included ("future"), as far as the draw may see; so episodes under way are learnt from too.
"""

from typing import Protocol

import numpy as np

from ddpg_tf.replay.observations import Layout, Ring

_UNDER_WAY = np.iinfo(np.int64).max


class Judge(Protocol):
    """What hindsight must know of an environment; envs.goals has it."""

    achieved: slice  # of an observation [O], where the goals [G] lie
    desired: slice

    def reward(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        """float32 [n], of steps to `achieved` [n, G] where `desired` [n, G] was wanted."""

    def terminated(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray | None:
        """bool [n], whether such a step ends an episode; None where that is no matter of goals."""


class Hindsight:
    """Keeps where episodes begin and end, and gives a share of a draw's transitions new goals.

    Args:
      share: of the transitions, 0 to 1.
    """

    def __init__(self, goals: Judge, share: float):
        self._goals, self._share = goals, share

    @staticmethod
    def layout(num_envs: int) -> Layout:
        """{array: (shape of a row, dtype)} of what it needs in the ring: numbers of rows."""
        return {name: ((num_envs,), np.int64) for name in ("episode_first", "episode_last")}

    def add(self, ring: Ring, row: int, ended: np.ndarray):
        """`row` is being added, and ends the episodes in `ended` (bool [N]); ring["ended"] does not know yet."""
        length = len(ring["ended"])
        slot, before = row % length, (row - 1) % length
        begins = ring["ended"][before] != 0 if row else True
        ring["episode_first"][slot] = np.where(begins, row, ring["episode_first"][before])
        ring["episode_last"][slot] = _UNDER_WAY
        self.end(ring, row, ended)

    def end(self, ring: Ring, row: int, mask: np.ndarray):
        """The episodes of the environments in `mask` (bool [N]) have ended with `row`.

        A draw that may not see `row` takes what is written here as it takes _UNDER_WAY: it can tell neither.
        """
        length = len(ring["ended"])
        for env in np.flatnonzero(mask):
            first = max(int(ring["episode_first"][row % length, env]), row - length + 1)
            ring["episode_last"][np.arange(first, row + 1) % length, env] = row

    def draw(self, rng: np.random.Generator, ring: Ring, first: np.ndarray, env: np.ndarray, rows: int) -> "Relabelled":
        """New goals for some of the transitions that begin at rows `first` of environments `env`, of one shape.

        Args:
          rows: how many of the rows ever added the draw may see.
        """
        length = len(ring["ended"])
        where = rng.random(first.shape) < self._share
        row, env = first[where], env[where]  # [n]
        last = np.minimum(ring["episode_last"][row % length, env], rows - 1)
        later = row + (rng.random(row.shape) * (last - row + 1)).astype(np.int64)
        goal = ring["next_observation"][later % length, env, self._goals.achieved]
        return Relabelled(self._goals, ring, where, goal)


class Relabelled:
    """A draw's transitions, n of which have new goals: those in `where` (bool, the draw's shape), `goal` [n, G]."""

    def __init__(self, goals: Judge, ring: Ring, where: np.ndarray, goal: np.ndarray):
        self._goals, self._ring, self._where, self._goal = goals, ring, where, goal

    def outcome(self, slot: np.ndarray, env: np.ndarray, reward: np.ndarray, terminated: np.ndarray):
        """Makes the steps in `slot` of `env` those of the new goals: `reward` and `terminated`, in place."""
        at = slot[self._where], env[self._where]
        achieved = self._ring["next_observation"][*at, self._goals.achieved]
        reward[self._where] = self._goals.reward(achieved, self._goal)
        ends = self._goals.terminated(achieved, self._goal)
        if ends is not None:
            terminated[self._where] = ends

    def observe(self, *observations: np.ndarray):
        """Puts the new goals into observations [..., O], in place."""
        for observation in observations:
            observation[self._where, self._goals.desired] = self._goal
