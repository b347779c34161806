"""Flags <-> Config, presets, and what each wrong value is answered with."""

import dataclasses
import json
import re

import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from other_values import OTHER

from ddpg_tf.config import FIELDS, Config
from ddpg_tf.consistency import without_effect
from ddpg_tf.envs import registry
from ddpg_tf.errors import UsageError
from ddpg_tf.flags import PRESETS, define_flags, parse_command_line, read_flags, settings_of

PRESET_FILES = sorted(PRESETS.rglob("*.flags"))
ENV_PRESETS = [path for path in PRESET_FILES if re.search(r"-v\d+$", path.stem)]


def name_of(path):
    """What --preset and, of an environment's preset, --env call it."""
    return str(path.relative_to(PRESETS).with_suffix(""))


def parse(*arguments):
    """What train.py makes of its command line."""
    return parse_command_line(["train.py", *arguments], "doc", registry.resolve_id)


def parsed(*arguments):
    return parse(*arguments)[0]


# Round trips ----------------------------------------------------------------------------------------------------------

positive = st.floats(1e-6, 1e6)
unit = st.floats(0, 1)
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
json_objects = st.dictionaries(
    words.filter(lambda key: key != "render_mode"),
    st.one_of(st.integers(-5, 5), st.booleans(), st.none(), words, st.lists(unit, max_size=2)),
    max_size=3,
)


