"""Replay against brute force on Python lists."""

import math
import shutil
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.replay import ring
from ddpg_tf.replay.buffer import Batch, ReplayBuffer
from ddpg_tf.training import schedule
from ddpg_tf.training.core import make_replay

Row = namedtuple("Row", "observation action reward next_observation terminated truncated")


def make_rows(count, num_envs=1, end=0.3, seed=0, fail=0.0):
    """Rows of a made-up past; an observation is (row, environment), so that a sample says where it comes from."""
    rng, rows = np.random.default_rng(seed), []
    for t in range(count):
        here = np.stack([np.full(num_envs, t), np.arange(num_envs)], 1)
        terminated, truncated = rng.random([2, num_envs]) < end / 2
        action, reward, failed = rng.normal(size=[num_envs, 3]), rng.normal(size=num_envs), rng.random(num_envs) < fail
        reward[failed], truncated[failed], terminated[failed] = np.nan, True, False
        rows.append(Row(here, action, reward, np.where(failed[:, None], here, here + 0.5), terminated, truncated))
    return rows


def fill(buffer, rows):
    for row in rows:
        buffer.add(*row)


def brute_force(rows, t, env, n_step, gamma, visible):
    """The transition from row t of `env`, when `visible` rows are there: (action, reward, discount, successor)."""
    total, last = 0.0, t
    for k in range(n_step):
        last = t + k
        total += gamma**k * np.float32(rows[last].reward[env])
        over = rows[last].terminated[env] or rows[last].truncated[env]
        if over or last + 1 == visible or np.isnan(rows[last + 1].reward[env]):
            break
    discount = 0.0 if rows[last].terminated[env] else gamma ** (last - t + 1)
    return rows[t].action[env], total, discount, rows[last].next_observation[env]


def check(batch, rows, n_step, gamma, visible):
    """Compares every sampled transition with brute force; returns the set of (row, environment) seen."""
    flat = Batch(
        *(np.reshape(array, (batch.reward.size, *np.shape(array)[np.ndim(batch.reward) :])) for array in batch)
    )
    assert all(array.dtype == np.float32 for array in flat)
    seen = set()
    for observation, action, reward, discount, following in zip(*flat, strict=True):
        t, env = map(int, observation)
        expected = brute_force(rows, t, env, n_step, gamma, visible)
        assert (action == expected[0].astype(np.float32)).all() and (following == expected[3]).all(), (t, env)
        assert math.isclose(reward, expected[1], rel_tol=1e-6, abs_tol=1e-6), (t, env)
        assert math.isclose(discount, expected[2], rel_tol=1e-6), (t, env)
        seen.add((t, env))
    return seen


