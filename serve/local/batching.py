"""Requests that wait while TensorFlow computes are answered together by its next call.

One request alone is never delayed. Results are those of separate calls up to the rounding of matrix products,
as with TF Serving's own batching.
"""

import asyncio
import collections
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from serve.local.session import Signature

_MAX_ROWS = 1000  # TF Serving's default max_batch_size

Arrays = list[np.ndarray]


class Coalescer:
    """The queue of one signature of one model version; its methods belong to the event loop's thread."""

    def __init__(self, signature: Signature, executor: Executor):
        self._signature = signature
        self._executor = executor
        self._waiting: collections.deque[tuple[Arrays, asyncio.Future]] = collections.deque()
        self._worker: asyncio.Task | None = None

    async def run(self, feeds: Arrays) -> Arrays:
        """What `Signature.run` would return, or raise, for these feeds."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((feeds, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            requests = [feeds for feeds, _ in batch]
            results = await loop.run_in_executor(self._executor, answer_together, self._signature, requests)
            for (_, future), result in zip(batch, results, strict=True):
                if future.cancelled():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._worker = None

    def _take(self) -> list[tuple[Arrays, asyncio.Future]]:
        """The first request waiting, and those behind it that can join it."""
        batch = [self._waiting.popleft()]
        feeds = batch[0][0]
        rows = _rows(feeds) if self._signature.batched else None
        if rows is None:
            return batch
        while self._waiting:
            more = _rows(self._waiting[0][0])
            if more is None or rows + more > _MAX_ROWS or not _alike(feeds, self._waiting[0][0]):
                break
            rows += more
            batch.append(self._waiting.popleft())
        return batch


def answer_together(signature: Signature, requests: Sequence[Arrays]) -> list[Arrays | Exception]:
    """One result or error per request, from one call where the model allows it."""
    if len(requests) > 1:
        sizes = [len(feeds[0]) for feeds in requests]
        merged = _attempt(signature, [np.concatenate(parts) for parts in zip(*requests, strict=True)])
        if not isinstance(merged, Exception) and all(output.ndim and len(output) == sum(sizes) for output in merged):
            ends = np.cumsum(sizes)[:-1]
            return [list(parts) for parts in zip(*(np.split(output, ends) for output in merged), strict=True)]
        # One of them is at fault, or the outputs are not one row per input row: each for itself.
    return [_attempt(signature, feeds) for feeds in requests]


def _attempt(signature: Signature, feeds: Arrays) -> Arrays | Exception:
    try:
        return signature.run(feeds)
    except Exception as error:
        return error


def _rows(feeds: Arrays) -> int | None:
    """The common size of dim 0; None if there is none."""
    sizes = {len(array) if array.ndim else None for array in feeds}
    return sizes.pop() if len(sizes) == 1 else None


def _alike(feeds: Arrays, others: Arrays) -> bool:
    return all(a.shape[1:] == b.shape[1:] for a, b in zip(feeds, others, strict=True))
