"""Pixels: what the networks are shown, how it is stored, learnt from, exported and asked for."""

import base64
import concurrent.futures
import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import types
import warnings

import gymnasium as gym
import numpy as np
import pytest
import requests
import serving
from conftest import command, layer_of
from hypothesis import given, settings
from hypothesis import strategies as st

import export
from ddpg_tf import DDPG, Config, ReplayBuffer, train
from ddpg_tf._tf import keras, tf
from ddpg_tf.envs import factory, frames, quirks, registry, rendering, workers
from ddpg_tf.envs.checked import FAILED
from ddpg_tf.envs.spaces import checked_spaces
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation import video
from ddpg_tf.flags import parse_command_line
from ddpg_tf.learner.vision import random_shift
from ddpg_tf.replay.buffer import Batch
from ddpg_tf.storage.policy import load_policy
from ddpg_tf.training import schedule
from serve import query, rollout
from serve.client import PolicyClient
from serve.pngs import Asking
from tests import toy_envs

PICTURE = "tests.toy_envs:ToyPicture-v0"
SMALL = dict(
    env=PICTURE,
    pixels=True,
    frame_size=16,
    conv_filters=(4, 4),
    conv_kernels=(4, 3),
    conv_strides=(2, 1),
    bottleneck=6,
    hidden_units=(8, 8),
    random_shift=2,
    batch_size=4,
    n_step=2,
    total_steps=240,
    warmup_steps=40,
    update_every=1,
    eval_every=100,
    eval_episodes=2,
    checkpoint_every=60,
    log_every=40,
    replay_capacity=100,
)


def small(path="", **changes):
    return Config(**{**SMALL, **changes, "run_dir": str(path)})


# Observations ---------------------------------------------------------------------------------------------------------


def shown(observation, frame, channels=3):
    """(step, red square, background) that frame `frame` of an observation shows."""
    picture = observation[..., frame * channels : (frame + 1) * channels]
    return picture[0, 0, 0] // 8, tuple(picture[4, 0]), picture[8, 8, 0]


def pictures(**changes):
    return factory.make_policy_env(small(env_kwargs={"length": 20}, **changes))


def test_an_observation_is_the_frames_after_the_last_actions_the_oldest_first():
    env = pictures(frame_stack=3, action_repeat=2)
    first, _ = env.reset(seed=0)
    assert first.shape == (16, 16, 9) and first.dtype == np.uint8 and env.observation_space.contains(first)
    assert [shown(first, k)[0] for k in range(3)] == [0, 0, 0]  # an episode begins with its frame repeated
    seen = [env.step(env.action_space.low)[0] for _ in range(4)]
    assert [[shown(observation, k)[0] for k in range(3)] for observation in seen] == [
        [0, 0, 2],
        [0, 2, 4],
        [2, 4, 6],
        [4, 6, 8],
    ]
    assert shown(seen[0], 2)[1] == (250, 0, 0)


def test_substeps_are_the_frames_of_one_action():
    """Lillicrap et al. section 7: the observation is the three renderings of one action."""
    env = pictures(frame_source="substeps", frame_stack=3, action_repeat=4)
    env.reset(seed=0)
    for expected in ([2, 3, 4], [6, 7, 8]):
        observation, *_ = env.step(env.action_space.low)
        assert [shown(observation, k)[0] for k in range(3)] == expected


def test_an_action_is_held_and_its_rewards_are_summed_until_the_episode_ends():
    env = factory.make_policy_env(small(env_kwargs={"length": 5}, action_repeat=3))
    env.reset(seed=0)
    rewards, ends = zip(
        *[
            (reward, terminated or truncated)
            for _, reward, terminated, truncated, _ in (env.step(env.action_space.low) for _ in range(2))
        ],
        strict=True,
    )
    assert rewards == (1 + 2 + 3, 4 + 5) and ends == (False, True)


def test_frames_are_resized_by_area_and_grey_on_request():
    grey, _ = factory.make_policy_env(small(env_kwargs={"native": 64}, grayscale=True, frame_stack=2)).reset(seed=3)
    assert grey.shape == (16, 16, 2)
    env = registry.make_env(PICTURE, {"native": 64}, render_mode="rgb_array")
    env.reset(seed=3)
    picture = env.render().astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey[..., 1], picture.reshape(16, 4, 16, 4).mean((1, 3)), atol=1)


def test_an_environment_of_images_is_stacked_without_being_asked():
    config = small(env="tests.toy_envs:ToyPictureObservation-v0", pixels=False)
    env = factory.make_flat_env(config)
    spaces = checked_spaces(env, config.env)
    assert spaces.image and spaces.observation_shape == (16, 16, 9) and spaces.observation_dtype == np.uint8
    assert env.reset(seed=0)[0].shape == (16, 16, 9)


def test_car_racing_is_an_environment_of_images():
    env = factory.make_flat_env(Config(env="CarRacing-v3", grayscale=True))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (64, 64, 3) and observation.std() > 5
    assert env.step(env.action_space.low)[0].shape == (64, 64, 3)


