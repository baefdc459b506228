"""What is wrong with a dataset, found before the first step: images that cannot be read, test images that stand in
train too, images of two classes, classes without images.

Every image is decoded once, one after the other. What was found is kept on the disk, so that the next start of the same
data costs nothing.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import datasets
import numpy as np
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm  # the one that datasets.disable_progress_bars() is about
from PIL import Image
from pyarrow import compute

from resnet_hub import images
from resnet_hub.checkpoint import write_atomically, write_json
from resnet_hub.data import leave_out, rows_outside_classes
from resnet_hub.errors import DatasetError, ImageError
from resnet_hub.images import open_image

#: Examples of each kind that are shown.
MAX_SHOWN = 10
#: Side in px of the gray thumbnails by which images are compared, and of the coarser ones that find candidates.
THUMBNAIL, COARSE = 16, 8
#: Correlation of two thumbnails from which on they are the same picture, and that of coarse ones of a candidate. So
#: chosen, of 300 copies made of SIGNS' photos all are found, and of CIFAR-10's 276 at JPEG quality 30, 252 at half the
#: size and 298 made 10 % brighter; and what is found in the two as they are, 3 and 17 images, are pairs of one scene.
MIN_CORRELATION, MIN_COARSE_CORRELATION = 0.995, 0.99
#: Standard deviation, in levels of 255, of a thumbnail that shows enough to be compared: white walls are all alike.
MIN_CONTRAST = 4.0
#: Comparisons of a test with a training image beyond which near duplicates are not looked for: some minutes' work.
MAX_COMPARISONS = 2 * 10**10
#: How many of these are made at once: what bounds the memory that they take.
COMPARISONS_AT_ONCE = 2**24
#: Images whose files are asked for at once: their content is read, too, where it is embedded.
FILES_AT_ONCE = 1000


@dataclass(frozen=True)
class Finding:
    """An image that something is the matter with: ``split``, ``row``, file where there is one, and ``what``.

    A duplicate has also split, row, and file where there is one, of the image that it is like: its twin.
    """

    split: str
    row: int
    file: str | None
    what: str
    twin_split: str | None = None
    twin_row: int | None = None
    twin_file: str | None = None

    def __str__(self) -> str:
        text = f"{_place(self.split, self.row, self.file)}: {self.what}"
        return text if self.twin_split is None else f"{text} {_place(self.twin_split, self.twin_row, self.twin_file)}"

    def without_folders(self) -> Self:
        return replace(self, file=_file_name(self.file), twin_file=_file_name(self.twin_file))


def _place(split: str, row: int, file: str | None) -> str:
    return f"{split}, row {row}{f' ({file})' if file else ''}"


def _file_name(file: str | None) -> str | None:
    return file and Path(file).name


@dataclass
class DatasetReport:
    """What :func:`check_dataset` found. Row numbers are those of the splits that it was given.

    Attributes:
        corrupt: Images that cannot be decoded.
        bad_labels: Rows without a label, or with one outside the classes.
        contradictions: Images that stand in the same split or another, too, pixel for pixel, under another label.
        duplicates: Validation and test images that stand in train, too, pixel for pixel.
        near_duplicates: Those that stand there re-encoded, resized, or brighter or darker.
        not_compared: Splits that were too large to look for near duplicates in.
        empty_classes: By split, names of the classes that have no image in it.
        converted: Images by kind that become RGB: gray, transparent, palette, 16 bit, CMYK.
    """

    corrupt: list[Finding] = field(default_factory=list)
    bad_labels: list[Finding] = field(default_factory=list)
    contradictions: list[Finding] = field(default_factory=list)
    duplicates: list[Finding] = field(default_factory=list)
    near_duplicates: list[Finding] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    empty_classes: dict[str, list[str]] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people; nothing where nothing was found."""
        lines = [
            *_titled("{n} image{s} cannot be read and {is_are} left out", self.corrupt),
            *_titled(
                "{n} row{s} {has_have} no label that is one of the classes, and {is_are} left out", self.bad_labels
            ),
            *_titled(
                "{n} image{s} {has_have} two labels, of which one is wrong: correct it, or remove the image",
                self.contradictions,
            ),
            *_titled(
                "{n} validation or test image{s} stand{verb_s} in train too, so results say too much: remove one",
                self.duplicates,
            ),
            *_titled(
                "{n} validation or test image{s} {is_are} nearly one of train: a changed copy, or the same scene",
                self.near_duplicates,
            ),
        ]
        lines += [f"near duplicates of {split} were not looked for: it is too large" for split in self.not_compared]
        for split, names in self.empty_classes.items():
            shown = ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")
            them = "it" if len(names) == 1 else "they"
            consequence = f", so {them} cannot be learned" if split == "train" else ""
            title = _counted("{n} class{es} {has_have} no image in", len(names))
            lines.append(f"{title} {split}{consequence}: {shown}")
        for kind, count in self.converted.items():
            lines.append(_counted(f"{{n}} image{{s}} {{is_are}} {kind} and converted to RGB", count))
        return lines

    def without_folders(self) -> Self:
        """For publishing: where files lie on this machine is nobody's business."""
        return replace(self, **{kind: [f.without_folders() for f in getattr(self, kind)] for kind in _KINDS})


