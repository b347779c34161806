"""Live deployment: training publishes, a server takes it up, a client asks all the time; nobody sees an error."""

import re
import signal
import threading
import time

import numpy as np
import pytest
from conftest import TINY, process
from serving import address, server

from ddpg_tf._tf import tf
from ddpg_tf.evaluation.results import read_evaluations
from ddpg_tf.export import versions
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.policy import load_policy
from serve.client import PolicyClient, PolicyError

# Its first evaluations are each better than those before, over some 20 seconds.
FLAGS = {
    **TINY,
    "env": "tests.toy_envs:ToyUnhurried-v0",
    "max_episode_steps": 200,
    "total_steps": 1_000_000,
    "warmup_steps": 500,
    "hidden_units": "32",
    "batch_size": 64,
    "replay_capacity": 10_000,
    "eval_every": 750,
    "checkpoint_every": 1000,
    "log_every": 0,
}
PATIENCE = 90  # seconds


class Asking:
    """A thread that asks for actions all the time, without a second attempt, and for the version once in a while.

    Attributes:
      versions: in the order seen, each once for as long as it stayed.
      answers: how many actions came.
      wrong: actions that do not fit, and the error that ended it.
    """

    def __init__(self, url):
        self.versions, self.answers, self.wrong = [], 0, []
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self):
        rng = np.random.default_rng(0)
        try:
            with PolicyClient(self._url, "live", retries=0) as client:
                while not self._stop.is_set():
                    if self.answers % 20 == 0:
                        version = int(client.metadata()["model_spec"]["version"])
                        if version not in self.versions[-1:]:
                            self.versions.append(version)
                    action = client.act(rng.normal(size=3))
                    self.answers += 1
                    time.sleep(0.005)  # the processors are training's
                    if not (action.shape == (1,) and abs(action[0]) <= 2):
                        self.wrong.append(action)
        except PolicyError as error:
            self.wrong.append(error)

    def until(self, condition):
        """Goes on until `condition` holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self._thread.is_alive() and time.monotonic() < end, (self.versions, self.wrong)
            time.sleep(0.1)

    def finish(self):
        self._stop.set()
        self._thread.join()


@pytest.fixture
def model(tmp_path):
    """A model's directory that has a version already, which does nothing, as if from an earlier day."""
    idle = tf.Module()
    idle.act = tf.function(
        lambda observation: {"action": tf.zeros_like(observation[:, :1])},
        input_signature=[tf.TensorSpec([None, 3], tf.float32, name="observation")],
    )
    tf.saved_model.save(idle, str(tmp_path / "model" / "1"), signatures={"serving_default": idle.act})
    return tmp_path / "model"


def test_a_server_follows_training_without_a_failed_request(tmp_path, model):
    run = tmp_path / "run"

    def better_is_found():
        """Training's first version is served, and the next one is due."""
        assert training.poll() is None, training.communicate()[0]
        if len(asking.versions) < 2:
            return False
        scores = {step: np.mean(returns) for step, returns in read_evaluations(run / "evaluations.csv").items()}
        return max(scores, key=scores.get) > max(versions.published(model, run_dir.identity(run)).values())

    flags = [*(f"--{name}={value}" for name, value in FLAGS.items()), f"--run_dir={run}", f"--export_dir={model}"]
    with (
        process("train.py", "--preset=none", *flags) as training,
        server("--model_name=live", f"--model_base_path={model}") as served,
    ):
        url = address(served)
        asking = Asking(url)
        asking.until(better_is_found)
        training.send_signal(signal.SIGINT)
        said = training.communicate(timeout=PATIENCE)[0]  # it publishes what it has before it ends
        asking.until(lambda: asking.versions[-1] == versions.versions(model)[-1])
        with PolicyClient(url, "live") as client:
            observations = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
            answers = client.act(observations)
        asking.finish()
        served.send_signal(signal.SIGTERM)
        log = served.communicate(timeout=30)[0]
    assert training.returncode == 130 and re.fullmatch(r"(step \d+: .*\n)*interrupted; .*\n", said), said
    assert asking.wrong == [] and asking.answers > 100
    assert len(asking.versions) >= 3 and asking.versions == sorted(set(asking.versions))
    assert served.returncode == 0 and re.fullmatch(r"((un)?loaded version \d+ of live\n)*", log), log
    best = load_policy(run, "best")
    np.testing.assert_allclose(answers, best.agent.act(observations), atol=2e-5)  # 1e-5 of the half-range
