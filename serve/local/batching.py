"""Requests that wait while TensorFlow computes are answered together by its next call.

One request alone is never delayed, unless a batch timeout asks for it. Results are those of separate calls up to
the rounding of matrix products. Limits and error texts are those of TF Serving's batching (its batching guide).
"""

import asyncio
import collections
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve.local.config import Batching
from serve.local.errors import ServingError, invalid
from serve.local.session import Signature

Arrays = list[np.ndarray]


@dataclass
class _Batch:
    """Requests that one call will answer.

    Attributes:
      shapes: of each input, without dim 0: of requests alike; None: of one request that cannot be joined.
      waited: long enough for company.
      timer: that will say so.
    """

    shapes: list[tuple[int, ...]] | None
    rows: int = 0
    requests: list[tuple[Arrays, asyncio.Future]] = field(default_factory=list)
    waited: bool = False
    timer: asyncio.TimerHandle | None = None


class Coalescer:
    """The queue of one signature of one model version.

    Requests enter it, and wait for company, in the event loop. The executor's threads, which all models share, take out
    what has waited enough, so that a busy loop does not hold up TensorFlow; only the end of a wait needs the loop.
    """

    def __init__(self, signature: Signature, executor: Executor, limits: Batching):
        self._signature = signature
        self._executor = executor
        self._limits = limits
        self._lock = threading.Lock()  # guards what follows
        self._queue: collections.deque[_Batch] = collections.deque()
        self._workers = 0
        self._calls = 0  # that run now

    async def run(self, feeds: Arrays) -> Arrays:
        """What `Signature.run` would return, or raise, for these feeds.

        Raises:
          ServingError: UNAVAILABLE, the queue is full; INVALID_ARGUMENT, batching is on and cannot take them.
        """
        rows = _rows(feeds)
        if self._limits.strict:
            self._check(feeds, rows)
        shapes = [array.shape[1:] for array in feeds] if self._signature.batched and rows is not None else None
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            last = self._queue[-1] if self._queue else None
            if not (last and shapes and last.shapes == shapes and last.rows + rows <= self._limits.max_batch_size):
                self._require_room()
                last = _Batch(shapes, waited=not self._limits.timeout)
                self._queue.append(last)
                if self._limits.timeout:
                    last.timer = loop.call_later(self._limits.timeout, self._waited, last)
            last.requests.append((feeds, future))
            last.rows += rows or 0
            self._set_to_work()
        return await future

    def _waited(self, batch: _Batch) -> None:
        with self._lock:
            batch.waited = True
            self._set_to_work()

    def _set_to_work(self) -> None:
        """One more worker, where there is a batch for it."""
        ripe = len(self._queue) - (bool(self._queue) and not self._ripe(self._queue[-1]))
        if self._workers < min(self._limits.threads, self._calls + ripe):
            self._workers += 1
            self._executor.submit(self._work)

    def _require_room(self) -> None:
        # An idle worker is about to take one off the queue.
        enqueued, limit = len(self._queue) - (self._limits.threads - self._calls), self._limits.max_enqueued_batches
        if enqueued >= limit:
            raise ServingError(
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; "
                f"currently {enqueued} batches enqueued and max_enqueued_batches is {limit}",
            )

    def _check(self, feeds: Arrays, rows: int | None) -> None:
        if any(not array.ndim for array in feeds):
            raise invalid("Batching Run() input tensors must have at least one dimension")
        if rows is None:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        if rows > self._limits.max_batch_size:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {self._limits.max_batch_size}")

    def _work(self) -> None:
        """Answers the batch that waits longest, then lets the executor's other work go first."""
        with self._lock:
            if not (self._queue and self._ripe(self._queue[0])):  # another worker was faster
                self._workers -= 1
                return
            batch = self._queue.popleft()
            self._calls += 1
        results = answer_together(self._signature, [feeds for feeds, _ in batch.requests])
        batch.requests[0][1].get_loop().call_soon_threadsafe(_deliver, batch, results)
        with self._lock:
            self._calls -= 1
            if self._queue:
                self._executor.submit(self._work)
            else:
                self._workers -= 1

    def _ripe(self, batch: _Batch) -> bool:
        """Whether a batch waits for no more company. Only the last one in the queue takes more."""
        full = batch.shapes is None or batch.rows >= self._limits.max_batch_size
        return batch.waited or full or batch is not self._queue[-1]


def _deliver(batch: _Batch, results: list[Arrays | Exception]) -> None:
    if batch.timer:
        batch.timer.cancel()  # it holds what was asked and answered
    for (_, future), result in zip(batch.requests, results, strict=True):
        if future.cancelled():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


def answer_together(signature: Signature, requests: Sequence[Arrays]) -> list[Arrays | Exception]:
    """One result or error per request, from one call where the model allows it."""
    if len(requests) > 1:
        results = _attempt(lambda: _run_merged(signature, requests))
        if isinstance(results, ServingError) and results.http_status != 400:
            return [results] * len(requests)
        if isinstance(results, list):
            return results
        # One of them is at fault, or the outputs are not one row per input row: each for itself.
    return [_attempt(lambda feeds=feeds: signature.run(feeds)) for feeds in requests]


def _run_merged(signature: Signature, requests: Sequence[Arrays]) -> list[Arrays] | None:
    """One result per request; None if the outputs have not one row per input row."""
    ends = np.cumsum([len(feeds[0]) for feeds in requests])
    outputs = signature.run([np.concatenate(parts) for parts in zip(*requests, strict=True)])
    if any(not output.ndim or len(output) != ends[-1] for output in outputs):
        return None
    return [list(parts) for parts in zip(*(np.split(output, ends[:-1]) for output in outputs), strict=True)]


def _attempt(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        return error


def _rows(feeds: Arrays) -> int | None:
    """The common size of dim 0; None if there is none."""
    sizes = {len(array) if array.ndim else None for array in feeds}
    return sizes.pop() if len(sizes) == 1 else None
