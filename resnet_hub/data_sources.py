"""Labelled images as people have them on disk: CSV files beside images, and the course's HDF5 files.

What :func:`datasets.load_dataset` reads itself (parquet, folders of classes, archives, Hub repositories) is left to it.
Nothing here holds all pixels in memory: of CSV files only the paths are read, HDF5 files image by image.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import h5py
from datasets import ClassLabel, Dataset
from PIL import Image

from resnet_hub.errors import DatasetError

#: What people call the two columns of a CSV file, the likelier ones first.
IMAGE_COLUMNS = ("image", "image_id", "file_name", "filename", "image_path", "path", "file", "id")
LABEL_COLUMNS = ("label", "class", "category", "target", "y")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def split_files(folder: Path, suffix: str, names: Sequence[str]) -> dict[str, Path]:
    """Files such as ``train.csv`` or ``train_signs.h5`` by the split in their name, which is one of ``names``."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob(f"*{suffix}")):
        split = next((name for name in names if file.stem == name or file.stem.startswith(f"{name}_")), None)
        if split is not None:
            if split in found:
                raise DatasetError(f"{found[split]} and {file} both name the split {split}: take one of them away")
            found[split] = file
    return found


# ---------------------------------------------------------------------------------------------------------------------
# CSV


def read_csv_splits(
    files: dict[str, Path], folder: Path, image_column: str | None, label_column: str | None
) -> dict[str, Dataset]:
    """Splits of CSV files whose rows name an image and its label.

    Args:
        files: One per split.
        folder: Where the images are: the names in the CSV files are paths in it, or names or stems of files anywhere
            below it (``id_0001`` finds ``images/id_0001.jpg``).
        image_column, label_column: Where the header does not tell.

    Returns:
        Columns ``image`` and ``label``; labels as integers where all of them are such, else as text, None where empty.

    Raises:
        DatasetError: a column cannot be told, or a name means several files.
    """
    tables = {split: _read_table(file, image_column, label_column) for split, file in files.items()}
    labels = {label for _, labels in tables.values() for label in labels if label is not None}
    are_integers = all(label.lstrip("-").isdecimal() for label in labels)
    finder = _ImageFinder(folder)
    splits = {}
    for split, (names, split_labels) in tables.items():
        columns = {
            "image": [finder.find(name) for name in names],
            "label": [int(label) if are_integers and label is not None else label for label in split_labels],
        }
        features = datasets.Features(
            image=datasets.Image(), label=datasets.Value("int64" if are_integers else "string")
        )
        splits[split] = Dataset.from_dict(columns, features)
    return splits


def _read_table(file: Path, image_column: str | None, label_column: str | None) -> tuple[list[str], list[str | None]]:
    """Image names and labels, row by row."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = reader.fieldnames or []
            image = _find_column(file, header, "image", image_column, IMAGE_COLUMNS)
            label = _find_column(file, header, "label", label_column, LABEL_COLUMNS)
            rows = [(row[image] or "", (row[label] or "").strip() or None) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} cannot be read as CSV in UTF-8 ({error}): save it again as such") from error
    if not rows:
        raise DatasetError(f"{file} has no rows: give one line per image")
    names, labels = zip(*rows, strict=True)
    return list(names), list(labels)


def _find_column(file: Path, header: Sequence[str], kind: str, wanted: str | None, usual: Sequence[str]) -> str:
    by_name = {column.strip().lower(): column for column in header}
    if wanted is not None:
        found = wanted if wanted in header else None
    else:
        found = next((by_name[name] for name in usual if name in by_name), None)
    if found is None:
        raise DatasetError(
            f"cannot tell which column of {file} is the {kind}: it has {', '.join(header)}; name it with {kind}_column "
            f"(train.py: --{kind}_column_name)"
        )
    return found


class _ImageFinder:
    """Files below a folder by path, name or stem. The folder is walked once, and only where paths do not do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index: dict[str, list[Path]] | None = None

    def find(self, name: str) -> str:
        """The image's path; where there is no such file the path at which it was expected, for whoever opens it."""
        path = self._folder / name
        if name and path.is_file():
            return str(path)
        if self._index is None:
            self._index = self._walk()
        matches = self._index.get(Path(name).name, [])
        if len(matches) > 1:
            raise DatasetError(
                f"{name!r} is the name of {matches[0]} and of {matches[1]}: write paths below {self._folder} instead"
            )
        return str(matches[0] if matches else path)

    def _walk(self) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = {}
        for directory, _, names in os.walk(self._folder):
            for name in names:
                if name.lower().endswith(IMAGE_SUFFIXES):
                    path = Path(directory, name)
                    for key in {name, path.stem}:
                        index.setdefault(key, []).append(path)
        return index


# ---------------------------------------------------------------------------------------------------------------------
# HDF5, as the course's notebooks have SIGNS: train_set_x, train_set_y, test_set_x, test_set_y, list_classes


def read_h5_splits(files: dict[str, Path]) -> dict[str, Dataset]:
    """Splits of HDF5 files such as ``train_signs.h5`` and ``test_signs.h5``.

    Each holds ``*_set_x``, uint8 (N, H, W, 3), and ``*_set_y``, int (N,); class names are those of ``list_classes``.

    Raises:
        DatasetError: a file that cannot be read or holds something else.
    """
    splits = {}
    for split, file in files.items():
        label_names = _check_h5(file)
        status = file.stat()
        splits[split] = Dataset.from_generator(
            _generate_h5,
            features=datasets.Features(image=datasets.Image(), label=ClassLabel(names=label_names)),
            # ``datasets`` caches by these: a file that was changed is read again.
            gen_kwargs={"file": str(file), "size": status.st_size, "changed": status.st_mtime_ns},
        )
    return splits


def _check_h5(file: Path) -> list[str]:
    """The names of its classes."""
    try:
        with h5py.File(file) as content:
            x, y = _h5_arrays(content)
            shapes = f"{x.dtype} {x.shape} and {y.shape}"
            shapes_fit = x.ndim == 4 and x.shape[3] == 3 and x.dtype == "uint8" and y.size == len(x)
            largest = int(y[...].max())
            names = [_as_text(name) for name in content["list_classes"][...]] if "list_classes" in content else None
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read as HDF5 with *_set_x and *_set_y ({error})") from error
    if not shapes_fit:
        raise DatasetError(f"{file} must hold uint8 images (N, H, W, 3) and N labels, not {shapes}")
    return names or [str(i) for i in range(largest + 1)]


def _h5_arrays(content: h5py.File) -> tuple[h5py.Dataset, h5py.Dataset]:
    (x,) = [content[key] for key in content if key.endswith("_set_x")]
    (y,) = [content[key] for key in content if key.endswith("_set_y")]
    return x, y


def _as_text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _generate_h5(file: str, size: int, changed: int) -> Iterator[dict[str, Any]]:
    with h5py.File(file) as content:
        x, y = _h5_arrays(content)
        labels = y[...].reshape(-1)
        for i in range(len(x)):
            yield {"image": Image.fromarray(x[i]), "label": int(labels[i])}
