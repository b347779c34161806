"""What all formats have in common: made out of sight, compared with the live policy, then renamed to a version."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddpg_tf import child
from ddpg_tf._tf import tf
from ddpg_tf.errors import UserError
from ddpg_tf.export import versions
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.policy import Policy


def write_version(
    policy: Policy,
    export_dir: Path,
    version: int | None,
    file: str,
    write: Callable[[Path, dict[str, np.ndarray]], None],
    verifier: str,
) -> Path:
    """Has `policy` written beside the versions in `export_dir`, verified there, and renamed to its version.

    Args:
      version: the directory's name; default one above every existing one.
      file: by which the format is known, in the version's directory.
      write: called with the directory to make, and what `probes` gives.
      verifier: the module that compares the two, in a process of its own: `python -m verifier DIRECTORY PROBES.npz`.
    Returns:
      The version's directory.
    Raises:
      UserError: the version is not above the existing ones, they are of another format, the directory cannot be
        written, or what is in it does not answer as the live policy does.
    """
    with versions.exporting_to(export_dir):
        versions.require_above(export_dir, version)
        versions.require_format(export_dir, file)
        asked = probes(policy)
        with versions.in_the_making(export_dir) as partial:
            write(partial / "model", asked)
            _verify(verifier, partial / "model", asked)
            return versions.rename_to_version(partial / "model", export_dir, version)


def card(policy: Policy) -> dict:
    """policy.json: what the model is."""
    config, spaces = policy.config, policy.spaces
    return {
        "environment": config.env,
        "env_kwargs": json.loads(config.env_kwargs),
        "run": policy.run,
        "step": policy.step,
        "score": policy.score,
        "observation": {
            name: {"key": spaces.keys[name], "shape": list(shape)} for name, shape in spaces.leaves.items()
        },
        "frame_stack": config.frame_stack if spaces.image else None,
        "action": {"low": spaces.low.tolist(), "high": spaces.high.tolist()},
        "flags": {
            name: value for name, value in dataclasses.asdict(config).items() if name not in ("run_dir", "export_dir")
        },
        "versions": run_dir.package_versions(),
    }


def probes(policy: Policy) -> dict[str, np.ndarray]:
    """7 observations, as input/<name>, with the live networks' answers: what exports are compared with.

    Images also as PNG files, pngs [7, frame_stack].
    """
    spaces, agent, rng = policy.spaces, policy.agent, np.random.default_rng(0)
    given = rng.uniform(spaces.low, spaces.high, size=(7, spaces.action_size)).astype(np.float32)
    if spaces.image:
        height, width, channels = spaces.observation_shape
        # Patches: the mean of noise is the same for all, and so would be a young policy's answer.
        patches = rng.integers(0, 256, size=(7, 4, 4, channels), dtype=np.uint8)
        images = patches.repeat(-(-height // 4), 1)[:, :height].repeat(-(-width // 4), 2)[:, :, :width]
        pngs = [
            [tf.io.encode_png(frame).numpy() for frame in np.split(image, policy.config.frame_stack, axis=2)]
            for image in images
        ]
        observations, asked = images, {"input/observation": images, "pngs": np.array(pngs, np.object_)}
    else:
        observations = rng.normal(size=(7, spaces.observation_size)).astype(np.float32)
        if agent.normalizer:
            observations = observations * agent.normalizer.std.numpy() + agent.normalizer.mean.numpy()
        ends = np.cumsum([int(np.prod(shape)) for shape in spaces.leaves.values()])[:-1]
        parts = zip(np.split(observations, ends, axis=1), spaces.leaves.items(), strict=True)
        asked = {f"input/{name}": part.reshape(7, *shape) for part, (name, shape) in parts}
    q = agent.critic([observations, given], training=False).numpy()
    return asked | {"given_action": given, "action": agent.act(observations), "q": q}


def _verify(verifier: str, path: Path, asked: dict[str, np.ndarray]):
    """Runs the module `verifier` in a fresh process that may use no accelerator."""
    file = path.with_name("probes.npz")
    np.savez(file, **asked)
    done = child.run(verifier, path, file, CUDA_VISIBLE_DEVICES="-1")  # the learner may hold the accelerator
    if done.returncode < 0:
        raise UserError(f"the exported model is not verified: signal {-done.returncode} ended that (out of memory?)")
    if done.returncode:
        raise UserError(f"the exported model does not answer as the policy does: {done.stderr.strip()[-2000:]}")
