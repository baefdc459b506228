"""Datasets in one shape, whatever the source called its columns and splits.

Every function here gives ``datasets`` objects with the columns ``image`` and ``label`` (a ``ClassLabel``).
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset, DatasetDict
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from PIL import Image
from pyarrow.dataset import ParquetFragmentScanOptions

from resnet_hub import drawn_signs
from resnet_hub.data_sources import SPLIT_NAMES, read_class_folders, read_csv_splits, read_h5_splits, split_files
from resnet_hub.errors import DatasetError

SPLITS = ("train", "validation", "test")

#: Short names, with what the model card says of them.
ALIASES = {
    "signs": "photos of hands showing 0 to 5 (SIGNS)",
    "cifar10": "photos of ten kinds of animals and vehicles (CIFAR-10)",
    "drawn-signs": "hands showing 0 to 5, drawn by code: no photos",
}
HUB_IDS = {"cifar10": "uoft-cs/cifar10"}

#: Images and seed of each split of ``drawn-signs``; distinct seeds, so that no image stands in two splits.
DRAWN_SPLITS = {"train": (1800, 1), "validation": (300, 2), "test": (300, 3)}


def load_image_dataset(
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_dir: str | Path | None = None,
    split_fraction: float = 0.1,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DatasetDict:
    """Load a dataset as ``train``, ``validation`` and ``test`` with the columns ``image`` and ``label``.

    :func:`read_splits`, then :func:`cut_missing_splits`: their arguments and errors.
    """
    splits = read_splits(
        name,
        image_column=image_column,
        label_column=label_column,
        image_dir=image_dir,
        revision=revision,
        token=token,
    )
    return cut_missing_splits(splits, name, split_fraction=split_fraction, seed=seed)


def read_splits(
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_dir: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DatasetDict:
    """Those of ``train``, ``validation`` and ``test`` that a dataset has, with the columns ``image`` and ``label``.

    Args:
        name: One of

            - ``"signs"``: the folder ``$RESNET_HUB_DATA/signs``, else what ``$RESNET_HUB_SIGNS`` names (folder or id);
            - ``"cifar10"``: the folder ``$RESNET_HUB_DATA/cifar10``, else ``uoft-cs/cifar10`` on the Hub;
            - ``"drawn-signs"``: hands drawn by code, 1,800 / 300 / 300, needs neither files nor network;
            - a folder of class folders, with split folders above them or without (``train/cat/1.jpg``, ``cat/1.jpg``);
            - a folder with ``train.csv`` (and perhaps ``validation.csv``, ``test.csv``), or a CSV file, whose rows name
              images below the same folder (or below ``image_dir``) and their labels;
            - a folder with HDF5 files as the course has them, ``train_signs.h5`` and ``test_signs.h5``;
            - any other folder that ``datasets.load_dataset`` or ``datasets.load_from_disk`` reads;
            - a Hub id such as ``"user/dataset"``.

            Images stay on the disk, memory-mapped or in their files, however many they are.
        image_column, label_column: Where they cannot be told from the column types.
        image_dir: Where the images of CSV files are, if not below the folder that these lie in.
        revision, token: Of a dataset on the Hub.

    Returns:
        ``train`` at least. Images may be damaged and labels lie outside the classes: ``data_checks.check_dataset``
        finds those, and leaves them out where that is wanted.

    Raises:
        DatasetError: not found, not reachable, or not a labelled image dataset; the message says what to do.
    """
    if name == "drawn-signs":
        return _drawn_signs()
    source = _resolve(name)
    splits = _read_files(Path(source), image_dir, image_column, label_column)
    if splits is not None:
        splits, columns = _rename_splits(splits, name), ("image", "label")
    else:
        splits = _rename_splits(_load(source, revision, token), name)
        columns = _find_columns(splits["train"], image_column, label_column, name)
    return DatasetDict(_standardize(splits, *columns, name))


def cut_missing_splits(
    splits: DatasetDict,
    name: str,
    *,
    split_fraction: float = 0.1,
    seed: int = 0,
) -> DatasetDict:
    """Cut off ``train`` what a dataset does not have: ``test`` first, then ``validation``.

    Args:
        splits: As :func:`read_splits` gives them.
        name: For messages.
        split_fraction: Share of ``train`` (0 to 1, exclusive) that each takes; stratified by class, and a function of
            ``seed`` alone.

    Returns:
        All three splits.

    Raises:
        DatasetError: there are too few images for that.
    """
    complete = dict(splits)
    missing = [split for split in ("test", "validation") if split not in splits]
    try:
        for split in missing:
            complete["train"], complete[split] = _stratified_cut(complete["train"], split_fraction, seed)
    except ValueError as error:
        raise _too_small(splits["train"], missing, split_fraction, name) from error
    return DatasetDict({split: complete[split] for split in SPLITS})


def describe_cut(own: Collection[str], splits: DatasetDict, seed: int) -> str | None:
    """What :func:`cut_missing_splits` did, for people; None where nothing was missing.

    Args:
        own: Names of the splits that the dataset has itself.
        splits: All three.
    """
    missing = [split for split in SPLITS if split not in own]
    if not missing:
        return None
    sizes = " and ".join(f"{len(splits[split]):,} for {split}" for split in missing)
    return (
        f"has no {' and no '.join(missing)} split, so images are cut off train, of every class alike: {sizes}, by "
        f"split_seed {seed}; {len(splits['train']):,} stay"
    )


def signs_is_available() -> bool:
    """Whether ``load_image_dataset("signs")`` knows where to look."""
    try:
        return bool(_resolve("signs"))
    except DatasetError:
        return False


def public_name(name: str) -> str:
    """What records call a dataset: of a folder or file its own name, for where it lies is nobody's business."""
    return Path(name).name if Path(name).exists() else name


