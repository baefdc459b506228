"""The checkpoint folder, the one thing that training, Hub and page share: its files, its checks, its writing.

A folder (or Hub repository, the layout is the same) holds

- ``model.safetensors``: the state dict under torchvision's names, fp32 or fp16;
- ``config.json``: timm's layout, which timm and transformers read too;
- ``README.md``: the model card;
- ``training.json``: how it was trained and what it measured, see :class:`TrainingRecord`;
- ``predictions.safetensors``: what it says of every test image, see :func:`read_predictions`;
- pictures of the training, PNG, for the card to show: ``curves.png``, ``confusion_matrix.png``, ``mistakes.png``,
  ``train_samples.png``, ``test_samples.png``.

Weights and config are always there, the rest may be missing. Nothing is ever unpickled, and nothing is trusted: the
folder may be a stranger's.
"""

import json
import logging
import math
import os
import re
import reprlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from resnet_hub.download import PICKLE_SUFFIXES, download
from resnet_hub.errors import CheckpointError
from resnet_hub.record_checks import checked_record

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"
TRAINING_NAME = "training.json"
PREDICTIONS_NAME = "predictions.safetensors"
CURVES_NAME = "curves.png"
CONFUSION_MATRIX_NAME = "confusion_matrix.png"
MISTAKES_NAME = "mistakes.png"
TRAIN_SAMPLES_NAME = "train_samples.png"
TEST_SAMPLES_NAME = "test_samples.png"
PICTURE_NAMES = (CURVES_NAME, CONFUSION_MATRIX_NAME, MISTAKES_NAME, TRAIN_SAMPLES_NAME, TEST_SAMPLES_NAME)
CHECKPOINT_FILES = (WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, TRAINING_NAME, PREDICTIONS_NAME, *PICTURE_NAMES)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Several times what training draws, and no burden to whoever holds the model.
MAX_PICTURE_BYTES = 4_000_000

#: Three confusion matrices of 2,000 classes. What is parsed takes up to 20 times as much memory.
MAX_JSON_BYTES = 40_000_000
#: What may mean a Hub id as well as a folder; not under those that the project itself writes to.
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", flags=re.ASCII)
_FOLDERS = ("models", "runs")

logger = logging.getLogger(__name__)


class Metrics(TypedDict, total=False):
    """What one pass over one split gives. Fractions in 0..1; rows of the confusion matrix are true classes."""

    loss: float
    accuracy: float
    macro_f1: float
    num_images: int
    confusion_matrix: list[list[int]]


class Epoch(TypedDict):
    """One line of the history. ``learning_rate`` is that of the epoch's last step; ``seconds`` is wall-clock time, and
    ``data_wait`` so much of it as the first process stood still for want of training images.

    ``validation`` is None in a run that trains on the validation images too.
    """

    epoch: int
    learning_rate: float
    train: Metrics
    validation: Metrics | None
    seconds: float
    data_wait: NotRequired[float]


class Result(Metrics):
    """Metrics of the finished checkpoint on a split that it was not trained on.

    ``variant``, where it is there, says how the images were changed first (``train/variants.py``). The other two are of
    the calibrated network: the expected calibration error of its scores, and the share of images that it calls
    unfamiliar (:mod:`resnet_hub.calibration`); fractions in 0..1.
    """

    dataset: str
    split: str
    variant: NotRequired[str]
    calibration_error: NotRequired[float]
    unfamiliar: NotRequired[float]


class TrainingRecord(TypedDict):
    """``training.json``: everything needed to judge a checkpoint and to train it again."""

    recipe: dict[str, Any]
    datasets: list[dict[str, Any]]
    versions: dict[str, str]
    hardware: dict[str, Any]
    commit: str | None
    history: list[Epoch]
    best_epoch: int
    results: list[Result]


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def locate_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    token: str | bool | None = None,
    local_files_only: bool = False,
    names: Collection[str] = CHECKPOINT_FILES,
) -> Path:
    """The local folder that holds the checkpoint, downloaded first where ``name_or_path`` is a Hub id.

    An existing local folder wins over a Hub repository of the same name, and says so. ``names`` are the files to
    download, where the repository has them.

    Raises:
        CheckpointError: neither a folder nor a reachable repository with weights and config.
    """
    path = Path(name_or_path)
    if path.is_dir():
        if isinstance(name_or_path, str) and _HUB_ID.fullmatch(name_or_path) and path.parts[0] not in _FOLDERS:
            logger.warning(
                "%s is loaded from the folder %s, and not from the Hub, which may have a model of that name: write "
                "./%s where the folder is meant, and start from elsewhere where the Hub is.",
                *(name_or_path, path.resolve(), name_or_path),
            )
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file: give the checkpoint folder that it lies in")
    if not _may_be_hub_id(name_or_path):
        raise CheckpointError(f"there is no folder {path}: check the path, or give a Hub id such as 'user/model'")
    return download(
        str(name_or_path),
        names,
        (CONFIG_NAME, WEIGHTS_NAME),
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        token=token,
        local_files_only=local_files_only,
    )


