"""Which versions of a model there are, and keeping up with the directory they come from.

A model's base path holds one directory per version, named by an integer; by default the highest is served. A new
version is loaded and warmed up before the one before it leaves; one that cannot be loaded never disturbs the others.
Source: TF Serving's documentation of its file-system source.
"""

import asyncio
import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serve.local.batching import Arrays, Coalescer
from serve.local.config import Batching, Loading, ModelConfig
from serve.local.errors import ServingError
from serve.local.session import SavedModel, Signature

State = ModelVersionStatus.State
MAX_VERSION = 2**63 - 1
_VERSION_NAME = re.compile(r"\s*\+?[0-9]+\s*")
_RETIRE_SECONDS = 1.0


class Version:
    """One version, from the first sight of its directory until it is unloaded; wanted again, it is a new one."""

    def __init__(self, number: int):
        self.number = number
        self.state = State.START
        self.error: ServingError | None = None
        self.model: SavedModel | None = None
        self.attempts = 0
        self.retry_at = 0.0
        self._coalescers: dict[Signature, Coalescer] = {}
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, signature: Signature, feeds: Arrays, executor: ThreadPoolExecutor, limits: Batching) -> Arrays:
        """Answers one request, of somebody who has the version `in_use`."""
        if signature not in self._coalescers:
            self._coalescers[signature] = Coalescer(signature, executor, limits)
        return await self._coalescers[signature].run(feeds)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the version loaded meanwhile."""
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def retire(self) -> None:
        """Takes no new request, answers those it has, and frees its memory."""
        self.state, self.error = State.UNLOADING, None
        await self._idle.wait()
        if self.model:
            self.model.close()
        self.model = None
        self._coalescers.clear()
        self.state = State.END


class Model:
    """The versions of one model. Its methods belong to the event loop's thread.

    Attributes:
      config: None once the configuration no longer has the model; its versions then leave.
    """

    def __init__(self, config: ModelConfig, loading: Loading, log: Callable[[str], None]):
        self.name = config.name
        self.config: ModelConfig | None = config
        self.versions: dict[int, Version] = {}
        self._loading = loading
        self._log = log
        self._complaint: str | None = None
        self._retiring: set[asyncio.Task] = set()

    def available(self, number: int) -> bool:
        return number in self.versions and self.versions[number].state == State.AVAILABLE

    @property
    def latest(self) -> Version | None:
        """The highest version that answers requests."""
        available = [number for number in self.versions if self.available(number)]
        return self.versions[max(available)] if available else None

    async def poll(self, executor: ThreadPoolExecutor) -> None:
        """Looks at the base path once: loads the wanted versions that are new, then unloads the others."""
        directories, wanted, config = {}, [], self.config
        if config:
            loop = asyncio.get_running_loop()
            try:
                directories = await loop.run_in_executor(executor, _version_directories, config.base_path)
            except OSError as error:  # it is not there, or not now: what is loaded stays
                self._complain(config.base_path, error)
                return
            self._complaint = None
            wanted = config.wanted(directories)
        for number in wanted:
            version = self.versions.setdefault(number, Version(number))
            if version.state == State.END and not version.error:  # it was served before, and is wanted again
                version = self.versions[number] = Version(number)
            if version.state in (State.START, State.LOADING) and time.monotonic() >= version.retry_at:
                await self._load(version, directories[number], executor)
        if wanted and not any(map(self.available, wanted)):
            return  # what was served before still is
        for number, version in self.versions.items():
            if number not in wanted and version.state not in (State.UNLOADING, State.END):
                await self._retire(version)

    async def _retire(self, version: Version) -> None:
        """Unloads a version; one with a long request goes on alone, so that others need not wait."""

        async def retire() -> None:
            await version.retire()
            self._log(f"unloaded version {version.number} of {self.name}")

        task = asyncio.create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        await asyncio.wait([task], timeout=_RETIRE_SECONDS)

    def _complain(self, base_path: str, error: OSError) -> None:
        """Says once why the base path cannot be listed; that it is not there yet is said elsewhere."""
        if error.strerror != self._complaint and (self.versions or error.errno != errno.ENOENT):
            self._log(f"cannot list {base_path}: {error.strerror}")
        self._complaint = error.strerror

    async def _load(self, version: Version, directory: str, executor: ThreadPoolExecutor) -> None:
        version.state = State.LOADING
        version.attempts += 1
        try:
            loop = asyncio.get_running_loop()
            version.model = await loop.run_in_executor(executor, SavedModel, directory, self._loading)
        except ServingError as error:
            if version.error is None or version.error.message != error.message:  # once, not at each attempt
                self._log(f"cannot load version {version.number} of {self.name}: {error.message}")
            version.error = ServingError(error.code, error.message)  # without a traceback, which holds the session
            version.retry_at = time.monotonic() + self._loading.retry_seconds
            if version.attempts > self._loading.retries:
                version.state = State.END
        else:
            version.error = None
            version.state = State.AVAILABLE
            self._log(f"loaded version {version.number} of {self.name}")


def _version_directories(base_path: str) -> dict[int, str]:
    """Each version's number and directory: the entries whose name is an integer.

    Raises:
      OSError: the base path cannot be listed.
    """
    return {
        int(name): os.path.join(base_path, name)
        for name in sorted(os.listdir(base_path))
        if _VERSION_NAME.fullmatch(name) and int(name) <= MAX_VERSION
    }