def test_car_racing_not_drawn_at_every_step_looks_and_pays_the_same():
    """Three of four pictures are never drawn; the fourth shows the score as it was when it would have been."""
    config = Config(env="CarRacing-v3", action_repeat=4, frame_stack=2)
    env, plain = factory.make_policy_env(config), frames.Frames(registry.make_env(config.env), config)
    np.testing.assert_array_equal(env.reset(seed=1)[0], plain.reset(seed=1)[0])
    for _ in range(8):
        for found, expected in zip(
            env.step(np.float32([0.1, 0.9, 0])), plain.step(np.float32([0.1, 0.9, 0])), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("env_id, says", [("ToyCannotRender", "cannot render"), ("ToyDeepImage", "images of shape")])
def test_what_cannot_be_seen_is_refused(env_id, says):
    with pytest.raises(UserError, match=says):
        factory.make_policy_env(Config(env=f"tests.toy_envs:{env_id}-v0", pixels=env_id == "ToyCannotRender"))


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(frame_size=10, conv_kernels=(8, 4), conv_strides=(4, 1)), "frame_size 10 is too small"),
        (dict(normalize_observations=True), "normalize_observations is for vectors"),
        (dict(actor_average=0.1), "actor_average needs an encoder that is the actor's own: --encoder=separate"),
    ],
)
def test_what_the_networks_cannot_take_is_refused_before_anything_is_made(tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        train(small(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=says):
        DDPG(small(**changes), (small(**changes).frame_size,) * 2 + (9,), np.array([-1]), np.array([1]))


def test_the_smallest_frame_that_fits_the_convolutions():
    for size, fits in ((36, True), (35, False)):  # 36 -> 8 -> 3 -> 1
        config = Config(frame_size=size)
        if fits:
            assert DDPG(config, (size, size, 9), np.array([-1]), np.array([1])).act(
                np.zeros((1, size, size, 9), np.uint8)
            ).shape == (1, 1)
        else:
            with pytest.raises(UsageError, match="2 pixels are left for a kernel of 3"):
                DDPG(config, (size, size, 9), np.array([-1]), np.array([1]))


def test_an_environment_that_reuses_its_picture_does_not_change_old_frames():
    env = factory.make_policy_env(
        small(env="tests.toy_envs:ToySamePicture-v0", pixels=False, env_kwargs={"length": 20}, action_repeat=1)
    )
    first, _ = env.reset(seed=0)
    kept = first.copy()
    after, *_ = env.step(env.action_space.low)
    np.testing.assert_array_equal(first, kept)
    assert [shown(after, k)[0] for k in range(3)] == [0, 0, 1]


def test_flags_for_images_warn_where_there_are_none(uncompiled, tmp_path, tiny):
    with pytest.warns(UserWarning, match=r"--action_repeat, --grayscale: no effect, for Pendulum-v1 is not seen in im"):
        train(tiny(tmp_path / "run", action_repeat=2, grayscale=True, total_steps=300))


@pytest.mark.parametrize("picture, warned", [("grey", True), ("blue", True), ("dotted", False)])
def test_pictures_of_one_colour_are_told(uncompiled, tmp_path, picture, warned):
    """As of an environment that believes that nobody looks."""
    env = dict(env="tests.toy_envs:ToyOddPicture-v0", env_kwargs={"picture": picture}, max_episode_steps=9)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(small(tmp_path / "run", total_steps=20, warmup_steps=20, **env))
    assert any("nothing but one colour" in str(warning.message) for warning in told) == warned


@pytest.mark.parametrize(
    "picture, says",
    [
        ("nothing", "renders NoneType, not an array"),
        ("list", "renders list"),
        ("float64", r"renders float64 \[16, 16, 3\]"),
        ("channels first", r"renders uint8 \[3, 16, 16\]"),
        ("", "cannot render: ZeroDivisionError: division by zero"),
        ("grey", None),
        ("transparent", None),
    ],
)
def test_what_render_may_return(picture, says):
    env = factory.make_policy_env(small(env="tests.toy_envs:ToyOddPicture-v0", env_kwargs={"picture": picture}))
    if says is None:
        assert env.reset(seed=0)[0].shape == (16, 16, 9)
    else:
        with pytest.raises(UserError, match=says):
            env.reset(seed=0)


def test_an_action_in_which_a_step_fails_counts_for_nothing():
    """Its second repeat fails; the first one's reward and picture are dropped too."""
    seen = dict(pixels=True, frame_size=16, action_repeat=2, frame_stack=2, frame_source="substeps")
    env = factory.make_flat_env(Config(env="tests.toy_envs:ToyTornPicture-v0", **seen))
    first, _ = env.reset(seed=1)
    found, reward, terminated, truncated, info = env.step(env.action_space.high)
    assert (reward, terminated, truncated) == (0, False, True) and "raised FloatingPointError" in info[FAILED]
    np.testing.assert_array_equal(found, first)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda self, action: (self.observe(), np.array([2.0]), np.array([False]), np.bool_(True), {}), None),
        (lambda self, action: (self.observe(), 2.0, True, {}), "ToyPicture-v0.step returns 4 values, not observation"),
        (lambda self, action: (self.observe(), np.ones(2), True, False, {}), r"ToyPicture-v0 gave a reward of shape"),
    ],
)
def test_what_a_step_may_return_is_the_same_from_pixels(monkeypatch, step, says):
    monkeypatch.setattr(toy_envs.Picture, "step", step)
    env = factory.make_flat_env(Config(env=PICTURE, pixels=True, frame_size=16))
    env.reset(seed=0)
    if says is None:
        assert env.step(env.action_space.high)[1:4] == (2.0, False, True)
    else:
        with pytest.raises(UserError, match=says):
            env.step(env.action_space.high)


