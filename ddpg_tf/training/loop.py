"""Collect -> replay -> update -> log -> evaluate -> publish -> checkpoint: the one module that knows all packages."""

import contextlib
import dataclasses
import math
import os
import time
import warnings
from pathlib import Path

import numpy as np

from ddpg_tf import _tf, files
from ddpg_tf.collect.collector import Transitions
from ddpg_tf.config import Config, require_resumable
from ddpg_tf.envs import factory, registry, rendering
from ddpg_tf.envs.goals import Goals, goals_of
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation import video
from ddpg_tf.evaluation.evaluator import FIRST_SEED, Evaluator
from ddpg_tf.evaluation.results import draw_learning_curve
from ddpg_tf.export.publish import Publisher
from ddpg_tf.learner.agent import DDPG
from ddpg_tf.replay.hindsight import Hindsight
from ddpg_tf.storage import checkpoint, run_dir
from ddpg_tf.training import signals, start
from ddpg_tf.training.core import Finished, make_replay
from ddpg_tf.training.logger import Logger
from ddpg_tf.training.rounds import make_collector
from ddpg_tf.training.scores import Scores
from ddpg_tf.training.signals import Interrupted

_MOST_VECTOR_STEPS = 50  # in one call: signals are seen between calls
_LONG_EVALUATION = 60.0  # seconds, after which what was learnt is saved before it ends


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
        in what config.py marks `resumable`.
    Raises:
      UserError: the environment does not suit DDPG, the directory is in use, training diverged, ...
      Interrupted: SIGINT, SIGTERM or SIGHUP (when called from the main thread).
    """
    if resume:
        require_resumable(run_dir.read_config(config.run_dir), dataclasses.asdict(config))
    else:  # flags.txt must name what runs, not a short or retired id for it
        config = dataclasses.replace(config, env=registry.resolve_id(config.env))
    if config.export_dir:  # flags.txt must name the same place wherever the run is resumed
        config = dataclasses.replace(config, export_dir=os.path.abspath(config.export_dir))
    path = Path(config.run_dir) if config.run_dir else run_dir.default_path(f"{config.env}-{config.seed}")
    spaces = factory.spaces_of(config)
    with contextlib.ExitStack() as stack:
        if goals := goals_of(config, spaces):
            stack.callback(goals.close)
        start.require_apart(config.export_dir, path)
        if not resume:
            start.begin(config, path, spaces)
        stack.enter_context(run_dir.lock(path))
        found = checkpoint.load(path / "checkpoints") if resume else None
        step = found.meta["step"] if found else 0
        if config.total_steps < step:
            raise UsageError(f"total_steps ({config.total_steps}) is below the {step} steps that {path} has made")
        for partial in files.partials(path):  # left by a process that was killed
            partial.unlink()
        if step < config.total_steps:
            run_dir.write_versions(path, _tf.device(), step)
        if _tf.device() != "CPU":
            print(f"training on {_tf.device()}", flush=True)
        with signals.collected() as interrupted, _Run(config, path, spaces, goals, found) as run:
            run_dir.write_flags(path, config)  # a resumed run may have new ones
            try:
                return run.until_done(interrupted)
            except Interrupted:
                raise
            except UserError as error:
                step = checkpoint.newest_step(path / "checkpoints")
                left = "There is no checkpoint" if step is None else f"The last checkpoint is of step {step}"
                raise UserError(f"{error}. {left}, in {path}") from error


class _Run:
    """The parts of a run, and what is due when. A step is one action in one environment."""

    def __init__(
        self, config: Config, path: Path, spaces: Spaces, goals: Goals | None, found: checkpoint.Checkpoint | None
    ):
        self._config, self._path, self._spaces, self._goals = config, path, spaces, goals
        arrays, meta = found or checkpoint.Checkpoint({}, {"step": 0, "scores": {}, "seconds": 0.0})
        now = {"limit": config.max_episode_steps, "episodes": config.eval_episodes}
        before = Scores(**now | meta["scores"])  # an earlier version's may lack some
        self._scores = before.under(**now)
        self._best = {} if self._scores.best is None else checkpoint.select(arrays, "best")
        agent = DDPG(config, spaces.observation_shape, spaces.low, spaces.high)
        if found:
            try:
                agent.load_state(checkpoint.select(arrays, "agent"))
            except ValueError as error:
                raise UserError(f"incompatible checkpoint in {path}: {error}") from None
        replay = make_replay(
            config,
            spaces.observation_shape,
            spaces.action_size,
            directory=path / "replay",
            rows=meta["step"] // config.num_envs,
            hindsight=goals and Hindsight(goals, config.hindsight_share),
        )
        with contextlib.ExitStack() as closing:
            self._logger = Logger(
                path,
                config.total_steps,
                meta["step"],
                before.rows_until(meta["step"], self._scores.due),
                meta["seconds"],
                waits=config.collectors > 0,
            )
            closing.callback(draw_learning_curve, path, f"{config.env}, seed {config.seed}")
            closing.callback(self._logger.close)
            collector, core = make_collector(config, spaces)
            closing.callback(collector.close)
            if found:
                replay.end_episodes(collector.load_state(checkpoint.select(arrays, "collector")))
                self._logger.load_state(meta["logger"])
            self._core = core(
                config, agent, replay, collector, step=meta["step"], on_step=self._stepped, on_wait=self._logger.waited
            )
            lent = None if config.eval_envs else collector.lend()
            try:
                self._evaluator = Evaluator(config, config.eval_episodes, lent=lent)
            except UserError as error:  # the training's could be made
                raise UserError(
                    f"{error}. An evaluation needs environments of its own: --eval_envs=1 makes only one, "
                    "--eval_envs=0 uses the training's"
                ) from None
            closing.callback(self._evaluator.close)
            self._publisher = Publisher(path, config, spaces) if config.export_dir else None
            if self._publisher:
                closing.callback(self._publisher.finish)
                if self._scores.best_step is not None:  # in case it was killed before this was out
                    self._publisher.submit(self._best, self._scores.best_step, self._scores.best)
            self._closing = closing.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._closing.close()

    def until_done(self, interrupted: list[int]) -> Result:
        config, core, scores = self._config, self._core, self._scores
        first = core.step
        while core.step < config.total_steps or scores.last_step != core.step:
            before = core.step
            if not scores.due:
                self._log_updates(core.run(self._next_pause(), lambda: interrupted), before)
                if _due(before, core.step, config.log_every):
                    self._logger.write_row(core.step)
            last = core.step == config.total_steps
            scores.due |= last or _due(before, core.step, config.eval_every)
            if scores.due and not core.collector.problem:
                self._evaluate(interrupted)
            stop = bool(interrupted)  # looked at once: what is told to stop has a checkpoint
            if last or stop or core.collector.problem or _due(before, core.step, config.checkpoint_every):
                self._checkpoint()
            if core.collector.problem:
                raise UserError(core.collector.problem)
            if stop and (scores.due or not last):
                raise Interrupted(interrupted[0], self._path)
        return Result(self._path, core.step, core.step - first, scores.last, scores.best, scores.best_step)

    def _next_pause(self) -> int:
        """The step up to which nothing but collecting and learning is due."""
        config, step, n = self._config, self._core.step, self._config.num_envs
        intervals = (config.log_every, config.eval_every, config.checkpoint_every, _MOST_VECTOR_STEPS * n)
        ends = [every * (step // every + 1) for every in intervals if every] + [config.total_steps]
        if step < config.learning_starts:
            ends.append(config.learning_starts)
        return -(-min(ends) // n) * n

    def _stepped(self, transitions: Transitions, finished: Finished):
        config, core = self._config, self._core
        self._logger.steps(config.num_envs, finished)
        if self._goals and core.step <= config.learning_starts:
            self._goals.watch(transitions.reward, transitions.next_observation)
        if core.agent.image and core.step == config.frame_stack * config.num_envs:
            seen, path = transitions.next_observation[0], self._path / "observation.png"
            video.save_stack(path, seen, config.frame_stack)
            rendering.warn_of_one_colour(seen, f"{config.env} draws nothing but one colour, see {path}")

    def _log_updates(self, blocks: list[dict[str, float]], before: int):
        for metrics in blocks:
            for name, value in metrics.items():
                if not math.isfinite(value):
                    more = "" if self._config.normalize_observations else " or --normalize_observations"
                    raise UserError(
                        f"{name} is {value} between steps {before} and {self._core.step}: training diverged; try "
                        f"smaller learning rates{more}"
                    )
            self._logger.update(metrics, self._config.updates_per_block)

    def _evaluate(self, interrupted: list[int]):
        """Unless a signal ends it: then it is still due."""
        config, agent, step, scores = self._config, self._core.agent, self._core.step, self._scores
        began, saved = time.monotonic(), False

        def stopped() -> bool:
            nonlocal saved
            if not saved and time.monotonic() - began > _LONG_EVALUATION:
                self._checkpoint()
                saved = True
            return bool(interrupted)

        episodes = self._evaluator.run(agent.act, stopped)
        if episodes is None:
            return
        scores.due, before = False, scores.last_step or 0
        if not config.eval_envs:
            self._core.replay.end_episodes(self._core.collector.take_back())
        scores.last, scores.last_step = float(np.mean([episode.episode_return for episode in episodes])), step
        self._logger.evaluation(
            step,
            [(episode.episode_return, episode.length, episode.success) for episode in episodes],
            agent.value(np.stack([episode.first_observation for episode in episodes])),
            np.array([episode.discounted_return(config.gamma) for episode in episodes]),
        )
        whole = not any(episode.failed for episode in episodes)
        if scores.best is None or (whole and (scores.last > scores.best or not scores.best_whole)):
            scores.best, scores.best_step, scores.best_whole = scores.last, step, whole
            self._best = agent.policy_state()
            if self._publisher:
                self._publisher.submit(self._best, step, scores.best)
        if _due(before, step, config.video_every):
            film = self._path / "videos" / f"step-{step}.mp4"
            if reason := video.record(film, config, FIRST_SEED, episodes[0].actions):
                warnings.warn(reason, stacklevel=1)

    def _checkpoint(self):
        core = self._core
        core.replay.flush()
        parts = {"agent": core.agent.state(), "collector": core.collector.state(), "best": self._best}
        arrays = {f"{part}/{name}": array for part, state in parts.items() for name, array in state.items()}
        checkpoint.save(
            self._path / "checkpoints",
            core.step,
            arrays,
            {
                "spaces": self._spaces.to_json(),
                "scores": dataclasses.asdict(self._scores),
                "seconds": self._logger.seconds,
                "logger": self._logger.state(),
            },
        )
        self._logger.tell(f"step {core.step}: checkpoint")


def _due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` was passed; 0 is never."""
    return bool(every) and now // every > before // every
