"""Searches settings for an environment: Ray Tune with Optuna, each trial an ordinary run that bad ones leave early.

    python -m ddpg_tf.tune --env=Pendulum-v1 --trials=20 [--out=DIR] [--ray_address=auto] [train.py's flags]

DIR gets a run directory for each trial, trials.csv, trials.png and winner.flags, which train.py --flagfile takes. A
cluster's machines share DIR and this folder under the same names. Flags of train.py hold for all trials, but for those
that are searched: learning rates, batch_size, n_step, noise_sigma, normalization, normalize_observations, hidden_units.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from ddpg_tf import cli
from ddpg_tf.collect.cluster import ONE_CPU, join
from ddpg_tf.config import Config
from ddpg_tf.envs import factory, registry
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.files import write_atomically, write_rows, write_text
from ddpg_tf.flags import define_flags, parse_command_line
from ddpg_tf.replay import ring
from ddpg_tf.settings import as_flag
from ddpg_tf.storage import run_dir
from ddpg_tf.training import schedule

_CPUS = 1.0  # of a trial
_LARGEST_BATCH = 256


def space(tune: Any, image: bool) -> dict[str, Any]:
    """The settings that are searched, and where; images are not normalised."""
    vectors = {} if image else {"normalize_observations": tune.choice([True, False])}
    return vectors | {
        "actor_learning_rate": tune.loguniform(1e-4, 3e-3),
        "critic_learning_rate": tune.loguniform(1e-4, 3e-3),
        "batch_size": tune.choice([64, 128, _LARGEST_BATCH]),
        "n_step": tune.choice([1, 3, 5]),
        "noise_sigma": tune.uniform(0.05, 0.3),
        "normalization": tune.choice(["none", "layer"]),
        "hidden_units": tune.choice(["64,64", "256,256", "400,300"]),
    }


def main(argv) -> int:
    values, own = flags.FlagValues(), flags.FlagValues()  # own: what train.py does not know
    groups = {"trials": "Search", "out": "Search"} | define_flags(values)
    for defined in (values, own):
        flags.DEFINE_integer("trials", 20, "sets of settings to try", lower_bound=1, flag_values=defined)
        flags.DEFINE_string("out", "", "directory of the search; default runs/tune-ENV-TIME", flag_values=defined)
    cli.parse(argv, values, __doc__, groups)
    arguments = own(list(argv), known_only=True)[1:]  # train.py's
    config = parse_command_line([argv[0], *arguments], __doc__, registry.resolve_id).config
    if config.run_dir or config.export_dir or config.collectors:
        raise UsageError("a trial has neither a --run_dir nor an --export_dir of its own, nor collectors: see --out")
    if config.total_steps <= (starts := dataclasses.replace(config, batch_size=_LARGEST_BATCH).learning_starts):
        raise UsageError(
            f"no trial would learn: updates start after {starts} steps (--warmup_steps={config.warmup_steps}), and "
            f"--total_steps is {config.total_steps}"
        )
    out = Path(values.out or run_dir.default_path(f"tune-{config.env}")).absolute()
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: choose another --out")
    spaces = factory.spaces_of(config)
    ring.require_disk(out, values.trials * schedule.ring_bytes(config, spaces.observation_shape, spaces.action_size))
    _, leave = join(config.ray_address, os.cpu_count() or 1, config.env)
    try:
        found, whole = _search(config, spaces.image, [*arguments, "--ray_address="], values.trials, out)
    finally:
        leave()
    _report(found, out)
    if not whole:
        warnings.warn("interrupted: these are the trials so far", stacklevel=1)
    return 0 if whole else 128 + signal.SIGINT


def _search(
    config: Config, image: bool, arguments: list[str], trials: int, out: Path
) -> tuple[list[dict[str, Any]], bool]:
    """Trains.

    Returns:
      {"trial", "return" (the best evaluation's), "step", every setting} of each, the best first; and whether no Ctrl-C
      ended it, for Ray then returns what there is.
    """
    try:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        search = OptunaSearch(metric="return", mode="max", seed=config.seed)
    except ImportError as error:
        raise UserError(f"a search needs Ray Tune and Optuna: pip install -r requirements-ray.txt ({error})") from None
    stopper = ASHAScheduler(
        time_attr="step",
        metric="return",
        mode="max",
        max_t=config.total_steps,
        grace_period=max(1, config.total_steps // 4),
    )
    results = tune.Tuner(
        tune.with_resources(_trial(tune, arguments, out), {"cpu": _CPUS}),
        param_space=space(tune, image),
        tune_config=tune.TuneConfig(search_alg=search, scheduler=stopper, num_samples=trials),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(out / ".ray"),
            verbose=1,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the runs have their own
        ),
    ).fit()
    whole = len(results) == trials and all(result.error or (result.metrics or {}).get("done") for result in results)
    found = [
        {"trial": result.metrics["trial"], "return": result.metrics["best"], "step": result.metrics["step"]}
        | result.config
        for result in results
        if result.metrics and "best" in result.metrics and not result.error
    ]
    errors = [str(error).strip().splitlines()[-1] for error in results.errors]
    if not found:
        raise UserError(f"no trial came to its end; {errors[0] if errors else 'see --eval_every'}")
    if errors:
        warnings.warn(f"{len(errors)} of {trials} trials failed, see {out}/*.log; the last: {errors[-1]}", stacklevel=2)
    return sorted(found, key=lambda row: -row["return"]), whole


def _trial(tune: Any, arguments: list[str], out: Path) -> type:
    """What Ray runs: a training as a process, looked at after each evaluation."""
    sees = [name for name in sys.path if name]
    here = os.getcwd()  # relative names in the flags start there; Ray has directories of its own

    class Trial(tune.Trainable):
        def setup(self, settings):
            self._path, self._seen = out / self.trial_id, 0
            spelt = [f"--{name}={as_flag(value)}" for name, value in settings.items()]
            self._log = open(f"{self._path}.log", "wb")  # noqa: SIM115 - as long as the process
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ddpg_tf.training", *arguments, *spelt, f"--run_dir={self._path}"],
                stdout=self._log,
                stderr=self._log,
                cwd=here,
                env=os.environ | ONE_CPU | {"PYTHONPATH": os.pathsep.join(sees)},
            )

        def step(self):
            """The next evaluation; the last is at total_steps, where the scheduler ends a trial."""
            while True:
                ended = self._process.poll() is not None  # before the look: what it wrote last is seen
                scores = list(read_evaluations(self._path / "evaluations.csv").items())
                if len(scores) > self._seen:
                    break
                if ended:
                    raise RuntimeError(Path(self._log.name).read_text(errors="replace")[-500:])
                time.sleep(0.2)
            self._seen += 1
            means = [float(np.mean(returns)) for _, returns in scores[: self._seen]]
            at = scores[self._seen - 1][0]
            return {"return": means[-1], "best": max(means), "step": at, "trial": self.trial_id}

        def cleanup(self):
            self._process.terminate()  # it writes a checkpoint
            self._process.wait()
            self._log.close()

    return Trial


def _report(found: list[dict[str, Any]], out: Path):
    """The table, the picture of all learning curves, and the winner's flags."""
    from matplotlib.figure import Figure

    write_rows(out / "trials.csv", list(found[0]), [row.values() for row in found])
    write_text(out / "winner.flags", (out / found[0]["trial"] / "flags.txt").read_text())
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row in reversed(found):  # the winner on top
        scores = read_evaluations(out / row["trial"] / "evaluations.csv")
        style = dict(color="C0", linewidth=2) if row is found[0] else dict(color="lightgrey")
        axes.plot(list(scores), [np.mean(returns) for returns in scores.values()], **style)
    axes.set(xlabel="steps", ylabel="return of an evaluation", title=f"{len(found)} trials, the best in blue")
    write_atomically(out / "trials.png", lambda file: figure.savefig(file, format="png", dpi=100))
    for row in found[:5]:
        told = ", ".join(f"{name}={as_flag(value)}" for name, value in row.items() if name not in ("trial", "return"))
        print(f"{row['return']:10.1f}  {row['trial']}  {told}")
    winner = out / "winner.flags"
    print(f"{winner}: {cli.train_command(f'--flagfile={winner}')}")


if __name__ == "__main__":
    cli.run(main)