def describe(name: str) -> str:
    """What a model card says of the dataset beside its name."""
    return ALIASES.get(name, "images")


def _resolve(name: str) -> str:
    """An alias becomes the folder or Hub id that it stands for; everything else is one already."""
    if name not in ALIASES:
        return name
    data_root = os.environ.get("RESNET_HUB_DATA")
    if data_root and (Path(data_root) / name).is_dir():
        return str(Path(data_root) / name)
    if name in HUB_IDS:
        return HUB_IDS[name]
    source = os.environ.get("RESNET_HUB_SIGNS")
    if not source:
        raise DatasetError(
            "SIGNS is not on this machine: set RESNET_HUB_DATA to the folder that holds signs/, or RESNET_HUB_SIGNS to "
            "a dataset folder or Hub id, or use drawn-signs"
        )
    return source


def _read_files(
    path: Path, image_dir: str | Path | None, image_column: str | None, label_column: str | None
) -> dict[str, Dataset] | None:
    """What :mod:`resnet_hub.data_sources` reads, None where there is nothing of the kind."""
    is_csv = path.suffix.lower() == ".csv" and path.is_file()
    csv_files = {"train": path} if is_csv else split_files(path, ".csv") if path.is_dir() else {}
    if csv_files:
        folder = path.parent if is_csv else path
        return read_csv_splits(csv_files, Path(image_dir or folder), image_column, label_column)
    if image_dir is not None:
        raise DatasetError(f"image_dir is where a CSV file's images are, and {path} is none: leave it out")
    if not path.is_dir():
        return None
    if h5_files := split_files(path, ".h5"):
        return read_h5_splits(h5_files)
    return read_class_folders(path)


def _load(source: str, revision: str | None, token: str | bool | None) -> DatasetDict:
    path = Path(source)
    if path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
        loaded = datasets.load_from_disk(source)
        return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    if path.is_file():
        raise DatasetError(f"{source} is a file, and no CSV: give the folder that it lies in")
    if path.suffix.lower() == ".csv":
        raise DatasetError(f"there is no file {source}: check the path")
    if not path.is_dir() and (path.is_absolute() or source.startswith(".") or source.count("/") > 1):
        raise DatasetError(f"there is no folder {source}: check the path, or give a Hub id such as 'user/dataset'")
    try:
        builder = datasets.load_dataset_builder(source, revision=revision, token=token, cache_dir=_cache_dir(path))
        if isinstance(builder.config, ParquetConfig):
            # Else all that was read of a file stays in memory to its end: one of 3.1 GB took 3.5 GB, and takes 0.8 GB
            # now (pyarrow reads up to 1 GB ahead). As an argument above, other formats would refuse it.
            builder.config.fragment_scan_options = ParquetFragmentScanOptions(pre_buffer=False)
        builder.download_and_prepare()
        return builder.as_dataset()
    # Parsers of a dozen file formats and an HTTP client stand behind this call; their errors share no base class.
    except Exception as error:
        what = f"the folder {source}" if path.is_dir() else f"Hub dataset {source!r} (there is no such local folder)"
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{what} cannot be loaded ({first_line}): check the name, the files and the network"
        ) from error


def _cache_dir(folder: Path) -> str | None:
    """A cache of its own for every content of a dataset folder; the usual one for everything else.

    Of folders whose README.md lists data files (as on the Hub) ``datasets`` 5.2 looks at the folder's name alone, and
    would go on giving what it read before a file was changed, or what lies in another folder of that name.
    """
    if not (folder / "README.md").is_file():
        return None
    key = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        status = file.stat()
        key.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    return str(Path(datasets.config.HF_DATASETS_CACHE, "resnet_hub_folders", key.hexdigest()[:16]))


def _rename_splits(loaded: dict[str, Dataset], name: str) -> dict[str, Dataset]:
    splits = {SPLIT_NAMES.get(str(split).lower(), str(split)): rows for split, rows in loaded.items()}
    if "train" not in splits:
        raise DatasetError(f"{name} has no split 'train', only {', '.join(splits)}: rename one of them")
    return {split: rows for split, rows in splits.items() if split in SPLITS}


