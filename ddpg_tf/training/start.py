"""Before a run begins: refuses what is known to fail, makes the directory, warns of settings without effect."""

import warnings
from pathlib import Path

from ddpg_tf.config import FIELDS, Config
from ddpg_tf.consistency import without_effect
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.errors import UsageError
from ddpg_tf.export import versions
from ddpg_tf.learner import networks
from ddpg_tf.replay import ring
from ddpg_tf.storage import run_dir
from ddpg_tf.training import schedule


def require_apart(export_dir: str, path: Path):
    """Training and publication each hold a lock on their directory, and a new run's directory must be empty.

    Raises:
      UsageError: export_dir is a file, the run's directory, or in it.
    """
    if export_dir and Path(export_dir).exists() and not Path(export_dir).is_dir():
        raise UsageError(f"export_dir {export_dir} is not a directory")
    models = Path(export_dir).resolve()
    if export_dir and path.resolve() in (models, *models.parents):
        raise UsageError(f"export_dir {export_dir} is the run's own directory, or in it: choose another")


def begin(config: Config, path: Path, spaces: Spaces):
    """Makes the directory of a new run, after all that can be known to fail: nothing is left of a refused one.

    Raises:
      UserError: a setting does not fit the environment, the disk has no room, nothing can be published there, ...
    """
    networks.require_buildable(config, spaces.observation_shape)
    ring.require_disk(path, schedule.ring_bytes(config, spaces.observation_shape, spaces.action_size))
    if config.export_dir:
        with versions.exporting_to(Path(config.export_dir)):
            pass  # what is wrong with it is told now, not hours later
    run_dir.create(path, config)
    _warn_of_settings(config, spaces)


def _warn_of_settings(config: Config, spaces: Spaces):
    if config.learning_starts >= config.total_steps:
        warnings.warn(
            f"nothing will be learnt: updates start after {config.learning_starts} steps (warmup_steps, "
            f"batch_size) and total_steps is {config.total_steps}",
            stacklevel=4,
        )
    if spaces.has_goals and config.hindsight == "none":
        warnings.warn(f"{config.env} has goals: --hindsight=future learns from those it did not reach", stacklevel=4)
    for names, why in without_effect(config, spaces.image):
        changed = [f"--{name}" for name in names if getattr(config, name) != FIELDS[name].default]
        if changed:
            warnings.warn(f"{', '.join(changed)}: no effect, {why}", stacklevel=4)
