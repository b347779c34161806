"""Live publishing: each better policy becomes a SavedModel version in a process of its own, while training goes on."""

import contextlib
import json
import threading
import warnings
from pathlib import Path

import numpy as np

from ddpg_tf import child, cli, files
from ddpg_tf.config import Config
from ddpg_tf.envs.spaces import Spaces
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.policy import restore_policy


class Publisher:
    """Publishes snapshots of the policy to config.export_dir; at most one waits, the newest.

    Args:
      run: the run's directory; snapshots pass through it.
    """

    def __init__(self, run: Path, config: Config, spaces: Spaces):
        self._run, self._config, self._spaces = run, config, spaces
        self._lock = threading.Lock()  # of the two below
        self._pending: Path | None = None
        self._thread: threading.Thread | None = None
        for stale in run.glob("snapshot-*.npz"):
            stale.unlink()

    def submit(self, state: dict[str, np.ndarray], step: int, score: float):
        """Has `state` (DDPG.policy_state) published; returns at once."""
        snapshot = self._run / f"snapshot-{step}.npz"
        spaces = json.dumps(self._spaces.to_json())  # there may be no room for another environment, or no way to one
        meta = {"step": np.asarray(step), "score": np.asarray(score), "spaces": np.asarray(spaces)}
        files.write_atomically(snapshot, lambda file: np.savez(file, **meta, **state))
        with self._lock:
            if self._pending:
                self._pending.unlink()
            self._pending = snapshot
            if self._thread is None:
                self._thread = threading.Thread(target=self._work)
                self._thread.start()

    def finish(self):
        """Returns when everything submitted is published or has failed with a warning."""
        if thread := self._thread:
            thread.join()

    def _work(self):
        while True:
            with self._lock:
                snapshot, self._pending = self._pending, None
                if snapshot is None:
                    self._thread = None
                    return
            if said := self._publish(snapshot):
                warnings.warn(f"policy not published: {said}", stacklevel=2)
            with contextlib.suppress(OSError):  # the next start of the run removes it
                snapshot.unlink()

    def _publish(self, snapshot: Path) -> str:
        """Returns why it could not be, in one line; empty if it was."""
        given = (self._run, snapshot, self._config.export_dir, self._config.keep_versions)
        return child.failure("ddpg_tf.export.publish", *given, CUDA_VISIBLE_DEVICES="-1").removeprefix("error: ")


def _main(argv):
    from ddpg_tf.export import making, saved_model, versions

    run, snapshot, export_dir, keep = Path(argv[1]), Path(argv[2]), Path(argv[3]), int(argv[4])
    with np.load(snapshot) as file:
        state = dict(file)
    step, score = int(state.pop("step")), float(state.pop("score"))
    spaces = Spaces.from_json(json.loads(str(state.pop("spaces"))))
    with contextlib.ExitStack() as stack:
        stack.enter_context(versions.exporting_to(export_dir))
        # A killed training's last publication may still be under way.
        stack.enter_context(files.hold(export_dir, wait=True))
        name = run_dir.identity(run)
        if step <= max(versions.published(export_dir, name).values(), default=-1):
            return  # published before the training was killed; each later step is better
        policy = restore_policy(run_dir.read_config(run), spaces, state, step, score, name)
        versions.require_no_better(export_dir, making.card(policy))
        saved_model.write_version(policy, export_dir, live=True)
        versions.prune(export_dir, name, keep)


if __name__ == "__main__":
    cli.run(_main)
