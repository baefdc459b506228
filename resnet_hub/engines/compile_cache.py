"""Compiled networks on the disk, so that a second start need not compile them again.

They are programs: what others could have written there must not be run. So they lie in a folder that belongs to this
user and that nobody else can enter; where there is none to be had, there is no cache.
"""

import hashlib
import logging
import os
import stat
from pathlib import Path

import numpy as np
from torch import nn

from resnet_hub.checkpoint import write_atomically

logger = logging.getLogger(__name__)

#: Of all files together: about ten ResNet-50. Beyond that, those that were not used for longest go.
MAX_BYTES = 1_000_000_000
#: Of what stands behind the content of each file, to tell whether it is whole.
DIGEST_BYTES = 32


def cache_folder() -> Path | None:
    """``$RESNET_HUB_CACHE``, or ``resnet_hub`` in the user's cache folder; None where it cannot be had or trusted."""
    told = os.environ.get("RESNET_HUB_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(told or Path(base, "resnet_hub")) / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o077):
        logger.warning("%s is open to other users and is not used: chmod 700 it, or remove it.", folder)
        return None
    return folder


def cache_key(model: nn.Module, *facts: object) -> str:
    """Of the network's structure and weights, and of whatever else a compiled network depends on."""
    digest = hashlib.sha256(repr((str(model), facts)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def read(key: str) -> np.ndarray | None:
    """What was kept under ``key``: uint8 (N,), mapped into memory; None where there is nothing, or nothing whole."""
    folder = cache_folder()
    if folder is None:
        return None
    file = folder / key
    try:
        os.utime(file)  # used today
        # Mode "c" for the sake of bindings that take no array that cannot be written to.
        content, digest = np.split(np.memmap(file, np.uint8, "c"), [-DIGEST_BYTES])
    except (OSError, ValueError):  # not there, or empty
        return None
    # Who reads compiled networks trusts what they say of themselves: half of one ends the process.
    if hashlib.sha256(content).digest() != digest.tobytes():
        logger.info("%s is damaged, and removed.", file)
        discard(key)
        return None
    return content


def keep(key: str, content: bytes) -> None:
    """Write it, and make room for it. A cache that cannot be written costs time at the next start, no more."""
    folder = cache_folder()
    if folder is None or len(content) > MAX_BYTES:
        return
    try:
        with write_atomically(folder / key) as temporary, temporary.open("wb") as stream:
            stream.write(content)
            stream.write(hashlib.sha256(content).digest())
        files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_mtime)
        excess = sum(file.stat().st_size for file in files) - MAX_BYTES
        for file in files:
            if excess <= 0:
                break
            excess -= file.stat().st_size
            file.unlink()
    except OSError as error:
        logger.info("The compiled network is not kept: %s", error)


def discard(key: str) -> None:
    """Forget it: it cannot be read."""
    if (folder := cache_folder()) is not None:
        (folder / key).unlink(missing_ok=True)
