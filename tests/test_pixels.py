"""Pixels: what the networks are shown, how it is stored, learnt from, exported and asked for."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, command, timeless
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpg_tf import DDPG, Config, ReplayBuffer, envs, frames, replay, run_dir, train
from ddpg_tf._tf import tf
from ddpg_tf.cli import UsageError, UserError
from ddpg_tf.replay import Batch
from ddpg_tf.vision import random_shift

PICTURE = "tests.toy_envs:ToyPicture-v0"
SMALL = dict(env=PICTURE, pixels=True, frame_size=16, conv_filters=(4, 4), conv_kernels=(4, 3), conv_strides=(2, 1),
             bottleneck=6, hidden_units=(8, 8), random_shift=2, batch_size=4, n_step=2, total_steps=240,
             warmup_steps=40, update_every=1, eval_every=100, eval_episodes=2, checkpoint_every=60, log_every=40,
             replay_capacity=100)


def small(path="", **changes):
    return Config(**{**SMALL, **changes, "run_dir": str(path)})


# Observations ---------------------------------------------------------------------------------------------------------

def shown(observation, frame, channels=3):
    """(step, red square, background) that frame `frame` of an observation shows."""
    picture = observation[..., frame * channels:(frame + 1) * channels]
    return picture[0, 0, 0] // 8, tuple(picture[4, 0]), picture[8, 8, 0]


def pictures(**changes):
    return envs.make_policy_env(small(env_kwargs={"length": 20}, **changes))


def test_an_observation_is_the_frames_after_the_last_actions_the_oldest_first():
    env = pictures(frame_stack=3, action_repeat=2)
    first, _ = env.reset(seed=0)
    assert first.shape == (16, 16, 9) and first.dtype == np.uint8 and env.observation_space.contains(first)
    assert [shown(first, k)[0] for k in range(3)] == [0, 0, 0]  # an episode begins with its frame repeated
    seen = [env.step(env.action_space.low)[0] for _ in range(4)]
    assert [[shown(observation, k)[0] for k in range(3)] for observation in seen] == [
        [0, 0, 2], [0, 2, 4], [2, 4, 6], [4, 6, 8]]
    assert shown(seen[0], 2)[1] == (250, 0, 0)


def test_substeps_are_the_frames_of_one_action():
    """Lillicrap et al. section 7: the observation is the three renderings of one action."""
    env = pictures(frame_source="substeps", frame_stack=3, action_repeat=4)
    env.reset(seed=0)
    for expected in ([2, 3, 4], [6, 7, 8]):
        observation, *_ = env.step(env.action_space.low)
        assert [shown(observation, k)[0] for k in range(3)] == expected


def test_an_action_is_held_and_its_rewards_are_summed_until_the_episode_ends():
    env = envs.make_policy_env(small(env_kwargs={"length": 5}, action_repeat=3))
    env.reset(seed=0)
    rewards, ends = zip(*[(reward, terminated or truncated) for _, reward, terminated, truncated, _ in
                          (env.step(env.action_space.low) for _ in range(2))], strict=True)
    assert rewards == (1 + 2 + 3, 4 + 5) and ends == (False, True)


def test_frames_are_resized_by_area_and_grey_on_request():
    grey, _ = envs.make_policy_env(small(env_kwargs={"native": 64}, grayscale=True, frame_stack=2)).reset(seed=3)
    assert grey.shape == (16, 16, 2)
    env = envs.make_env(PICTURE, {"native": 64}, render_mode="rgb_array")
    env.reset(seed=3)
    picture = env.render().astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey[..., 1], picture.reshape(16, 4, 16, 4).mean((1, 3)), atol=1)


def test_an_environment_of_images_is_stacked_without_being_asked():
    config = small(env="tests.toy_envs:ToyPictureObservation-v0", pixels=False)
    env = envs.make_flat_env(config)
    spaces = envs.read_spaces(env, config.env)
    assert spaces.image and spaces.observation_shape == (16, 16, 9) and spaces.observation_dtype == np.uint8
    assert env.reset(seed=0)[0].shape == (16, 16, 9)


def test_car_racing_is_an_environment_of_images():
    env = envs.make_flat_env(Config(env="CarRacing-v3", grayscale=True))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (64, 64, 3) and observation.std() > 5
    assert env.step(env.action_space.low)[0].shape == (64, 64, 3)


def test_car_racing_not_drawn_at_every_step_looks_and_pays_the_same():
    """Three of four pictures are never drawn; the fourth shows the score as it was when it would have been."""
    config = Config(env="CarRacing-v3", action_repeat=4, frame_stack=2)
    env, plain = envs.make_policy_env(config), frames.Frames(envs.make_env(config.env), config)
    np.testing.assert_array_equal(env.reset(seed=1)[0], plain.reset(seed=1)[0])
    for _ in range(8):
        for found, expected in zip(env.step(np.float32([0.1, 0.9, 0])), plain.step(np.float32([0.1, 0.9, 0])),
                                   strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("env_id, says", [("ToyCannotRender", "cannot render"), ("ToyDeepImage", "images of shape")])
def test_what_cannot_be_seen_is_refused(env_id, says):
    with pytest.raises(UserError, match=says):
        envs.make_policy_env(Config(env=f"tests.toy_envs:{env_id}-v0", pixels=env_id == "ToyCannotRender"))


def test_a_frame_too_small_for_the_network_is_refused():
    with pytest.raises(UsageError, match="frame_size 10 is too small"):
        DDPG(Config(frame_size=10), (10, 10, 9), np.array([-1]), np.array([1]))


def test_normalize_observations_is_for_vectors():
    with pytest.raises(UsageError, match="normalize_observations is for vectors"):
        DDPG(small(normalize_observations=True), (16, 16, 9), np.array([-1]), np.array([1]))


def has_gl():
    code = "import mujoco; mujoco.GLContext(8, 8).make_current()"
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": "egl"},
                          capture_output=True).returncode == 0


@pytest.mark.skipif(not has_gl(), reason="no software OpenGL (libegl1, libgl1-mesa-dri)")
@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "dm_control/cartpole-balance-v0"])
def test_mujoco_renders_in_a_process_of_its_own(env_id, monkeypatch):
    """Mesa and TensorFlow in one process end in a segmentation fault; this process has TensorFlow.

    So has its main module, which a spawned process would import.
    """
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", importlib.util.find_spec("ddpg_tf._tf"))
    env = envs.make_flat_env(Config(env=env_id, pixels=True))
    try:
        assert isinstance(env.unwrapped, frames.Isolated)
        observation, _ = env.reset(seed=0)
        assert observation.shape == (64, 64, 9) and observation.std() > 1
        after, *_ = env.step(env.action_space.high)
        np.testing.assert_array_equal(after[..., :6], observation[..., 3:])
        assert not np.array_equal(after[..., 6:], observation[..., 6:])
        np.testing.assert_array_equal(env.reset(seed=0)[0], observation)
    finally:
        env.close()


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "dm_control/cartpole-balance-v0"])
def test_mujoco_without_a_gl_backend_says_what_to_install(tmp_path, env_id):
    done = command("train.py", f"--env={env_id}", "--pixels", "--total_steps=10", f"--run_dir={tmp_path / 'run'}",
                   env={**os.environ, "MUJOCO_GL": "disable"})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "libegl1" in last and "libgl1-mesa-dri" in last and "MUJOCO_GL" in last
    assert "Traceback" not in done.stderr


# Replay ---------------------------------------------------------------------------------------------------------------

class Stored:
    """Full storage, plainly: each transition with both its observations; `window` is what may be drawn."""

    def __init__(self, num_envs, stack, n_step, gamma, capacity):
        self.rows, self.slots = [], []  # per row: transitions; slots used so far, per environment
        self.num_envs, self.n_step, self.gamma, self.capacity, self.stack = num_envs, n_step, gamma, capacity, stack

    def possible(self):
        """The transitions that may be drawn, by (first frame number, environment)."""
        count = len(self.rows)
        used = [row_slots for row_slots in self.slots]
        allowed = [t for t in range(max(0, count - self.capacity), count)
                   if all(used[t][i][0] >= used[-1][i][1] - self.capacity for i in range(self.num_envs))]
        return {self.key(t, i): self.transition(t, i) for t in allowed for i in range(self.num_envs)}

    def key(self, t, i):
        return self.rows[t]["action"][i].tobytes()

    def transition(self, t, i):
        reward, last = 0.0, t
        for k in range(self.n_step):
            last = t + k
            reward += self.gamma**k * self.rows[last]["reward"][i]
            if self.rows[last]["ended"][i] or last + 1 == len(self.rows):
                break
        discount = self.gamma ** (last - t + 1) * (not self.rows[last]["terminated"][i])
        return self.rows[t]["observation"][i], reward, discount, self.rows[last]["next_observation"][i]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_envs=st.integers(1, 3), stack=st.integers(1, 4), n_step=st.integers(1, 3),
       capacity=st.integers(6, 25), slack=st.integers(0, 5), longest=st.integers(1, 12))
def test_draws_equal_full_storage_over_random_episodes_three_times_round(seed, num_envs, stack, n_step, capacity,
                                                                         slack, longest):
    rng, gamma, channels = np.random.default_rng(seed), 0.9, 2
    buffer = ReplayBuffer(capacity * num_envs, (3, 2, stack * channels), 1, num_envs=num_envs, n_step=n_step,
                          gamma=gamma, frame_stack=stack, slack=slack * num_envs)
    full = Stored(num_envs, stack, n_step, gamma, capacity)
    new = lambda: rng.integers(0, 256, (3, 2, channels), dtype=np.uint8)  # noqa: E731
    stacks = [[new()] * stack for _ in range(num_envs)]
    age, left = np.zeros(num_envs, int), rng.integers(1, longest + 1, num_envs)
    used = np.ones(num_envs, int)  # slots, with the successor's to come
    for t in range(3 * (capacity + slack) + 3):
        observation = np.stack([np.concatenate(one, -1) for one in stacks])
        stacks = [[*one, new()][1:] for one in stacks]
        successor = np.stack([np.concatenate(one, -1) for one in stacks])
        left -= 1
        ended, terminated = left == 0, (left == 0) & (rng.random(num_envs) < 0.5)
        action, reward = rng.random((num_envs, 1)).astype(np.float32), rng.random(num_envs).astype(np.float32)
        buffer.add(observation, action, reward, successor, terminated, ended & ~terminated)
        full.rows.append(dict(observation=observation, action=action, reward=reward, next_observation=successor,
                              terminated=terminated, ended=ended))
        used += 1
        # The first slot that the row needs, and the slots used once it is there.
        full.slots.append([(used[i] - 2 - min(age[i], stack - 1), used[i]) for i in range(num_envs)])
        age += 1
        for i in np.flatnonzero(ended):
            stacks[i], age[i], left[i] = [new()] * stack, 0, rng.integers(1, longest + 1)
            used[i] += 1
        possible = full.possible()
        if not possible or t % 3:
            continue
        drawn = buffer.sample(np.random.default_rng(t), (64,))
        found = set()
        for observation_, action_, reward_, discount_, next_ in zip(*drawn, strict=True):
            expected = possible[action_.tobytes()]
            found.add(action_.tobytes())
            np.testing.assert_array_equal(observation_, expected[0])
            np.testing.assert_allclose([reward_, discount_], expected[1:3], rtol=1e-5)
            np.testing.assert_array_equal(next_, expected[3])
        if len(possible) <= 5:
            assert found == set(possible)  # all of them, not only the newest


def test_a_million_slots_of_64_x_64_rgb_take_at_most_12_8_gb():
    config = Config(env="CarRacing-v3", replay_capacity=1_000_000, total_steps=10_000_000, checkpoint_every=5_000)
    size, (capacity, slack) = replay.ring_bytes(config, (64, 64, 9), 3), replay.ring_size(config, image=True)
    assert capacity == 1_000_000 and slack > 0 and size <= 12.8e9
    assert size / (capacity + slack) <= 1.05 * 64 * 64 * 3


def test_a_replay_that_does_not_fit_the_disk_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match=r"the replay needs .* GB and .* lower --replay_capacity"):
        train(small(tmp_path / "run", total_steps=10**12, replay_capacity=10**12))
    assert not (tmp_path / "run").exists()


# Learning -------------------------------------------------------------------------------------------------------------

def test_random_shifts_move_each_image_and_repeat_its_edge():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)
    shifted = random_shift(tf.constant(images), 2, tf.constant([1, 2])).numpy()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "edge")
    moves = []
    for image, found in zip(padded, shifted, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if np.array_equal(image[y:y + 6, x:x + 5], found)]
        assert len(fits) == 1
        moves += fits
    assert len(set(moves)) > 15
    again = random_shift(tf.constant(images), 2, tf.constant([1, 2])).numpy()
    np.testing.assert_array_equal(shifted, again)
    assert not np.array_equal(shifted, random_shift(tf.constant(images), 2, tf.constant([1, 3])).numpy())


def block(rng, updates=1):
    image = lambda: rng.integers(0, 256, (updates, 4, 16, 16, 9), dtype=np.uint8)  # noqa: E731
    numbers = lambda *shape: rng.random((updates, 4, *shape), np.float32)  # noqa: E731
    return Batch(image(), numbers(2), numbers(), numbers(), image())


def agent(**changes):
    return DDPG(small(**changes), (16, 16, 9), np.array([-1, -2]), np.array([1, 2]))


def test_the_shared_encoder_is_trained_by_the_critics_loss_only():
    built = agent()
    encoder = {name: array for name, array in built.state().items() if "conv_" in name and "optimizer" not in name}
    assert encoder and len({name.split("/")[-2] for name in encoder}) == 2
    features = built._shared(tf.constant(block(np.random.default_rng(0)).observation[0]))
    built._update_actor(features)
    for name, before in encoder.items():
        np.testing.assert_array_equal(built.state()[name], before)
    built.update(block(np.random.default_rng(0)))
    assert any(not np.array_equal(built.state()[name], before) for name, before in encoder.items())


def test_separate_encoders_are_the_papers():
    """About 430,000 parameters each (Lillicrap et al. section 7); online and target ones differ after an update."""
    config = Config(**{**paper_flags(), "total_steps": 100, "env": PICTURE, "pixels": True})
    built = DDPG(config, (64, 64, 9), np.array([-1]), np.array([1]))
    for network in (built.actor, built.critic):
        assert 400_000 < sum(int(np.prod(v.shape)) for v in network.trainable_variables) < 460_000
    online, target = ([v for v in network.trainable_variables if "conv_" in v.path]
                      for network in (built.actor, built.target_actor))
    assert online and not {id(v) for v in online} & {id(v) for v in target}
    outputs = [v.numpy() for v in built.actor.trainable_variables if "output" in v.path]
    assert 1e-4 < max(np.abs(output).max() for output in outputs) <= 3e-4


def paper_flags():
    text = (ROOT / "ddpg_tf" / "presets" / "paper-pixels.flags").read_text()
    pairs = dict(line[2:].split("=") for line in text.splitlines() if line.startswith("--"))
    lists = {name: tuple(map(int, pairs[name].split(","))) for name in pairs if "," in pairs[name]}
    plain = {name: {"true": True}.get(value, value) for name, value in pairs.items() if name not in lists}
    return {name: float(value) if isinstance(value, str) and value[0].isdigit() else value
            for name, value in plain.items()} | lists


def test_minibatches_of_images_are_uint8():
    with pytest.raises(TypeError, match="uint8"):
        agent().update(block(np.random.default_rng(0))._replace(observation=np.zeros((1, 4, 16, 16, 9), np.float32)))


def test_act_does_not_depend_on_xla():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 9), dtype=np.uint8)
    with_xla, without = (DDPG(small(), (16, 16, 9), np.array([-1, -2]), np.array([1, 2]), jit_compile=jit)
                         for jit in (True, False))
    np.testing.assert_allclose(with_xla.act(images), without.act(images), rtol=1e-4, atol=1e-6)


def test_it_learns_what_only_the_picture_tells(tmp_path):
    """The reward is minus the distance to where the picture's bar stands; blind, -0.5 a step is the best."""
    result = train(small(tmp_path / "run", env="tests.toy_envs:ToyLook-v0", total_steps=900, warmup_steps=200,
                         batch_size=32, replay_capacity=900, eval_every=0, eval_episodes=10, checkpoint_every=0,
                         action_repeat=1, actor_learning_rate=1e-3, critic_learning_rate=3e-3, gamma=0.0, n_step=1,
                         random_shift=0, hidden_units=(32, 32), bottleneck=16, noise_sigma=0.5))
    assert result.last_return > -2.0  # of 10 steps; blind: -5