def test_a_wrapper_of_car_racing_sees_every_picture():
    env = factory.make_policy_env(Config(env="tests.toy_envs:ToyCroppedCarRacing-v0", frame_size=84))
    observation, _ = env.reset(seed=0)
    assert not isinstance(env.env, quirks.LazyCarRacing) and observation[-4:].std() > 5  # the bar is black


def test_a_replay_smaller_than_an_observation_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"replay_capacity \(6\) .* num_envs \(2\) more than frame_stack \(3\)"):
        train(small(tmp_path / "run", replay_capacity=6, num_envs=2, update_every=2))


def test_who_draws_with_opengl_gets_a_process_of_its_own(monkeypatch):
    """Also an environment that calls MuJoCo's renderer by itself, as MuJoCo's tutorial does."""
    assert rendering.needs_own_process(registry.make_env("InvertedPendulum-v5"))
    for harmless in (PICTURE, "Pendulum-v1", "CarRacing-v3"):
        assert not rendering.needs_own_process(registry.make_env(harmless))
    monkeypatch.setattr(toy_envs, "mujoco", types.ModuleType("mujoco"), raising=False)
    assert rendering.needs_own_process(registry.make_env(PICTURE))


def test_a_process_that_dies_is_one_message():
    found = factory.make_vector_env(Config(env="tests.toy_envs:ToyDies-v0", num_envs=2, vectorization="async"), 2)
    found.reset(seed=[0, 1])
    with pytest.raises(UserError, match=r"a process of tests.toy_envs:ToyDies-v0 has died \(exit status -9"):
        for _ in range(3):
            found.step(np.stack([toy_envs.LOW] * 2))
    found.close()


def has_gl():
    code = "import mujoco; mujoco.GLContext(8, 8).make_current()"
    return (
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": "egl"}, capture_output=True
        ).returncode
        == 0
    )


def test_a_step_that_fails_in_a_process_of_its_own_loses_its_episode_only(monkeypatch):
    monkeypatch.setattr(rendering, "needs_own_process", lambda env: True)
    env = factory.make_flat_env(Config(env="tests.toy_envs:ToyTornPicture-v0", pixels=True, frame_size=16))
    try:
        assert isinstance(env.unwrapped, workers.InOwnProcess)
        for seed in (0, 1):
            env.reset(seed=seed)
            last = env.step(env.action_space.high)[0]
            found, reward, terminated, truncated, info = env.step(env.action_space.high)
            assert (reward, terminated, truncated) == (0, False, True) and "raised FloatingPointError" in info[FAILED]
            np.testing.assert_array_equal(found, last)
    finally:
        env.close()


needs_gl = pytest.mark.skipif(not has_gl(), reason="no software OpenGL (libegl1, libgl1-mesa-dri)")


@needs_gl
@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "dm_control/cartpole-balance-v0"])
def test_mujoco_renders_in_a_process_of_its_own(env_id, monkeypatch):
    """Mesa and TensorFlow in one process end in a segmentation fault; this process has TensorFlow.

    So has its main module, which a spawned process would import.
    """
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", importlib.util.find_spec("ddpg_tf._tf"))
    monkeypatch.setenv("DISPLAY", ":987")  # as tmux keeps one, when nothing answers there any more
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    env = factory.make_flat_env(Config(env=env_id, pixels=True))
    try:
        assert isinstance(env.unwrapped, workers.InOwnProcess)
        observation, _ = env.reset(seed=0)
        assert observation.shape == (64, 64, 9) and observation.std() > 1
        after, *_ = env.step(env.action_space.high)
        np.testing.assert_array_equal(after[..., :6], observation[..., 3:])
        assert not np.array_equal(after[..., 6:], observation[..., 6:])
        np.testing.assert_array_equal(env.reset(seed=0)[0], observation)
    finally:
        env.close()


