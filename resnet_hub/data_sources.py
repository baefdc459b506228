"""Labelled images as people have them on disk: class folders, CSV files beside images, and the course's HDF5 files.

What :func:`datasets.load_dataset` reads itself (parquet, archives, Hub repositories) is left to it. Nothing here holds
all pixels in memory: of class folders and CSV files only the paths are read, HDF5 files image by image.
"""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import h5py
from datasets import ClassLabel, Dataset
from PIL import Image

from resnet_hub.errors import DatasetError

#: The splits, by every name that people give to them (in any case).
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
#: HEIC cannot be decoded here, but the check of the images shall say so: passed over, half of a phone's photos would
#: be missing without a word.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif"),
)
#: Files by which a folder is a dataset that ``datasets`` reads, whatever images lie there too.
DATASET_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".tar", ".zip")
#: What people call the two columns of a CSV file, the likelier ones first.
IMAGE_COLUMNS = ("image", "image_id", "file_name", "filename", "image_path", "path", "file", "id")
LABEL_COLUMNS = ("label", "class", "category", "target", "y")


def split_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Files such as ``train.csv`` or ``Test_signs.h5`` by the split that their name begins with."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        split = _split_of(file.name) if file.suffix.lower() == suffix else None
        if split is not None:
            if split in found:
                raise DatasetError(f"{found[split]} and {file} both name the split {split}: take one of them away")
            found[split] = file
    return found


def _split_of(name: str) -> str | None:
    """The split that the first word of ``name`` means, None where it means none."""
    return SPLIT_NAMES.get(re.split(r"[_\-. ]", name.lower(), maxsplit=1)[0])


# ---------------------------------------------------------------------------------------------------------------------
# Class folders


def read_class_folders(folder: Path) -> dict[str, Dataset] | None:
    """Splits of images that lie in a folder of their class, ``train/cat/1.jpg``, or ``cat/1.jpg`` for ``train`` alone.

    As in torchvision's ``ImageFolder`` images may lie deeper in their class, and classes are numbered in the order of
    their names. Here they are numbered alike in all splits: every class that one of them has.

    Returns:
        None where ``folder`` holds something else.

    Raises:
        DatasetError: an image without a class, or a single class.
    """
    while (only := _only_folder(folder)) is not None:
        folder = only
    files = _walk(folder)
    if any(_makes_a_dataset(file[-1]) for file in files):
        return None
    images = [file for file in files if _is_image(file[-1])]
    if not any(len(image) > 1 for image in images):
        return None
    split_folders = _split_folders(images)
    paths, names = _sort_by_split(folder, files, split_folders)
    if len(names) < 2:
        raise DatasetError(
            f"{folder} has a single class, {', '.join(names)}: give each class a folder with "
            "its images, or the path of a CSV file that names images and labels"
        )
    feature = ClassLabel(names=sorted(names))
    return {
        split: Dataset.from_dict(
            {"image": [str(path) for path, _ in rows], "label": feature.str2int([name for _, name in rows])},
            datasets.Features(image=datasets.Image(), label=feature),
        )
        for split, rows in paths.items()
    }


def _only_folder(folder: Path) -> Path | None:
    """What an archive unpacked into: the one folder here, if more folders lie in it and it is no split."""
    entries = [entry for entry in folder.iterdir() if not _is_hidden(entry.name)]
    inner = [entry for entry in entries if entry.is_dir()]
    if len(inner) != 1 or _split_of(inner[0].name) or any(_is_image(entry.name) for entry in entries):
        return None
    return inner[0] if any(entry.is_dir() for entry in inner[0].iterdir()) else None


def _walk(folder: Path) -> list[tuple[str, ...]]:
    """Files below ``folder`` as the parts of their paths, sorted. Of an empty folder the last part is ``""``."""
    files = []
    for directory, directories, names in os.walk(folder, followlinks=True):
        directories[:] = [name for name in directories if not _is_hidden(name)]
        parts = Path(directory).relative_to(folder).parts
        files += [(*parts, name) for name in names if not _is_hidden(name)]
        if not names and not directories:
            files.append((*parts, ""))
    return sorted(files)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _makes_a_dataset(name: str) -> bool:
    return name.endswith(DATASET_SUFFIXES) or name == "metadata.csv"


def _sort_by_split(
    folder: Path, files: list[tuple[str, ...]], split_folders: dict[str, str]
) -> tuple[dict[str, list[tuple[Path, str]]], set[str]]:
    """Images with their class by split, and all classes, empty folders among them."""
    paths: dict[str, list[tuple[Path, str]]] = {}
    names = set()
    for file in files:
        *folders, name = file
        top = folders.pop(0) if split_folders and folders else ""
        split = split_folders.get(top) if split_folders else "train"
        if split is None or not (_is_image(name) or name == ""):
            continue
        if folders:
            names.add(folders[0])
        if _is_image(name):
            path = folder.joinpath(*file)
            if not folders:
                raise DatasetError(f"{path} lies in no class folder: move it into one, or take it away")
            paths.setdefault(split, []).append((path, folders[0]))
    return paths, names


