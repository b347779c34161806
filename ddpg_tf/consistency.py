"""Which settings go together."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

from ddpg_tf.errors import UsageError


def require_consistent(config: Any):
    """Raises UsageError where settings of a Config contradict each other."""

    def require(holds: bool, message: str):
        if not holds:
            raise UsageError(message)

    require(
        config.replay_capacity >= config.batch_size,
        f"replay_capacity ({config.replay_capacity}) must be at least batch_size ({config.batch_size})",
    )
    require(
        config.total_steps % config.num_envs == 0,
        f"total_steps ({config.total_steps}) must be a multiple of num_envs ({config.num_envs})",
    )
    require(
        config.update_every % config.num_envs == 0,
        f"update_every ({config.update_every}) must be a multiple of num_envs ({config.num_envs})",
    )
    updates = config.update_every * config.updates_per_step
    require(
        round(updates) >= 1 and math.isclose(updates, round(updates)),
        f"update_every x updates_per_step must be a whole number of updates, at least 1, not {updates:g}",
    )
    require(
        config.updates_per_block % config.actor_every == 0,
        f"a block's updates ({config.updates_per_block}, update_every x updates_per_step) must be a multiple of "
        f"actor_every ({config.actor_every})",
    )
    require(
        config.action_layer < len(config.hidden_units),
        f"action_layer {config.action_layer} needs at least {config.action_layer + 1} hidden_units, "
        f"not {len(config.hidden_units)}",
    )
    lengths = {len(config.conv_filters), len(config.conv_kernels), len(config.conv_strides)}
    require(len(lengths) == 1, "conv_filters, conv_kernels and conv_strides need one number for each convolution")
    require(
        config.frame_source == "steps" or config.frame_stack <= config.action_repeat,
        f"frame_source substeps needs a frame_stack ({config.frame_stack}) of at most action_repeat "
        f"({config.action_repeat})",
    )
    require(
        config.noise != "ou" or config.noise_theta * config.noise_dt < 2,
        "the ou process diverges: noise_theta x noise_dt must be below 2",
    )
    try:
        kwargs = json.loads(config.env_kwargs)
    except json.JSONDecodeError as error:
        raise UsageError(f"env_kwargs is not JSON: {error}") from None
    require(isinstance(kwargs, dict), f"env_kwargs must be a JSON object, not {config.env_kwargs}")
    require(
        config.eval_envs > 0 or (config.num_envs == 1 and config.vectorization == "sync"),
        "eval_envs 0, evaluations on the training environment, needs num_envs 1 and vectorization sync",
    )
    require(
        config.collectors == 0 or config.num_envs % config.collectors == 0,
        f"num_envs ({config.num_envs}) must be a multiple of collectors ({config.collectors})",
    )
    require(
        config.collectors == 0 or config.total_steps % config.update_every == 0,
        f"with collectors, total_steps ({config.total_steps}) must be a multiple of update_every "
        f"({config.update_every}), the steps of a round",
    )
    require(
        config.collectors == 0 or config.eval_envs > 0,
        "eval_envs 0, evaluations on the training environment, needs collectors 0",
    )
    require("render_mode" not in kwargs, "env_kwargs must not set render_mode: see --video_every")


def without_effect(config: Any, image: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """(settings that change nothing beside the others of `config`, why).

    Args:
      image: whether observations are images.
    """
    convolutions = ("encoder", "conv_filters", "conv_kernels", "conv_strides", "bottleneck", "random_shift")
    fades = config.noise != "none" and config.noise_decay_steps > 0
    for used, names, why in (
        (image, _group_of(config, "pixels") + convolutions, f"for {config.env} is not seen in images; see --pixels"),
        (config.collectors > 0, _group_of(config, "collectors"), "for nothing collects elsewhere; see --collectors"),
        (config.hindsight != "none", _group_of(config, "hindsight"), "for goals stay as they are; see --hindsight"),
        (config.noise == "ou", ("noise_theta", "noise_dt"), f"for the noise is {config.noise}; see --noise"),
        (config.noise != "none", ("noise_sigma", "noise_decay_steps"), "for there is no noise; see --noise"),
        (fades, ("noise_final_sigma",), "for the noise has no decay; see --noise_decay_steps"),
        (config.target_noise_sigma > 0, ("target_noise_clip",), "for targets have no noise; see --target_noise_sigma"),
        (config.normalization == "batch", ("batch_norm_momentum",), "for there is no batch norm; see --normalization"),
        (bool(config.export_dir), ("keep_versions",), "for nothing is published; see --export_dir"),
    ):
        if not used:
            yield names, why


def _group_of(config: Any, name: str) -> tuple[str, ...]:
    """The settings under the same heading of --help as `name`, and itself."""
    groups = {field.name: field.metadata["group"] for field in dataclasses.fields(config)}
    return tuple(other for other, group in groups.items() if group == groups[name])
