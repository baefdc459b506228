"""What is wrong with a dataset, found before the first step: images that cannot be read, test images that stand in
train too, classes without images.

Every image is decoded once, one after the other. What was found is kept on the disk, so that the next start of the same
data costs nothing.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image

from resnet_hub.checkpoint import write_atomically, write_json
from resnet_hub.errors import DatasetError, ImageError
from resnet_hub.images import open_image

#: Examples of each kind that are shown.
MAX_SHOWN = 10
#: Side in px of the thumbnails by which images are compared, and of the coarser ones by which candidates are found.
THUMBNAIL, COARSE = 16, 8
#: Root mean square difference of two coarse thumbnails, in levels of 255 and of equal brightness, of a candidate.
MAX_COARSE_DIFFERENCE = 5.0
#: Mean difference of two thumbnails, likewise, up to which two images are the same picture: copies that were compressed
#: or resized lie below it, other photos of the same hand in SIGNS and of like things in CIFAR-10 above.
MAX_THUMBNAIL_DIFFERENCE = 2.0
#: Comparisons of a test with a training image beyond which near duplicates are not looked for: some minutes' work.
MAX_COMPARISONS = 2 * 10**10


@dataclass(frozen=True)
class Finding:
    """An image that something is the matter with: ``split``, ``row``, file where there is one, and ``what``."""

    split: str
    row: int
    file: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.split}, row {self.row}{f' ({self.file})' if self.file else ''}: {self.what}"


@dataclass
class DatasetReport:
    """What :func:`check_dataset` found.

    Attributes:
        corrupt: Images that cannot be decoded.
        duplicates: Validation and test images that stand in train, too, pixel for pixel.
        near_duplicates: Those that stand there re-encoded, resized or a little brighter.
        empty_classes: By split, names of the classes that have no image in it.
        converted: Images by kind that become RGB: gray, transparent, palette, 16 bit, CMYK.
    """

    corrupt: list[Finding] = field(default_factory=list)
    duplicates: list[Finding] = field(default_factory=list)
    near_duplicates: list[Finding] = field(default_factory=list)
    empty_classes: dict[str, list[str]] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people; nothing where nothing was found."""
        lines = []
        for title, findings in [
            ("images cannot be read", self.corrupt),
            ("validation and test images stand in train too, so results on them say too much", self.duplicates),
            (
                "validation and test images are nearly those of train: resized or re-encoded copies",
                self.near_duplicates,
            ),
        ]:
            if findings:
                lines.append(f"{len(findings):,} {title}:")
                lines += [f"  {finding}" for finding in findings[:MAX_SHOWN]]
                if len(findings) > MAX_SHOWN:
                    lines.append(f"  ... and {len(findings) - MAX_SHOWN:,} more")
        for split, names in self.empty_classes.items():
            shown = ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")
            lines.append(f"{len(names):,} classes have no image in {split}: {shown}")
        for kind, count in self.converted.items():
            lines.append(f"{count:,} images are {kind} and are converted to RGB")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def check_dataset(splits: DatasetDict, *, skip_corrupt: bool = False) -> tuple[DatasetDict, DatasetReport]:
    """Look at every image of every split.

    Args:
        splits: As :func:`resnet_hub.data.load_image_dataset` gives them.
        skip_corrupt: Leave images that cannot be read out, rather than refuse.

    Returns:
        The splits, without corrupt images, and what was found. Row numbers are those of the splits that were given.

    Raises:
        DatasetError: images cannot be read and ``skip_corrupt`` is false; a class without training images.
    """
    report = _read_cache(splits) or _examine(splits)
    if report.corrupt and not skip_corrupt:
        raise DatasetError(
            "\n".join(DatasetReport(corrupt=report.corrupt).lines())
            + "\nreplace them, or leave them out with skip_corrupt=True (train.py: --skip_corrupt True)"
        )
    bad = {split: {finding.row for finding in report.corrupt if finding.split == split} for split in splits}
    kept = DatasetDict(
        {
            split: rows.select([row for row in range(len(rows)) if row not in bad[split]]) if bad[split] else rows
            for split, rows in splits.items()
        }
    )
    report.empty_classes = _empty_classes(kept)
    if "train" in report.empty_classes:
        raise DatasetError(
            f"there is no training image of {', '.join(report.empty_classes['train'][:MAX_SHOWN])}: add some, or take "
            "the class away"
        )
    return kept, report


def _empty_classes(splits: DatasetDict) -> dict[str, list[str]]:
    empty = {}
    for split, rows in splits.items():
        names, present = rows.features["label"].names, set(rows["label"])
        if missing := [name for i, name in enumerate(names) if i not in present]:
            empty[split] = missing
    return empty


# ---------------------------------------------------------------------------------------------------------------------
# Looking at images


@dataclass(frozen=True)
class _Seen:
    """What is remembered of the readable images of a split, in order: a row of each array is an image.

    ``rows`` (N,), ``digests`` (N,) of the pixels, ``coarse`` float32 (N, 64), without their mean, and
    ``thumbnails`` uint8 (N, 256), both gray.
    """

    rows: np.ndarray
    digests: np.ndarray
    coarse: np.ndarray
    thumbnails: np.ndarray


def _examine(splits: DatasetDict) -> DatasetReport:
    report, seen, kinds = DatasetReport(), {}, Counter()
    for split, rows in splits.items():
        seen[split] = _look_at(split, rows, report, kinds)
    report.converted = dict(kinds)
    for split in splits:
        if split != "train":
            _compare(seen["train"], seen[split], split, splits[split], report)
    _write_cache(splits, report)
    return report


