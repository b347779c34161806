"""Every setting once: name, default, unit, source. Flags, --help, presets and flags.txt all come from `Config`.

No other module reads a setting from a flag. Imports neither TensorFlow nor Gymnasium.
"""

import contextlib
import dataclasses
import json
import math
import os
import typing
from collections.abc import Mapping
from typing import Any

from ddpg_tf.consistency import require_consistent
from ddpg_tf.errors import UsageError
from ddpg_tf.settings import as_flag, check, coerce, setting

RUN, ENVIRONMENT, SCHEDULE = "Run", "Environment", "Schedule (unit: environment steps, one action in one environment)"
PIXELS = "Pixels (where the observation is an image; an action is then repeated, and is one step)"
NETWORKS, LEARNING, EXPLORATION = "Networks", "Learning", "Exploration"
GOALS = "Goals (where the observation has an achieved_goal and a desired_goal)"
ELSEWHERE = "Collecting elsewhere (needs Ray, see docs/distributed.md)"


@dataclasses.dataclass(frozen=True)
class Config:
    """All hyperparameters of a run; construction validates them.

    Raises:
      UsageError: a value out of range, an unknown choice, or settings that contradict each other.
    """

    env: str = setting("Pendulum-v1", RUN, "Gymnasium environment id; module:Id-v0 imports the module first")
    total_steps: int = setting(
        1_000_000, RUN, "environment steps to train for, over all environments", least=1, resumable=True
    )
    seed: int = setting(
        0, RUN, "seed of everything random; the same flags and seed repeat a run bit for bit", least=0, most=2**31 - 1
    )
    run_dir: str = setting("", RUN, "directory of the run; default runs/ENV-SEED-TIME", resumable=True)
    export_dir: str = setting(
        "",
        RUN,
        "publish each better policy here as a new SavedModel version; refused where the newest there is another run's, "
        "of the same environment and limits, with a higher score",
        resumable=True,
    )
    keep_versions: int = setting(10, RUN, "versions of this run kept in export_dir", least=1, resumable=True)

    env_kwargs: str = setting("{}", ENVIRONMENT, "JSON object of keyword arguments for gymnasium.make")
    num_envs: int = setting(1, ENVIRONMENT, "environments stepped together", least=1)
    vectorization: str = setting(
        "sync", ENVIRONMENT, "sync: in this process; async: one process each", choices=("sync", "async")
    )
    max_episode_steps: int = setting(
        0,
        ENVIRONMENT,
        "the environment's own steps after which an episode is truncated; 0: what its id says",
        least=0,
        resumable=True,  # a run whose first evaluation never ended needs it
    )

    pixels: bool = setting(False, PIXELS, "learn from rendered frames, whatever else the environment observes")
    frame_size: int = setting(64, PIXELS, "height and width of a frame, resized by area (paper: 64)", least=8)
    frame_stack: int = setting(3, PIXELS, "frames in an observation, the oldest first (paper: 3)", least=1)
    action_repeat: int = setting(
        3, PIXELS, "environment steps that each action is held for; their rewards are summed (paper: 3)", least=1
    )
    frame_source: str = setting(
        "steps",
        PIXELS,
        "steps: the frames after each of the last frame_stack actions; "
        "substeps: those of the last frame_stack repeats of one action (paper)",
        choices=("steps", "substeps"),
    )
    grayscale: bool = setting(False, PIXELS, "one channel a frame instead of three")

    warmup_steps: int = setting(
        10_000,
        SCHEDULE,
        "uniformly random actions before the policy acts; learning starts "
        "after max(warmup_steps, batch_size) (TD3; the paper has none)",
        least=0,
    )
    update_every: int = setting(
        0, SCHEDULE, "steps between blocks of updates, a multiple of num_envs; 0: num_envs", least=0
    )
    updates_per_step: float = setting(
        1.0,
        SCHEDULE,
        "gradient updates per environment step; a block has update_every x updates_per_step, a whole number (paper: 1)",
        above=0,
    )
    eval_every: int = setting(
        5_000, SCHEDULE, "steps between evaluations; one always runs at the end; 0: only it", least=0, resumable=True
    )
    eval_episodes: int = setting(
        10, SCHEDULE, "episodes of an evaluation, noiseless, with seeds 10000, 10001, ...", least=1, resumable=True
    )
    eval_envs: int = setting(
        10,
        SCHEDULE,
        "environments that an evaluation steps side by side, from pixels at most 2; 0: it uses the training "
        "environment, whose episode is cut, for where only one can exist (hindsight still makes one more)",
        least=0,
        resumable=True,
    )
    checkpoint_every: int = setting(
        10_000,
        SCHEDULE,
        "steps between checkpoints; one is always written at the end; 0: only that one, and the replay's files keep "
        "every step of the run",
        least=0,
        resumable=True,
    )
    log_every: int = setting(1_000, SCHEDULE, "steps between rows of metrics.csv; 0: none", least=0, resumable=True)
    video_every: int = setting(
        0, SCHEDULE, "steps between videos of an episode, at the next evaluation; 0: none", least=0, resumable=True
    )

    hidden_units: tuple[int, ...] = setting(
        (256, 256), NETWORKS, "units of the hidden layers of actor and critic (paper: 400,300)", least=1
    )
    action_layer: int = setting(
        0, NETWORKS, "hidden layer of the critic that the action enters, counted from 0 (paper: 1)", least=0, most=1
    )
    normalization: str = setting(
        "none",
        NETWORKS,
        "before each hidden ReLU: layer in actor and critic; batch in the "
        "actor and, before the action enters, in the critic, and on the observation (paper: "
        "batch)",
        choices=("none", "batch", "layer"),
    )
    batch_norm_momentum: float = setting(
        0.99, NETWORKS, "share of the old running statistics kept at an update (Keras: 0.99)", least=0, most=1
    )
    normalize_observations: bool = setting(
        False, NETWORKS, "scale observations by their running mean and standard deviation, inside the model"
    )
    final_init: float = setting(
        3e-3, NETWORKS, "last layers start uniform in +-final_init (paper: 3e-3; from pixels 3e-4)", above=0
    )
    encoder: str = setting(
        "shared",
        NETWORKS,
        "convolutions for images: shared by all networks and trained by the "
        "critic's loss only (DrQ-v2), or separate, each network its own (paper)",
        choices=("shared", "separate"),
    )
    conv_filters: tuple[int, ...] = setting(
        (32, 32, 32), NETWORKS, "filters of each convolution (paper: 32,32,32)", least=1
    )
    conv_kernels: tuple[int, ...] = setting((8, 4, 3), NETWORKS, "kernel size of each convolution", least=1)
    conv_strides: tuple[int, ...] = setting((4, 2, 1), NETWORKS, "stride of each convolution", least=1)
    bottleneck: int = setting(
        50, NETWORKS, "units after the convolutions, with layer norm and tanh (DrQ-v2: 50); 0: none (paper)", least=0
    )

    gamma: float = setting(
        0.99, LEARNING, "discount per step, however often its action is repeated (paper: 0.99)", least=0, most=1
    )
    tau: float = setting(
        0.005,
        LEARNING,
        "share of the online weights mixed into the targets at each update (paper: 0.001; TD3: 0.005)",
        above=0,
        most=1,
    )
    batch_size: int = setting(256, LEARNING, "transitions per update (paper: 64)", least=1)
    replay_capacity: int = setting(
        1_000_000,
        LEARNING,
        "newest transitions that updates draw from; from images, frames: each episode has one more (paper: 1000000)",
        least=1,
    )
    n_step: int = setting(
        1,
        LEARNING,
        "rewards summed before bootstrapping, fewer at an episode's end and at the newest step (paper: 1)",
        least=1,
    )
    actor_learning_rate: float = setting(1e-3, LEARNING, "Adam step size of the actor (paper: 0.0001)", above=0)
    critic_learning_rate: float = setting(1e-3, LEARNING, "Adam step size of the critic (paper: 0.001)", above=0)
    actor_every: int = setting(
        1, LEARNING, "critic updates for each update of the actor and the targets (TD3: 2; paper: 1)", least=1
    )
    actor_average: float = setting(
        0.0,
        LEARNING,
        "evaluates and exports an average of the actor over about this share of all updates so far (0.05: the last 5 "
        "%; Nikishin et al. 2018); 0: the newest actor (paper)",
        least=0,
        most=1,
    )
    target_noise_sigma: float = setting(
        0.0,
        LEARNING,
        "standard deviation of the target action's noise, in half-ranges, (high - low) / 2 of the action's bounds "
        "(TD3: 0.2; paper: 0)",
        least=0,
    )
    target_noise_clip: float = setting(
        0.5, LEARNING, "the most that this noise adds, in half-ranges (TD3: 0.5)", least=0
    )
    saturation_penalty: float = setting(
        0.0, LEARNING, "c: adds c x mean(abs(q)) x mean(x^2) to the actor's loss, x before its tanh (paper: 0)", least=0
    )
    random_shift: int = setting(
        4, LEARNING, "pixels by which minibatches' images are shifted at random, at most (DrQ-v2: 4; paper: 0)", least=0
    )
    critic_l2: float = setting(
        0.0, LEARNING, "c: adds c x W to the gradient of each critic kernel W, never to biases (paper: 0.01)", least=0
    )

    noise: str = setting(
        "gaussian",
        EXPLORATION,
        "process added to the action, in units of the action's half-range (paper: ou)",
        choices=("ou", "gaussian", "none"),
    )
    noise_sigma: float = setting(
        0.1, EXPLORATION, "standard deviation of the noise per step (TD3: gaussian 0.1; paper: ou 0.2)", least=0
    )
    noise_decay_steps: int = setting(
        0, EXPLORATION, "steps over which noise_sigma goes linearly to noise_final_sigma (DrQ-v2); 0: it stays", least=0
    )
    noise_final_sigma: float = setting(
        0.1, EXPLORATION, "standard deviation after noise_decay_steps (DrQ-v2: 0.1)", least=0
    )
    noise_theta: float = setting(0.15, EXPLORATION, "ou: pull towards zero (paper: 0.15)", least=0)
    noise_dt: float = setting(
        1.0,
        EXPLORATION,
        "ou: time step, which the paper does not give; with sparse rewards it decides whether they are ever found",
        above=0,
    )

    random_share: float = setting(
        0.0,
        EXPLORATION,
        "share of steps whose action is uniformly random instead, also after warmup_steps (Andrychowicz et al. 2017: "
        "0.2; paper: 0)",
        least=0,
        most=1,
    )

    hindsight: str = setting(
        "none",
        GOALS,
        "future: updates see some transitions with a goal that the same episode achieved later (Andrychowicz et al. "
        "2017)",
        choices=("none", "future"),
    )
    hindsight_share: float = setting(
        0.8, GOALS, "share of these transitions (Andrychowicz et al. 2017: 0.8, their k=4)", least=0, most=1
    )

    collectors: int = setting(
        0,
        ELSEWHERE,
        "processes that collect, each with num_envs / collectors of the environments, on parameters one block of "
        "updates old; 0: this process collects",
        least=0,
    )
    ray_address: str = setting(
        "",
        ELSEWHERE,
        "Ray cluster that collects: auto, HOST:PORT or ray://HOST:PORT; default: this machine",
        resumable=True,
    )
    collector_cpus: float = setting(
        1.0, ELSEWHERE, "CPUs of the cluster that each collector takes", above=0, resumable=True
    )
    collector_timeout: float = setting(
        300.0, ELSEWHERE, "seconds to wait for a place for a collector, then the run ends", above=0, resumable=True
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _canonical(field.name, getattr(self, field.name), self.num_envs)
            object.__setattr__(self, field.name, value)
            check(field, value)
        require_consistent(self)

    @property
    def env_arguments(self) -> dict[str, Any]:
        """Keyword arguments for gymnasium.make."""
        limit = {"max_episode_steps": self.max_episode_steps} if self.max_episode_steps else {}
        return json.loads(self.env_kwargs) | limit

    @property
    def updates_per_block(self) -> int:
        """Gradient updates of the critic that are made at once, every update_every steps."""
        return round(self.update_every * self.updates_per_step)

    @property
    def learning_starts(self) -> int:
        """Step after which updates run: warm-up over and a minibatch there, rounded up to update_every."""
        return math.ceil(max(self.warmup_steps, self.batch_size) / self.update_every) * self.update_every

    def to_flags(self) -> str:
        """The flagfile that repeats this run; run_dir is left out, for a repeat needs one of its own."""
        settings = {name: as_flag(getattr(self, name)) for name in FIELDS if name != "run_dir"}
        return "".join(f"--{name}={value}\n" for name, value in ({"preset": "none"} | settings).items())


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
FIELD_TYPES = typing.get_type_hints(Config)


def _canonical(name: str, value: Any, num_envs: int) -> Any:
    """One spelling of each setting, fit for a flagfile: the default of update_every, JSON on one line."""
    value = coerce(name, FIELD_TYPES[name], value)
    if isinstance(value, str) and (value != value.strip() or "\n" in value) and name != "env_kwargs":
        raise UsageError(f"{name} must not have line breaks, or white space around it: {value!r}")
    if name == "update_every":
        return value or num_envs
    if name in ("run_dir", "export_dir"):
        return os.path.expanduser(value)
    if name == "env_kwargs":
        with contextlib.suppress(json.JSONDecodeError):
            return json.dumps(json.loads(value))
    return value


def require_resumable(saved: Config, given: Mapping[str, Any]):
    """Checks that the fields `given` differ from those of the run `saved` only where a resumed run may.

    Raises:
      UsageError: a field that may not change does.
    """
    for name, field in FIELDS.items():
        value, own = _canonical(name, given[name], given["num_envs"]), getattr(saved, name)
        if value != own and not field.metadata["resumable"]:
            raise UsageError(f"--{name} cannot change when resuming: {saved.run_dir} has {own}, not {value}")
