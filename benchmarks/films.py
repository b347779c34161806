"""One moving picture of several policies side by side: of each run the first episode of its best weights.

    python -m benchmarks.films RUN_DIR [RUN_DIR ...] [--out=benchmarks/results/films.gif] [--seconds=6]

An episode that ends sooner begins again. Needs what `python -m ddpg_tf.evaluate --video` needs.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from ddpg_tf import cli
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.evaluation import video
from ddpg_tf.evaluation.evaluator import FIRST_SEED, play
from ddpg_tf.files import write_atomically

SIDE, PER_SECOND, IN_A_ROW = 128, 12, 5


def main(argv):
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("out", "benchmarks/results/films.gif", "file for the picture")
    define.float("seconds", 6.0, "how long it is", lower_bound=0.5)
    runs = [Path(run) for run in cli.parse(argv, values, __doc__, positional=True)]
    if not runs:
        raise UsageError("name at least one run directory")
    tiles = [_film(run, round(values.seconds * PER_SECOND)) for run in runs]
    _write(Path(values.out), _side_by_side(tiles))
    print(f"{values.out}: {', '.join(run.name for run in runs)}")


def _film(run: Path, count: int) -> list[np.ndarray]:
    """`count` pictures uint8 [SIDE, SIDE, 3], PER_SECOND of them for a second of the film of an episode."""
    import imageio

    from ddpg_tf.storage.policy import load_policy

    policy = load_policy(run)
    (episode,) = play(policy.config, policy.agent.act, 1)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "film.mp4"
        if reason := video.record(path, policy.config, FIRST_SEED, episode.actions):
            raise UserError(f"{run}: {reason}")
        with imageio.get_reader(path) as reader:
            each, found = reader.get_meta_data()["fps"] / PER_SECOND, [*reader.iter_data()]
    return [_square(found[int(i * each) % len(found)]) for i in range(count)]


def _square(frame: np.ndarray) -> np.ndarray:
    """The middle of it, made small."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(frame[top : top + side, left : left + side])
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _side_by_side(tiles: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The pictures of all films at a time as one, IN_A_ROW in a row; what is left over is white."""
    white = [np.full_like(tiles[0][0], 255)] * len(tiles[0])
    tiles = [*tiles, *[white] * (-len(tiles) % min(IN_A_ROW, len(tiles)))]
    rows = [tiles[i : i + IN_A_ROW] for i in range(0, len(tiles), IN_A_ROW)]
    return [
        np.concatenate([np.concatenate([film[t] for film in row], axis=1) for row in rows])
        for t in range(len(tiles[0]))
    ]


def _write(path: Path, pictures: Sequence[np.ndarray]):
    """As a GIF that goes on for ever; 64 colours, or it would be too large for a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(picture).quantize(64) for picture in pictures]
    how = dict(format="GIF", save_all=True, append_images=others, duration=1000 // PER_SECOND, loop=0)
    write_atomically(path, lambda file: first.save(file, **how))


if __name__ == "__main__":
    cli.run(main)
