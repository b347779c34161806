"""Asks a deployed policy for one action and prints it as JSON.

python -m serve.query --url=http://localhost:8501 --model_name=policy --observation='[0.1, 0.2, 0.3]'
python -m serve.query --model_name=reach --observation='{"position": [0.1, 0.2], "goal": [0.5, 0.5]}'
python -m serve.query --model_name=policy --sample
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from ddpg_tf.cli import definers, parse, run
from ddpg_tf.errors import UsageError, UserError
from serve.client import PolicyError
from serve.client_flags import client_from_flags, define_server_flags


def _sample(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A made-up observation: normal numbers, or bytes for pixels."""
    rng = np.random.default_rng()
    sample = {}
    for name, info in inputs.items():
        if not info["shape"] or None in info["shape"][1:]:
            raise UserError(f"--sample: the model does not say which shape {name} has")
        shape = info["shape"][1:]
        pixels = info["dtype"] == "DT_UINT8"
        sample[name] = (rng.integers(256, size=shape) if pixels else rng.normal(size=shape).round(3)).tolist()
    return sample


def _brief(observation: dict[str, Any]) -> str:
    text = json.dumps(observation)
    if len(text) < 4000:
        return text
    return ", ".join(f"{name} {list(np.shape(value))}, random" for name, value in observation.items())


def main(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    define_server_flags(values)
    define = definers(values)
    define.string(
        "observation",
        None,
        "JSON: an array, or for several inputs an object of arrays by the inputs' "
        "names or the environment's keys; with one dimension more, a batch",
    )
    define.boolean(
        "sample",
        False,
        "draw an observation that fits the model's signature (normal numbers, bytes for pixels); print it to stderr",
    )
    parse(argv, values, __doc__)
    if (values.observation is None) == (not values.sample):
        raise UsageError("give either --observation or --sample")
    try:
        observation = None if values.sample else json.loads(values.observation)
    except ValueError as error:
        raise UsageError(f"--observation is not JSON: {error}") from None
    with client_from_flags(values) as client:
        try:
            if values.sample:
                observation = _sample(client.inputs())
                print(f"observation: {_brief(observation)}", file=sys.stderr)
            action = client.act(observation)
        except PolicyError as error:
            raise UserError(error.message) from None
    # Through text, so that a float32 shows its own digits and not those of the nearest float64.
    print(json.dumps(action.astype(str).astype(np.float64).tolist()))


if __name__ == "__main__":
    run(main)
