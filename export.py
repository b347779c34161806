"""Exports a trained policy as a SavedModel version for TensorFlow Serving.

    python export.py --run_dir=DIR --export_dir=MODEL_DIR [--version=N] [--checkpoint=best|latest]
"""

import json
import os
from pathlib import Path

import numpy as np
from absl import flags

from ddpg_tf import cli
from ddpg_tf.cli import UsageError


def main(argv):
    values = flags.FlagValues()
    flags.DEFINE_string("run_dir", None, "directory of the run", flag_values=values)
    flags.DEFINE_string("export_dir", None, "the model's base path; the version becomes a directory in it",
                        flag_values=values)
    flags.DEFINE_integer("version", None, "version number; default one above the newest", lower_bound=1,
                         flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best: weights of the best evaluation; latest: the newest",
                        flag_values=values)
    cli.parse(argv, values, __doc__)
    for name in ("run_dir", "export_dir"):
        if not getattr(values, name):
            raise UsageError(f"--{name} is missing. See --help.")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # an accelerator rounds differently from the verifying process
    from ddpg_tf import run_dir, saved_model

    policy = run_dir.load_policy(Path(values.run_dir), values.checkpoint)
    path = saved_model.publish(policy, Path(values.export_dir), values.version)
    weights = "latest weights" if policy.score is None else f"best weights, evaluation {policy.score:.1f}"
    print(f"{path}: {policy.config.env}, step {policy.step}, {weights}")
    _explain(path, policy.spaces)


def _explain(path: Path, spaces):
    """The signature and the request to try."""
    name = path.absolute().parent.name
    inputs = ", ".join(f"{leaf} float32 {[None, *shape]}" for leaf, shape in spaces.leaves.items())
    zeros = {leaf: np.zeros(shape).tolist() for leaf, shape in spaces.leaves.items()}
    row = zeros["observation"] if list(zeros) == ["observation"] else zeros
    print(f"""serving_default: {inputs} -> action float32 {[None, spaces.action_size]}
action_value:    {inputs}, action float32 {[None, spaces.action_size]} -> q float32 [None]
serve it: python -m serve.local --model_name={name} --model_base_path={path.parent}
ask it:   curl -d '{json.dumps({"instances": [row]})}' http://localhost:8501/v1/models/{name}:predict""")


if __name__ == "__main__":
    cli.run(main)