@needs_gl
def test_a_choice_of_gl_does_not_abort_a_process_that_does_not_draw():
    """dm_control, imported with EGL beside TensorFlow, ends it at its end."""
    code = """
import os
from ddpg_tf.envs import registry
registry.make_env("dm_control/cartpole-balance-v0")
from ddpg_tf._tf import tf
tf.constant(0.0)
print(os.environ["MUJOCO_GL"])  # the processes that draw still know
"""
    done = command("-c", code, env={**os.environ, "MUJOCO_GL": "egl"})
    assert (done.returncode, done.stdout) == (0, "egl\n"), done.stderr


@needs_gl
def test_the_camera_follows_a_robot_that_walks_away():
    code = """
import numpy as np
from ddpg_tf import Config
from ddpg_tf.envs import factory, registry, rendering

rendering.use_display_or_egl()

def jump(render, place):  # how much the picture changes when a robot far away jumps
    pictures = []
    for height in (0, 0.3):
        env.reset(seed=0)
        place(env.unwrapped, (10, height))
        pictures.append(render().astype(float))
    return np.abs(pictures[1] - pictures[0]).max()

def place(inner, where):
    inner.set_state(np.r_[where, inner.data.qpos[2:]], 0 * inner.data.qvel)

def place_in_dm_control(inner, where):
    with inner._env.physics.reset_context():
        inner._env.physics.data.qpos[:2] = where

env = factory.make_policy_env(Config(env="HalfCheetah-v5", pixels=True, frame_stack=1), isolate=False)
print(jump(env.env.render, place))
env = registry.make_env("dm_control/cheetah-run-v0", {}, render_mode="rgb_array")
rendering.follow(env)
print(jump(env.render, place_in_dm_control))
"""
    done = command("-c", code, env={**os.environ, "MUJOCO_GL": "egl"})
    assert min(map(float, done.stdout.split()), default=0) > 50 and done.stdout.count("\n") == 2, done.stderr


def test_films_run_at_the_speed_of_the_world():
    for env_id, fps in ("HalfCheetah-v5", 20), ("dm_control/cheetah-run-v0", 100):
        env = registry.make_env(env_id, {}, render_mode=None)
        assert rendering.frames_per_second(env) == pytest.approx(fps)
        env.close()


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "dm_control/cartpole-balance-v0"])
def test_mujoco_without_a_gl_backend_says_what_to_install(tmp_path, monkeypatch, capfd, env_id):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(UserError) as error:
        train(Config(env=env_id, pixels=True, total_steps=10, run_dir=str(tmp_path / "run")))
    said = str(error.value)
    assert "libegl1" in said and "libgl1-mesa-dri" in said and "MUJOCO_GL" in said
    assert "Traceback" not in capfd.readouterr().err  # of the process that draws


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
        allowed = [
            t
            for t in range(max(0, count - self.capacity), count)
            if all(used[t][i][0] >= used[-1][i][1] - self.capacity for i in range(self.num_envs))
        ]
        whole = [(t, i) for t in allowed for i in range(self.num_envs) if not self.failed(t, i)]
        return {self.key(t, i): self.transition(t, i) for t, i in whole}

    def failed(self, t, i):
        return np.isnan(self.rows[t]["reward"][i])

    def key(self, t, i):
        return self.rows[t]["action"][i].tobytes()

    def transition(self, t, i):
        reward, last = 0.0, t
        for k in range(self.n_step):
            last = t + k
            reward += self.gamma**k * self.rows[last]["reward"][i]
            if self.rows[last]["ended"][i] or last + 1 == len(self.rows) or self.failed(last + 1, i):
                break
        discount = self.gamma ** (last - t + 1) * (not self.rows[last]["terminated"][i])
        return self.rows[t]["observation"][i], reward, discount, self.rows[last]["next_observation"][i]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_envs=st.integers(1, 3),
    stack=st.integers(1, 4),
    n_step=st.integers(1, 3),
    capacity=st.integers(6, 25),
    slack=st.integers(0, 5),
    longest=st.integers(1, 12),
    fail=st.sampled_from([0.0, 0.2]),
)
def test_draws_equal_full_storage_over_random_episodes_three_times_round(
    seed, num_envs, stack, n_step, capacity, slack, longest, fail
):
    rng, gamma, channels = np.random.default_rng(seed), 0.9, 2
    buffer = ReplayBuffer(
        capacity * num_envs,
        (3, 2, stack * channels),
        1,
        num_envs=num_envs,
        n_step=n_step,
        gamma=gamma,
        frame_stack=stack,
        slack=slack * num_envs,
    )
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
        failed = rng.random(num_envs) < fail
        ended, terminated = (left == 0) | failed, (left == 0) & ~failed & (rng.random(num_envs) < 0.5)
        action, reward = rng.random((num_envs, 1)).astype(np.float32), rng.random(num_envs).astype(np.float32)
        reward[failed] = np.nan
        buffer.add(observation, action, reward, successor, terminated, ended & ~terminated)
        full.rows.append(
            dict(
                observation=observation,
                action=action,
                reward=reward,
                next_observation=successor,
                terminated=terminated,
                ended=ended,
            )
        )
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
    size, (capacity, slack) = schedule.ring_bytes(config, (64, 64, 9), 3), schedule.ring_size(config, image=True)
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
        fits = [(y, x) for y in range(5) for x in range(5) if np.array_equal(image[y : y + 6, x : x + 5], found)]
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


