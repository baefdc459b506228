"""The pictures to try, by origin and class: drawn hands always, photos where this machine has them."""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from resnet_hub import drawn_signs
from resnet_hub.errors import DatasetError, ImageError
from resnet_hub.images import open_image

#: As many of each class as ever are shown.
MAX_PER_CLASS = 24
#: In px. Sharper than the 64 px that a network for SIGNS takes, and still drawn in about 20 ms.
DRAWN_SIZE = 96
#: Longest side in px of photos: larger ones only make the page slow.
PHOTO_SIZE = 512

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleSource:
    """Where samples come from.

    Attributes:
        title: What the page calls it.
        label_names: Its classes, in their order.
        counts: Samples of each class.
        image: From class and number of the sample to the picture.
    """

    title: str
    label_names: tuple[str, ...]
    counts: tuple[int, ...]
    image: Callable[[int, int], Image.Image]


class SampleLibrary:
    """Samples as files that the page serves, written when they are first shown.

    Args:
        datasets: Names as :func:`resnet_hub.data.load_image_dataset` takes them, of which the test split is shown.
            Those that cannot be loaded are left out, with a warning.
    """

    def __init__(self, datasets: Sequence[str]) -> None:
        Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="samples-", dir=get_upload_folder()))
        gr.set_static_paths([self._folder])  # served from where they are: neither copied nor deleted with the uploads
        self._lock = threading.Lock()
        photos = [source for name in datasets if (source := _from_dataset(name)) is not None]
        self._sources = {source.title: source for source in [*photos, _drawn_hands()]}

    def titles(self, label_names: Sequence[str]) -> list[str]:
        """The sources that fit a model with these classes, whatever their order."""
        return [title for title, source in self._sources.items() if sorted(source.label_names) == sorted(label_names)]

    def files(self, title: str, class_names: Sequence[str], per_class: int) -> list[tuple[Path, str]]:
        """The first ``per_class`` samples of each class, with its name."""
        source = self._sources[title]
        found = []
        for name in class_names:
            label = source.label_names.index(name)
            for number in range(min(per_class, source.counts[label], MAX_PER_CLASS)):
                file = self._folder / f"{list(self._sources).index(title)}-{label}-{number}.png"
                if self._write(source, label, number, file):
                    found.append((file, name))
        return found

    def _write(self, source: SampleSource, label: int, number: int, file: Path) -> bool:
        with self._lock:
            if not file.exists():
                try:
                    image = source.image(label, number)
                except ImageError:
                    return False  # a damaged file among many is no reason to show none
                image.thumbnail((PHOTO_SIZE, PHOTO_SIZE))
                image.save(file)
        return True


def default_datasets() -> list[str]:
    """SIGNS, where this machine is told of it."""
    return ["signs"] if os.environ.get("RESNET_HUB_DATA") or os.environ.get("RESNET_HUB_SIGNS") else []


def _drawn_hands() -> SampleSource:
    names = drawn_signs.LABEL_NAMES
    return SampleSource(
        "Drawn by code",
        tuple(names),
        (MAX_PER_CLASS,) * len(names),
        lambda label, number: drawn_signs.draw_sign(label, number, image_size=DRAWN_SIZE),
    )


def _from_dataset(name: str) -> SampleSource | None:
    from resnet_hub.data import load_image_dataset, public_name, rows_outside_classes  # takes seconds to import

    try:
        rows = load_image_dataset(name)["test"]
    except DatasetError as error:
        logger.warning("The page shows no pictures of %s to try: %s", name, error)
        return None
    names = rows.features["label"].names
    by_class: list[list[int]] = [[] for _ in names]
    outside = set(rows_outside_classes(rows))
    for row, label in enumerate(rows["label"][:]):
        if row not in outside and len(by_class[label]) < MAX_PER_CLASS:
            by_class[label].append(row)
    title = "Photos (SIGNS test split)" if name == "signs" else f"{public_name(name)}, test"
    counts = tuple(map(len, by_class))
    return SampleSource(
        title, tuple(names), counts, lambda label, number: open_image(rows[by_class[label][number]]["image"])
    )
