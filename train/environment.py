"""What a run ran on: recorded beside its results, for a number means little without it."""

import ctypes
import os
import platform
import subprocess
import sys
import warnings
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from resnet_hub.hardware import computes_bf16_fast, count_cores, processor_name

#: Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

PACKAGES = ("torch", "torchvision", "datasets", "accelerate", "huggingface-hub", "safetensors", "pillow", "numpy")


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    on_gpu = accelerator.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(accelerator.device) if on_gpu else processor_name(),
        "processes": accelerator.num_processes,
        "threads per process": torch.get_num_threads(),
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
    }


def commit() -> str | None:
    """The commit of this source tree, with ``-dirty`` where it was changed since; None outside a git checkout."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def make_accelerator(mixed_precision: str) -> Accelerator:
    """Accelerate as the scripts use it; ``mixed_precision`` is theirs, see :func:`choose_mixed_precision`."""
    # The name that replaces it is not in torch 2.11 yet, nor in Accelerate.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    accelerator = Accelerator(
        mixed_precision=choose_mixed_precision(mixed_precision),
        # Not told so, Accelerate takes the processes that torchrun starts on a machine without GPU for strangers.
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[
            # BatchNorm statistics are averaged once an epoch, so there is no need to copy them in every step.
            DistributedDataParallelKwargs(broadcast_buffers=False),
            # The others wait while the main process checks the data or saves; a process that died is noticed at once.
            InitProcessGroupKwargs(timeout=timedelta(minutes=30)),
        ],
    )
    share_cores(accelerator)
    return accelerator


def choose_mixed_precision(requested: str) -> str:
    """``requested``, or for ``"auto"`` what the launcher was told, or else what this machine computes fastest.

    ``accelerate launch`` says "no" when it was told nothing, so its "no" says nothing; the script's own does.
    """
    if requested != "auto":
        return requested
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if told != "no":
        return told
    return "bf16" if computes_bf16_fast() else "no"


def share_cores(accelerator: Accelerator) -> None:
    """Give the processes on this machine all of its cores, in equal parts, where they compute on the CPU.

    ``accelerate launch`` and ``torchrun`` leave each process a single thread (``OMP_NUM_THREADS=1``), which suits
    processes that only feed a GPU.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if accelerator.device.type == "cpu" and launched and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def keep_memory(accelerator: Accelerator) -> None:
    """From now on, have glibc keep what was freed for what is allocated next, where training is done on the CPU.

    By itself it gives large blocks back to the system, and every step gets its activations from there again: page by
    page, each of them filled with zeros first. Before the training it does well to: datasets are looked at in pieces.
    """
    if accelerator.device.type == "cpu" and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)  # no block apart from the others
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # at no size