@st.composite
def configs(draw):
    """Any valid Config, combinations included."""
    n, per_block = draw(st.integers(1, 8)), draw(st.integers(1, 20))
    every = n * draw(st.integers(1, 50))
    units = tuple(draw(st.lists(st.integers(1, 512), min_size=1, max_size=3)))
    batch = draw(st.integers(1, 300))
    steps = st.integers(0, 10**6)
    return Config(
        env=draw(st.sampled_from(["Pendulum-v1", "tests.toy_envs:ToyCounter-v0", "dm_control/cheetah-run-v0"])),
        total_steps=n * draw(st.integers(1, 10**7)),
        seed=draw(st.integers(0, 2**31 - 1)),
        export_dir=draw(st.sampled_from(["", "/models/x", "a dir", "--odd", "a=b", "ünicode", "#hash", "//x"])),
        keep_versions=draw(st.integers(1, 99)),
        env_kwargs=json.dumps(draw(json_objects), ensure_ascii=draw(st.booleans())),
        num_envs=n,
        vectorization=draw(st.sampled_from(["sync", "async"])),
        max_episode_steps=draw(steps),
        warmup_steps=draw(steps),
        update_every=every,
        updates_per_step=per_block / every,
        eval_every=draw(steps),
        eval_episodes=draw(st.integers(1, 99)),
        eval_envs=draw(st.integers(1, 99)),
        checkpoint_every=draw(steps),
        log_every=draw(steps),
        video_every=draw(steps),
        hidden_units=units,
        action_layer=draw(st.integers(0, min(1, len(units) - 1))),
        normalization=draw(st.sampled_from(["none", "batch", "layer"])),
        batch_norm_momentum=draw(unit),
        normalize_observations=draw(st.booleans()),
        final_init=draw(positive),
        gamma=draw(unit),
        tau=draw(st.floats(1e-6, 1)),
        batch_size=batch,
        replay_capacity=batch + draw(st.integers(0, 10**6)),
        n_step=draw(st.integers(1, 9)),
        actor_learning_rate=draw(positive),
        critic_learning_rate=draw(positive),
        critic_l2=draw(st.floats(0, 1e3)),
        noise=draw(st.sampled_from(["ou", "gaussian", "none"])),
        noise_sigma=draw(st.floats(0, 10)),
        noise_theta=draw(unit),
        noise_dt=draw(st.floats(1e-3, 1.9)),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_flags_txt_gives_back_the_config(tmp_path_factory, any_config):
    """Every field, floats to the last bit."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "flags.txt").write_text(any_config.to_flags())
    found = read_flags(directory / "flags.txt")
    assert json.loads(found.env_kwargs) == json.loads(any_config.env_kwargs)
    same = dict(run_dir=str(directory), env_kwargs=found.env_kwargs)
    assert found == dataclasses.replace(any_config, **same)


def test_json_of_several_lines_comes_back_from_flags_txt(tmp_path):
    """A flagfile has one flag a line; the shell, and Python, let people write JSON over several."""
    run = Config(env_kwargs='{\n  "g": 9.5,\n  "max_episode_steps": 7\n}')
    (tmp_path / "flags.txt").write_text(run.to_flags())
    assert json.loads(read_flags(tmp_path / "flags.txt").env_kwargs) == {"g": 9.5, "max_episode_steps": 7}


def test_flags_txt_is_a_flagfile_for_the_command_line(tmp_path):
    """`train.py --flagfile=RUN/flags.txt` repeats the run in a directory of its own; no preset is applied again."""
    run = parsed("--env=Pendulum-v1", "--tau=0.5", "--hidden_units=5,6,7", "--normalize_observations", "--run_dir=x")
    (tmp_path / "flags.txt").write_text(run.to_flags())
    again, resume, preset, _ = parse(f"--flagfile={tmp_path / 'flags.txt'}")
    assert again == dataclasses.replace(run, run_dir="") and not resume and preset is None


def test_every_field_is_a_flag_with_its_default():
    values = flags.FlagValues()
    groups = define_flags(values)
    values(["train.py"])
    assert set(groups) == set(FIELDS) | {"resume", "preset"}
    assert Config(**settings_of(values)) == Config()
    for name, field in FIELDS.items():
        assert values[name].help and field.metadata["group"] == groups[name]


def test_the_table_of_other_values_has_every_field():
    assert set(OTHER) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_each_flag_sets_its_field_and_no_other(name):
    text, value = OTHER[name]
    found = parsed("--preset=none", f"--{name}={text}", *["--update_every=5"] * (name == "actor_every"))
    expected = {name: value} | ({"update_every": 5} if name == "actor_every" else {})
    if name == "num_envs":
        expected["update_every"] = 4  # its default
    assert found == dataclasses.replace(Config(), **expected)
    assert getattr(found, name) != getattr(Config(), name)


def test_the_file_of_a_setting_that_is_gone_is_named(tmp_path):
    (tmp_path / "flags.txt").write_text("--gone=1\n")
    with pytest.raises(UsageError, match=r"flags\.txt: .*gone"):
        read_flags(tmp_path / "flags.txt")


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PRESET_FILES, ids=name_of)
def test_every_preset_parses_into_a_valid_config(path):
    assert parse(f"--preset={name_of(path)}").preset == path
    assert parsed(f"--preset={name_of(path)}") != Config()


@pytest.mark.parametrize("path", ENV_PRESETS, ids=name_of)
def test_the_environment_of_every_preset_exists_and_gets_it_automatically(path):
    name = name_of(path)
    found, _, preset, _ = parse(f"--env={name}")
    assert registry.resolve_id(name) == name == found.env and preset == path
    assert found == dataclasses.replace(parsed(f"--preset={name}"), env=name)


def test_the_environments_promised_have_a_preset():
    mujoco = (
        "InvertedPendulum",
        "InvertedDoublePendulum",
        "Reacher",
        "Pusher",
        "Swimmer",
        "Hopper",
        "HalfCheetah",
        "Walker2d",
        "Ant",
        "Humanoid",
    )
    promised = {
        "Pendulum-v1",
        "MountainCarContinuous-v0",
        "LunarLanderContinuous-v3",
        "BipedalWalker-v3",
        "paper",
        "CarRacing-v3",
        "pixels",
        "paper-pixels",
        *(f"{name}-v5" for name in mujoco),
    }
    assert promised <= set(map(name_of, PRESET_FILES))


# Lillicrap et al., section 7 (experiment details), low-dimensional observations.
PAPER = dict(
    actor_learning_rate=1e-4,
    critic_learning_rate=1e-3,
    critic_l2=1e-2,
    gamma=0.99,
    tau=1e-3,
    batch_size=64,
    replay_capacity=10**6,
    hidden_units=(400, 300),
    action_layer=1,
    final_init=3e-3,
    normalization="batch",
    noise="ou",
    noise_theta=0.15,
    noise_sigma=0.2,
    updates_per_step=1.0,
    update_every=1,
    num_envs=1,
    n_step=1,
    warmup_steps=0,
    normalize_observations=False,
)


# The same from pixels.
PAPER_PIXELS = PAPER | dict(
    batch_size=16,
    hidden_units=(200, 200),
    action_layer=0,
    final_init=3e-4,
    pixels=True,
    frame_size=64,
    frame_stack=3,
    action_repeat=3,
    frame_source="substeps",
    grayscale=False,
    encoder="separate",
    conv_filters=(32, 32, 32),
    bottleneck=0,
    random_shift=0,
)
OF_THE_PAPER = [("paper", name, value) for name, value in PAPER.items()] + [
    ("paper-pixels", name, value) for name, value in PAPER_PIXELS.items()
]


@pytest.mark.parametrize("preset, name, value", OF_THE_PAPER)
def test_the_papers_presets_hold_the_papers_values(preset, name, value):
    assert getattr(parsed(f"--preset={preset}"), name) == value


@pytest.mark.parametrize(
    "preset, more",
    [
        ("paper", ()),
        (
            "paper-pixels",
            (
                "pixels",
                "frame_size",
                "frame_stack",
                "action_repeat",
                "frame_source",
                "encoder",
                "conv_filters",
                "bottleneck",
                "random_shift",
            ),
        ),
    ],
)
def test_the_papers_presets_spell_out_what_the_paper_gives(preset, more):
    """So that they keep the paper's values when a default changes."""
    text = (PRESETS / f"{preset}.flags").read_text()
    for name in (
        "actor_learning_rate",
        "critic_learning_rate",
        "critic_l2",
        "gamma",
        "tau",
        "batch_size",
        "replay_capacity",
        "hidden_units",
        "action_layer",
        "final_init",
        "normalization",
        "noise",
        "noise_theta",
        "noise_sigma",
        "noise_dt",
        "updates_per_step",
        "warmup_steps",
        *more,
    ):
        assert re.search(rf"^--{name}=", text, re.MULTILINE), name


@pytest.mark.parametrize("flags", [["--preset=paper"], ["--preset=paper-pixels", "--pixels"], ["--pixels"]])
def test_presets_with_an_update_each_step_bear_several_environments(flags):
    found = [parsed("--env=Pendulum-v1", f"--num_envs={n}", *flags) for n in (1, 4)]
    assert [config.update_every for config in found] == [1, 4] and found[0].updates_per_step == 1


def test_pixels_choose_the_preset_for_pixels():
    assert parse("--env=InvertedPendulum-v5", "--pixels").preset == PRESETS / "pixels.flags"
    assert parse("--env=CarRacing-v3").preset == PRESETS / "CarRacing-v3.flags"
    assert parse("--env=InvertedPendulum-v5", "--pixels", "--preset=none").preset is None


@pytest.mark.parametrize("order", [0, 1])
def test_explicit_flags_win_over_the_preset_wherever_they_stand(order):
    arguments = ["--warmup_steps=7", "--env=Pendulum-v1"]
    found = parsed(*(arguments if order else arguments[::-1]))
    assert found.warmup_steps == 7 and found.update_every == 50  # the preset's


def test_an_explicit_default_wins_over_the_preset_too():
    assert parsed("--env=Pendulum-v1", "--total_steps=1000000").total_steps == 1_000_000
    assert parsed("--env=Ant-v5", "--nonormalize_observations").normalize_observations is False
    assert parsed("--env=Ant-v5").normalize_observations is True


def test_an_explicit_list_replaces_the_presets():
    assert parsed("--preset=paper", "--hidden_units=8,9").hidden_units == (8, 9)


def test_auto_is_none_for_an_environment_without_a_preset():
    found, _, preset, _ = parse("--env=tests.toy_envs:ToyCounter-v0")
    assert preset is None and found == Config(env="tests.toy_envs:ToyCounter-v0")


def test_auto_is_the_namespaces_where_the_environment_has_none_of_its_own():
    found, _, preset, _ = parse("--env=dm_control/cartpole-swingup-v0")
    assert preset.stem == "dm_control"
    assert found == dataclasses.replace(parsed("--preset=dm_control"), env="dm_control/cartpole-swingup-v0")
    assert parse("--env=dm_control/cartpole-swingup-v0", "--pixels").preset.stem == "pixels"


def test_none_is_the_defaults():
    found, _, preset, _ = parse("--env=Pendulum-v1", "--preset=none")
    assert preset is None and found == Config(env="Pendulum-v1")


def test_a_path_is_a_preset(tmp_path):
    (tmp_path / "mine.flags").write_text("# a comment\n\n--tau=0.125\n--seed=3\n")
    found, _, preset, _ = parse(f"--preset={tmp_path / 'mine.flags'}", "--seed=4")
    assert preset == tmp_path / "mine.flags" and (found.tau, found.seed) == (0.125, 4)


def test_a_named_preset_takes_the_place_of_the_environments():
    assert parsed("--env=Pendulum-v1", "--preset=paper").total_steps == Config().total_steps


@pytest.mark.parametrize("preset", ["papers", "", "/no/such/file.flags", ".", "../presets"])
def test_an_unknown_preset_names_those_there_are(preset):
    with pytest.raises(UsageError, match=f"no preset '{preset}'.*Pendulum-v1, .*paper"):
        parse(f"--preset={preset}")


@pytest.mark.filterwarnings("ignore:.*retired")
def test_a_retired_id_gets_the_preset_of_its_current_version():
    found, _, preset, _ = parse("--env=LunarLanderContinuous-v2")
    assert found.env == "LunarLanderContinuous-v3" and preset.stem == "LunarLanderContinuous-v3"


def test_resuming_takes_the_runs_own_flags_for_the_preset(tmp_path):
    (tmp_path / "flags.txt").write_text(Config(env="Pendulum-v1", tau=0.5).to_flags())
    found, resume, preset, _ = parse("--resume", f"--run_dir={tmp_path}", "--total_steps=9")
    assert resume and preset is None
    assert found == Config(env="Pendulum-v1", tau=0.5, total_steps=9, run_dir=str(tmp_path))


# Wrong values ---------------------------------------------------------------------------------------------------------

OUT_OF_RANGE = [
    ("collectors", -1),
    ("collector_cpus", 0),
    ("collector_timeout", 0),
    ("total_steps", 0),
    ("seed", -1),
    ("seed", 2**31),
    ("keep_versions", 0),
    ("num_envs", 0),
    ("warmup_steps", -1),
    ("update_every", -1),
    ("updates_per_step", 0),
    ("updates_per_step", -1),
    ("eval_every", -1),
    ("eval_episodes", 0),
    ("max_episode_steps", -1),
    ("eval_envs", -1),
    ("checkpoint_every", -1),
    ("log_every", -1),
    ("video_every", -1),
    ("hidden_units", (0,)),
    ("hidden_units", (64, -1)),
    ("action_layer", -1),
    ("action_layer", 2),
    ("batch_norm_momentum", -0.1),
    ("batch_norm_momentum", 1.1),
    ("final_init", 0),
    ("gamma", -0.1),
    ("gamma", 1.01),
    ("tau", 0),
    ("tau", 1.5),
    ("batch_size", 0),
    ("replay_capacity", 0),
    ("n_step", 0),
    ("actor_learning_rate", 0),
    ("critic_learning_rate", -1),
    ("critic_l2", -1e-9),
    ("noise_sigma", -0.1),
    ("noise_theta", -1),
    ("noise_dt", 0),
    ("frame_size", 7),
    ("frame_stack", 0),
    ("action_repeat", 0),
    ("conv_filters", (8, 0, 8)),
    ("conv_kernels", (0, 1, 1)),
    ("conv_strides", (1, 1, 0)),
    ("bottleneck", -1),
    ("random_shift", -1),
    ("actor_every", 0),
    ("actor_average", -0.1),
    ("actor_average", 1.1),
    ("target_noise_sigma", -0.1),
    ("target_noise_clip", -1),
    ("saturation_penalty", -1),
    ("noise_decay_steps", -1),
    ("noise_final_sigma", -0.1),
    ("random_share", 1.1),
    ("hindsight_share", -0.1),
    ("hindsight_share", 1.1),
]


@pytest.mark.parametrize("name, value", OUT_OF_RANGE)
def test_a_value_out_of_range_names_its_flag_the_limit_and_the_value(name, value):
    shown = min(value) if isinstance(value, tuple) else value
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    for attempt in (lambda: Config(**{name: value}), lambda: parse("--preset=none", f"--{name}={text}")):
        with pytest.raises(UsageError, match=rf"^{name} must be (at least|at most|above) \S+, not {shown}"):
            attempt()


def test_every_number_has_a_limit_that_is_tested():
    numbers = {name for name, field in FIELDS.items() if not isinstance(field.default, str | bool)}
    assert numbers == {name for name, _ in OUT_OF_RANGE}


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if isinstance(field.default, float)])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_names_its_flag(name, value):
    with pytest.raises(UsageError, match=f"^{name} must be"):
        parse("--preset=none", f"--{name}={value}")


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["choices"]])
def test_an_unknown_choice_names_its_flag_and_the_choices(name):
    choices = ", ".join(FIELDS[name].metadata["choices"])
    with pytest.raises(UsageError, match=f"^{name} must be one of {choices}, not 'Some'"):
        parse(f"--{name}=Some")


