"""Trains a DDPG policy for a Gymnasium environment; `python -m ddpg_tf.training` is the same without a checkout.

python train.py --env=Pendulum-v1                        train, with the environment's preset where there is one
python train.py --resume --run_dir=DIR                   continue a run
python train.py --env=Pendulum-v1 --export_dir=DIR       publish each better policy for TensorFlow Serving
"""

import sys

from ddpg_tf import cli
from ddpg_tf.flags import parse_command_line, preset_name


def main(argv):
    from ddpg_tf.envs import registry

    settings, resume, preset, auto = parse_command_line(argv, __doc__, registry.resolve_id)
    from ddpg_tf.training import loop

    if preset:
        print(f"preset: {preset_name(preset)}", flush=True)
    try:
        result = loop.train(settings, resume=resume)
    except loop.Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return interrupted.status
    if not result.steps_now:
        print(f"{result.run_dir} is finished: raise --total_steps to train it further", file=sys.stderr)
    print(
        f"{result.run_dir}: {result.step} steps, last evaluation {result.last_return:.1f}, "
        f"best {result.best_return:.1f} at step {result.best_step}"
    )
    if auto and not preset:
        print(
            f"no preset for {settings.env}, so its settings were plain: most tasks do better with --preset=modern, "
            "those that give images with --preset=pixels --pixels=false"
        )


if __name__ == "__main__":
    cli.run(main)