# Runs -----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("pixels") / "run"
    train(small(path))
    return path


def test_the_same_seed_gives_the_same_metrics(finished, tmp_path):
    train(small(tmp_path / "again"))
    assert timeless(finished / "metrics.csv") == timeless(tmp_path / "again" / "metrics.csv")
    assert (finished / "evaluations.csv").read_text() == (tmp_path / "again" / "evaluations.csv").read_text()


def test_a_resumed_run_equals_an_uninterrupted_one(finished, tmp_path):
    """The ring goes round between the two halves; episodes of 1 to 7 steps, so that frames outnumber steps."""
    train(small(tmp_path / "run", total_steps=130))
    train(small(tmp_path / "run", total_steps=240), resume=True)
    found, expected = (timeless(path / "metrics.csv")[-2:] for path in (tmp_path / "run", finished))
    assert found == expected


def test_a_run_shows_what_the_networks_see(finished):
    from PIL import Image

    picture = np.asarray(Image.open(finished / "observation.png"))
    assert picture.shape == (256, 3 * 256, 3)


# Export and serving ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """(run, base path of the model)"""
    base = tmp_path_factory.mktemp("models") / "policy"
    done = command("export.py", f"--run_dir={finished}", f"--export_dir={base}", "--checkpoint=latest")
    assert done.returncode == 0, done.stderr
    assert "observation uint8 [None, 16, 16, 9]" in done.stdout and "observation_bytes string [None, 3]" in done.stdout
    return finished, base