def test_an_update_sees_shifted_images_other_ones_each_time(monkeypatch):
    built, images = agent(), block(np.random.default_rng(0))
    one = Batch(*(tf.constant(array[0]) for array in images))
    same = built._augment(one._replace(next_observation=one.observation))
    assert not np.array_equal(same.observation, one.observation)
    assert not np.array_equal(same.observation, same.next_observation)  # shifted apart
    built.update(images)
    assert not np.array_equal(built._augment(one).observation, same.observation)
    trained = [agent() for _ in range(2)]
    monkeypatch.setattr(trained[1], "_augment", lambda batch: batch)
    for each in trained:
        each.update(images)
    one, other = (each.state() for each in trained)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_separate_encoders_are_the_papers():
    """About 430,000 parameters each (Lillicrap et al. section 7); online and target ones differ after an update."""
    config = parse_command_line(["train.py", "--preset=paper-pixels"], "").config
    built = DDPG(config, (64, 64, 9), np.array([-1]), np.array([1]))
    for network in (built.actor, built.critic):
        assert 400_000 < sum(int(np.prod(v.shape)) for v in network.trainable_variables) < 460_000
    online, target = (
        [v for v in network.trainable_variables if "conv_" in v.path] for network in (built.actor, built.target_actor)
    )
    assert online and not {id(v) for v in online} & {id(v) for v in target}
    outputs = [v.numpy() for v in built.actor.trainable_variables if "output" in v.path]
    assert 1e-4 < max(np.abs(output).max() for output in outputs) <= 3e-4


@pytest.mark.parametrize("encoder", ["shared", "separate"])
def test_pixels_are_scaled_to_one_once(encoder):
    built = agent(encoder=encoder)
    owner = layer_of(built.actor, "encoder" if encoder == "shared" else "actor_head")
    before_conv = keras.Model(owner.inputs[0], layer_of(owner, "conv_0").input)

    def scaled(image):
        return before_conv(image if encoder == "shared" else built._shared(image))

    image = np.zeros((1, 16, 16, 9), np.uint8)
    image[0, 0, 0, :3] = 255, 51, 1
    np.testing.assert_allclose(scaled(image)[0, 0, 0, :4], [1, 0.2, 1 / 255, 0], rtol=1e-6)


def test_minibatches_of_images_are_uint8():
    with pytest.raises(TypeError, match="uint8"):
        agent().update(block(np.random.default_rng(0))._replace(observation=np.zeros((1, 4, 16, 16, 9), np.float32)))


def test_act_does_not_depend_on_xla():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 9), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    with_xla, without = (
        DDPG(small(**TELLING), (16, 16, 9), np.array([-1, -2]), np.array([1, 2]), jit_compile=jit)
        for jit in (True, False)
    )
    assert np.ptp(without.act(images), axis=0).min() > 1e-3
    np.testing.assert_allclose(with_xla.act(images), without.act(images), rtol=1e-4, atol=1e-6)


def test_it_learns_what_only_the_picture_tells(tmp_path):
    """The reward is minus the distance to where the picture's bar stands; blind, -0.5 a step is the best."""
    result = train(
        small(
            tmp_path / "run",
            env="tests.toy_envs:ToyLook-v0",
            total_steps=900,
            warmup_steps=200,
            batch_size=32,
            replay_capacity=900,
            eval_every=0,
            eval_episodes=10,
            checkpoint_every=0,
            action_repeat=1,
            actor_learning_rate=1e-3,
            critic_learning_rate=3e-3,
            gamma=0.0,
            n_step=1,
            random_shift=0,
            hidden_units=(32, 32),
            bottleneck=16,
            noise_sigma=0.5,
        )
    )
    assert result.last_return > -2.0  # of 10 steps; blind: -5


# Runs -----------------------------------------------------------------------------------------------------------------

