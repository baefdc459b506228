"""What the tests of whole training runs share: three classes that a tiny network learns in a second or two."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from train.config import TrainingConfig, parse_config
from train.train import main
from train.trainer import Trainer

SCRIPT = Path(__file__).resolve().parents[1] / "train" / "train.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
NAMES = ["red", "green", "blue"]
#: Two seconds of training.
QUICK: dict[str, Any] = {
    "layers": (1, 1, 1, 1),
    "channels": (8, 8, 8, 8),
    "image_size": 32,
    "num_train_epochs": 3,
    "learning_rate": 0.01,
    "mixed_precision": "no",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 4,
    "dataloader_num_workers": 0,
    "sample_pictures": False,
}


#: The 71 test images fill neither a batch nor two processes evenly.
SPLITS = {"train": 120, "validation": 23, "test": 71}


def write_colors(folder: Path, splits: dict[str, int] = SPLITS) -> None:
    """A dataset folder of noisy pictures, each mainly red, green or blue."""
    (folder / "data").mkdir(parents=True)
    for seed, (split, num) in enumerate(splits.items()):
        rng = np.random.default_rng(seed)
        labels = [i % 3 for i in range(num)]
        pixels = rng.integers(0, 160, (num, 20, 20, 3))
        for picture, label in zip(pixels, labels, strict=True):
            picture[..., label] += 60
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
        images = [Image.fromarray(picture.astype(np.uint8)) for picture in pixels]
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features)
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def options_of(**options: Any) -> list[str]:
    """A command line of :data:`QUICK` with ``options`` over it; None leaves one out."""
    arguments = []
    for name, value in (QUICK | options).items():
        if value is not None:
            arguments += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return arguments


def launch(*command: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run to the end, without the data that this machine may have."""
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
    )
    if check:
        assert result.returncode == 0, result.stderr[-3000:]
    return result


def environment() -> dict[str, str]:
    """One thread: more do not help so small a network, and wait for each other where something else runs."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RESNET_HUB_DATA", "RESNET_HUB_SIGNS")}
    return kept | {"OMP_NUM_THREADS": "1"}


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())


def train_here(*, stop_at: tuple[str, int] | None = None, **options: Any) -> int:
    """Train in this process, on one thread; the exit code.

    With ``stop_at=(Trainer method, n)`` SIGTERM arrives just before that method's n-th call.
    """
    with pytest.MonkeyPatch.context() as patch, one_thread():
        if stop_at is not None:
            patch.setattr(Trainer, stop_at[0], _raising_sigterm(getattr(Trainer, stop_at[0]), stop_at[1]))
        return main(TrainingConfig(**(QUICK | options)))


def resume_here(folder: Path) -> int:
    """What ``train/train.py --resume_from_checkpoint folder`` does, in this process, on one thread; the exit code."""
    with one_thread():
        return main(parse_config(["--resume_from_checkpoint", str(folder)]))


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _raising_sigterm(method: Callable[..., Any], at_call: int) -> Callable[..., Any]:
    calls = 0

    def wrapped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            signal.raise_signal(signal.SIGTERM)
        return method(*arguments)

    return wrapped
