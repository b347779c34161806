"""Collectors in processes of Ray's, here or on other machines. What a process loses is made again from its last state.

Imports Ray only when a fleet is made.
"""

import contextlib
import math
import os
import re
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ddpg_tf import cli
from ddpg_tf.collect import wire
from ddpg_tf.collect.cluster import ONE_CPU, join
from ddpg_tf.collect.collector import Collector
from ddpg_tf.config import Config
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.errors import UserError

_LOOK = 1.0  # seconds between looks at signals and at who is missing
_TELL_AFTER = 20.0  # seconds that a collector may wait for a place before it is told
_MOST_DEATHS = 5  # of a collector in one round
_MOST_TOLD = 300  # characters of what Ray says about a death: of one for want of memory it says 4,000
Weights = Sequence[np.ndarray]


class Process:
    """What Ray runs: one collector, and the policy that it acts with.

    Args:
      place: the numbers of its environments among the run's.
      make_policy: (config, spaces) -> what acts, with `assign(weights)`.
      stack: as for `wire.collect`.
    """

    def __init__(self, config: Config, spaces: Spaces, place: range, make_policy: Callable, stack: int):
        self._config, self._spaces, self._place, self._stack = config, spaces, place, stack
        self._make_policy, self._ended = make_policy, time.monotonic()

    def where(self) -> str:
        """Its machine's address and its process id, in words: it has a place."""
        import ray

        return f"{ray.util.get_node_ip_address()}, process {os.getpid()}"

    def begin(self, state: wire.State | None) -> tuple[wire.State, np.ndarray, list[str]]:
        """Makes the environments and enters `state`, None: the run's first.

        Returns:
          (the state that it is in, bool [n] where that is not `state` but a new episode, warnings).
        """
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self._policy = self._make_policy(self._config, self._spaces)
            self._collector = Collector(self._config, self._spaces, self._place)
            anew = np.zeros(len(self._place), bool) if state is None else self._collector.load_state(state)
        self._ended = time.monotonic()
        return self._collector.state(), anew, _texts(told)

    def round(self, first: int, count: int, weights: Weights) -> dict[str, Any]:
        """As `wire.collect`, with those weights; also `idle`, seconds since the last, `problem` and `warnings`."""
        idle = time.monotonic() - self._ended
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self._policy.assign(weights)
            answer = wire.collect(self._collector, self._policy, first, count, self._stack)
        self._ended = time.monotonic()
        return answer | {"idle": idle, "problem": self._collector.problem, "warnings": _texts(told)}


def _texts(told: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in told if issubclass(warning.category, UserWarning)]


class _Member:
    """A collector as the learner sees it: its last state, its process, and what that was asked for."""

    def __init__(self, number: int, place: range):
        self.place, self._name = place, f"collector {number} (environments {place[0]} to {place[-1]})"
        self.state: wire.State | None = None
        self.anew = np.zeros(len(place), bool)
        self.actor = self.placed = self.begun = self.asked = self.answer = None
        self.where, self.since, self.deaths = "", 0.0, 0

    @property
    def name(self) -> str:
        return f"{self._name} at {self.where}" if self.where else self._name


