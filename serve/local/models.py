"""The models of a server: which are configured, what is ready, and which version a request means."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ddpg_tf.errors import UserError
from serve.local.batching import Arrays
from serve.local.config import Batching, Loading, ModelConfig
from serve.local.errors import invalid, not_found
from serve.local.session import Signature
from serve.local.versions import Model, State, Version


class Models:
    """All models of a server.

    Args:
      log: takes a line about a version that was loaded or could not be.
      batching: how requests are put together.
      loading: how versions are loaded and run.
      free_labels: whether a new label may name a version that is not available
        (--allow_version_labels_for_unavailable_models).
    """

    def __init__(
        self,
        log: Callable[[str], None],
        batching: Batching | None = None,
        loading: Loading | None = None,
        free_labels: bool = False,
    ):
        self._models: dict[str, Model] = {}
        self._labels: dict[tuple[str, str], int] = {}
        self._log = log
        self._batching = batching or Batching()
        self._loading = loading or Loading()
        self._free_labels = free_labels
        # Loading has a thread of its own, so that a slow disk does not take one from the requests.
        self._loader = ThreadPoolExecutor(1, "load")
        self._runner = ThreadPoolExecutor(max(self._batching.threads, os.cpu_count() or 1), "run")
        self._polling = asyncio.Lock()

    def configure(self, configs: Sequence[ModelConfig]) -> None:
        """From the next poll on, serves these models and no others; their labels hold at once.

        Raises:
          UserError: a label names a version that is not available. Everything then stays as it was.
        """
        labels = {(config.name, label): number for config in configs for label, number in config.labels.items()}
        for (name, label), number in labels.items():
            moved = self._labels.get((name, label), number) != number
            known = self._models.get(name)
            if not (known and known.available(number)) and (moved or not self._free_labels):
                raise UserError(
                    f"Request to assign label to version {number} of model {name}, which is not currently "
                    f"available for inference (label {label}; a new label may be, with "
                    "--allow_version_labels_for_unavailable_models)"
                )
        for model in self._models.values():
            model.config = None
        for config in configs:
            self._models.setdefault(config.name, Model(config, self._loading, self._log)).config = config
        self._labels = labels

    @property
    def _configured(self) -> list[Model]:
        return [model for model in self._models.values() if model.config]

    def knows(self, name: str) -> bool:
        """Whether a model of that name is or was configured."""
        return name in self._models

    @property
    def ready(self) -> bool:
        """Whether every model has a version that answers requests."""
        return all(model.latest for model in self._configured)

    @property
    def names(self) -> list[str]:
        return [model.name for model in self._configured]

    @property
    def missing(self) -> str:
        """Which models have no version that answers requests, and where one is looked for."""
        paths = {model.name: model.config.base_path for model in self._configured if not model.latest}
        return ", ".join(f"{name} in {path}{_mistaken(path)}" for name, path in paths.items())

    @property
    def failure(self) -> str | None:
        """Why a model has no version that answers, if one was tried and could not be loaded."""
        for model in self._configured:
            for version in model.versions.values():
                if version.error and not model.latest:
                    return f"cannot load version {version.number} of {model.name}: {version.error.message}"
        return None

    async def poll(self) -> None:
        """Looks once at every base path."""
        async with self._polling:
            for model in list(self._models.values()):
                await model.poll(self._loader)

    def find(self, name: str, number: int | None, label: str | None) -> Version:
        """The version that a request means: by number, by label, else the latest.

        Raises:
          ServingError: NOT_FOUND; INVALID_ARGUMENT for a label that there is not.
        """
        if label is not None:
            number = self._labels.get((name, label))
            if number is None:
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
        known = self._models[name].versions.values() if name in self._models else []
        found = [version for version in known if number in (None, version.number)]
        if not found:
            which = "any versions" if number is None else f"version {number}"
            raise not_found(f"Could not find {which} of model {name}")
        return found

    async def run(self, version: Version, signature: Signature, feeds: Arrays) -> Arrays:
        return await version.run(signature, feeds, self._runner, self._batching)


def _mistaken(base_path: str) -> str:
    if not os.path.isfile(os.path.join(base_path, "saved_model.pb")):
        return ""
    return " (this is a version itself: give the directory above it, and let its own name be a number, such as 1)"
