"""The whole way, by the commands a user types: train, evaluate, export, serve, query, roll out."""

import json
import signal

import numpy as np
from conftest import TINY, command
from serving import address, server

from ddpg_tf.storage.policy import load_policy
from serve.client import PolicyClient


def test_from_training_to_an_action_for_a_mujoco_task(tmp_path):
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

    with server("--model_name=reacher", f"--model_base_path={model}") as served:
        url = address(served)
        whom = (f"--url={url}", "--model_name=reacher")
        observation = np.linspace(-1, 1, 10).astype(np.float32)
        live = best.agent.act(observation[None])[0]
        np.testing.assert_allclose(PolicyClient(url, "reacher").act(observation), live, atol=2e-5)
        asked = command("-m", "serve.query", *whom, f"--observation={json.dumps(observation.tolist())}")
        assert asked.returncode == 0, asked.stderr
        np.testing.assert_allclose(json.loads(asked.stdout), live, atol=2e-5)
        rolled = command("-m", "serve.rollout", *whom, "--env=Reacher-v5", "--episodes=2")
        assert rolled.returncode == 0, rolled.stderr
        assert "p95" in rolled.stdout
        served.send_signal(signal.SIGTERM)
        assert served.wait(30) == 0
