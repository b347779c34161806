"""A trained policy, read back from a run directory."""

import dataclasses
from pathlib import Path

import numpy as np

from ddpg_tf.config import Config
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.learner.agent import DDPG
from ddpg_tf.storage import checkpoint
from ddpg_tf.storage.run_dir import identity, read_config


@dataclasses.dataclass(frozen=True)
class Policy:
    """A trained policy, read from a run directory.

    Attributes:
      config: the run's settings.
      spaces: its observations, and actions with their bounds.
      agent: DDPG with the chosen actor and critic; `act` takes observations flattened, float32 [B, O], or images uint8.
      step: environment step of the weights.
      score: mean return of the evaluation at that step; None for the latest weights, which may have had none. Before
        the first evaluation the best weights are the latest.
      run: the run's own name, drawn at its start.
    """

    config: Config
    spaces: Spaces
    agent: DDPG
    step: int
    score: float | None
    run: str


def load_policy(path: Path, which: str = "best") -> Policy:
    """The `best` or `latest` policy of the run in `path`.

    Raises:
      UserError: no run, no checkpoint, or one that does not fit its flags; `which` is neither.
    """
    if which not in ("best", "latest"):
        raise UsageError(f"checkpoint must be best or latest, not {which!r}")
    run_config = read_config(path)
    found = checkpoint.load(path / "checkpoints")
    if found is None:
        raise UserError(f"{path} has no checkpoint yet: train it first")
    arrays, meta = found
    spaces = Spaces.from_json(meta["spaces"])
    if which == "best" and (step := meta["scores"]["best_step"]) is not None:
        best = checkpoint.select(arrays, "best")
        return restore_policy(run_config, spaces, best, step, meta["scores"]["best"], identity(path))
    latest = DDPG.policy_part(checkpoint.select(arrays, "agent"))
    return restore_policy(run_config, spaces, latest, meta["step"], None, identity(path))


def restore_policy(
    run_config: Config, spaces: Spaces, state: dict[str, np.ndarray], step: int, score: float | None, run: str
) -> Policy:
    """A Policy from DDPG.policy_state. Needs no environment."""
    agent = DDPG(run_config, spaces.observation_shape, spaces.low, spaces.high)
    try:
        agent.load_policy_state(state)
    except ValueError as error:
        raise UserError(
            f"incompatible checkpoint: {error}; was flags.txt edited, or does {run_config.env} differ?"
        ) from None
    return Policy(run_config, spaces, agent, step, score, run)