#: Attributes of a report that are lists of findings.
_KINDS = ("corrupt", "bad_labels", "contradictions", "duplicates", "near_duplicates")


def _titled(title: str, findings: list[Finding]) -> list[str]:
    """The first findings under their number; nothing where there are none."""
    if not findings:
        return []
    more = [f"  ... and {len(findings) - MAX_SHOWN:,} more"] if len(findings) > MAX_SHOWN else []
    title = _counted(title, len(findings))
    return [f"{title}:", *(f"  {finding}" for finding in findings[:MAX_SHOWN]), *more]


def _counted(text: str, n: int) -> str:
    """``text`` with the number ``{n}`` in it, and with words that go with one or with many."""
    one = {"s": "", "es": "", "verb_s": "s", "is_are": "is", "has_have": "has"}
    many = {"s": "s", "es": "es", "verb_s": "", "is_are": "are", "has_have": "have"}
    return text.format(n=f"{n:,}", **(one if n == 1 else many))


def check_dataset(splits: DatasetDict, *, skip_corrupt: bool = False) -> tuple[DatasetDict, DatasetReport]:
    """Look at every image and label of every split.

    Args:
        splits: As :func:`resnet_hub.data.load_image_dataset` gives them, or some of them.
        skip_corrupt: Leave images that cannot be read, and rows without a class, out, rather than refuse.

    Returns:
        The splits, without those rows, and what was found.

    Raises:
        DatasetError: such rows are there and ``skip_corrupt`` is false.
    """
    cache = _cache_file(splits)
    report = _read_cache(cache)
    if report is None:
        report = _examine(splits)
        _write_cache(cache, report)
    unusable = report.corrupt + report.bad_labels
    if unusable and not skip_corrupt:
        raise DatasetError(
            "\n".join(
                _titled("{n} image{s} cannot be read", report.corrupt)
                + _titled("{n} row{s} {has_have} no label that is one of the classes", report.bad_labels)
            )
            + "\nmend them, or leave them out with skip_corrupt=True (train.py and prepare_dataset.py: "
            "--skip_corrupt True)"
        )
    kept = DatasetDict(
        {split: leave_out(rows, {f.row for f in unusable if f.split == split}) for split, rows in splits.items()}
    )
    report.empty_classes = _empty_classes(kept)
    return kept, report


def _empty_classes(splits: DatasetDict) -> dict[str, list[str]]:
    empty = {}
    for split, rows in splits.items():
        names, present = rows.features["label"].names, set(rows["label"][:])
        # A split without any image is meant to be so, as validation is where a run trains on it.
        if present and (missing := [name for i, name in enumerate(names) if i not in present]):
            empty[split] = missing
    return empty


# ---------------------------------------------------------------------------------------------------------------------
# Looking at images


@dataclass(frozen=True)
class _Seen:
    """What is remembered of a split's images. Of those that cannot be read ``is_readable`` is false.

    ``is_readable`` bool (N,), ``digests`` of the pixels uint64 (N,), and where splits are to be compared, gray
    ``thumbnails`` uint8 (N, 16, 16), else (0, 16, 16).
    """

    is_readable: np.ndarray
    digests: np.ndarray
    thumbnails: np.ndarray

    @classmethod
    def of(cls, num_rows: int, num_thumbnails: int) -> Self:
        shapes = [((num_rows,), bool), ((num_rows,), np.uint64), ((num_thumbnails, THUMBNAIL, THUMBNAIL), np.uint8)]
        return cls(*(np.zeros(shape, kind) for shape, kind in shapes))


