"""Frames as PNG files: how a deployed policy that sees pixels is asked with few bytes."""

import io
import time
from dataclasses import dataclass, field

import numpy as np

from serve.client import PolicyClient


@dataclass
class Asking:
    """How a deployed policy that sees pixels is asked: with numbers and with PNG files, and what each took.

    Attributes:
      sizes: for each step the bytes of the question, with numbers and with files.
      latencies: seconds until the answer, likewise; making the files is not counted.
      apart: [A] for each step, how far the two actions are apart, in the environment's units.
    """

    client: PolicyClient
    stack: int
    sizes: list[tuple[int, int]] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    apart: list[np.ndarray] = field(default_factory=list)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action for an image uint8 [H, W, C], as PNG files have it."""
        files = to_pngs(observation, self.stack)
        began = time.perf_counter()
        plain = self.client.act(observation)
        asked, size = time.perf_counter(), self.client.bytes_sent
        action = self.client.act_on_pngs(files)
        self.latencies.append((asked - began, time.perf_counter() - asked))
        self.sizes.append((size, self.client.bytes_sent))
        self.apart.append(np.abs(plain - action))
        return action

    def summarise(self, allowed: np.ndarray) -> list[str]:
        """Prints bytes and latency of both; returns what went wrong: actions more than `allowed` [A] apart."""
        for i, name in enumerate(("numbers", "PNG files")):
            milliseconds = 1000 * np.array(self.latencies)[:, i]
            print(
                f"asked with {name}: {np.mean(self.sizes, axis=0)[i]:.0f} bytes a question, "
                f"latency p50 {np.median(milliseconds):.2f} ms, p99 {np.percentile(milliseconds, 99):.2f} ms"
            )
        largest = np.max(self.apart, axis=0)
        print(f"largest difference of their actions: {largest.max():.1e}", flush=True)
        return [f"numbers and PNG files gave actions that are {largest} apart"] if (largest > allowed).any() else []


def to_pngs(observation: np.ndarray, frames: int) -> list[bytes]:
    """The `frames` of an image uint8 [H, W, C] as PNG files."""
    from PIL import Image

    files = []
    for frame in np.split(observation, frames, axis=2):
        file = io.BytesIO()
        Image.fromarray(frame.squeeze(2) if frame.shape[2] == 1 else frame).save(file, "PNG", optimize=True)
        files.append(file.getvalue())
    return files
