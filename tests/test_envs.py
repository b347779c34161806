"""Gymnasium ids -> environments that training can trust."""

import contextlib
import functools
import importlib
import itertools
import os
import re
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_tf.envs
from ddpg_tf import Config
from ddpg_tf.envs import checked as envs_checked
from ddpg_tf.envs import factory, goals, registry, rendering
from ddpg_tf.envs.checked import FAILED, Checked
from ddpg_tf.envs.spaces import _float32_bounds, checked_spaces
from ddpg_tf.errors import UserError
from ddpg_tf.flags import PRESETS
from tests import toy_envs

TOYS = "tests.toy_envs"
PRESET_ENVS = sorted(path.stem for path in PRESETS.glob("*-v*.flags"))


def toy(name):
    return f"{TOYS}:Toy{name}-v0"


def spaces_of(env_id):
    return checked_spaces(factory.make_policy_env(Config(env=env_id)), env_id)


def refusal(env_id):
    """The message with which `env_id` is refused."""
    with pytest.raises(UserError) as caught:
        spaces_of(env_id)
    return str(caught.value)


# Ids ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "misspelt, meant",
    [
        ("Pendulam-v1", "Pendulum-v1"),
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        (toy("Countr"), "ToyCounter-v0"),
        ("dm_control/cheetah-ran-v0", "dm_control/cheetah-run-v0"),
    ],
)
def test_near_matches_of_a_misspelt_id_are_named(misspelt, meant):
    with pytest.raises(UserError, match="did you mean") as caught:
        registry.resolve_id(misspelt)
    assert meant in str(caught.value) and misspelt in str(caught.value)


@pytest.mark.parametrize("nonsense", ["xqzw", "", "-v1", "Pendulum-v999", "Pendulum-v1-v1", "a\nb", "tests.toy_envs:"])
def test_an_id_like_nothing_else_is_refused(nonsense):
    with pytest.raises(UserError, match="no environment"):
        registry.resolve_id(nonsense)


@pytest.mark.parametrize(
    "retired, current",
    [
        ("FetchReach-v1", "FetchReach-v4"),
        ("LunarLanderContinuous-v2", "LunarLanderContinuous-v3"),
        ("BipedalWalker-v2", "BipedalWalker-v3"),
        ("Pendulum-v0", "Pendulum-v1"),
        ("HalfCheetah-v2", "HalfCheetah-v5"),
        ("Hopper-v3", "Hopper-v5"),
        (f"{TOYS}:ToyVersioned-v1", f"{TOYS}:ToyVersioned-v3"),
    ],
)
def test_retired_ids_run_as_their_current_version_with_a_warning(retired, current):
    with pytest.warns(UserWarning, match=f"retired: running {current.rpartition(':')[2]}"):
        assert registry.resolve_id(retired) == current
    with pytest.warns(UserWarning, match="retired"):
        assert registry.make_env(retired).spec.id == current.rpartition(":")[2]


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "HalfCheetah-v4", "HalfCheetah-v5", toy("Counter")])
def test_current_ids_are_taken_as_they_are_without_a_warning(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.resolve_id(env_id) == env_id


def test_an_old_version_of_ones_own_is_not_taken_for_gymnasiums():
    for version in (2, 4):
        gym.register(f"MyReacher-v{version}", entry_point="my_mujoco:Reacher")
    try:
        assert registry.resolve_id("MyReacher-v2") == "MyReacher-v2"
    finally:
        for version in (2, 4):
            del gym.registry[f"MyReacher-v{version}"]


def test_an_id_without_version_runs_as_the_newest():
    assert registry.resolve_id("BipedalWalker") == "BipedalWalker-v3"
    assert registry.resolve_id("HalfCheetah") == "HalfCheetah-v5"


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"cannot import 'no_such_module'.*--env=no_such_module:Some-v0.*PYTHONPATH"):
        registry.resolve_id("no_such_module:Some-v0")
    with pytest.raises(UserError, match=r"no environment .*tests\.toy_envs has been imported, and registers none"):
        registry.resolve_id("tests.toy_envs:Xqzw-v0")


@pytest.mark.parametrize("module", [".", "..", "tests..toy_envs", "tests/toy_envs", "tests.toy_envs:tests.toy_envs"])
def test_a_module_that_is_no_module_name_is_refused(module):
    with pytest.raises(UserError, match="cannot import"):
        registry.resolve_id(f"{module}:ToyCounter-v0")