@pytest.mark.parametrize(
    "settings, names",
    [
        (dict(replay_capacity=100, batch_size=101), ["replay_capacity (100)", "batch_size (101)"]),
        (dict(conv_filters=(8, 8)), ["conv_filters, conv_kernels and conv_strides"]),
        (dict(frame_source="substeps", frame_stack=4), ["frame_stack (4)", "action_repeat (3)"]),
        (dict(total_steps=1001, num_envs=4), ["total_steps (1001)", "num_envs (4)"]),
        (dict(update_every=6, num_envs=4), ["update_every (6)", "num_envs (4)"]),
        (dict(eval_envs=0, num_envs=2), ["eval_envs 0", "num_envs 1"]),
        (dict(eval_envs=0, vectorization="async"), ["eval_envs 0", "vectorization sync"]),
        (dict(update_every=3, updates_per_step=0.5), ["update_every", "updates_per_step", "1.5"]),
        (dict(update_every=10, updates_per_step=0.01), ["update_every", "updates_per_step", "0.1"]),
        (dict(updates_per_step=0.25), ["update_every", "updates_per_step", "0.25"]),
        (dict(update_every=50, actor_every=4), ["actor_every (4)", "block's updates (50"]),
        (dict(action_layer=1, hidden_units=(64,)), ["action_layer 1", "2 hidden_units"]),
        (dict(noise="ou", noise_theta=4, noise_dt=0.5), ["noise_theta", "noise_dt"]),
        (dict(env_kwargs="{g: 9}"), ["env_kwargs is not JSON"]),
        (dict(env_kwargs="[1]"), ["env_kwargs must be a JSON object"]),
        (dict(env_kwargs='{"render_mode": "human"}'), ["env_kwargs", "render_mode"]),
    ],
)
def test_settings_that_contradict_each_other_are_all_named(settings, names):
    arguments = [f"--{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in settings.items()]
    for attempt in (lambda: Config(**settings), lambda: parse("--preset=none", *arguments)):
        with pytest.raises(UsageError) as caught:
            attempt()
        for name in names:
            assert name in str(caught.value)


def changed_for_nothing(config, image):
    return {n for names, _ in without_effect(config, image) for n in names if getattr(config, n) != FIELDS[n].default}


@pytest.mark.parametrize(
    "settings, beside",
    [
        (dict(grayscale=True), dict()),
        (dict(random_shift=0), dict()),
        (dict(collector_cpus=2.0), dict(collectors=1)),
        (dict(hindsight_share=0.5), dict(hindsight="future")),
        (dict(noise_theta=0.3), dict(noise="ou")),
        (dict(noise_final_sigma=0.01), dict(noise_decay_steps=1000)),
        (dict(target_noise_clip=0.3), dict(target_noise_sigma=0.2)),
        (dict(batch_norm_momentum=0.9), dict(normalization="batch")),
        (dict(keep_versions=3), dict(export_dir="models")),
    ],
)
def test_settings_without_effect_are_known(settings, beside):
    (name,) = settings
    assert changed_for_nothing(Config(**settings), image=False) == {name}
    assert not changed_for_nothing(Config(**settings, **beside), image=not beside)


def test_noise_that_there_is_none_of_has_no_effect():
    settings = dict(noise_sigma=0.3, noise_decay_steps=9, noise_final_sigma=0.2)
    assert changed_for_nothing(Config(noise="none", **settings), image=False) == settings.keys()
    assert not changed_for_nothing(Config(**settings), image=False)


@pytest.mark.parametrize("path", PRESET_FILES, ids=name_of)
def test_no_preset_sets_what_has_no_effect(path):
    config = parsed(f"--preset={path}")
    assert not changed_for_nothing(config, config.pixels or path.stem == "CarRacing-v3")


@pytest.mark.parametrize(
    "settings",
    [
        dict(replay_capacity=256),
        dict(total_steps=1000, num_envs=4),
        dict(update_every=8, num_envs=4),
        dict(update_every=50, updates_per_step=0.02),
        dict(update_every=3, updates_per_step=1 / 3),
        dict(gamma=0, tau=1),
        dict(action_layer=1, hidden_units=(64, 64)),
        dict(noise="gaussian", noise_theta=4, noise_dt=0.5),
        dict(gamma=1),
        dict(noise="ou", noise_theta=1, noise_dt=1.9),
        dict(total_steps=10, warmup_steps=1000),
        dict(seed=2**31 - 1),
    ],
)
def test_settings_on_the_right_side_of_the_limit_are_accepted(settings):
    for name, value in settings.items():
        assert getattr(Config(**settings), name) == value


@pytest.mark.parametrize(
    "argument, says",
    [
        ("--seed=x", "seed"),
        ("--total_steps=1e6", "total_steps"),
        ("--total_steps=1.5", "total_steps"),
        ("--tau=small", "tau"),
        ("--normalize_observations=perhaps", "normalize_observations"),
        ("--seed", "seed"),
        ("--hidden_units=256,x", "hidden_units"),
        ("--hidden_units=", "hidden_units"),
        ("--hidden_units=64.5", "hidden_units"),
        ("--learning_rate=1", "learning_rate"),
        ("Pendulum-v1", "Pendulum-v1"),
        ("--flagfile=/no/such/file", "/no/such/file"),
        ("--tau=0.1 x", "tau"),
    ],
)
def test_what_does_not_parse_is_a_usage_error_that_names_it(argument, says):
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        parse("--preset=none", argument)
    assert "\n" not in str(caught.value)


def test_a_flagfile_that_is_no_text_is_a_usage_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe\x00\x80")
    for flag in ("flagfile", "preset"):
        with pytest.raises(UsageError, match=r"flagfile|preset"):
            parse(f"--{flag}={tmp_path / 'binary'}")


# Derived values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, starts, updates",
    [
        (dict(warmup_steps=1000, update_every=50), 1000, 50),
        (dict(warmup_steps=1001, update_every=50), 1050, 50),
        (dict(warmup_steps=0, batch_size=64), 64, 1),  # a minibatch must be there
        (dict(warmup_steps=0, batch_size=64, update_every=50), 100, 50),
        (dict(warmup_steps=100, batch_size=256, num_envs=4), 256, 4),
        (dict(warmup_steps=300, batch_size=256, num_envs=7, total_steps=7000), 301, 7),
        (dict(warmup_steps=1000, update_every=50, updates_per_step=0.02), 1000, 1),
        (dict(warmup_steps=1000, update_every=20, updates_per_step=1.5), 1000, 30),
        (dict(warmup_steps=1000, update_every=3, updates_per_step=1 / 3), 1002, 1),
    ],
)
def test_learning_starts_and_updates_per_block(settings, starts, updates):
    found = Config(**settings)
    assert (found.learning_starts, found.updates_per_block) == (starts, updates)