def _find_columns(rows: Dataset, image_column: str | None, label_column: str | None, name: str) -> tuple[str, str]:
    """By type where there is no choice, else by the caller's word."""
    images = [c for c, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    labels = [c for c, feature in rows.features.items() if isinstance(feature, ClassLabel)]
    found = []
    for kind, wanted, candidates in [("image", image_column, images), ("label", label_column, labels or ["label"])]:
        column = wanted or (candidates[0] if len(candidates) == 1 else kind)
        if column not in rows.column_names:
            raise DatasetError(
                f"cannot tell which column of {name} is the {kind}: it has {', '.join(rows.column_names)}; "
                f"name it with {kind}_column (train.py: --{kind}_column_name)"
            )
        found.append(column)
    if found[0] not in images:
        raise DatasetError(f"column {found[0]!r} of {name} does not hold images: name the one that does")
    return found[0], found[1]


def _standardize(splits: dict[str, Dataset], image_column: str, label_column: str, name: str) -> dict[str, Dataset]:
    """Two columns under our names; labels as ``ClassLabel``, numbered alike in every split."""
    splits = {
        split: rows.select_columns([image_column, label_column]).rename_columns(
            {image_column: "image", label_column: "label"} if (image_column, label_column) != ("image", "label") else {}
        )
        for split, rows in splits.items()
    }
    if not isinstance(splits["train"].features["label"], ClassLabel):
        splits = _number_classes(splits)
    feature = splits["train"].features["label"]
    for split, rows in splits.items():
        if rows.features["label"] != feature:
            raise DatasetError(f"{name} names its classes differently in {split} and train: make them alike")
    return splits


def _number_classes(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Labels that are plain numbers or strings become classes, in sorted order of what stands in ``train``."""
    values = sorted({value for value in splits["train"]["label"] if value is not None})
    number = {value: i for i, value in enumerate(values)}
    feature = ClassLabel(names=[str(value) for value in values])
    return {
        split: rows.remove_columns("label").add_column(
            "label", [number.get(value, -1) for value in rows["label"]], feature=feature
        )
        for split, rows in splits.items()
    }


def _stratified_cut(rows: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """What stays and what is cut off. Rows without a class stay, at the end.

    Raises:
        ValueError: one of them would have no image of some class.
    """
    outside = rows_outside_classes(rows)
    parts = leave_out(rows, outside).train_test_split(test_size=fraction, stratify_by_column="label", seed=seed)
    stays = datasets.concatenate_datasets([parts["train"], rows.select(outside)]) if outside else parts["train"]
    return stays, parts["test"]


def _too_small(train: Dataset, missing: Sequence[str], fraction: float, name: str) -> DatasetError:
    """Why the ``missing`` splits cannot be cut off ``train``, and what helps."""
    counts = Counter(train["label"][:])
    names = train.features["label"].names
    few = [label for i, label in enumerate(names) if 0 < counts[i] <= len(missing)]
    enough = [percent for percent in range(1, 50) if _suffices(percent / 100, len(train), len(names), len(missing))]
    if few:
        why, next_step = f" ({', '.join(few[:10])}: too few images to have one everywhere)", "add images"
    elif enough:
        why, next_step = "", f"cut off {enough[0]}% or a little more (train.py: --train_val_split)"
    else:
        why, next_step = "", "add images"
    return DatasetError(
        f"{name} has no {' and no '.join(missing)} split, and is too small to cut {fraction:.0%} of every class off "
        f"its {len(train):,} training images{why}: {next_step}, or bring what is missing along"
    )


def _suffices(fraction: float, num_images: int, num_classes: int, num_cuts: int) -> bool:
    """Whether every part has an image of every class after so many cuts of ``fraction``."""
    for _ in range(num_cuts):
        cut_off = math.ceil(fraction * num_images)
        num_images -= cut_off
        if min(cut_off, num_images) < num_classes:
            return False
    return True


def rows_outside_classes(rows: Dataset) -> list[int]:
    """Rows without a label, or with one that is none of the classes."""
    num_classes = rows.features["label"].num_classes
    return [row for row, label in enumerate(rows["label"][:]) if label is None or not 0 <= label < num_classes]


def leave_out(rows: Dataset, unwanted: Collection[int]) -> Dataset:
    """``rows`` itself where nothing is unwanted."""
    if not unwanted:
        return rows
    unwanted = set(unwanted)
    return rows.select([row for row in range(len(rows)) if row not in unwanted])


def _drawn_signs() -> DatasetDict:
    features = datasets.Features(image=datasets.Image(), label=ClassLabel(names=list(drawn_signs.LABEL_NAMES)))
    # ``datasets`` caches by a generator's arguments: with the source among them, hands drawn anew are not the old ones.
    source = hashlib.sha256(Path(drawn_signs.__file__).read_bytes()).hexdigest()
    return DatasetDict(
        {
            split: Dataset.from_generator(
                _draw,
                features=features,
                gen_kwargs={"num_images": num_images, "seed": seed, "source": source},
                split=split,
            )
            for split, (num_images, seed) in DRAWN_SPLITS.items()
        }
    )


def _draw(num_images: int, seed: int, source: str) -> Iterator[dict[str, Image.Image | int]]:
    images, labels = drawn_signs.draw_signs(num_images, seed)
    for image, label in zip(images, labels, strict=True):
        yield {"image": image, "label": label}
