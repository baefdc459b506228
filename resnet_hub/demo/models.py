"""The models that the page serves: read once, the last few kept in memory, each visitor with their own choice."""

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from resnet_hub.download import in_background
from resnet_hub.errors import CheckpointError, ConfigurationError
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.predictor import Predictor

#: A ResNet-152 takes 240 MB, and as much again for each precision that OpenVINO computes it in.
MAX_LOADED = 4
#: Models on their way at the same time, and how long a visitor waits for one.
MAX_LOADING = 4
LOAD_SECONDS = 60
HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
#: Of a path such as ``/home/me/.cache/config.json`` all but the file's name: visitors need not know this machine.
ABSOLUTE_FOLDER = re.compile(r"(?<![\w/.:])(/[^/\s'\",;]+)*/(?=[^/\s])")


class ModelLibrary:
    """Predictors by name, for many threads.

    A name is all that visitors send: of folders they can name only those that the operator gave.

    Args:
        models: Checkpoint folders or Hub ids that the operator offers; the first one is the default.
        allow_hub: Whether visitors may name any model of the Hub, as ``user/model`` or ``user/model@revision``.
        device: Where they compute, as of :class:`Predictor`.
        max_loaded: How many are kept in memory; beyond that, those that were not asked for longest go.

    Raises:
        ConfigurationError: no model.
        CheckpointError: the first model cannot be loaded.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        allow_hub: bool = False,
        device: str | None = None,
        max_loaded: int = MAX_LOADED,
    ) -> None:
        if not models:
            raise ConfigurationError("there is no model to serve: give a checkpoint folder or a Hub id with --models")
        self._sources = _by_name([str(model) for model in models])
        self.allow_hub = allow_hub
        self._device = device
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._loading: dict[str, Future[Predictor]] = {}
        self._lock = threading.Lock()
        self.get(self.default)

    @property
    def names(self) -> list[str]:
        """Of the models that the operator offers."""
        return list(self._sources)

    @property
    def default(self) -> str:
        return self.names[0]

    def get(self, name: str | None) -> Predictor:
        """The model of that name, read first where it is not in memory; the default for None or "".

        Raises:
            CheckpointError: it is not offered, or cannot be loaded.
        """
        name = (name or self.default).strip()
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
            if name not in self._loading:  # those who want the same model wait for one load, and nobody else does
                if name not in self._sources and len(self._loading) >= MAX_LOADING:
                    raise CheckpointError("several models are on their way from the Hub already: try again in a minute")
                self._loading[name] = in_background(lambda: self._load_and_keep(name))
            loading = self._loading[name]
        try:
            return loading.result(timeout=LOAD_SECONDS)
        except TimeoutError:
            raise CheckpointError(f"{name} is still on its way from the Hub: try again in a minute") from None

    def _load_and_keep(self, name: str) -> Predictor:
        try:
            predictor = self._load(name)
            with self._lock:
                self._loaded[name] = predictor
                while len(self._loaded) > self._max_loaded:
                    self._loaded.popitem(last=False)
            return predictor
        finally:
            with self._lock:
                del self._loading[name]

    def _load(self, name: str) -> Predictor:
        if name in self._sources:
            return Predictor(self._sources[name], device=self._device)
        if not self.allow_hub:
            raise CheckpointError(f"there is no model {name!r} here: choose one of {', '.join(self.names)}")
        hub_id = HUB_ID.fullmatch(name)
        # A name that is a folder on this machine would be read from there: no visitor may look around.
        if hub_id is None or Path(hub_id["id"]).exists():
            raise CheckpointError(f"{name!r} is no id of a Hub model: write it as user/model or user/model@revision")
        try:
            model = ResNetForImageClassification.from_pretrained(hub_id["id"], revision=hub_id["revision"])
            return Predictor(model, device=self._device)
        except CheckpointError as error:
            raise CheckpointError(ABSOLUTE_FOLDER.sub("", str(error))) from error


def _by_name(models: list[str]) -> dict[str, str]:
    """Sources by what they are called on the page: a folder by its own name, or its path where two have the same."""
    short = [Path(model).resolve().name if Path(model).is_dir() else model for model in models]
    return {(name if short.count(name) == 1 else model): model for name, model in zip(short, models, strict=True)}