def test_no_tensorflow_is_imported_to_make_step_and_describe_an_environment():
    """Vector workers and the video process: TensorFlow would cost them seconds, and crashes beside a renderer."""
    code = """
import sys
from ddpg_tf import Config
from ddpg_tf.envs import factory
from ddpg_tf.envs.spaces import checked_spaces
env = factory.make_flat_env(Config(env="InvertedPendulum-v5"))
checked_spaces(env, "x"), env.reset(seed=0), env.step(env.action_space.sample())
print([name for name in sys.modules if name.split(".")[0] in ("tensorflow", "keras", "tensorflow_probability")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "env_id, kwargs",
    [
        ("Pendulum-v1", {"no_such_argument": 1}),
        ("Pendulum-v1", {"id": "x"}),
        ("Pendulum-v1", {"max_episode_steps": 0}),
        ("LunarLanderContinuous-v3", {"gravity": 5}),
        ("HalfCheetah-v5", {"xml_file": "no_such_file.xml"}),
        (toy("Picky"), {"error": "ValueError"}),
        (toy("Picky"), {"error": "AssertionError"}),
        (toy("Picky"), {"error": "OSError"}),
    ],
)
def test_arguments_that_the_environment_rejects_are_one_message(env_id, kwargs):
    with pytest.raises(UserError, match="cannot make"):
        registry.make_env(env_id, kwargs)


def test_an_environment_that_takes_no_render_mode_can_be_made():
    registry.make_env(toy("CannotRender")).reset(seed=0)


def test_environment_arguments_arrive():
    assert registry.make_env("Pendulum-v1", {"g": 3.5, "max_episode_steps": 7}).unwrapped.g == 3.5
    assert registry.make_env("Pendulum-v1", {"max_episode_steps": 7}).spec.max_episode_steps == 7


# Spaces ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, says",
    [
        ("CartPole-v1", "needs continuous actions"),
        (toy("DiscreteAction"), "needs continuous actions"),
        (toy("IntegerAction"), "needs continuous actions"),
        (toy("UnboundedAction"), "unbounded actions"),
        (toy("MatrixAction"), r"shape \(2, 2\)"),
        (toy("DeepImage"), "images of shape"),
        (toy("DictWithImage"), "within its observations"),
        (toy("DiscreteObservation"), "needs Box, or Dict/Tuple of Box"),
        (toy("DictWithDiscrete"), "needs Box, or Dict/Tuple of Box"),
    ],
)
def test_environments_that_ddpg_cannot_learn_are_refused(env_id, says):
    message = refusal(env_id)
    assert env_id in message
    assert re.search(says, message), message


@pytest.mark.parametrize(
    "observation, action, says",
    [
        (gym.spaces.Box(-1, 1, (0,)), gym.spaces.Box(-1, 1, (1,)), "observations without a number"),
        (gym.spaces.Dict({}), gym.spaces.Box(-1, 1, (1,)), "observations without a number"),
        (
            gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2,)), "none": gym.spaces.Box(-1, 1, (0,))}),
            gym.spaces.Box(-1, 1, (1,)),
            "observations without a number in them, none: leave them out",
        ),
        (gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (0,)), "needs vectors; wrap .*TransformAction"),
        (gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, np.inf, (1,)), "finite bounds; wrap .*TransformAction"),
    ],
)
def test_spaces_without_numbers_or_bounds_are_refused(observation, action, says):
    env = Odd(observation, None)
    env.action_space = action
    with pytest.raises(UserError, match=f"^Odd has .*{says}"):
        checked_spaces(env, "Odd")


def test_unbounded_actions_learn_as_the_message_says():
    env = gym.make(toy("UnboundedAction"))
    wrapped = gym.wrappers.TransformAction(
        env, lambda action: 10 * action, gym.spaces.Box(-1, 1, env.action_space.shape)
    )
    assert checked_spaces(wrapped, "wrapped").action_size == env.action_space.shape[0]


@pytest.mark.parametrize("name", ["SlashAndUnderscore", "KeyAcrossLevels"])
def test_observation_keys_that_would_share_a_name_are_refused(name):
    message = refusal(toy(name))
    assert "'a_b'" in message and "'a/b'" in message and "rename one" in message


def test_an_observation_key_named_action_is_refused():
    assert "'the action'" in refusal(toy("KeyAction"))


@pytest.mark.parametrize("keys", [("x", "X"), ("Action",)])
def test_keys_that_tensorflow_takes_for_one_are_refused(keys):
    env = Odd(gym.spaces.Dict({key: gym.spaces.Box(-1, 1, (1,)) for key in keys}), None)
    env.action_space = gym.spaces.Box(-1, 1, (1,))
    with pytest.raises(UserError, match="rename one"):
        checked_spaces(env, "Odd")


def test_bounds_are_per_dimension():
    spaces = spaces_of(toy("Counter"))
    np.testing.assert_array_equal(spaces.low, [-1, 0, 2])
    np.testing.assert_array_equal(spaces.high, [3, 10, 2.5])
    assert spaces.low.dtype == spaces.high.dtype == np.float32
    assert (spaces.action_size, spaces.observation_size) == (3, 2)
    assert spaces.leaves == {"observation": (2,)}


def assert_rounded_inwards(space, low, high):
    assert low.dtype == high.dtype == np.float32
    assert (low.astype(np.float64) >= space.low).all() and (high.astype(np.float64) <= space.high).all()
    # And no further than to the next float32.
    assert (np.nextafter(low, np.float32(-np.inf)).astype(np.float64) < space.low).all()
    assert (np.nextafter(high, np.float32(np.inf)).astype(np.float64) > space.high).all()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_float64_bounds_are_rounded_inwards():
    space = toy_envs.Float64Bounds.action_space
    spaces = spaces_of(toy("Float64Bounds"))
    assert_rounded_inwards(space, spaces.low, spaces.high)
    assert space.contains(spaces.low.astype(np.float64)) and space.contains(spaces.high.astype(np.float64))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e30, 1e30), st.floats(1e-3, 1e3)), min_size=1, max_size=4))
def test_any_float64_bounds_are_rounded_inwards(bounds):
    low = np.array([a for a, _ in bounds])
    high = low + np.array([width for _, width in bounds]) * np.maximum(1, np.abs(low))
    space = gym.spaces.Box(low, high, dtype=np.float64)
    assert_rounded_inwards(space, *_float32_bounds(space))


def test_nested_observations_are_flattened_in_the_order_of_the_leaves():
    """What the SavedModel puts together from its named inputs must be what training saw."""
    env = registry.make_env(toy("Nested"))
    spaces = checked_spaces(env, "x")
    flat, _ = factory.make_flat_env(Config(env=toy("Nested"))).reset(seed=3)
    observation, _ = env.reset(seed=3)
    assert spaces.keys == {
        "arm_observation_0_a": "arm/observation_0/a",
        "arm_observation_0_z": "arm/observation_0/z",
        "arm_observation_1": "arm/observation_1",
        "joint_angle": "joint angle",
        "velocity": "velocity",
    }
    assert spaces.leaves == {
        "arm_observation_0_a": (),
        "arm_observation_0_z": (2, 2),
        "arm_observation_1": (3,),
        "joint_angle": (1,),
        "velocity": (2,),
    }
    arm = observation["arm"]
    named = {
        "arm_observation_0_a": arm[0]["a"],
        "arm_observation_0_z": arm[0]["z"],
        "arm_observation_1": arm[1],
        "joint_angle": observation["joint angle"],
        "velocity": observation["velocity"],
    }
    np.testing.assert_array_equal(flat, np.concatenate([np.ravel(named[name]) for name in spaces.leaves]))
    assert spaces.observation_size == flat.size == 11


# Environments of the presets ------------------------------------------------------------------------------------------


def rollout(env, seed, steps):
    """Everything an episode shows under seeded random actions, as one list of arrays."""
    rng = np.random.default_rng(seed)
    seen, over = [env.reset(seed=seed)[0]], False
    for _ in range(steps):
        if over:
            break
        observation, reward, terminated, truncated, _ = env.step(
            rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        )
        over = terminated or truncated
        seen.append(np.append(observation, [reward, terminated, truncated]))
    return seen


def assert_same_rollout(found, expected):
    assert len(found) == len(expected)
    for t, (a, b) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"step {t}")


@pytest.mark.parametrize("env_id", [*PRESET_ENVS, "dm_control/cheetah-run-v0"])
def test_a_used_environment_is_as_good_as_a_fresh_one_after_a_reset(env_id):
    """Otherwise a resumed run, whose environments are fresh, could not equal an uninterrupted one."""
    used = factory.make_flat_env(Config(env=env_id))
    for seed in range(4):
        rollout(used, 100 + seed, 15 + 20 * seed)
        fresh = factory.make_flat_env(Config(env=env_id))
        assert_same_rollout(rollout(used, seed, 40), rollout(fresh, seed, 40))
        fresh.close()
    used.close()


def test_the_worlds_of_bipedal_walker_remember_without_our_wrapper():
    """So that the test above is known to be able to fail; once Gymnasium mends it, FreshWorld can go."""
    used = gym.make("BipedalWalker-v3")

    def differs(seed):
        rollout(used, 100 + seed, 60)
        fresh, again = rollout(gym.make("BipedalWalker-v3"), seed, 40), rollout(used, seed, 40)
        return any(not np.array_equal(a, b) for a, b in zip(again, fresh, strict=True))

    assert any(map(differs, range(8)))


@pytest.mark.parametrize(
    "env_id", ["Pendulum-v1", "LunarLanderContinuous-v3", "BipedalWalker-v3", "Hopper-v5", "dm_control/cheetah-run-v0"]
)
def test_a_reset_with_actions_re_enters_the_episode(env_id):
    env, rng = factory.make_flat_env(Config(env=env_id)), np.random.default_rng(0)
    actions = rng.uniform(env.action_space.low, env.action_space.high, (12, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=5)
    seen = [env.step(action)[0].copy() for action in actions]
    other = factory.make_flat_env(Config(env=env_id))
    rollout(other, 9, 10)
    np.testing.assert_array_equal(other.reset(seed=5, options={"actions": actions[:8]})[0], seen[7])
    for action, expected in zip(actions[8:], seen[8:], strict=True):
        np.testing.assert_array_equal(other.step(action)[0], expected)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_one_environment_of_a_vector_re_enters_its_episode_beside_the_other(vectorization):
    vector = factory.make_vector_env(Config(env=toy("Steered"), num_envs=2, vectorization=vectorization), 2)
    try:
        assert vector.metadata["autoreset_mode"] == gym.vector.AutoresetMode.DISABLED
        actions = np.random.default_rng(0).uniform(toy_envs.LOW, toy_envs.HIGH, (6, 2, 3)).astype(np.float32)
        both = np.array([True, True])
        # Seeds whose episodes are 7 steps long.
        seeds = [seed for seed in range(100) if episode_length(seed) == 7][:2]
        vector.reset(seed=seeds, options={"reset_mask": both})
        seen = [vector.step(action)[0] for action in actions]
        vector.reset(seed=seeds, options={"reset_mask": both})
        vector.step(actions[0])
        found, _ = vector.reset(
            seed=[0, seeds[1]], options={"reset_mask": ~both | [False, True], "actions": actions[:4, 1]}
        )
        np.testing.assert_array_equal(found, [seen[0][0], seen[3][1]])
        found, *_ = vector.step(np.stack([actions[1, 0], actions[4, 1]]))
        np.testing.assert_array_equal(found, [seen[1][0], seen[4][1]])
    finally:
        vector.close()


@functools.cache
def episode_length(seed):
    env = registry.make_env(toy("Steered"))
    env.reset(seed=seed)
    return env.unwrapped.length


def test_dm_control_tasks_work_through_shimmy():
    env_id = "dm_control/cheetah-run-v0"
    env = factory.make_flat_env(Config(env=env_id))
    spaces = spaces_of(env_id)
    assert spaces.leaves == {"position": (8,), "velocity": (9,)} and spaces.action_size == 6
    np.testing.assert_array_equal(spaces.low, -np.ones(6))
    first, _ = env.reset(seed=0)
    second, reward, terminated, _, _ = env.step(np.ones(6, np.float32))
    assert first.shape == second.shape == (17,) and np.isfinite(second).all() and not np.array_equal(first, second)
    assert 0 <= reward <= 1 and not terminated


def test_gymnasium_mujoco_box2d_and_dm_control_live_in_one_process():
    for env_id in ("HalfCheetah-v5", "LunarLanderContinuous-v3", "dm_control/cheetah-run-v0", "Pendulum-v1"):
        env = factory.make_flat_env(Config(env=env_id))
        env.reset(seed=0)
        observation, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation.astype(env.observation_space.dtype))


def test_a_float64_dimension_that_no_float32_fits_into_stays_a_dimension():
    low, high = _float32_bounds(gym.spaces.Box(np.array([0.1]), np.array([0.1]), dtype=np.float64))
    assert low == high == np.float32(0.1)


# What odd environments give -------------------------------------------------------------------------------------------


class Odd(gym.Env):
    """Gives what it was made with."""

    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, space, observation, reward=0.0, terminated=False, info=None):
        self.observation_space, self._observation = space, observation
        self._rest = reward, terminated, False, {} if info is None else info

    def reset(self, *, seed=None, options=None):
        return self._observation, {}

    def step(self, action):
        return self._observation, *self._rest


@pytest.fixture
def made():
    """`made(make)`: the id of an environment that `make` makes."""
    yield lambda make: gym.register("Made-v0", entry_point=make, max_episode_steps=9) or "Made-v0"
    del gym.registry["Made-v0"]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_with_different_spaces_are_told(made, vectorization):
    highs = itertools.count(1)
    made(lambda: Odd(gym.spaces.Box(-1, next(highs), (2,)), np.zeros(2)))
    env_id = "Made-v0" if vectorization == "sync" else toy("OfItsProcess")
    with pytest.raises(UserError, match=f"the environments of {env_id} differ in their spaces"):
        factory.make_vector_env(Config(env=env_id, num_envs=2, vectorization=vectorization), 2)


@pytest.mark.parametrize(
    "observation, says",
    [(np.full((32, 32), 0.9), "of float64, and its space says uint8"), (np.zeros((16, 48), np.uint8), r"\(16, 48\)")],
)
def test_an_image_of_another_kind_or_size_is_told(made, observation, says):
    env_id = made(lambda: Odd(gym.spaces.Box(0, 255, (32, 32), np.uint8), observation))
    with pytest.raises(UserError, match=f"^Made-v0 gave an observation .*{says}"):
        factory.make_flat_env(Config(env=env_id)).reset()


def test_render_kwargs_do_not_make_an_environment_dm_controls():
    odd = Odd(BYTES, np.zeros(2))
    odd.render_kwargs = {}
    assert rendering.arguments(odd, 64) == {} and rendering.frames_per_second(odd) == 30


BYTES, WHOLE = gym.spaces.Box(0, 255, (2,), np.uint8), gym.spaces.Box(-9, 9, (2,), int)


@pytest.mark.parametrize(
    "space, observation",
    [(BYTES, np.array([3, 255])), (WHOLE, [1, 2]), (WHOLE, np.array([1.0, -2.0])), (WHOLE, np.array([1, 2], np.int8))],
)
def test_integers_of_another_size_come_in_the_spaces_dtype(space, observation):
    env = Checked(Odd(gym.spaces.Dict(a=space), {"a": observation}), "Odd")
    for found in (env.reset()[0]["a"], env.step([0.0])[0]["a"]):
        assert found.dtype == space.dtype and found.tolist() == list(observation)


@pytest.mark.parametrize("space, observation", [(BYTES, np.array([3, 256])), (WHOLE, np.array([0.7, 1]))])
def test_numbers_that_the_spaces_dtype_does_not_hold_are_told(space, observation):
    with pytest.raises(UserError, match=r"^Odd gave an observation of (int|float)64, and its space says .*int"):
        Checked(Odd(space, observation), "Odd").reset()


@pytest.mark.parametrize("reward, terminated", [([1.0], [False]), (np.array([[1]]), np.array([0])), (1, 0)])
def test_a_reward_and_a_flag_may_be_lists_of_one(reward, terminated):
    env = Checked(Odd(BYTES, np.zeros(2, np.uint8), reward, terminated), "Odd")
    env.reset()
    _, found, ended, *_ = env.step([0.0])
    assert (found, ended) == (1.0, False)


SPEED = gym.spaces.Dict(speed=gym.spaces.Box(-9, 9, (2,)))


@pytest.mark.parametrize(
    "space, observation, says",
    [
        (SPEED, {"sped": np.zeros(2)}, "an observation without 'speed'"),
        (SPEED, np.zeros(2), "an observation without 'speed'"),
        (SPEED, {"speed": [[1.0], [2.0, 3.0]]}, r"an observation 'speed' that is no array of numbers: \[\[1.0\]"),
        (SPEED["speed"], ["1", "2"], "an observation that is no array of numbers"),
        (SPEED["speed"], None, "an observation that is no array of numbers: None"),
        (gym.spaces.Tuple([SPEED]), [], "an observation that is no tuple of 1"),
    ],
)
def test_an_observation_of_another_kind_is_told_at_once(space, observation, says):
    for failing in (lambda env: env.reset(), lambda env: env.step([0.0])):
        with pytest.raises(UserError, match=f"^Odd gave {says}"):
            failing(Checked(Odd(space, observation), "Odd"))


@pytest.mark.parametrize(
    "returned, says",
    [
        (None, "returns NoneType, not observation, reward"),
        ((np.zeros(2), None, False, False, {}), "None for the reward"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_step_that_returns_nothing_is_told_at_once(monkeypatch, returned, says, wrapped):
    env = Odd(SPEED["speed"], np.zeros(2))
    monkeypatch.setattr(env, "step", lambda action: returned)
    if wrapped:
        env = gym.wrappers.TimeLimit(env, 5)
        says = says.replace("returns NoneType, not", "does not return")
    checked = Checked(env, "Odd")
    checked.reset()
    with pytest.raises(UserError, match=says):
        checked.step([0.0])


def test_an_environment_that_exits_loses_its_episode_only(monkeypatch):
    env = Odd(SPEED["speed"], np.zeros(2))
    checked = Checked(env, "Odd")
    checked.reset()
    monkeypatch.setattr(env, "step", lambda action: sys.exit("license expired"))
    *_, truncated, info = checked.step([0.0])
    assert truncated and "Odd raised SystemExit: license expired" in info[FAILED]


@pytest.mark.parametrize("before, failures, works", [(1, 2, True), (1, 3, False), (0, 1, False)])
def test_a_reset_that_fails_is_tried_twice_more_unless_it_is_the_first(monkeypatch, before, failures, works):
    monkeypatch.setattr(envs_checked, "_PAUSES", (0.0, 0.0))
    env = Odd(SPEED["speed"], np.zeros(2))
    checked, reset, left = Checked(env, "Odd"), env.reset, [None] * failures
    for _ in range(before):
        checked.reset()
    monkeypatch.setattr(env, "reset", lambda **given: sys.exit(left.pop() or "gone") if left else reset(**given))
    said = r"Odd\.reset raised SystemExit: gone"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with contextlib.nullcontext() if works else pytest.raises(UserError, match=said):
            np.testing.assert_array_equal(checked.reset(seed=3)[0], 0)
    assert not left and len(told) == failures - (not works)
    assert all(re.match(f"{said}.*: trying it again", str(warning.message)) for warning in told)


def test_a_tuple_may_be_a_list_of_parts_of_several_sizes():
    env = Checked(
        Odd(gym.spaces.Tuple([BYTES, gym.spaces.Box(-1, 1, (3,))]), [np.zeros(2, np.uint8), np.ones(3)]), "Odd"
    )
    env.reset()
    assert [part.shape for part in env.step([0.0])[0]] == [(2,), (3,)]


def test_an_info_that_is_no_dict_is_told():
    env = Checked(Odd(BYTES, np.zeros(2, np.uint8), info="fine"), "Odd")
    env.reset()
    with pytest.raises(UserError, match="Odd gave str for info, not a dict"):
        env.step([0.0])


def test_success_of_another_meaning_is_none():
    assert np.isnan(goals.success({"success": None})) and np.isnan(goals.success({"success": "perhaps"}))
    assert goals.success({"success": True}) == 1


def test_an_environment_without_a_space_of_gymnasiums_is_told():
    class Spaceless(Odd):
        def __init__(self):
            self.observation_space = "Box(2,)"

    gym.register("Spaceless-v0", Spaceless, max_episode_steps=5)
    try:
        with pytest.raises(UserError, match=r"Spaceless-v0 has no observation_space of gymnasium\.spaces"):
            registry.make_env("Spaceless-v0")
    finally:
        gym.registry.pop("Spaceless-v0")


def test_without_a_display_sdl_still_draws(monkeypatch):
    """With "dummy", highway-env draws nothing, and policies would learn from black pictures."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    importlib.reload(ddpg_tf.envs)
    assert os.environ["SDL_VIDEODRIVER"].startswith("offscreen")


def test_an_episode_that_fails_ends_where_it_was_though_the_environment_draws_over_its_array(monkeypatch):
    env = gym.make("ToySameBuffer-v0")
    checked, step = Checked(env, "Toy"), toy_envs.SameBuffer.step
    checked.reset(seed=0)

    def torn(self, action):
        step(self, action)
        raise FloatingPointError("unstable")

    second = checked.step(toy_envs.LOW)[0].copy()
    monkeypatch.setattr(toy_envs.SameBuffer, "step", torn)
    found, *_, info = checked.step(toy_envs.LOW)
    assert FAILED in info
    np.testing.assert_array_equal(found, second)


def test_actions_of_a_re_entered_episode_stay_as_they_are():
    env = factory.make_flat_env(Config(env="tests.toy_envs:ToyScalesInPlace-v0"))
    actions = np.tile(toy_envs.HIGH, (3, 1))
    env.reset(seed=0, options={"actions": actions})
    np.testing.assert_array_equal(actions, np.tile(toy_envs.HIGH, (3, 1)))