# An actor whose actions tell images apart, and go on doing so.
TELLING = dict(final_init=0.5, hidden_units=(32, 32), bottleneck=16, actor_learning_rate=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("pixels") / "run"
    train(small(path, **TELLING))
    return path


def test_a_run_shows_what_the_networks_see(finished):
    from PIL import Image

    picture = np.asarray(Image.open(finished / "observation.png"))
    assert picture.shape == (256, 3 * 256, 3)


# Export and serving ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """(run, base path of the model)"""
    base = tmp_path_factory.mktemp("models") / "policy"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        export.main(["export.py", f"--run_dir={finished}", f"--export_dir={base}", "--checkpoint=latest"])
    for spec in ("observation uint8 [None, 16, 16, 9]", "observation_bytes string [None, 3]"):
        assert spec in said.getvalue()
    return finished, base


@pytest.fixture(scope="module")
def url(exported):
    """A running server of the exported model."""
    return serving.start([serving.model("policy", exported[1])])


TOLERANCE = 1e-5


def questions():
    """uint8 [2, 16, 16, 9], patches of different brightness."""
    return np.random.default_rng(0).integers(0, 256, (2, 4, 4, 9), dtype=np.uint8).repeat(4, 1).repeat(4, 2)


def files(image):
    from serve.pngs import to_pngs

    return to_pngs(image, 3)


def test_png_files_give_the_action_of_the_numbers(exported, url):
    """One and several; every way of getting an image wrong would give other actions."""
    from serve.client import PolicyClient

    images, actor = questions(), load_policy(exported[0], "latest").agent.act
    expected, parts = actor(images), images.reshape(2, 16, 16, 3, 3)  # frames, colours
    for wrong in (
        images[::-1],
        parts[..., ::-1, :].reshape(images.shape),
        parts[..., ::-1].reshape(images.shape),
        images.swapaxes(1, 2),
        np.zeros_like(images),
    ):
        assert np.abs(actor(np.ascontiguousarray(wrong)) - expected).min(axis=0).max() > 100 * TOLERANCE
    with PolicyClient(url, "policy") as client:
        for found in (client.act(images), client.act_on_pngs([files(image) for image in images])):
            np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
        for image, action in zip(images, expected, strict=True):
            np.testing.assert_allclose(client.act_on_pngs(files(image)), action, rtol=0, atol=TOLERANCE)
        signatures = client.metadata()["metadata"]["signature_def"]["signature_def"]
    for signature, name, kind, shape in (
        ("serving_default", "observation", "DT_UINT8", ["-1", "16", "16", "9"]),
        ("observation_bytes", "observation_bytes", "DT_STRING", ["-1", "3"]),
    ):
        ((given, spec),) = signatures[signature]["inputs"].items()
        assert (given, spec["dtype"], [dim["size"] for dim in spec["tensor_shape"]["dim"]]) == (name, kind, shape)
        assert list(signatures[signature]["outputs"]) == ["action"]


def encoded(kind, image=None, **options):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8) if image is None else image).save(file, kind, **options)
    return file.getvalue()


NOT_A_FRAME = {
    "nothing": b"",
    "nonsense": b"no picture",
    "a head only": encoded("PNG")[:33],
    "cut short": encoded("PNG")[:-20],
    "jpeg": encoded("JPEG"),
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
    "too low": encoded("PNG", np.zeros((8, 16, 3), np.uint8)),
    "too wide": encoded("PNG", np.zeros((16, 17, 3), np.uint8)),
    "grey": encoded("PNG", np.zeros((16, 16), np.uint8)),
    "16 bits": encoded("PNG", np.zeros((16, 16), np.uint16)),
    "transparent": encoded("PNG", np.zeros((16, 16, 4), np.uint8)),
}


@pytest.mark.parametrize("bad", NOT_A_FRAME.values(), ids=NOT_A_FRAME)
def test_what_is_no_frame_is_refused_and_the_server_goes_on(url, bad):
    from serve.client import BadRequest, PolicyClient

    with PolicyClient(url, "policy") as client:
        good = files(questions()[0])
        action = client.act_on_pngs(good)
        right_head = bad.startswith(encoded("PNG")[:33])
        says = "(?i)png" if right_head else "a frame must be a PNG file of 16 x 16 pixels in 8-bit RGB"
        with pytest.raises(BadRequest, match=says) as caught:
            client.act_on_pngs([good[0], bad, good[2]])
        assert caught.value.status == 400
        np.testing.assert_array_equal(client.act_on_pngs(good), action)


def test_questions_of_the_wrong_shape_are_refused(url):
    """Convolutions would take images of nearly the size, and twice the channels."""
    from serve.client import BadRequest, PolicyClient

    good = files(questions()[0])
    with PolicyClient(url, "policy") as client:
        for image in (np.zeros((17, 16, 9)), np.zeros((15, 15, 9)), np.zeros((16, 16, 18)), np.zeros((16, 16, 3))):
            with pytest.raises(BadRequest, match="and the model takes"):
                client.act(image.astype(np.uint8))
            body = json.dumps({"inputs": {"observation": [image.astype(int).tolist()]}})
            assert requests.post(f"{url}/v1/models/policy:predict", data=body).status_code == 400
        for frames_ in (good[:2], good * 2, [good[:2]] * 3, [[file] for file in good], []):
            with pytest.raises(BadRequest) as caught:
                client.act_on_pngs(frames_)
            assert caught.value.status == 400
        for none in (None, 3, iter(good), [1, 2, 3], "abc"):
            with pytest.raises(BadRequest, match="PNG files, as bytes"):
                client.act_on_pngs(none)
        for image in (questions()[0] / 255, questions()[0].astype(int) + 100, np.full((16, 16, 9), np.nan)):
            with pytest.raises(BadRequest, match="whole numbers from 0 to 255"):
                client.act(image)