def _split_folders(images: list[tuple[str, ...]]) -> dict[str, str]:
    """Split by folder, such as ``{"train": "train", "val": "validation"}``; nothing where the classes come first.

    A class may be called ``train`` or ``test tube``: a folder is a split only where class folders lie in it, and one
    whose name says more than the split (``train_images``) only where all of them are such.
    """
    tops = sorted({image[0] for image in images if len(image) > 1})
    with_classes = {image[0] for image in images if len(image) > 2}
    found = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    if not found and all(map(_split_of, tops)):
        found = {top: _split_of(top) for top in tops}
    if not with_classes & found.keys():
        return {}
    by_split: dict[str, str] = {}
    for top, split in found.items():
        if (first := by_split.setdefault(split, top)) != top:
            raise DatasetError(f"{first} and {top} both name the split {split}: take one of them away")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# CSV


def read_csv_splits(
    files: dict[str, Path], folder: Path, image_column: str | None, label_column: str | None
) -> dict[str, Dataset]:
    """Splits of CSV files whose rows name an image and its label, separated by commas, semicolons or tabs.

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
    if not folder.is_dir():
        raise DatasetError(
            f"there is no folder {folder} with the images of {next(iter(files.values()))}: check image_dir"
        )
    tables = {split: _read_table(file, image_column, label_column) for split, file in files.items()}
    labels = {label for _, labels in tables.values() for label in labels if label is not None}
    are_integers = all(re.fullmatch(r"-?\d+", label) for label in labels)
    finder = _ImageFinder(folder)
    splits = {}
    for split, (names, split_labels) in tables.items():
        columns = {
            "image": [finder.find(name, split) for name in names],
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
            first_line = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, delimiter=max(",;\t", key=first_line.count))
            image, label = _find_columns(file, reader.fieldnames or [], image_column, label_column)
            rows = [(_as_path(row[image]), (row[label] or "").strip() or None) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} cannot be read as CSV in UTF-8 ({error}): save it again as such") from error
    if not rows:
        raise DatasetError(f"{file} has no rows: give one line per image")
    names, labels = zip(*rows, strict=True)
    return list(names), list(labels)


def _find_columns(
    file: Path, header: Sequence[str], image_column: str | None, label_column: str | None
) -> tuple[str, str]:
    """By the caller's word, else by a usual name, else the one of two columns that the other is not."""
    by_name = {column.strip().lower(): column for column in header}
    image = image_column or next((by_name[name] for name in IMAGE_COLUMNS if name in by_name), None)
    label = label_column or next((by_name[name] for name in LABEL_COLUMNS if name in by_name), None)
    if len(header) == 2:
        image = image or next((column for column in header if label in header and column != label), None)
        label = label or next((column for column in header if image in header and column != image), None)
    for kind, column in [("image", image), ("label", label)]:
        if column not in header:
            raise DatasetError(
                f"cannot tell which column of {file} is the {kind}: it has {', '.join(header)}; name it with "
                f"{kind}_column (train.py: --{kind}_column_name)"
            )
    return image, label


def _as_path(cell: str | None) -> str:
    return (cell or "").strip().replace("\\", "/")


class _ImageFinder:
    """Files below a folder by path, name or stem. The folder is walked once, and only where paths do not do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index: dict[str, list[tuple[str, ...]]] | None = None

    def find(self, name: str, split: str) -> str:
        """The image's path; where there is no such file the path at which it was expected, for whoever opens it.

        Of several files the one below a folder of its split is meant: ids often begin anew in ``train`` and ``test``.
        """
        path = self._folder / name
        if os.path.isfile(path):  # which is False, too, for what cannot be a path
            return str(path)
        if self._index is None:
            self._index = self._by_name_and_stem()
        matches = self._index.get(Path(name).name, [])
        if len(matches) > 1:
            matches = [parts for parts in matches if split in map(_split_of, parts[:-1])] or matches
        if len(matches) > 1:
            first, second = (self._folder.joinpath(*parts) for parts in matches[:2])
            raise DatasetError(
                f"{name!r} is the name of {first} and of {second}: write paths below {self._folder} instead"
            )
        return str(self._folder.joinpath(*matches[0]) if matches else path)

    def _by_name_and_stem(self) -> dict[str, list[tuple[str, ...]]]:
        index: dict[str, list[tuple[str, ...]]] = {}
        for parts in _walk(self._folder):
            if _is_image(parts[-1]):
                for key in {parts[-1], Path(parts[-1]).stem}:
                    index.setdefault(key, []).append(parts)
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
        raise DatasetError(
            f"{file} cannot be read as HDF5 with *_set_x and *_set_y ({error}): download it again, or take it away"
        ) from error
    if not shapes_fit:
        raise DatasetError(f"{file} must hold uint8 images (N, H, W, 3) and N labels, not {shapes}: convert it")
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
            encoded = io.BytesIO()
            Image.fromarray(x[i]).save(encoded, "PNG")
            # The path is a name for messages, since there is no file that has just this image.
            image = {"bytes": encoded.getvalue(), "path": f"{Path(file).name}[{i}]"}
            yield {"image": image, "label": int(labels[i])}