class Fleet:
    """As many collectors as config.collectors, which together are one for all of the run's environments.

    Work goes in rounds of update_every steps. The next round begins when one has been handed over, with the weights
    that the learner has then; so what is done between two calls of `round` is done while the environments step.

    Args:
      make_policy: (config, spaces) -> what acts, with `assign(weights)`; importable where the collectors run.
      stack: as for `wire.collect`.
    Attributes:
      problem: why it is no use to go on: a collector dies again and again, found no place, or its environment fails.
    Raises:
      UserError: there is no Ray, or no cluster at the address.
    """

    def __init__(self, config: Config, spaces: Spaces, make_policy: Callable, stack: int = 1):
        count = config.collectors
        self._ray, self._leave = join(config.ray_address, math.ceil(count * config.collector_cpus), config.env)
        actor = self._ray.remote(Process).options(
            num_cpus=config.collector_cpus,
            scheduling_strategy="SPREAD",
            # The same numbers wherever it runs, and a quick start.
            runtime_env={"env_vars": ONE_CPU | {cli.OWN_PROCESS: "1"}},
        )
        self._make = lambda place: actor.remote(config, spaces, place, make_policy, stack)
        self._config, self._stack, self._steps = config, stack, config.update_every // config.num_envs
        n = config.num_envs // count
        self._members = [_Member(k, range(k * n, (k + 1) * n)) for k in range(count)]
        self._weights: Weights | None = None
        self._told = -math.inf  # when it was last told who has no place
        self.problem = ""

    def round(self, first: int, weights: Weights, stopped: Callable[[], object] = lambda: False) -> wire.Round | None:
        """The round that begins with vector step `first`, and begins the next one with `weights`.

        A run's very first round is made with `weights` too.

        Returns:
          None if it was stopped, or there is a `problem`: then nothing has been taken, and nothing is lost.
        Raises:
          UserError: an environment cannot be made there, or does not suit.
        """
        if self._weights is None:
            self._weights = weights
        self._ask(first)
        began = time.monotonic()
        if not self._wait(stopped):
            return None
        waited, idle, parts = time.monotonic() - began, [], []
        anew = np.concatenate([member.anew for member in self._members])
        for member in self._members:
            steps, member.state = wire.unpack(member.answer, member.state, self._stack)
            parts.append(steps)
            idle.append(member.answer["idle"])
            self.problem = self.problem or member.answer["problem"]
            member.anew, member.asked, member.answer, member.deaths = np.zeros_like(member.anew), None, None, 0
        self._weights = weights
        if (first + self._steps) * self._config.num_envs < self._config.total_steps:
            self._ask(first + self._steps)
        return wire.Round(
            wire.merge_steps(parts), anew, {"learner_waited": waited, "collectors_waited": float(np.mean(idle))}
        )

    def _ask(self, first: int):
        """Has every collector without a task do the round that begins with vector step `first`."""
        free, reference = [member for member in self._members if member.asked is None], None
        for member in free:
            if member.actor is None:
                member.actor, member.since = self._make(member.place), time.monotonic()
                member.placed = member.actor.where.remote()
                member.begun = member.actor.begin.remote(member.state)
            reference = self._ray.put(self._weights) if reference is None else reference
            member.asked = member.actor.round.remote(first, self._steps, reference)
        self._first = first

    def _wait(self, stopped: Callable[[], object]) -> bool:
        """Until all have answered. Returns whether they have."""
        while waiting := [member for member in self._members if member.answer is None]:
            if stopped():
                return False
            asked = [member.asked for member in waiting]
            ready, _ = self._ray.wait(asked, num_returns=len(asked), timeout=_LOOK)
            for member in waiting:
                if member.asked in ready:
                    self._take(member)
            self._look_for_places(waiting)
            if self.problem:
                return False
            self._ask(self._first)  # of those that were made anew
        return True

    def _take(self, member: _Member):
        """The answer of `member`; if its process has died, it is made anew."""
        errors = self._ray.exceptions
        try:
            if member.begun is not None:
                member.where = self._ray.get(member.placed)
                member.state, anew, told = self._ray.get(member.begun)
                member.anew |= anew
                member.begun = None
                _warn(told)
            member.answer = self._ray.get(member.asked)
            _warn(member.answer["warnings"])
        except errors.RayTaskError as error:
            if not isinstance(error.cause, UserError | OSError | MemoryError):
                raise
            raise UserError(f"{member.name}: {str(error.cause) or type(error.cause).__name__}") from None
        except errors.RayError as error:
            detail = re.search(r"exit detail: (.*)", str(error))
            told = textwrap.shorten(detail[1] if detail else str(error), _MOST_TOLD, placeholder=" ...")
            why = f"{member.name} has died: {told}"
            member.deaths += 1
            self._give_up(member)
            if member.deaths < _MOST_DEATHS:
                _warn([f"{why}. It is made anew from its last state"])
            else:
                self.problem = f"{why}, {member.deaths} of {_MOST_DEATHS} deaths in one round"

    def _give_up(self, member: _Member):
        if member.actor is not None:
            self._ray.kill(member.actor)
        member.actor = member.placed = member.begun = member.asked = None
        member.where = ""

    def _look_for_places(self, waiting: Sequence[_Member]):
        """Tells how many collectors have no place yet; after collector_timeout that is a problem."""
        without = [
            time.monotonic() - member.since
            for member in waiting
            if member.begun is not None and not self._ray.wait([member.placed], timeout=0)[0]
        ]
        config, longest, now = self._config, max(without, default=0.0), time.monotonic()
        late = longest > config.collector_timeout
        if not late and (longest < _TELL_AFTER or now < self._told + _TELL_AFTER):
            return
        self._told = now
        line = (
            f"{len(without)} of {config.collectors} collectors have not started: each takes {config.collector_cpus:g} "
            f"CPU (--collector_cpus), {self._cpus()}"
        )
        if late:
            self.problem = f"{line}, after {config.collector_timeout:g} s"
        else:
            _warn([line])

    def _cpus(self) -> str:
        """What the cluster has of them. Asked in a thread, for nothing comes back while the head is out of reach."""
        found = []

        def ask():
            with contextlib.suppress(Exception):
                for resources in (self._ray.cluster_resources, self._ray.available_resources):
                    found.append(resources().get("CPU", 0))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_LOOK)
        if len(found) < 2:
            return "and the cluster's head does not answer"
        return f"of which the cluster has {found[0]:g}, {found[1]:g} of them free"

    def state(self) -> dict[str, np.ndarray]:
        """Everything `load_state` needs: the collectors' as a local one's, and the weights of the round under way.

        Also `anew`, where an episode was cut that the round not handed over yet would have told of.
        """
        if self._weights is None or any(member.state is None for member in self._members):
            return {}  # nothing has been collected
        weights = {f"weights_{i}": array for i, array in enumerate(self._weights)}
        anew = np.concatenate([member.anew for member in self._members])
        return wire.merge_states([member.state for member in self._members]) | weights | {"anew": anew}

    def load_state(self, state: wire.State) -> np.ndarray:
        """Returns bool [N], where an episode was cut before `state` was taken; of others the next round tells."""
        if state:
            for member in self._members:
                member.state = wire.split_state(state, member.place)
            count = sum(name.startswith("weights_") for name in state)
            self._weights = [state[f"weights_{i}"] for i in range(count)]
        return state.get("anew", np.zeros(self._config.num_envs, bool))

    def close(self):
        for member in self._members:
            self._give_up(member)
        self._leave()


def _warn(texts: Sequence[str]):
    for text in texts:
        warnings.warn(text, stacklevel=2)
