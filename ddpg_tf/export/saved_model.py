"""Policy -> verified, versioned, warm SavedModel in <export_dir>/<integer>/, as TensorFlow Serving loads it."""

import functools
import json
import struct
from pathlib import Path

import numpy as np

from ddpg_tf._tf import keras, tf
from ddpg_tf.export import making
from ddpg_tf.export.verify import requests_of
from ddpg_tf.storage.policy import Policy


def write_version(policy: Policy, export_dir: Path, version: int | None = None, *, live: bool = False) -> Path:
    """Writes `policy` as a SavedModel; arguments and errors as those of `making.write_version`.

    Args:
      live: published by training, which may delete it again (`versions.prune`).
    Returns:
      The version's directory.
    """
    write = functools.partial(_write, policy, live)
    return making.write_version(policy, export_dir, version, "saved_model.pb", write, "ddpg_tf.export.verify")


def _write(policy: Policy, live: bool, path: Path, probes: dict[str, np.ndarray]):
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
    _write_warmup(extra / "tf_serving_warmup_requests", probes)
    (extra / "policy.json").write_text(json.dumps(making.card(policy) | {"live": live}, indent=1))


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


def _write_warmup(path: Path, probes: dict[str, np.ndarray]):
    """A request of each signature, replayed by the server before the version goes live (SavedModel Warmup document)."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, feed in requests_of(probes).items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, array in feed.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(array[:1]))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