def window(rows, visible, capacity, num_envs):
    """Every (row, environment) that may be sampled."""
    past = range(max(0, visible - capacity // num_envs), visible)
    return {(t, env) for t in past for env in range(num_envs) if not np.isnan(rows[t].reward[env])}


@settings(max_examples=60, deadline=None)
@given(
    num_envs=st.integers(1, 3),
    rows_kept=st.integers(1, 8),
    slack_rows=st.integers(0, 5),
    n_step=st.integers(1, 5),
    laps=st.floats(0.1, 3.2),
    end=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    lag=st.integers(0, 5),
    gamma=st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    fail=st.sampled_from([0.0, 0.1, 0.7]),
    seed=st.integers(0, 99),
)
def test_every_sampled_transition_equals_brute_force(
    num_envs, rows_kept, slack_rows, n_step, laps, end, lag, gamma, fail, seed
):
    """Random episode ends and failed steps, N environments, the ring wrapped thrice, the rows seen lagging behind."""
    capacity = rows_kept * num_envs
    rows = make_rows(max(1, round(laps * (rows_kept + slack_rows))), num_envs, end, seed, fail)
    buffer = ReplayBuffer(capacity, 2, 3, num_envs=num_envs, n_step=n_step, gamma=gamma, slack=slack_rows * num_envs)
    fill(buffer, rows)
    visible = max(1, len(rows) - min(lag, slack_rows))
    if not window(rows, visible, capacity, num_envs):
        with pytest.raises(UserError, match="nearly every step of the replay has failed"):
            buffer.sample(np.random.default_rng(seed), (30, 20), rows=visible)
        return
    batch = buffer.sample(np.random.default_rng(seed), (30, 20), rows=visible)
    # Equality: nothing unwritten, nothing too old, nothing newer than `rows`, and neither end left out.
    assert check(batch, rows, n_step, gamma, visible) == window(rows, visible, capacity, num_envs)


def test_three_rows_in_a_ring_of_ten_are_all_that_is_drawn():
    buffer = ReplayBuffer(10, 2, 3)
    fill(buffer, make_rows(3))
    drawn = buffer.sample(np.random.default_rng(0), (1000,)).observation[:, 0]
    assert set(drawn.tolist()) == {0, 1, 2} and len(buffer) == 3


def test_transitions_are_drawn_uniformly():
    buffer = ReplayBuffer(12, 2, 3, num_envs=2, slack=4)
    fill(buffer, make_rows(20, 2))
    observation = buffer.sample(np.random.default_rng(0), (24_000,)).observation
    _, counts = np.unique(observation, axis=0, return_counts=True)
    assert len(counts) == 12
    # 2000 expected of each, standard deviation 43.
    assert np.abs(counts - 2000).max() < 5 * 43


def test_length_counts_transitions_up_to_capacity():
    buffer, lengths = ReplayBuffer(6, 2, 3, num_envs=2, slack=4), []
    for row in make_rows(7, 2):
        buffer.add(*row)
        lengths.append(len(buffer))
    assert lengths == [2, 4, 6, 6, 6, 6, 6]


def reward_one(length, n_step, gamma, terminated=True):
    """All transitions of an episode of `length` rows with reward 1, in order, from a buffer that goes on after it."""
    buffer = ReplayBuffer(100, 1, 1, n_step=n_step, gamma=gamma)
    for t in range(length + 10):
        over = t == length - 1
        buffer.add([[t]], [[0]], [1], [[t + 1]], [over and terminated], [over and not terminated])
    batch = buffer.sample(np.random.default_rng(0), (4000,))
    _, first = np.unique(batch.observation[:, 0], return_index=True)
    return Batch(*(array[first[:length]] for array in batch))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_three_step_returns_stop_at_termination_with_the_right_exponent(length):
    batch = reward_one(length, 3, 0.5)
    steps = np.minimum(3, length - np.arange(length))
    np.testing.assert_array_equal(batch.reward, 2 - 0.5 ** (steps - 1.0))  # 1, 1 + 1/2, 1 + 1/2 + 1/4: exact
    np.testing.assert_array_equal(batch.discount, [0.125] * max(0, length - 3) + [0] * min(length, 3))
    np.testing.assert_array_equal(batch.next_observation[:, 0], np.arange(length) + steps)


def test_truncation_keeps_the_bootstrap_discounted_by_the_steps_made():
    batch = reward_one(4, 3, 0.5, terminated=False)
    np.testing.assert_array_equal(batch.discount, [0.125, 0.125, 0.25, 0.5])
    np.testing.assert_array_equal(batch.next_observation[:, 0], [3, 4, 4, 4])


def test_discount_of_one_step_is_gamma_or_zero():
    buffer = ReplayBuffer(50, 2, 3, gamma=0.99)
    rows = make_rows(50, end=0.5)
    fill(buffer, rows)
    batch = buffer.sample(np.random.default_rng(0), (500,))
    terminated = np.array([rows[int(t)].terminated[0] for t in batch.observation[:, 0]])
    assert terminated.any() and not terminated.all()
    np.testing.assert_array_equal(batch.discount, np.where(terminated, 0, np.float32(0.99)))


def test_end_episodes_cuts_n_step_returns_of_the_masked_environments_only():
    buffer = ReplayBuffer(20, 2, 3, num_envs=2, n_step=3, gamma=0.5)
    rows = make_rows(8, 2, end=0)
    fill(buffer, rows[:5])
    buffer.end_episodes(np.array([False, True]))
    rows[4].truncated[1] = True  # what that should amount to
    fill(buffer, rows[5:])
    batch = buffer.sample(np.random.default_rng(0), (400,))
    assert check(batch, rows, 3, 0.5, 8) == window(rows, 8, 20, 2)


def test_add_copies_and_samples_are_copies():
    buffer = ReplayBuffer(4, 2, 3)
    arrays = [np.ones([1, 2]), np.ones([1, 3]), np.ones(1), np.ones([1, 2]), np.zeros(1, bool), np.zeros(1, bool)]
    buffer.add(*arrays)
    for array in arrays:
        array[:] = 7
    before = buffer.sample(np.random.default_rng(0), (5,))
    kept = Batch(*(array.copy() for array in before))
    assert all((array == value).all() for array, value in zip(before, (1, 1, 1, np.float32(0.99), 1), strict=True))
    for _ in range(4):
        buffer.add(*arrays)
    for array, copy in zip(before, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


# Blocks ---------------------------------------------------------------------------------------------------------------

BLOCKS = Config(
    num_envs=2,
    warmup_steps=8,
    batch_size=5,
    update_every=4,
    updates_per_step=0.75,
    replay_capacity=20,
    total_steps=400,
    checkpoint_every=20,
    n_step=3,
    gamma=0.9,
    seed=3,
)
ROWS = make_rows(200, 2)


def blocks_buffer(config=BLOCKS, **kwargs):
    return make_replay(config, (2,), 3, **kwargs)


def test_a_buffer_that_cannot_hold_a_row_or_has_none_says_so():
    with pytest.raises(UsageError, match=r"capacity \(2\) must be at least num_envs \(3\)"):
        ReplayBuffer(2, 2, 3, num_envs=3)
    with pytest.raises(UsageError, match="nothing has been added yet"):
        ReplayBuffer(10, 2, 3).sample(np.random.default_rng(0), (4,))


def rows_seen(block, config=BLOCKS):
    """Rows that block `block` may see: those at the first block of the draw before its own, of 10 steps or a block."""
    together = max(1, 10 // config.update_every)
    blocks_before = max(0, (block // together - 1) * together + 1)
    return (config.learning_starts + blocks_before * config.update_every) // config.num_envs


def rows_due(block, config=BLOCKS):
    return (config.learning_starts + (block + 1) * config.update_every) // config.num_envs


def taken_in_training(count, config=BLOCKS, rows=ROWS):
    """Blocks 0 to count - 1, each taken at the step it is due, as the loop does."""
    buffer, blocks, taken = blocks_buffer(config), None, []
    for row in rows[: rows_due(count - 1, config)]:
        buffer.add(*row)
        if buffer.rows == rows_due(len(taken), config):
            blocks = blocks or schedule.blocks(buffer, config, 0)
            taken.append(numpy_batch(next(blocks)))
    return taken


def numpy_batch(batch):
    return Batch(*(array.numpy() for array in batch))


def assert_same(found, expected):
    for name, a, b in zip(Batch._fields, found, expected, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.fixture(scope="module", params=[4, 12], ids=["two blocks per draw", "one block per draw"])
def drawn(request):
    """(Config, its first 20 blocks)"""
    config = Config(**{**vars(BLOCKS), "update_every": request.param})
    return config, taken_in_training(20, config)


def test_a_block_has_its_updates_and_batch_in_every_static_shape():
    buffer = blocks_buffer()
    fill(buffer, ROWS[:20])
    batch = next(schedule.blocks(buffer, BLOCKS))
    assert [tuple(array.shape) for array in batch] == [(3, 5, 2), (3, 5, 3), (3, 5), (3, 5), (3, 5, 2)]
    assert {array.dtype.name for array in batch} == {"float32"}


def test_blocks_hold_only_the_newest_capacity_rows_of_one_draw_earlier(drawn):
    config, taken = drawn
    for block, batch in enumerate(taken):
        visible = rows_seen(block, config)
        assert check(batch, ROWS, 3, 0.9, visible) <= window(ROWS, visible, 20, 2)


def test_from_images_a_draw_sees_the_rows_of_one_block_earlier_still():
    """Their update goes on beside the steps. Block b is due at step 8 + 4 (b + 1), and two steps make a row."""

    class Asked:
        def blocks(self, shape, seed, rows, first_block):
            return shape, [rows(draw) for draw in range(5)]

    assert schedule.blocks(Asked(), BLOCKS, image=True) == ((1, 3, 5), [4, 4, 6, 8, 10])


def test_blocks_differ_from_each_other_and_with_the_seed(drawn):
    _, taken = drawn
    first = taken[0].observation
    assert not any(np.array_equal(first, batch.observation) for batch in taken[1:])
    buffer = blocks_buffer()
    fill(buffer, ROWS[:20])
    other = Config(**{**vars(BLOCKS), "seed": 4})
    assert not np.array_equal(numpy_batch(next(schedule.blocks(buffer, other))).observation, first)


@pytest.mark.parametrize("block", [0, 1, 7, 19])
def test_a_block_is_the_same_when_the_iteration_starts_with_it(drawn, block):
    config, taken = drawn
    buffer = blocks_buffer(config)
    fill(buffer, ROWS[: rows_due(block, config)])
    assert_same(numpy_batch(next(schedule.blocks(buffer, config, block))), taken[block])


@pytest.mark.parametrize("block", [3, 10])
def test_a_block_is_the_same_when_more_rows_were_added_after_it_was_due(drawn, block):
    config, taken = drawn
    buffer = blocks_buffer(config)
    # The run went on for two checkpoint intervals, less a step, before it was killed: all of the slack.
    fill(buffer, ROWS[: rows_due(block, config) + 2 * config.checkpoint_every // 2 - 1])
    blocks = schedule.blocks(buffer, config, block)
    for expected in taken[block : block + 3]:
        assert_same(numpy_batch(next(blocks)), expected)


def test_blocks_are_the_same_after_the_files_are_opened_again(drawn, tmp_path):
    config, taken = drawn
    due = rows_due(16, config)
    before = blocks_buffer(config, directory=tmp_path)
    fill(before, ROWS[: due + 10])  # killed here; the checkpoint was at row `due`
    before.flush()
    after = blocks_buffer(config, directory=tmp_path, rows=due)
    blocks = schedule.blocks(after, config, 17)
    for block in (17, 18, 19):
        fill(after, ROWS[after.rows : rows_due(block, config)])
        assert_same(numpy_batch(next(blocks)), taken[block])


@settings(max_examples=150, deadline=None)
@given(
    capacity=st.integers(1, 30),
    total=st.integers(1, 90),
    checkpoint=st.integers(0, 60),
    every=st.integers(1, 10),
    num_envs=st.integers(1, 4),
    rounds=st.booleans(),
)
def test_slack_outlasts_two_checkpoint_intervals_whatever_the_settings(
    capacity, total, checkpoint, every, num_envs, rounds
):
    """The ring may not come round to a row that a resume from the older checkpoint still needs; in rows of N steps.

    Where others collect, a checkpoint waits for the end of a round.
    """
    row = every if rounds else 1
    total = -(-total // row) * row
    config = Config(
        num_envs=num_envs,
        update_every=every * num_envs,
        total_steps=total * num_envs,
        warmup_steps=0,
        batch_size=1,
        replay_capacity=capacity * num_envs,
        checkpoint_every=checkpoint,
        collectors=int(rounds),
    )
    length = min(capacity, total) + -(-schedule.ring_size(config)[1] // num_envs)
    interval = checkpoint / num_envs if checkpoint else total
    checkpoints = sorted({math.ceil(k * interval / row) * row for k in range(1, 400) if k * interval <= total})
    for older, _, overtaken in zip(checkpoints, checkpoints[1:], [*checkpoints[2:], total], strict=False):
        # Killed while writing `overtaken`, so `older` may be all that can be read.
        next_block = max(0, older * num_envs - config.learning_starts) // config.update_every
        seen = min(older, rows_seen(next_block, config))
        assert min(overtaken, total) - length <= max(0, seen - capacity)


# Files ----------------------------------------------------------------------------------------------------------------


def test_files_are_reserved_before_the_first_row(tmp_path):
    ReplayBuffer(5000, 20, 3, directory=tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == 5000 * (4 * (20 + 3 + 1 + 20) + 2)
    for path in files:
        assert path.stat().st_blocks * 512 >= path.stat().st_size, path.name


def test_ring_bytes_is_what_the_files_take(tmp_path):
    config = Config(num_envs=2, replay_capacity=1000, total_steps=5000, checkpoint_every=300, update_every=10)
    ReplayBuffer(1000, 7, 2, num_envs=2, slack=schedule.ring_size(config)[1], directory=tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert schedule.ring_bytes(config, 7, 2) == sum(path.stat().st_size for path in files)


def test_files_keep_what_was_added(tmp_path):
    rows = make_rows(25, 2)
    buffer = ReplayBuffer(20, 2, 3, num_envs=2, n_step=2, slack=6, directory=tmp_path)
    fill(buffer, rows)
    buffer.flush()
    again = ReplayBuffer(20, 2, 3, num_envs=2, n_step=2, slack=6, directory=tmp_path, rows=25)
    assert check(again.sample(np.random.default_rng(0), (800,)), rows, 2, 0.99, 25) == window(rows, 25, 20, 2)


@pytest.mark.parametrize("written", [4, 13, 30])
def test_a_longer_ring_keeps_what_may_be_sampled(tmp_path, written):
    """A run resumed with more total_steps or rarer checkpoints needs a longer ring."""
    rows = make_rows(60, 2)
    old = ReplayBuffer(20, 2, 3, num_envs=2, n_step=2, slack=6, directory=tmp_path)
    fill(old, rows[:written])
    old.flush()
    new = ReplayBuffer(20, 2, 3, num_envs=2, n_step=2, slack=32, directory=tmp_path, rows=written)
    assert check(new.sample(np.random.default_rng(0), (800,)), rows, 2, 0.99, written) == window(rows, written, 20, 2)
    fill(new, rows[written:])
    assert check(new.sample(np.random.default_rng(0), (800,)), rows, 2, 0.99, 60) == window(rows, 60, 20, 2)
    new.flush()
    again = ReplayBuffer(20, 2, 3, num_envs=2, n_step=2, slack=32, directory=tmp_path, rows=60)
    assert check(again.sample(np.random.default_rng(0), (800,)), rows, 2, 0.99, 60) == window(rows, 60, 20, 2)
    assert len(list(tmp_path.iterdir())) == 1  # the shorter ring is gone


def test_more_capacity_sees_older_rows_that_are_still_there(tmp_path):
    rows = make_rows(25)
    old = ReplayBuffer(10, 2, 3, slack=10, directory=tmp_path)
    fill(old, rows)
    old.flush()
    new = ReplayBuffer(20, 2, 3, slack=20, directory=tmp_path, rows=25)
    assert check(new.sample(np.random.default_rng(0), (800,)), rows, 1, 0.99, 25) == window(rows, 25, 20, 1)


def test_a_ring_that_is_longer_than_needed_is_kept(tmp_path):
    rows = make_rows(25)
    old = ReplayBuffer(10, 2, 3, slack=9, directory=tmp_path)
    fill(old, rows)
    old.flush()
    new = ReplayBuffer(10, 2, 3, slack=2, directory=tmp_path, rows=25)
    assert check(new.sample(np.random.default_rng(0), (400,)), rows, 1, 0.99, 25) == window(rows, 25, 10, 1)


def test_growing_starts_over_after_it_was_killed_half_way(tmp_path, monkeypatch):
    rows = make_rows(12)
    old = ReplayBuffer(10, 2, 3, directory=tmp_path)
    fill(old, rows)
    old.flush()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pathlib.Path.rename", killed)
        ReplayBuffer(10, 2, 3, slack=5, directory=tmp_path, rows=12)
    new = ReplayBuffer(10, 2, 3, slack=5, directory=tmp_path, rows=12)
    assert check(new.sample(np.random.default_rng(0), (400,)), rows, 1, 0.99, 12) == window(rows, 12, 10, 1)


def test_a_run_killed_before_its_first_checkpoint_starts_with_a_ring_of_zeros(tmp_path):
    fill(ReplayBuffer(4, 2, 3, directory=tmp_path), make_rows(6))
    again = ReplayBuffer(4, 2, 3, directory=tmp_path)
    rows = make_rows(2, seed=1)
    fill(again, rows)
    assert check(again.sample(np.random.default_rng(0), (100,)), rows, 1, 0.99, 2) == {(0, 0), (1, 0)}


def test_a_missing_replay_cannot_be_resumed(tmp_path):
    with pytest.raises(UserError, match="cannot be resumed"):
        ReplayBuffer(4, 2, 3, directory=tmp_path, rows=6)


def small_disk(monkeypatch, free):
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_disk_that_is_too_small_is_refused_with_both_sizes_and_nothing_made(tmp_path, monkeypatch):
    small_disk(monkeypatch, 1_230_000_000)
    with pytest.raises(UserError, match=r"needs 4\.50 GB .* has 1\.23 GB free"):
        ring.require_disk(tmp_path / "not" / "there", 4_500_000_000)
    with pytest.raises(UserError, match=r"needs 4\.20 GB .* has 1\.23 GB free"):  # 4 x (4 + 1 + 1 + 4) + 2 bytes each
        ReplayBuffer(100_000_000, 4, 1, directory=tmp_path / "replay")
    assert not list(tmp_path.iterdir())


def test_a_disk_too_small_to_grow_leaves_the_ring_as_it_is(tmp_path, monkeypatch):
    rows = make_rows(12)
    fill(ReplayBuffer(10, 2, 3, directory=tmp_path), rows)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with monkeypatch.context() as patch, pytest.raises(UserError, match="GB free"):
        small_disk(patch, 10)
        ReplayBuffer(10, 2, 3, slack=5, directory=tmp_path, rows=12)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_disk_that_is_just_large_enough_will_do(tmp_path, monkeypatch):
    needed = 100 * (4 * (2 + 3 + 1 + 2) + 2)
    small_disk(monkeypatch, needed - 1)
    with pytest.raises(UserError):
        ReplayBuffer(100, 2, 3, directory=tmp_path)
    small_disk(monkeypatch, needed)
    ReplayBuffer(100, 2, 3, directory=tmp_path)


def add_pictures(replay, rows):
    """Of episodes of one step, in two environments: each takes two slots for frames."""
    for t in range(rows):
        picture = np.full((2, 2, 2, 2), 2 * t, np.uint8)
        replay.add(picture, [[0], [0]], [t, t], picture + np.uint8([0, 1]), np.ones(2, bool), np.zeros(2, bool))


def test_from_images_a_block_is_the_same_when_the_next_checkpoint_but_one_was_due():
    """The ring must not have come round to its frames, of which there are two for each row."""
    config = Config(
        num_envs=2,
        warmup_steps=8,
        batch_size=10,
        update_every=4,
        replay_capacity=20,
        total_steps=400,
        checkpoint_every=20,
        frame_stack=2,
    )
    due, blocks = (config.learning_starts + 6 * config.update_every) // 2, []
    for rows in (due, due + 2 * config.checkpoint_every // 2 - 1):
        replay = make_replay(config, (2, 2, 2), 1)
        add_pictures(replay, rows)
        blocks.append(numpy_batch(next(schedule.blocks(replay, config, 5, image=True))))
    assert_same(*blocks)


@pytest.mark.parametrize("written", [4, 40])
def test_a_longer_ring_of_pictures_keeps_its_frames(tmp_path, written):
    """Frames come round sooner than rows."""
    shape = dict(num_envs=2, frame_stack=2, directory=tmp_path)
    old = ReplayBuffer(20, (2, 2, 2), 1, slack=10, **shape)
    add_pictures(old, written)
    old.flush()
    kept = old.sample(np.random.default_rng(0), (200,))
    assert len(np.unique(kept.observation)) >= 4  # rows
    longer = ReplayBuffer(20, (2, 2, 2), 1, slack=100, rows=written, **shape)
    assert_same(longer.sample(np.random.default_rng(0), (200,)), kept)


def test_a_longer_ring_is_on_the_disk_before_the_shorter_one_goes(tmp_path, disk, monkeypatch):
    ReplayBuffer(20, 1, 1, directory=tmp_path / "replay").flush()
    disk.clear()
    monkeypatch.setattr(ring.shutil, "rmtree", lambda path, **_: disk.append(f"delete {path.name}"))
    ReplayBuffer(20, 1, 1, slack=20, rows=10, directory=tmp_path / "replay")
    done = ["rename partial", "sync ring-40", "sync replay", f"sync {tmp_path.name}", "delete ring-20"]
    assert disk[disk.index("rename partial") :] == done