def _look_at(split: str, rows: Dataset, report: DatasetReport, kinds: Counter[str]) -> _Seen:
    seen = []
    for row, (file, content) in enumerate(_raw_images(rows)):
        try:
            image = open_image(content if content is not None else file)
        except ImageError as error:
            report.corrupt.append(Finding(split, row, file, str(error).removeprefix(f"{file}: ")))
            continue
        if kind := _kind_of(content if content is not None else file):
            kinds[kind] += 1
        seen.append((row, *_fingerprints(image)))
    numbers, digests, coarse, thumbnails = zip(*seen, strict=True) if seen else ([], [], [], [])
    return _Seen(
        np.array(numbers, np.int64),
        np.array(digests, "S16"),
        np.array(coarse, np.float32).reshape(-1, COARSE**2),
        np.array(thumbnails, np.uint8).reshape(-1, THUMBNAIL**2),
    )


def _raw_images(rows: Dataset) -> Iterator[tuple[str | None, bytes | None]]:
    """File (a bare name where the content is embedded) and content (None where it is in the file)."""
    for cell in rows.select_columns("image").cast_column("image", datasets.Image(decode=False)):
        yield cell["image"]["path"], cell["image"]["bytes"]


def _kind_of(source: str | bytes) -> str | None:
    """What is said of images that are not plain RGB; only the header is read."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
            return "transparent"
        return {"L": "gray", "1": "black and white", "P": "of a palette", "CMYK": "CMYK", "RGB": None}.get(
            image.mode, "of more than 8 bit"
        )


def _fingerprints(image: Image.Image) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Digest of the pixels, coarse thumbnail and thumbnail, as :class:`_Seen` has them."""
    digest = hashlib.blake2b(image.tobytes() + str(image.size).encode(), digest_size=8).hexdigest().encode()
    gray = image.convert("L")  # compression changes colours far more than brightness
    coarse = np.asarray(gray.resize((COARSE, COARSE), Image.Resampling.BOX), np.float32).reshape(-1)
    thumbnail = np.asarray(gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).reshape(-1)
    return digest, coarse - coarse.mean(), thumbnail


def _compare(train: _Seen, other: _Seen, split: str, rows: Dataset, report: DatasetReport) -> None:
    """Find images of ``other`` in ``train``."""
    if not len(other.rows):
        return
    files = [file for file, _ in _raw_images(rows)]
    first = {digest: row for row, digest in zip(train.rows[::-1], train.digests[::-1], strict=True)}
    candidates = _candidates(train, other) if len(train.rows) * len(other.rows) <= MAX_COMPARISONS else {}
    for i, row in enumerate(other.rows.tolist()):
        if other.digests[i] in first:
            report.duplicates.append(Finding(split, row, files[row], f"is train, row {first[other.digests[i]]}"))
        elif i in candidates:
            differences = _differences(train.thumbnails[candidates[i]], other.thumbnails[i])
            if differences.min() <= MAX_THUMBNAIL_DIFFERENCE:
                closest = train.rows[candidates[i][differences.argmin()]]
                report.near_duplicates.append(Finding(split, row, files[row], f"is nearly train, row {closest}"))


def _candidates(train: _Seen, other: _Seen, block: int = 256) -> dict[int, np.ndarray]:
    """Positions in ``train`` of what resembles an image of ``other`` from afar, by its position."""
    found = {}
    limit = COARSE**2 * MAX_COARSE_DIFFERENCE**2
    norms = (train.coarse**2).sum(axis=1)
    for start in range(0, len(other.coarse), block):
        part = other.coarse[start : start + block]
        # |a - b|^2 as one product of matrices
        distances = norms + (part**2).sum(axis=1, keepdims=True) - 2 * part @ train.coarse.T
        for i in np.flatnonzero(distances.min(axis=1) <= limit).tolist():
            found[start + i] = np.flatnonzero(distances[i] <= limit)
    return found


def _differences(thumbnails: np.ndarray, thumbnail: np.ndarray) -> np.ndarray:
    """Mean absolute differences (N,) of (N, P) from (P,), each made as bright as the other on average."""
    first, second = thumbnails.astype(np.float32), thumbnail.astype(np.float32)
    first -= first.mean(axis=1, keepdims=True) - second.mean()
    return np.abs(first - second).mean(axis=1)


# ---------------------------------------------------------------------------------------------------------------------
# What was found before


def _cache_file(splits: DatasetDict) -> Path:
    """Named by everything that the findings depend on: the data and this code."""
    key = hashlib.sha256(Path(__file__).read_bytes())
    for split, rows in splits.items():
        key.update(f"{split} {rows._fingerprint} {len(rows)}".encode())
        for file, content in _raw_images(rows):
            if content is None and file and os.path.exists(file):  # a file that was replaced is looked at again
                status = os.stat(file)
                key.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode())
            elif content is not None:
                break  # embedded in this row, so in all of them, and told by the fingerprint
    return Path(datasets.config.HF_DATASETS_CACHE, "resnet_hub_checks", f"{key.hexdigest()}.json")


def _read_cache(splits: DatasetDict) -> DatasetReport | None:
    try:
        content = json.loads(_cache_file(splits).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    findings = {name: [Finding(**f) for f in content[name]] for name in ("corrupt", "duplicates", "near_duplicates")}
    return DatasetReport(**content | findings)


def _write_cache(splits: DatasetDict, report: DatasetReport) -> None:
    try:
        with write_atomically(_cache_file(splits)) as temporary:
            write_json(temporary, report.to_dict())
    except OSError:
        pass  # a cache that cannot be written costs time, no more
