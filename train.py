"""Trains a DDPG policy for a Gymnasium environment; see --help. The same as `python -m ddpg_tf.training`."""

from ddpg_tf import cli
from ddpg_tf.training.__main__ import main

if __name__ == "__main__":
    cli.run(main)