@pytest.mark.parametrize("row", [True, False])
def test_png_files_in_both_formats_of_the_api(exported, url, row):
    """As curl would ask; more than a megabyte of base64, in which there is all that looks like a number."""
    images = np.random.default_rng(1).integers(0, 256, (700, 16, 16, 9), dtype=np.uint8)
    rows = [[{"b64": base64.b64encode(file).decode()} for file in files(image)] for image in images]
    if row:
        request = {"signature_name": "observation_bytes", "instances": [{"observation_bytes": one} for one in rows]}
    else:
        request = {"signature_name": "observation_bytes", "inputs": rows}
    body = json.dumps(request)
    assert len(body) > 2**21
    answer = requests.post(f"{url}/v1/models/policy:predict", body, timeout=60)
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions" if row else "outputs"]
    expected = load_policy(exported[0], "latest").agent.act(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_a_bad_file_fails_alone_among_questions_asked_at_once(url):
    from serve.client import BadRequest, PolicyClient

    def ask(i):
        with PolicyClient(url, "policy") as client:
            try:
                return client.act_on_pngs([NOT_A_FRAME["jpeg"]] * 3 if i % 4 == 3 else files(questions()[i % 2]))
            except BadRequest as error:
                return error

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(32)))
    assert all(isinstance(answer, BadRequest) == (i % 4 == 3) for i, answer in enumerate(found))


@pytest.mark.parametrize("channels, stack", [(1, 1), (1, 4), (3, 2)])
def test_frames_are_decoded_as_they_were_encoded(channels, stack):
    from ddpg_tf.export.saved_model import decode_pngs
    from serve.pngs import to_pngs

    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels * stack), dtype=np.uint8)
    found = decode_pngs(tf.constant([to_pngs(image, stack) for image in images]), stack, (5, 7, channels * stack))
    np.testing.assert_array_equal(found, images)


def test_rollout_of_pixels_reports_bytes_and_latency_of_both(exported, url, capsys):
    flags = [f"--url={url}", "--model_name=policy", "--episodes=2", f"--flagfile={exported[0] / 'flags.txt'}"]
    rollout.main(["rollout", *flags, f"--compare_run_dir={exported[0]}", "--checkpoint=latest"])
    said = capsys.readouterr().out
    for says in (
        "images of [16, 16, 9]; each action is held for 3 steps",
        "asked with numbers: ",
        "asked with PNG files: ",
        "bytes a question",
        "largest difference of their",
        "largest difference to the latest checkpoint's actor",
    ):
        assert says in said
    assert "latency p50" not in said.replace("question, latency p50", "")  # only that of each way of asking


def test_rollout_of_an_environment_seen_otherwise_says_what_to_give(url):
    flags = [f"--url={url}", "--model_name=policy", f"--env={PICTURE}", "--pixels", "--frame_size=20"]
    with pytest.raises(UserError) as error:
        rollout.main(["rollout", *flags])
    for says in ("takes images of [16, 16, 9]", "[20, 20, 9]", "--flagfile=RUN_DIR/flags.txt"):
        assert says in str(error.value)


def test_rollout_fails_when_files_and_numbers_give_different_actions():
    from serve.pngs import Asking

    class Liar:
        bytes_sent = 1

        def act(self, _):
            return np.float32([0.5, 0.5])

        def act_on_pngs(self, _):
            return np.float32([0.5, 0.6])

    asking = Asking(Liar(), 3)
    asking.act(questions()[0])
    assert asking.summarise(np.array([0.01, 0.2])) == []
    assert "apart" in asking.summarise(np.array([0.2, 0.01]))[0]


def test_query_draws_a_sample_of_an_image(url, capsys):
    query.main(["query", f"--url={url}", "--model_name=policy", "--sample"])
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 3 and err == "observation: observation [16, 16, 9], random\n"


def test_policy_json_says_what_an_observation_is(exported):
    card = json.loads((exported[1] / "1" / "assets.extra" / "policy.json").read_text())
    assert card["observation"]["observation"]["shape"] == [16, 16, 9] and card["frame_stack"] == 3


def test_shifts_depend_on_the_seed_and_on_the_critics_update():
    """Of which there may be several for each of the actor's."""
    images = Batch(*(tf.constant(array[0]) for array in block(np.random.default_rng(0))))
    one, other = agent(), agent(seed=1)
    first = one._augment(images).observation.numpy()
    assert not np.array_equal(first, other._augment(images).observation)
    one.critic_optimizer.iterations.assign_add(1)
    assert not np.array_equal(first, one._augment(images).observation)


def test_random_shifts_go_both_ways_alike():
    images = np.arange(9, dtype=np.uint8)[None, :, None, None] + np.zeros((200, 9, 9, 1), np.uint8)
    shifted = random_shift(tf.constant(images), 2, tf.constant([1, 2])).numpy()
    assert set(shifted[:, 4, 4, 0].tolist()) == {2, 3, 4, 5, 6}  # rows
    columns = random_shift(tf.constant(images.swapaxes(1, 2)), 2, tf.constant([1, 2])).numpy()
    assert set(columns[:, 4, 4, 0].tolist()) == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("encoder", ["shared", "separate"])