@settings(max_examples=100, deadline=None)
@given(configs())
def test_learning_starts_on_a_block_with_warm_up_and_a_minibatch_behind_it(any_config):
    starts, needed = any_config.learning_starts, max(any_config.warmup_steps, any_config.batch_size)
    assert needed <= starts < needed + any_config.update_every
    assert starts % any_config.update_every == any_config.update_every % any_config.num_envs == 0
    assert any_config.updates_per_block >= 1


@pytest.mark.parametrize("num_envs", [1, 3, 16])
def test_update_every_is_num_envs_by_default(num_envs):
    assert Config(num_envs=num_envs, total_steps=48_000).update_every == num_envs
    assert parsed("--preset=none", f"--num_envs={num_envs}", "--total_steps=48000").update_every == num_envs


# From Python ----------------------------------------------------------------------------------------------------------


def test_python_callers_may_give_what_is_natural_there(tmp_path):
    found = Config(
        hidden_units=[64, 32],
        env_kwargs={"g": 9.5},
        run_dir=tmp_path,
        export_dir=tmp_path / "x",
        gamma=1,
        seed=np.int64(3),
        total_steps=1e6,
        tau=np.float32(0.5),
    )
    assert found.hidden_units == (64, 32) and found.env_kwargs == '{"g": 9.5}' and found.gamma == 1.0
    assert found.run_dir == str(tmp_path) and found.export_dir == str(tmp_path / "x") and found.tau == 0.5
    assert type(found.seed) is int and type(found.total_steps) is int and type(found.gamma) is float
    assert Config(hidden_units=64).hidden_units == (64,)
    hash(found)  # frozen, and nothing mutable inside


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().gamma = 0.5


