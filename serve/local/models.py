"""Which versions of which models there are, and keeping up with the directories they come from.

A model's base path holds one directory per version, named by an integer; the highest is served. A new version
is loaded and warmed up before the one before it leaves; one that cannot be loaded never disturbs the others.
Source: TF Serving's documentation of its file-system source; the figures are its flags' defaults.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serve.local.batching import Arrays, Coalescer
from serve.local.errors import ServingError, invalid, not_found
from serve.local.session import SavedModel, Signature

State = ModelVersionStatus.State
_VERSION_NAME = re.compile(r"\s*\+?[0-9]+\s*")
_MAX_VERSION = 2**63 - 1
_LOAD_ATTEMPTS = 6  # --max_num_load_retries=5
_RETRY_SECONDS = 60.0  # --load_retry_interval_micros


class Version:
    """One version, from the first sight of its directory to the end of the process."""

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

    async def run(self, signature: Signature, feeds: Arrays, executor: ThreadPoolExecutor) -> Arrays:
        """Answers one request; the version stays loaded until it is answered."""
        if signature not in self._coalescers:
            self._coalescers[signature] = Coalescer(signature, executor)
        with self._in_use():
            return await self._coalescers[signature].run(feeds)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
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
        self.state = State.UNLOADING
        await self._idle.wait()
        if self.model:
            self.model.close()
        self.model = None
        self._coalescers.clear()
        self.state = State.END


class Model:
    """The versions under one base path. Its methods belong to the event loop's thread."""

    def __init__(self, name: str, base_path: str, log: Callable[[str], None]):
        self.name = name
        self.base_path = base_path
        self.versions: dict[int, Version] = {}
        self._log = log

    @property
    def latest(self) -> Version | None:
        """The highest version that answers requests."""
        available = [number for number, version in self.versions.items() if version.state == State.AVAILABLE]
        return self.versions[max(available)] if available else None

    async def poll(self, executor: ThreadPoolExecutor) -> None:
        """Looks at the base path once: loads the highest version if it is new, then unloads the others."""
        loop = asyncio.get_running_loop()
        try:
            directories = await loop.run_in_executor(executor, _version_directories, self.base_path)
        except OSError:
            return  # the base path is not there, or not now: what is loaded stays
        wanted = max(directories, default=None)
        if wanted is not None:
            version = self.versions.setdefault(wanted, Version(wanted))
            if version.state == State.END and not version.error:  # those above it were removed: serve it again
                version = self.versions[wanted] = Version(wanted)
            if version.state in (State.START, State.LOADING) and time.monotonic() >= version.retry_at:
                await self._load(version, directories[wanted], executor)
            if version.state != State.AVAILABLE:
                return  # what was served before still is
        for number, version in self.versions.items():
            if number != wanted and version.state != State.END:
                await version.retire()

    async def _load(self, version: Version, directory: str, executor: ThreadPoolExecutor) -> None:
        version.state = State.LOADING
        version.attempts += 1
        try:
            loop = asyncio.get_running_loop()
            version.model = await loop.run_in_executor(executor, SavedModel, directory)
        except ServingError as error:
            self._log(f"cannot load version {version.number} of {self.name}: {error.message}")
            version.error = error
            version.retry_at = time.monotonic() + _RETRY_SECONDS
            if version.attempts == _LOAD_ATTEMPTS:
                version.state = State.END
        else:
            version.error = None
            version.state = State.AVAILABLE
            self._log(f"loaded version {version.number} of {self.name}")


class Models:
    """All models of a server.

    Args:
      base_paths: each model's name and base path.
      log: takes a line about a version that was loaded or could not be.
    """

    def __init__(self, base_paths: Mapping[str, str], log: Callable[[str], None]):
        self._models = {name: Model(name, path, log) for name, path in base_paths.items()}
        # Loading has a thread of its own, so that a slow disk does not take one from the requests.
        self._loader = ThreadPoolExecutor(1, "load")
        self._runner = ThreadPoolExecutor(os.cpu_count(), "run")

    @property
    def ready(self) -> bool:
        """Whether every model has a version that answers requests."""
        return all(model.latest for model in self._models.values())

    @property
    def names(self) -> list[str]:
        return list(self._models)

    @property
    def missing(self) -> str:
        """Which models have no version that answers requests, and where one is looked for."""
        return ", ".join(f"{model.name} in {model.base_path}" for model in self._models.values() if not model.latest)

    @property
    def failure(self) -> str | None:
        """Why a model has no version that answers, if one was tried and could not be loaded."""
        for model in self._models.values():
            for version in model.versions.values():
                if version.error and not model.latest:
                    return f"cannot load version {version.number} of {model.name}: {version.error.message}"
        return None

    async def poll(self) -> None:
        for model in self._models.values():
            await model.poll(self._loader)

    def find(self, name: str, number: int | None, label: str | None) -> Version:
        """The version that a request means: by number, by label, else the latest.

        Raises:
          ServingError: there is none; INVALID_ARGUMENT for a label (no model has any).
        """
        if label is not None:
            raise invalid(f"Unrecognized servable version label: {label}")
        model = self._models.get(name)
        if number is None:
            version = model and model.latest
            text = f"Latest({name})"
        else:
            version = model and model.versions.get(number)
            text = f"Specific({name}, {number})"
        if not version or version.state != State.AVAILABLE:
            raise not_found(f"Servable not found for request: {text}")
        return version

    def history(self, name: str, number: int | None) -> list[Version]:
        """Every version of a model that was ever seen, or that one.

        Raises:
          ServingError: NOT_FOUND.
        """
        versions = self._models[name].versions if name in self._models else {}
        if number is not None:
            if number not in versions:
                raise not_found(f"Could not find version {number} of model {name}")
            return [versions[number]]
        if not versions:
            raise not_found(f"Could not find any versions of model {name}")
        return list(versions.values())

    async def run(self, version: Version, signature: Signature, feeds: Arrays) -> Arrays:
        return await version.run(signature, feeds, self._runner)


def _version_directories(base_path: str) -> dict[int, str]:
    """Each version's number and directory: the entries whose name is an integer.

    Raises:
      OSError: the base path cannot be listed.
    """
    found = {}
    for name in sorted(os.listdir(base_path)):
        if _VERSION_NAME.fullmatch(name) and int(name) <= _MAX_VERSION:
            found[int(name)] = os.path.join(base_path, name)
    return found