@pytest.fixture(scope="module")
def url(exported):
    """A running server of the exported model."""
    with subprocess.Popen([sys.executable, "-u", "-m", "serve.local", "--model_name=policy", "--rest_api_port=0",
                           f"--model_base_path={exported[1]}"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield next(line.split()[-1] for line in process.stdout if line.startswith("serving policy on"))
        process.terminate()


def test_png_files_give_the_action_of_the_numbers(exported, url):
    from serve.client import BadRequest, PolicyClient
    from serve.pngs import to_pngs

    rng, policy = np.random.default_rng(0), run_dir.load_policy(exported[0], "latest")
    images = rng.integers(0, 256, (2, 16, 16, 9), dtype=np.uint8)
    expected = policy.agent.act(images)
    with PolicyClient(url, "policy") as client:
        np.testing.assert_allclose(client.act(images), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(client.act_on_pngs([to_pngs(image, 3) for image in images]), expected, rtol=1e-5,
                                   atol=1e-5)
        np.testing.assert_allclose(client.act_on_pngs(to_pngs(images[1], 3)), expected[1], rtol=1e-5, atol=1e-5)
        good = to_pngs(images[0], 3)
        wrong_size = to_pngs(np.zeros((8, 16, 9), np.uint8), 3)
        for bad, says in (([b"no picture", *good[1:]], "PNG|image"), ([*good[:2], wrong_size[0]], "16"),
                          (good[:2], "shape|size|dim")):
            with pytest.raises(BadRequest, match=says) as caught:
                client.act_on_pngs(bad)
            assert caught.value.status == 400
        np.testing.assert_allclose(client.act_on_pngs(good), expected[0], rtol=1e-5, atol=1e-5)  # it goes on


def test_rollout_of_pixels_reports_bytes_and_latency_of_both(exported, url):
    done = command("-m", "serve.rollout", f"--url={url}", "--model_name=policy", "--episodes=2",
                   f"--flagfile={exported[0] / 'flags.txt'}", f"--compare_run_dir={exported[0]}", "--checkpoint=latest")
    assert done.returncode == 0, done.stderr
    for says in ("asked with numbers: ", "asked with PNG files: ", "bytes a question", "largest difference of their",
                 "largest difference to the latest checkpoint's actor"):
        assert says in done.stdout


def test_policy_json_says_what_an_observation_is(exported):
    card = json.loads((exported[1] / "1" / "assets.extra" / "policy.json").read_text())
    assert card["observation"]["observation"]["shape"] == [16, 16, 9] and card["frame_stack"] == 3