def _may_be_hub_id(name_or_path: str | Path) -> bool:
    """False where a path is meant: written as one, or starting in a folder that exists here (``models/typo``)."""
    if isinstance(name_or_path, Path):
        return False
    first, *rest = name_or_path.split("/")
    return len(rest) <= 1 and bool(first) and first not in (".", "..", "~") and not (rest and Path(first).is_dir())


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object from ``folder``. Raises ``CheckpointError`` where it is missing, no object, or far too large."""
    file = folder / name
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
        content = json.loads(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {name}: it is not a checkpoint folder, check the path") from error
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror}): check the path and its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}): restore it or save the model again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not a {type(content).__name__}: restore the file")
    return content


def read_training_record(folder: Path, num_classes: int | None = None) -> TrainingRecord | None:
    """The folder's ``training.json``, or None where a model was saved without having been trained here.

    Args:
        num_classes: Of the model that it belongs to, where that is known.

    Raises:
        CheckpointError: it is no training record; the message names the value that is wrong.
    """
    file = folder / TRAINING_NAME
    if not file.exists():
        return None
    try:
        return checked_record(read_json(folder, TRAINING_NAME), num_classes)
    except CheckpointError as error:
        advice = "restore the file, or remove it to go without"
        raise CheckpointError(f"{file} is no training record: {error}; {advice}") from error


def read_predictions(folder: Path, num_classes: int | None = None) -> dict[str, Tensor] | None:
    """What the model said of its (first) test split, image by image in the split's order; None where that is not there.

    ``labels`` and ``predictions`` int64 (N,), class indices; ``scores`` float32 (N,), 0..1, of the predicted class;
    ``is_unfamiliar`` bool (N,). Like pictures they are worth a warning, not an error: of a stranger's file anything
    else is left out.

    Args:
        num_classes: Of the model that it belongs to, where that is known.
    """
    file = folder / PREDICTIONS_NAME
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        logger.warning("%s is damaged (%s) and is left out.", file, error)
        return None
    kinds = {"labels": torch.int64, "predictions": torch.int64, "scores": torch.float32, "is_unfamiliar": torch.bool}
    fits = (
        {name: tensor.dtype for name, tensor in tensors.items()} == kinds
        and len({tensor.shape for tensor in tensors.values()}) == 1
        and tensors["labels"].ndim == 1
        and all((tensors[name] >= 0).all() for name in ("labels", "predictions"))
        and all((tensors[name] < (num_classes or math.inf)).all() for name in ("labels", "predictions"))
        and ((tensors["scores"] >= 0) & (tensors["scores"] <= 1)).all()
    )
    if not fits:
        logger.warning("%s does not hold predictions of this model and is left out.", file)
        return None
    return tensors


def read_pictures(folder: Path) -> dict[str, bytes]:
    """The pictures in ``folder``: PNG files by name, of ``PICTURE_NAMES`` and at most ``MAX_PICTURE_BYTES`` each.

    The folder may be a stranger's, and what is read here is published by the next push: anything else under such a name
    (a link to a private file, say) is left out, with a warning. No picture is worth failing to load a model.
    """
    pictures = {}
    for name in PICTURE_NAMES:
        file = folder / name
        if not file.is_file():
            continue
        try:
            with file.open("rb") as stream:
                content = stream.read(MAX_PICTURE_BYTES + 1)
        except OSError as error:
            logger.warning("%s cannot be read (%s) and is left out.", file, error)
            continue
        if not content.startswith(PNG_SIGNATURE) or len(content) > MAX_PICTURE_BYTES:
            logger.warning("%s is no PNG of at most %d MB and is left out.", file, MAX_PICTURE_BYTES // 1_000_000)
            continue
        pictures[name] = content
    return pictures


def load_weights(model: nn.Module, folder: Path) -> None:
    """Replace every tensor of ``model`` (which may be on the meta device) by the folder's, floating ones as fp32.

    Raises:
        CheckpointError: weights missing, pickled, damaged, or not exactly those of ``model``.
    """
    file = folder / WEIGHTS_NAME
    advice = "use the config.json that was saved with these weights"
    check_weights(model, read_shapes(file), f"{file} does not fit its {CONFIG_NAME}", advice)
    model.load_state_dict(read_weights(file), strict=True, assign=True)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, floating ones as fp32.

    Raises:
        CheckpointError: not there, there only as a pickle, or damaged.
    """
    with _open_weights(file) as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 it is no mapping
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


