"""Policy -> verified, versioned, warm SavedModel in <export_dir>/<integer>/, as TensorFlow Serving loads it."""

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np

from ddpg_tf import child
from ddpg_tf._tf import keras, os_errors, tf
from ddpg_tf.errors import UserError
from ddpg_tf.export import versions
from ddpg_tf.storage import run_dir
from ddpg_tf.storage.policy import Policy


def write_version(policy: Policy, export_dir: Path, version: int | None = None, *, live: bool = False) -> Path:
    """Writes `policy` beside the versions in `export_dir`, verifies it there, and renames it to its version.

    Args:
      version: the directory's name; default one above every existing one.
      live: published by training, which may delete it again (`versions.prune`).
    Returns:
      The version's directory.
    Raises:
      UserError: the version is not above the existing ones, the directory cannot be written, or the artefact does
        not answer as the live policy does.
    """
    try:
        export_dir.mkdir(parents=True, exist_ok=True)
        versions.require_above(export_dir, version)
        probes = _probes(policy)
        with versions.in_the_making(export_dir) as partial:
            with os_errors():
                _write(policy, partial / "model", probes, live)
            _verify(partial / "model", probes)
            return versions.rename_to_version(partial / "model", export_dir, version)
    except OSError as error:
        raise UserError(f"cannot export to {export_dir}: {error}") from None


def _write(policy: Policy, path: Path, probes: dict[str, np.ndarray], live: bool):
    """The SavedModel contract: serving_default (observation -> action), action_value (observation, action -> q).

    From pixels also observation_bytes (PNG files, the oldest frame first -> action).
    """
    actor, critic, leaves = policy.agent.actor, policy.agent.critic, policy.spaces.leaves

    def flat(inputs):  # as gymnasium.spaces.flatten does
        if policy.spaces.image:  # convolutions would take other sizes, and twice the channels
            return tf.ensure_shape(inputs["observation"], [None, *policy.spaces.observation_shape])
        rows = tf.shape(next(iter(inputs.values())))[0]
        return tf.concat([tf.reshape(inputs[name], [rows, int(np.prod(shape))]) for name, shape in leaves.items()], 1)

    kind = tf.as_dtype(policy.spaces.observation_dtype)
    observation = {name: tf.TensorSpec([None, *shape], kind, name=name) for name, shape in leaves.items()}
    action = tf.TensorSpec([None, policy.spaces.action_size], tf.float32, name="action")
    archive = keras.export.ExportArchive()
    archive.track(actor)
    archive.track(critic)
    archive.add_endpoint(
        "serving_default", lambda inputs: {"action": actor(flat(inputs), training=False)}, input_signature=[observation]
    )
    archive.add_endpoint(
        "action_value",
        lambda inputs: {"q": critic([flat(inputs), inputs["action"]], training=False)},
        input_signature=[observation | {"action": action}],
    )
    if policy.spaces.image:
        stack, shape = policy.config.frame_stack, policy.spaces.observation_shape
        pngs = tf.TensorSpec([None, stack], tf.string, name="observation_bytes")
        archive.add_endpoint(
            "observation_bytes",
            lambda inputs: {"action": actor(decode_pngs(inputs["observation_bytes"], stack, shape), training=False)},
            input_signature=[{"observation_bytes": pngs}],
        )
    archive.write_out(str(path), verbose=False)
    extra = path / "assets.extra"
    extra.mkdir()
    _write_warmup(policy, extra / "tf_serving_warmup_requests", probes)
    (extra / "policy.json").write_text(json.dumps(_card(policy) | {"live": live}, indent=1))


