"""Collect -> replay -> update -> log -> evaluate -> publish -> checkpoint: the one place that knows all the rooms."""

import contextlib
import dataclasses
import math
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ddpg_tf import _tf
from ddpg_tf.collect.collector import Collector, Policy
from ddpg_tf.config import FIELDS, PIXELS, Config, require_resumable
from ddpg_tf.envs import factory
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation import video
from ddpg_tf.evaluation.evaluator import FIRST_SEED, Evaluator
from ddpg_tf.evaluation.results import draw_learning_curve
from ddpg_tf.export.publish import Publisher
from ddpg_tf.learner import networks
from ddpg_tf.learner.agent import DDPG
from ddpg_tf.replay import ring
from ddpg_tf.replay.buffer import ReplayBuffer
from ddpg_tf.storage import checkpoint, run_dir
from ddpg_tf.training import schedule
from ddpg_tf.training.inner_loop import InnerLoop
from ddpg_tf.training.logger import Logger

_MOST_VECTOR_STEPS = 50  # in one call: signals are seen between calls


class Interrupted(Exception):
    """SIGINT or SIGTERM came; a checkpoint has been written."""

    def __init__(self, signal_number: int, run: Path):
        super().__init__(f"interrupted; continue with: python train.py --resume --run_dir={run}")
        self.status = 128 + signal_number


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      run_dir: where everything is.
      step: environment steps made, over all sessions.
      steps_now: of these, by this call; 0 when the run was finished already.
      last_return, best_return: mean returns of the last and of the best evaluation.
      best_step: step of the best evaluation.
    """

    run_dir: Path
    step: int
    steps_now: int
    last_return: float
    best_return: float
    best_step: int


def train(config: Config, *, resume: bool = False) -> Result:
    """Trains a policy; everything it makes is in the run directory.

    Args:
      config: hyperparameters; `run_dir` may be empty for a new directory below runs/.
      resume: continue the run in config.run_dir from its newest checkpoint; `config` may differ from the run's own
        in total_steps, eval_episodes, the intervals of evaluation, log, checkpoint and video, and where to export.
    Raises:
      UserError: the environment does not suit DDPG, the directory is in use, training diverged, ...
      Interrupted: SIGINT or SIGTERM (when called from the main thread).
    """
    if resume:
        require_resumable(run_dir.read_config(Path(config.run_dir)), dataclasses.asdict(config))
    path = Path(config.run_dir) if config.run_dir else run_dir.default_path(config)
    spaces = factory.spaces_of(config)
    if config.export_dir and Path(config.export_dir).exists() and not Path(config.export_dir).is_dir():
        raise UsageError(f"export_dir {config.export_dir} is not a directory")
    if not resume:
        networks.require_buildable(config, spaces.observation_shape)
        ring.require_disk(path, schedule.ring_bytes(config, spaces.observation_shape, spaces.action_size))
        run_dir.create(path, config)
        _warn_of_no_effect(config, spaces)
    lock = run_dir.lock(path)
    try:
        found = checkpoint.load(path / "checkpoints") if resume else None
        if found and config.total_steps < found[1]["step"]:
            raise UsageError(f"total_steps ({config.total_steps}) is below the {found[1]['step']} steps that {path} "
                             "has made")
        run_dir.write_versions(path, _tf.device())  # a run killed at once may not have any
        if _tf.device() != "CPU":
            print(f"training on {_tf.device()}", flush=True)
        with _signals() as interrupted, _Run(config, path, spaces, found) as run:
            run_dir.write_flags(path, config)  # a resumed run may have new ones
            return run.until_done(interrupted)
    finally:
        os.close(lock)


def _warn_of_no_effect(config: Config, spaces: Spaces):
    if config.learning_starts >= config.total_steps:
        warnings.warn(f"nothing will be learnt: updates start after {config.learning_starts} steps (warmup_steps, "
                      f"batch_size) and total_steps is {config.total_steps}", stacklevel=3)
    unused = [f"--{name}" for name, field in FIELDS.items() if field.metadata["group"] == PIXELS
              and not spaces.image and getattr(config, name) != field.default]
    if unused:
        warnings.warn(f"{', '.join(unused)}: no effect, for {config.env} is not seen in images; see --pixels",
                      stacklevel=3)


class _Run:
    """The parts of a run and what is due when. A step is one action in one environment."""

    def __init__(self, config: Config, path: Path, spaces, found):
        self._config, self._path = config, path
        start = {"step": 0, "best_step": None, "best_score": None, "last_step": None, "last_score": None}
        arrays, meta = found or ({}, start)
        self._step = meta["step"]
        self._best_step, self._best_score = meta["best_step"], meta["best_score"]
        self._last_step, self._last_score = meta["last_step"], meta["last_score"]
        self._best = checkpoint.select(arrays, "best")
        self._agent = DDPG(config, spaces.observation_shape, spaces.low, spaces.high)
        if found:
            try:
                self._agent.load_state(checkpoint.select(arrays, "agent"))
            except ValueError as error:
                raise UserError(f"incompatible checkpoint in {path}: {error}") from None
        capacity, slack = schedule.ring_size(config, spaces.image)
        self._replay = ReplayBuffer(
            capacity, spaces.observation_shape, spaces.action_size, num_envs=config.num_envs, n_step=config.n_step,
            gamma=config.gamma, frame_stack=schedule.stack_of(config), slack=slack, directory=path / "replay",
            rows=self._step // config.num_envs)
        self._collector = Collector(config, spaces)
        self._image = spaces.image
        if found:
            self._replay.end_episodes(self._collector.load_state(checkpoint.select(arrays, "collector")))
        self._inner_loop: InnerLoop | None = None
        self._evaluator = Evaluator(config, config.eval_episodes)
        self._logger = Logger(path, config.total_steps, self._step, meta.get("seconds", 0.0))
        if found:
            self._logger.load_state(meta["logger"])
        self._publisher = Publisher(path, config) if config.export_dir else None
        if self._publisher and self._best_step is not None:  # in case it was killed before this was out
            self._publisher.submit(self._best, self._best_step, self._best_score)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._publisher:
            self._publisher.finish()
        self._collector.close()
        self._evaluator.close()
        self._logger.close()
        draw_learning_curve(self._path, f"{self._config.env}, seed {self._config.seed}")

    def until_done(self, interrupted: list[int]) -> Result:
        config = self._config
        first = self._step
        while self._step < config.total_steps:
            before, until = self._step, self._next_pause()
            if self._step < config.learning_starts:
                while self._step < until and not interrupted:
                    self._collect(self._agent.act)
            else:
                self._learn(until)
            last = self._step == config.total_steps
            if _due(before, self._step, config.log_every):
                self._logger.write_row(self._step)
            if last or _due(before, self._step, config.eval_every):
                self._evaluate()
            if last or interrupted or _due(before, self._step, config.checkpoint_every):
                self._checkpoint()
            if interrupted and not last:
                raise Interrupted(interrupted[0], self._path)
        if self._last_step != self._step:  # resumed where it had been interrupted, with total_steps to match
            self._evaluate()
            self._checkpoint()
        return Result(self._path, self._step, self._step - first, self._last_score, self._best_score, self._best_step)

    def _next_pause(self) -> int:
        """The step up to which nothing but collecting and learning is due."""
        config, step, n = self._config, self._step, self._config.num_envs
        intervals = (config.log_every, config.eval_every, config.checkpoint_every, _MOST_VECTOR_STEPS * n)
        ends = [every * (step // every + 1) for every in intervals if every] + [config.total_steps]
        if step < config.learning_starts:
            ends.append(config.learning_starts)
        return -(-min(ends) // n) * n

    def _collect(self, policy: Policy) -> np.ndarray:
        """One vector step. Returns the observations that follow, [N, ...]."""
        transitions, finished = self._collector.step(self._step // self._config.num_envs, policy)
        self._replay.add(*transitions)
        self._agent.count_observations(transitions.observation)
        self._step += self._config.num_envs
        self._logger.steps(self._config.num_envs, finished)
        if self._image and self._step == self._config.frame_stack * self._config.num_envs:
            video.picture(self._path / "observation.png", self._collector.observation[0], self._config.frame_stack)
        return self._collector.observation

    def _learn(self, until: int):
        config, n, before = self._config, self._config.num_envs, self._step
        if self._inner_loop is None:
            blocks = schedule.blocks(self._replay, config, (before - config.learning_starts) // config.update_every,
                                     image=self._image)
            self._inner_loop = InnerLoop(self._agent, blocks, lambda actions: self._collect(lambda _: actions),
                                         config.update_every // n, overlap=self._image)
        for metrics in self._inner_loop.run(self._collector.observation, before // n, until // n):
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise UserError(f"{name} is {value} between steps {before} and {until}: training diverged. The "
                                    f"last good checkpoint is in {self._path}/checkpoints; try smaller learning rates "
                                    "or --normalize_observations")
            self._logger.update(metrics, config.updates_per_block)

    def _evaluate(self):
        config = self._config
        episodes = self._evaluator.run(self._agent.act)
        self._last_step = self._step
        score = self._last_score = float(np.mean([episode.episode_return for episode in episodes]))
        self._logger.evaluation(
            self._step, [(episode.episode_return, episode.length) for episode in episodes],
            self._agent.value(np.stack([episode.first_observation for episode in episodes])),
            np.array([episode.discounted_return(config.gamma) for episode in episodes]))
        if self._best_score is None or score > self._best_score:
            self._best_score, self._best_step, self._best = score, self._step, self._agent.policy_state()
            if self._publisher:
                self._publisher.submit(self._best, self._step, score)
        if _due(max(0, self._step - (config.eval_every or self._step)), self._step, config.video_every):
            video.record(self._path / "videos" / f"step-{self._step}.mp4", config, FIRST_SEED, episodes[0].actions)

    def _checkpoint(self):
        self._replay.flush()
        parts = {"agent": self._agent.state(), "collector": self._collector.state(), "best": self._best}
        arrays = {f"{part}/{name}": array for part, state in parts.items() for name, array in state.items()}
        checkpoint.save(self._path / "checkpoints", self._step, arrays, {
            "best_step": self._best_step, "best_score": self._best_score, "last_step": self._last_step,
            "last_score": self._last_score, "seconds": self._logger.seconds, "logger": self._logger.state()})


def _due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` was passed; 0 is never."""
    return bool(every) and now // every > before // every


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in the list it yields; a second one acts at once."""
    received: list[int] = []

    def note(number, _):
        if received:
            os._exit(128 + number)
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are the caller's business
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
