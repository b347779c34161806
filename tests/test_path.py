"""The whole way, by the commands a user types: train, evaluate, export, serve, query, roll out."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY, command

from ddpg_tf.storage.policy import load_policy
from serve.client import PolicyClient


@pytest.fixture
def served(tmp_path):
    """Starts `serve.local` on a free port: served(name, base_path) -> URL."""
    processes = []

    def start(name, base_path):
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "serve.local",
                "--rest_api_port=0",
                f"--model_name={name}",
                f"--model_base_path={base_path}",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                return found[0]
        raise AssertionError("the server did not start")

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_from_training_to_an_action_for_a_mujoco_task(tmp_path, served):
    run, model = tmp_path / "run", tmp_path / "reacher"
    flags = {
        **TINY,
        "env": "Reacher-v5",
        "max_episode_steps": 0,
        "hidden_units": "8",
        "total_steps": 600,
        "eval_every": 300,
        "normalize_observations": "true",
    }
    done = command(
        "train.py",
        "--preset=none",
        *(f"--{name}={value}" for name, value in flags.items()),
        f"--run_dir={run}",
        f"--export_dir={model}",
    )
    assert done.returncode == 0, done.stderr
    assert "600 steps" in done.stdout
    told = done.stderr.splitlines()  # not on a terminal: a line for each evaluation and checkpoint, and no bar
    assert "step 300: evaluation" in done.stderr and all(line.startswith("step ") for line in told)
    best = load_policy(run, "best")
    card = json.loads((max(model.iterdir()) / "assets.extra" / "policy.json").read_text())
    assert card["step"] == best.step and card["score"] == best.score  # live publishing kept up

    url = served("reacher", model)
    observation = np.linspace(-1, 1, 10).astype(np.float32)
    live = best.agent.act(observation[None])[0]
    np.testing.assert_allclose(PolicyClient(url, "reacher").act(observation), live, atol=2e-5)
    asked = command(
        "-m", "serve.query", f"--url={url}", "--model_name=reacher", f"--observation={json.dumps(observation.tolist())}"
    )
    assert asked.returncode == 0, asked.stderr
    np.testing.assert_allclose(json.loads(asked.stdout), live, atol=2e-5)
    rolled = command("-m", "serve.rollout", f"--url={url}", "--model_name=reacher", "--env=Reacher-v5", "--episodes=2")
    assert rolled.returncode == 0, rolled.stderr
    assert "p95" in rolled.stdout
