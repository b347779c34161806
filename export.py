"""Exports a trained policy as a SavedModel version for TensorFlow Serving, or its actor alone for a small device.

python export.py --run_dir=DIR --export_dir=MODEL_DIR [--version=N] [--checkpoint=best|latest]
python export.py --run_dir=DIR --export_dir=MODEL_DIR --format=litert|onnx
"""

import json
import os
import shlex
import urllib.parse
from pathlib import Path

import numpy as np
from absl import flags

from ddpg_tf import cli
from ddpg_tf.export import runtimes


def main(argv):
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("run_dir", None, "directory of the run", required=True)
    define.string("export_dir", None, "the model's base path; the version becomes a directory in it", required=True)
    define.integer(
        "version", None, "version number; default one above the newest", lower_bound=1, upper_bound=2**63 - 1
    )
    define.enum("checkpoint", "best", ["best", "latest"], "best: weights of the best evaluation; latest: the newest")
    define.enum(
        "format",
        "savedmodel",
        ["savedmodel", *runtimes.FORMATS],
        "savedmodel: the version is a SavedModel; litert, onnx: it holds the actor as model.tflite or model.onnx, and "
        "policy.json. All versions in export_dir are of one format",
    )
    cli.parse(argv, values, __doc__)
    if values.format != "savedmodel":
        runtimes.require_installed(values.format)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # an accelerator rounds differently from the verifying process
    from ddpg_tf.export import actor_file, saved_model
    from ddpg_tf.storage.policy import load_policy

    policy = load_policy(Path(values.run_dir), values.checkpoint)
    export_dir = Path(values.export_dir)
    if values.format == "savedmodel":
        path = saved_model.write_version(policy, export_dir, values.version)
    else:
        path = actor_file.write_version(policy, export_dir, values.format, values.version)
    weights = "latest weights" if policy.score is None else f"best weights, evaluation {policy.score:.1f}"
    print(f"{path}: {policy.config.env}, step {policy.step}, {weights}")
    kind = "uint8" if policy.spaces.image else "float32"
    inputs = ", ".join(f"{leaf} {kind} {[None, *shape]}" for leaf, shape in policy.spaces.leaves.items())
    action = f"action float32 {[None, policy.spaces.action_size]}"
    if values.format != "savedmodel":
        print(f"{inputs} -> {action}")
        return
    print(f"serving_default: {inputs} -> {action}\naction_value:    {inputs}, {action} -> q float32 [None]")
    _explain(path, policy, action)


def _explain(path: Path, policy, action: str):
    """How to serve it, and a request to try."""
    spaces, name = policy.spaces, path.absolute().parent.name
    if spaces.image:
        print(
            f"observation_bytes: observation_bytes string {[None, policy.config.frame_stack]}, PNG files, the oldest "
            f"frame first -> {action}"
        )
    name = name.replace(":", "-")  # which a model's name may not have
    named = f"--model_name={name}"
    print("serve it:", shlex.join(["python", "-m", "serve.local", named, f"--model_base_path={path.parent}"]))
    if spaces.image:  # too long for a shell
        print("ask it:  ", shlex.join(["python", "-m", "serve.query", named, "--sample"]))
        return
    zeros = {leaf: np.zeros(shape).tolist() for leaf, shape in spaces.leaves.items()}
    row = zeros["observation"] if list(zeros) == ["observation"] else zeros
    url = f"http://localhost:8501/v1/models/{urllib.parse.quote(name)}:predict"
    print("ask it:  ", shlex.join(["curl", "-d", json.dumps({"instances": [row]}), url]))


if __name__ == "__main__":
    cli.run(main)