def _examine(splits: DatasetDict) -> DatasetReport:
    report, kinds = DatasetReport(), Counter()
    compared = "train" in splits and len(splits) > 1
    seen = {split: _look_at(split, rows, report, kinds, compared) for split, rows in splits.items()}
    report.converted = dict(kinds)
    _find_contradictions(splits, seen, report)
    if compared:
        for split in splits:
            if split != "train":
                _compare(splits, seen, split, report)
    return report


def _look_at(split: str, rows: Dataset, report: DatasetReport, kinds: Counter[str], compared: bool) -> _Seen:
    seen = _Seen.of(len(rows), len(rows) if compared else 0)
    raw_images = tqdm(_raw_images(rows), total=len(rows), desc=f"Looking at {split}", unit=" images", delay=2)
    for row, (file, content) in enumerate(raw_images):
        source = content if content is not None else file
        try:
            image = open_image(source)
        except ImageError as error:
            report.corrupt.append(Finding(split, row, file, str(error).removeprefix(f"{file}: ")))
            continue
        if kind := _kind_of(source):
            kinds[kind] += 1
        seen.is_readable[row] = True
        seen.digests[row] = _digest(image)
        if compared:
            # Gray, since compression changes colours far more than brightness.
            seen.thumbnails[row] = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    if outside := rows_outside_classes(rows):
        files = files_of(rows.select(outside))
        for row, file, label in zip(outside, files, rows.select(outside)["label"], strict=True):
            what = "no label, or one that train does not have" if label in (None, -1) else f"label {label} is no class"
            report.bad_labels.append(Finding(split, row, file, what))
    return seen


def _raw_images(rows: Dataset) -> Iterator[tuple[str | None, bytes | None]]:
    """File (a bare name where the content is embedded) and content (None where it is in the file)."""
    for cell in rows.select_columns("image").cast_column("image", datasets.Image(decode=False)):
        image = cell["image"] or {"path": None, "bytes": None}
        yield image["path"], image["bytes"]


def files_of(rows: Dataset) -> list[str | None]:
    """Of each image its file, its bare name where the content is embedded, None where there is no name."""
    # Not by Dataset.flatten(), which in datasets 5.2 loses the columns of what was concatenated and selected from.
    cells = rows.select_columns("image").cast_column("image", datasets.Image(decode=False)).with_format("arrow")
    tables = cells.iter(batch_size=FILES_AT_ONCE)
    return [path for table in tables for path in compute.struct_field(table["image"], "path").to_pylist()]


