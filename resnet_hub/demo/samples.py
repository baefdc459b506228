"""The pictures to try: a few of each class, written as files that the page serves."""

import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from resnet_hub import drawn_signs
from resnet_hub.errors import DatasetError

PER_CLASS = 8
#: In px. Sharper than the 64 px that a network for SIGNS takes, and still drawn in about 20 ms.
DRAWN_SIZE = 96

logger = logging.getLogger(__name__)


#: ``PER_CLASS`` or fewer files of each class, by label name.
SampleSet = dict[str, list[Path]]


def sample_sets(label_names: list[str]) -> dict[str, SampleSet]:
    """Samples that fit a model with these classes, by origin; there are none for a model of anything but SIGNS.

    Photos of the SIGNS test split on a machine that has them, and drawn hands always.
    """
    if tuple(label_names) != drawn_signs.LABEL_NAMES:
        return {}
    Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="samples-", dir=get_upload_folder()))
    gr.set_static_paths([folder])  # served from where they are: not copied per visitor, not deleted with the uploads
    sets = {}
    if os.environ.get("RESNET_HUB_DATA") or os.environ.get("RESNET_HUB_SIGNS"):
        try:
            sets["Photos (SIGNS test split)"] = _write_samples(_signs_photos(), label_names, folder / "photos")
        except DatasetError as error:
            logger.warning("The page shows no photos to try: %s", error)
    sets["Drawn by code"] = _write_samples(_drawn_hands(), label_names, folder / "drawn")
    return sets


def _drawn_hands() -> Iterable[tuple[Image.Image, int]]:
    for seed in range(PER_CLASS):
        for label in range(len(drawn_signs.LABEL_NAMES)):
            yield drawn_signs.draw_sign(label, seed, image_size=DRAWN_SIZE), label


def _signs_photos() -> Iterable[tuple[Image.Image, int]]:
    from resnet_hub.data import load_image_dataset  # takes seconds to import, and few machines have the photos

    for row in load_image_dataset("signs")["test"]:
        yield row["image"], row["label"]


def _write_samples(samples: Iterable[tuple[Image.Image, int]], label_names: list[str], folder: Path) -> SampleSet:
    """The first ``PER_CLASS`` samples of each class as PNG files."""
    folder.mkdir()
    files: SampleSet = {name: [] for name in label_names}
    for image, label in samples:
        of_this_class = files[label_names[label]]
        if len(of_this_class) < PER_CLASS:
            of_this_class.append(folder / f"{label}-{len(of_this_class)}.png")
            image.save(of_this_class[-1])
    return files