def decode_pngs(pngs: tf.Tensor, stack: int, shape: tuple[int, ...]) -> tf.Tensor:
    """Strings [B, stack], a PNG file each -> images uint8 [B, H, W, C]; anything else is an invalid argument.

    Judged by their heads, before memory is spent on them; TensorFlow would take JPEG too, and turn colours into its own
    grey, which is not the one that was learnt from.
    """
    height, width, channels = shape
    one = [height, width, channels // stack]
    files = tf.ensure_shape(pngs, [None, stack])
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBB", width, height, 8, 0 if one[2] == 1 else 2)
    fits = tf.debugging.Assert(
        tf.reduce_all(tf.strings.substr(files, 0, len(head)) == head),
        [f"a frame must be a PNG file of {height} x {width} pixels in 8-bit {'grey' if one[2] == 1 else 'RGB'}"],
    )
    with tf.control_dependencies([fits]):
        files = tf.reshape(files, [-1])
    frames = tf.map_fn(
        lambda png: tf.ensure_shape(tf.io.decode_png(png, channels=one[2]), one),
        files,
        fn_output_signature=tf.TensorSpec(one, tf.uint8),
    )
    frames = tf.reshape(frames, [tf.shape(pngs)[0], stack, *one])
    return tf.reshape(tf.transpose(frames, [0, 2, 3, 1, 4]), [-1, height, width, channels])


def _card(policy: Policy) -> dict:
    """policy.json: what the model is."""
    config, spaces = policy.config, policy.spaces
    return {
        "environment": config.env,
        "env_kwargs": json.loads(config.env_kwargs),
        "run": policy.run,
        "step": policy.step,
        "score": policy.score,
        "observation": {
            name: {"key": spaces.keys[name], "shape": list(shape)} for name, shape in spaces.leaves.items()
        },
        "frame_stack": config.frame_stack if spaces.image else None,
        "action": {"low": spaces.low.tolist(), "high": spaces.high.tolist()},
        "flags": {
            name: value for name, value in dataclasses.asdict(config).items() if name not in ("run_dir", "export_dir")
        },
        "versions": run_dir.package_versions(),
    }


def _write_warmup(policy: Policy, path: Path, probes: dict[str, np.ndarray]):
    """A request of each signature, replayed by the server before the version goes live (SavedModel Warmup document)."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    observation = {name: probes[f"input/{name}"][:1] for name in policy.spaces.leaves}
    feeds = {"serving_default": observation, "action_value": observation | {"action": probes["given_action"][:1]}}
    if "pngs" in probes:
        feeds["observation_bytes"] = {"observation_bytes": probes["pngs"][:1]}
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, feed in feeds.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, array in feed.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def _probes(policy: Policy) -> dict[str, np.ndarray]:
    """7 observations, as input/<name>, with the live networks' answers: what `verify` compares with.

    Images also as PNG files, pngs [7, frame_stack].
    """
    spaces, agent, rng = policy.spaces, policy.agent, np.random.default_rng(0)
    given = rng.uniform(spaces.low, spaces.high, size=(7, spaces.action_size)).astype(np.float32)
    if spaces.image:
        height, width, channels = spaces.observation_shape
        # Patches: the mean of noise is the same for all, and so would be a young policy's answer.
        patches = rng.integers(0, 256, size=(7, 4, 4, channels), dtype=np.uint8)
        images = patches.repeat(-(-height // 4), 1)[:, :height].repeat(-(-width // 4), 2)[:, :, :width]
        pngs = [
            [tf.io.encode_png(frame).numpy() for frame in np.split(image, policy.config.frame_stack, axis=2)]
            for image in images
        ]
        return {
            "input/observation": images,
            "pngs": np.array(pngs, np.object_),
            "given_action": given,
            "action": agent.act(images),
            "q": agent.critic([images, given], training=False).numpy(),
        }
    flat = rng.normal(size=(7, spaces.observation_size)).astype(np.float32)
    if agent.normalizer:
        flat = flat * agent.normalizer.std.numpy() + agent.normalizer.mean.numpy()
    ends = np.cumsum([int(np.prod(shape)) for shape in spaces.leaves.values()])[:-1]
    parts = np.split(flat, ends, axis=1)
    leaves = {
        f"input/{name}": part.reshape(7, *shape)
        for part, (name, shape) in zip(parts, spaces.leaves.items(), strict=True)
    }
    return {
        **leaves,
        "given_action": given,
        "action": agent.act(flat),
        "q": agent.critic([flat, given], training=False).numpy(),
    }


def _verify(path: Path, probes: dict[str, np.ndarray]):
    """Runs `ddpg_tf.export.verify` in a fresh process that may use no accelerator."""
    file = path / "probes.npz"
    np.savez(file, **probes)
    done = child.run("ddpg_tf.export.verify", path, file)
    file.unlink()
    if done.returncode:
        raise UserError(f"the exported model does not answer as the policy does: {done.stderr.strip()[-2000:]}")