#: A tensor's shape and kind: ``"float"`` or safetensors' name of another type.
Shape = tuple[tuple[int, ...], str]


def read_shapes(file: Path) -> dict[str, Shape]:
    """Shape and kind of each tensor, from the file's header alone. Raises ``CheckpointError`` as ``read_weights``."""
    with _open_weights(file) as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        return {name: (tuple(s.get_shape()), _kind(s.get_dtype())) for name, s in slices.items()}


def _kind(dtype: str) -> str:
    return "float" if dtype in ("F64", "F32", "F16", "BF16") else dtype


@contextmanager
def _open_weights(file: Path) -> Iterator[Any]:
    """A ``.safetensors`` file, mapped into memory. The library checks that the header's sizes are the file's."""
    folder = file.parent
    if not file.is_file():
        pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLE_SUFFIXES) if folder.is_dir() else []
        if pickled:
            raise CheckpointError(
                f"{folder} has its weights only as a pickle ({pickled[0]}), which can run code when it is read, so it "
                f"is never loaded: convert it to {WEIGHTS_NAME} with safetensors where you trust it"
            )
        raise CheckpointError(f"{folder} has no {file.name}: check the path, or save the model again")
    try:
        with safe_open(file, framework="pt") as weights:
            yield weights
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): download or save it again") from error


def check_weights(model: nn.Module, found: dict[str, Shape], problem: str, advice: str) -> None:
    """Before they are read: what does not fit is refused however large it is.

    Args:
        model: Which they are for; it may be on the meta device.
        found: By name in the state dict.
        problem, advice: What the error begins and ends with.

    Raises:
        CheckpointError: the tensors are not exactly those of ``model``.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    wrong_shape = [
        f"{key} is {found[key][0]} and should be {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key][0] != value.shape
    ]
    wrong_kind = [
        f"{key} is {found[key][1]}"
        for key, value in expected.items()
        if key in found and found[key][1] != ("float" if value.is_floating_point() else "I64")
    ]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in [
            ("missing", missing),
            ("unexpected", [reprlib.repr(key)[1:-1] for key in unexpected]),
            ("of another shape", wrong_shape),
            ("of another type", wrong_kind),
        ]
        if keys
    ]
    if problems:
        raise CheckpointError(f"{problem}: tensors {'; '.join(problems)}: {advice}")


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` whose files replace those of ``folder`` when the block ends without error.

    Whatever goes wrong in the block (a full disk, an interrupt), ``folder`` keeps what it had. Of the files that the
    block does not write, a checkpoint's go, since they belong to the checkpoint that is replaced, and all others stay.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error}): choose another folder") from error
    try:
        yield staging
        for file in staging.iterdir():
            finish_file(file)
        written = sorted(file.name for file in staging.iterdir())
        for name in written:
            os.replace(staging / name, folder / name)
        for name in set(CHECKPOINT_FILES) - set(written):
            (folder / name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"saving to {folder} failed ({error}): what it held before is unchanged") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def write_atomically(file: Path) -> Iterator[Path]:
    """A temporary name beside ``file``, which becomes ``file`` when the block ends without error."""
    temporary = file.with_name(f".{file.name}-{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        finish_file(temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def finish_file(file: Path) -> None:
    """Readable as any new file is (safetensors writes for the owner alone), and on the disk before it is renamed.

    Without the second a power cut could leave the new name with no content.
    """
    umask = os.umask(0)  # there is no way to read it without setting it
    os.umask(umask)
    file.chmod(0o666 & ~umask)
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(file: Path, content: Any) -> None:
    """Readable and stable: indented, lists of numbers on one line, non-ASCII kept, NaN refused since JSON has none."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    # Within a string a line break is escaped, so that this cannot be part of one.
    text = re.sub(r"\[\n\s+([-+.\dEe,\s]+?)\n\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    file.write_text(text + "\n", encoding="utf-8")


def exportable_state_dict(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """``model.state_dict()`` as files hold it: on the CPU, contiguous, without the prefix of ``torch.compile``.

    Floating tensors are converted to ``dtype`` where one is given; integers (BatchNorm's counters) never are.
    """
    return {
        key.replace("_orig_mod.", ""): value.detach()
        .to("cpu", dtype if value.is_floating_point() else None)
        .contiguous()
        for key, value in model.state_dict().items()
    }