def test_convolutions_start_uniform_within_one_over_the_root_of_their_fan_in(encoder):
    """That is kernel x kernel x channels (Lillicrap et al., section 7)."""
    built = agent(encoder=encoder, conv_filters=(32, 32), normalization="none")
    for name, fan_in in (("conv_0", 4 * 4 * 9), ("conv_1", 3 * 3 * 32)):
        layer = layer_of(built.critic, name)
        for part in (layer.kernel.numpy(), layer.bias.numpy()):
            assert 0.8 * fan_in**-0.5 < np.abs(part).max() <= fan_in**-0.5


def test_the_bottleneck_is_a_layer_norm_and_a_tanh():
    head = layer_of(agent().critic, "critic_head")
    dense, after = layer_of(head, "bottleneck").output, layer_of(head, "hidden_0").input
    features = np.random.default_rng(0).normal(size=(5, head.inputs[0].shape[1])).astype(np.float32)
    after, dense = (array.numpy() for array in keras.Model(head.inputs, [after, dense])([features, np.zeros((5, 2))]))
    unit = (dense - dense.mean(1, keepdims=True)) / np.sqrt(dense.var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(after[:, : unit.shape[1]], np.tanh(unit), atol=1e-5)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_convolutions_are_normalised_too(normalization):
    built = agent(encoder="separate", normalization=normalization)
    for network in (built.actor, built.critic):
        names = {v.path.split("/")[-2] for v in network.variables if "norm_conv_" in v.path}
        assert names == {"norm_conv_0", "norm_conv_1"}


def test_an_action_is_held_as_it_was_whatever_the_environment_does_to_its_array(monkeypatch):
    given = []

    def step(self, action):
        given.append(action.copy())
        action *= 0.5
        return self.observe(), 1.0, False, False, {}

    monkeypatch.setattr(toy_envs.Picture, "step", step)
    env = factory.make_flat_env(small(action_repeat=3))
    env.reset(seed=0)
    env.step(toy_envs.HIGH.copy())
    np.testing.assert_array_equal(given, [toy_envs.HIGH] * 3)


def test_a_film_is_of_the_episode_that_its_seed_begins_each_action_held(tmp_path, monkeypatch):
    from PIL import Image

    def here(module, *given):
        video._main(*map(str, given))
        return ""

    monkeypatch.setattr(video.child, "failure", here)  # what the process adds is tested elsewhere
    monkeypatch.setattr(rendering, "use_display_or_egl", lambda: None)
    for seed in (5, 6):
        config = small(env_kwargs={"length": 20}, action_repeat=3)
        assert video.record(tmp_path / "film.gif", config, seed, np.tile(toy_envs.LOW, (2, 1))) == ""
        env = gym.make("ToyPicture-v0", render_mode="rgb_array")
        env.reset(seed=seed)
        with Image.open(tmp_path / "film.gif") as film:
            assert film.n_frames == 1 + 2 * 3
            np.testing.assert_allclose(np.asarray(film.convert("RGB"), int), env.render(), atol=8)  # GIF's colours


def test_what_the_networks_see_is_saved_the_oldest_frame_at_the_left(tmp_path):
    from PIL import Image

    frames = [np.full((16, 16, 3), shade, np.uint8) for shade in (0, 100, 200)]
    video.save_stack(tmp_path / "seen.png", np.concatenate(frames, axis=2), 3)
    with Image.open(tmp_path / "seen.png") as picture:
        assert [picture.getpixel((x, 128))[0] for x in (128, 384, 640)] == [0, 100, 200]


def test_bytes_and_latency_are_those_of_each_way_of_asking(capsys):
    class Client:
        def act(self, _):
            self.bytes_sent = 1000
            return np.zeros(2, np.float32)

        def act_on_pngs(self, _):
            self.bytes_sent = 10
            return np.zeros(2, np.float32)

    asking = Asking(Client(), 3)
    asking.act(questions()[0])
    asking.latencies = [(0.002, 0.004)]
    assert asking.summarise(np.ones(2)) == []
    numbers, pngs, _ = capsys.readouterr().out.splitlines()
    assert numbers == "asked with numbers: 1000 bytes a question, latency p50 2.00 ms, p99 2.00 ms"
    assert pngs == "asked with PNG files: 10 bytes a question, latency p50 4.00 ms, p99 4.00 ms"


def test_rollout_fails_when_files_get_other_actions(exported, url, monkeypatch):
    act = PolicyClient.act_on_pngs
    monkeypatch.setattr(PolicyClient, "act_on_pngs", lambda client, pngs: act(client, pngs) + np.float32(0.01))
    flags = [f"--url={url}", "--model_name=policy", "--episodes=1", f"--flagfile={exported[0] / 'flags.txt'}"]
    with pytest.raises(UserError, match=r"numbers and PNG files gave actions that are .* apart"):
        rollout.main(["rollout", *flags])
