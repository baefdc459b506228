"""What all benchmarks share: the machine, its limits, and figures with their spread."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from resnet_hub.hardware import count_cores, processor_name

#: Of the matrices whose product is timed: large enough for any machine's best, done in a second on a slow one.
MATRIX_SIDE = 2048
COPY_BYTES = 2**28


def describe(packages: Sequence[str]) -> dict[str, Any]:
    """Processor, cores, threads, GPU and the versions of ``packages``, for tables and JSON."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor_name(),
        "cores": count_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def matrix_product_gflops(dtype: torch.dtype, device: str = "cpu", runs: int = 30) -> float:
    """The best of ``runs`` products of two square matrices: what convolutions cannot exceed, in GFLOP/s."""
    left, right = (torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(device, dtype) for _ in range(2))
    return 2 * MATRIX_SIDE**3 / min(seconds_of(lambda: left @ right, device) for _ in range(runs)) / 1e9


def copy_gigabytes_per_second(device: str = "cpu", runs: int = 7) -> float:
    """The best of ``runs`` copies of memory, bytes read and bytes written both counted."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / min(seconds_of(lambda: target.copy_(source), device) for _ in range(runs)) / 1e9


def seconds_of(work: Callable[[], Any], device: str = "cpu") -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def with_spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and the range of all."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are figures."""
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, align, *rows])


def write_json(file: Path, content: dict[str, Any]) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(file)
