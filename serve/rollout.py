"""Drives a Gymnasium environment with a deployed policy: returns, how long the server took, which versions answered.

python -m serve.rollout --url=http://localhost:8501 --model_name=policy --env=Pendulum-v1 --episodes=10
python -m serve.rollout --model_name=policy --flagfile=runs/pendulum/flags.txt --compare_run_dir=runs/pendulum

Of a run's flags.txt, given as --flagfile, only the environment counts, and how it is seen in pixels; --seed in it is
the training's, not this one. A policy that sees pixels is asked twice at each step: with numbers, and with PNG files.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from ddpg_tf import config
from ddpg_tf.cli import definers, parse, run
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.flags import define_flags
from serve.client import PolicyClient, PolicyError
from serve.client_flags import client_from_flags, define_server_flags
from serve.episodes import TOLERANCE, compare, drive, film, summarise
from serve.pngs import Asking

if TYPE_CHECKING:
    import gymnasium

# The settings that say what is driven, and how it is seen.
_SEEN = ("pixels", "frame_size", "frame_stack", "action_repeat", "frame_source", "grayscale")
_ENVIRONMENT = ("env", "env_kwargs", "max_episode_steps", *_SEEN)


def _require_same_environment(run_dir: Path, driven: config.Config):
    """UserError unless the run in `run_dir` is of this environment, seen alike."""
    from ddpg_tf.envs import registry
    from ddpg_tf.storage.run_dir import read_config

    learnt = read_config(run_dir)
    different = [
        name
        for name in _ENVIRONMENT
        if getattr(learnt, name) != getattr(driven, name)
        and not (name == "env" and registry.resolve_id(learnt.env) == driven.env)
    ]
    if different:
        seen = "".join(f" with --{name}={getattr(driven, name)}" for name in different if not name.startswith("env"))
        raise UserError(
            f"{run_dir} is a run of {learnt.env} {learnt.env_kwargs}, not of {driven.env} "
            f"{driven.env_kwargs}{seen}: drive its environment with --flagfile={run_dir / 'flags.txt'}"
        )


def _require_same_images(client: PolicyClient, env: "gymnasium.Env", driven: config.Config):
    """UserError unless the environment is seen in images of the policy's shape; says how it is driven."""
    seen = list(env.observation_space.shape)
    wanted = next(iter(client.inputs().values()))["shape"] or [None]
    if wanted[1:] != seen:
        raise UserError(
            f"the policy takes images of {wanted[1:]}, and {driven.env} so seen gives {seen}: give what it "
            "was trained with, by --flagfile=RUN_DIR/flags.txt or --pixels, --frame_size, --frame_stack, "
            "--grayscale"
        )
    print(f"images of {seen}; each action is held for {driven.action_repeat} steps", flush=True)


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    """Reads the flagfiles, which may be a run's, then what was typed."""
    values = flags.FlagValues()
    define_server_flags(values)
    define_flags(values, only=_ENVIRONMENT)
    values["env"].default = values["env"].value = None
    define = definers(values)
    define.integer("episodes", 10, "how many episodes", lower_bound=1)
    define.integer("seed", 10000, "episode i (from 0) is reset with this + i", lower_bound=0)
    define.string("video", None, "film the first episode into this file (mp4 or gif)")
    define.string(
        "compare_run_dir",
        None,
        "directory of the run that the policy was exported from: check each "
        f"action against its checkpoint's actor, to {TOLERANCE:g} of the action's half-range",
    )
    choices, weights = ["best", "latest"], "weights to compare with: of the best evaluation, or the newest"
    define.enum("checkpoint", "best", choices, weights)
    files, typed = _split(argv[1:])
    training = define_flags(flags.FlagValues())  # by name
    parse([argv[0], f"--undefok={','.join(training)}", *files], values, __doc__)
    values["seed"].unparse()  # back to its default
    parse([argv[0], *typed], values, __doc__)
    if not values.env:
        raise UsageError("--env is required, or --flagfile=RUN_DIR/flags.txt. See --help.")
    return values


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments that name flagfiles, and the others."""
    files, others, rest = [], [], iter(args)
    for arg in rest:
        if arg in ("--flagfile", "-flagfile"):
            files += [arg, *itertools.islice(rest, 1)]
        elif arg.startswith(("--flagfile=", "-flagfile=")):
            files.append(arg)
        else:
            others.append(arg)
    return files, others


def main(argv: Sequence[str]) -> None:
    values = _parse(argv)
    client = client_from_flags(values)
    from ddpg_tf.envs import factory, registry, spaces  # imports Gymnasium: not for --help and mistakes
    from ddpg_tf.evaluation import video

    driven = config.Config(**{name: getattr(values, name) for name in _ENVIRONMENT})
    driven = dataclasses.replace(driven, env=registry.resolve_id(driven.env))
    run_dir = Path(values.compare_run_dir) if values.compare_run_dir else None
    if values.video:
        video.require_format(Path(values.video))
    if run_dir:
        _require_same_environment(run_dir, driven)
    problems = []
    with client, contextlib.closing(factory.make_checked_env(driven)) as env:
        factory.warn_of_no_limit(env, driven.env)
        asking = Asking(client, driven.frame_stack) if spaces.is_image(env.observation_space) else None
        try:
            if asking:
                _require_same_images(client, env, driven)
            episodes = drive(
                client, env, values.episodes, values.seed, keep=run_dir is not None, act=asking.act if asking else None
            )
        except PolicyError as error:
            raise UserError(error.message) from None
        summarise(episodes, latency=not asking)
        if asking:
            one_version = len({version for episode in episodes for version in episode.versions}) == 1
            tolerance = TOLERANCE if one_version else np.inf  # or the two answers may be of two policies
            problems += asking.summarise(tolerance * (env.action_space.high - env.action_space.low) / 2)
        if values.video:
            problems += film(Path(values.video), driven, values.seed, episodes[0])
        if run_dir:
            problems += compare(run_dir, values.checkpoint, env, episodes, values.seed)
    if problems:
        raise UserError("; ".join(problems))


if __name__ == "__main__":
    run(main)