@pytest.mark.parametrize(
    "name, value",
    [
        ("seed", "5"),
        ("seed", 1.5),
        ("seed", True),
        ("seed", None),
        ("total_steps", float("inf")),
        ("gamma", "high"),
        ("gamma", None),
        ("normalize_observations", 1),
        ("normalize_observations", "true"),
        ("env", 3),
        ("env", None),
        ("hidden_units", "64"),
        ("hidden_units", None),
        ("hidden_units", [64.5]),
        ("hidden_units", ()),
        ("noise", None),
        ("env_kwargs", [1]),
        ("env_kwargs", {"a": object()}),
    ],
)
def test_a_value_of_the_wrong_type_names_its_field(name, value):
    with pytest.raises(UsageError, match=f"^{name} "):
        Config(**{name: value})


@pytest.mark.parametrize("value", ["a\nb", "a ", " a"])
def test_a_path_that_no_flagfile_can_hold(value):
    with pytest.raises(UsageError, match=r"^export_dir must not have line breaks, or white space around it"):
        Config(export_dir=value)


def test_a_limit_of_its_own_flag_wins_over_that_of_env_kwargs():
    config = Config(env_kwargs={"g": 5, "max_episode_steps": 9}, max_episode_steps=4)
    assert config.env_arguments == {"g": 5, "max_episode_steps": 4}