def _kind_of(source: str | bytes) -> str | None:
    """What is said of images that are not plain RGB; only the header is read."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
            return "transparent"
        return {"L": "gray", "1": "black and white", "P": "of a palette", "CMYK": "CMYK", "RGB": None}.get(
            image.mode, "of more than 8 bit"
        )


def _digest(image: Image.Image) -> int:
    """Of the pixels: equal for equal images."""
    content = hashlib.blake2b(image.tobytes() + str(image.size).encode(), digest_size=8)
    return int.from_bytes(content.digest())


def _find_contradictions(splits: DatasetDict, seen: dict[str, _Seen], report: DatasetReport) -> None:
    """Find the images that stand somewhere before, in train first of all, under another label."""
    order = sorted(splits, key=lambda split: split != "train")
    rows = [_labelled(splits[split], seen[split]) for split in order]
    labels = np.concatenate([_labels_of(splits[split], some) for split, some in zip(order, rows, strict=True)])
    digests = np.concatenate([seen[split].digests[some] for split, some in zip(order, rows, strict=True)])
    split_of, row_of = np.repeat(np.arange(len(order)), [len(some) for some in rows]), np.concatenate(rows)
    first = _first_equal(digests, digests)
    names = splits[order[0]].features["label"].names

    def place(i: int) -> tuple[str, int, str | None]:
        split, row = order[split_of[i]], int(row_of[i])
        return split, row, files_of(splits[split].select([row]))[0]

    for i in np.flatnonzero(labels[first] != labels):
        what = f"is labelled {names[labels[i]]}, and {names[labels[first[i]]]} as"
        report.contradictions.append(Finding(*place(i), what, *place(first[i])))


def _labels_of(rows: Dataset, some: np.ndarray) -> np.ndarray:
    """Of those rows, int64; all of them must have one."""
    return np.array(rows["label"][:], dtype=object)[some].astype(np.int64)


def _labelled(rows: Dataset, seen: _Seen) -> np.ndarray:
    """Rows, int64, of images that can be read and have a class."""
    usable = seen.is_readable.copy()
    usable[rows_outside_classes(rows)] = False
    return np.flatnonzero(usable)


def _first_equal(candidates: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """For each digest the place of the first candidate that equals it, -1 where there is none.

    Sorted arrays rather than a dict, which would take ten times their memory.
    """
    unique, first = np.unique(candidates, return_index=True)
    if not len(unique):
        return np.full(len(digests), -1)
    place = np.minimum(np.searchsorted(unique, digests), len(unique) - 1)
    return np.where(unique[place] == digests, first[place], -1)


def _compare(splits: DatasetDict, seen: dict[str, _Seen], split: str, report: DatasetReport) -> None:
    """Find the images of ``split`` in train."""
    train, other = seen["train"], seen[split]
    readable, train_readable = np.flatnonzero(other.is_readable), np.flatnonzero(train.is_readable)
    places = _first_equal(train.digests[train_readable], other.digests[readable])
    exact = dict(zip(readable[places >= 0].tolist(), train_readable[places[places >= 0]].tolist(), strict=True))
    if len(train.digests) * len(other.digests) > MAX_COMPARISONS:
        report.not_compared.append(split)
        near = {}
    else:
        near = {row: twin for row, twin in _closest(train, other).items() if row not in exact}
    for pairs, findings, relation in [(exact, report.duplicates, "is"), (near, report.near_duplicates, "is nearly")]:
        files = files_of(splits[split].select(pairs.keys()))
        twin_files = files_of(splits["train"].select(pairs.values()))
        for (row, twin), file, twin_file in zip(pairs.items(), files, twin_files, strict=True):
            findings.append(Finding(split, row, file, relation, "train", twin, twin_file))


def _closest(train: _Seen, other: _Seen) -> dict[int, int]:
    """Rows of ``other`` that show the same picture as one of ``train``, with the row of the one most like it."""
    found = {}
    train_coarse = _normalized(_coarse(train.thumbnails))
    step = max(1, COMPARISONS_AT_ONCE // max(1, len(train_coarse)))
    for start in range(0, len(other.thumbnails), step):
        block = other.thumbnails[start : start + step]
        correlations = _normalized(_coarse(block)) @ train_coarse.T
        for i in np.flatnonzero(correlations.max(axis=1, initial=0) >= MIN_COARSE_CORRELATION):
            candidates = np.flatnonzero(correlations[i] >= MIN_COARSE_CORRELATION)
            exactly = _normalized(train.thumbnails[candidates]) @ _normalized(block[i : i + 1])[0]
            if exactly.max() >= MIN_CORRELATION:
                found[start + int(i)] = int(candidates[exactly.argmax()])
    return found


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 (N, 16, 16) -> float32 (N, 8, 8), means of 2 x 2."""
    step = THUMBNAIL // COARSE
    return thumbnails.reshape(-1, COARSE, step, COARSE, step).mean(axis=(2, 4), dtype=np.float32)


def _normalized(thumbnails: np.ndarray) -> np.ndarray:
    """(N, S, S) -> float32 (N, S * S) whose scalar products are correlations: brightness and contrast do not count.

    Zeros for what shows too little to be compared, and for images that cannot be read.
    """
    pixels = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.where(norms >= MIN_CONTRAST * pixels.shape[1] ** 0.5, pixels / np.maximum(norms, 1e-6), 0)


# ---------------------------------------------------------------------------------------------------------------------
# What was found before


def _cache_file(splits: DatasetDict) -> Path:
    """Named by everything that the findings depend on: the data and this code."""
    key = hashlib.sha256(Path(__file__).read_bytes() + Path(images.__file__).read_bytes())
    for split, rows in splits.items():
        key.update(f"{split} {rows._fingerprint} {len(rows)}".encode())
        for file, content in _raw_images(rows):
            if content is None and file and os.path.exists(file):  # a file that was replaced is looked at again
                status = os.stat(file)
                key.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode())
            elif content is not None:
                break  # embedded in this row, so in all of them, and told by the fingerprint
    return Path(datasets.config.HF_DATASETS_CACHE, "resnet_hub_checks", f"{key.hexdigest()}.json")


def _read_cache(file: Path) -> DatasetReport | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return DatasetReport(**content | {kind: [Finding(**f) for f in content[kind]] for kind in _KINDS})


def _write_cache(file: Path, report: DatasetReport) -> None:
    try:
        with write_atomically(file) as temporary:
            write_json(temporary, asdict(report))
    except OSError:
        pass  # a cache that cannot be written costs time, no more
