"""What this machine computes with: cores that this process may use, and precisions that are done in hardware."""

import math
import os
import platform
from pathlib import Path

import torch

from resnet_hub.errors import ConfigurationError

#: Where Linux says how much of the processors a container gets: microseconds of each period, or "max".
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def count_cores() -> int:
    """Those that this process may use, as far as the system tells.

    A container may see all cores of its machine and be given the time of two; a thread for each core that it sees would
    then wait most of the time, and the others for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # another system, or no limit
        return cores


def usable_device(name: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        ConfigurationError: there is none, or it cannot be used here.
    """
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.empty(0, device=device)
    # Without its driver a device fails with an AssertionError, a RuntimeError or an import's error, by its kind.
    except Exception as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"device {str(name)!r} cannot be used here ({first_line}): use 'cpu'") from error
    return device


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # Linux, where the platform module knows only the instruction set
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def computes_bf16_fast(device: str | None = None) -> bool:
    """Whether bf16 is done in hardware; emulated it is several times slower than fp32.

    Args:
        device: ``"cpu"`` or ``"cuda"``; default: CUDA where there is one.
    """
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
