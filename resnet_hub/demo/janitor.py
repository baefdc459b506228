"""Keeps the folder of uploads small: what is old goes, and the oldest of what is too much.

Gradio deletes only files that it remembers, leaves an empty one per upload in some components, and never a folder.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: A visitor's picture may be looked at again for so long.
MAX_AGE_SECONDS = 1800
#: Of all uploads and results together.
MAX_BYTES = 150 * 2**20
SWEEP_SECONDS = 30
#: Folders of this name hold what is served to all: samples.
KEPT_PREFIX = "samples-"


class _File(NamedTuple):
    modified: float
    size: int
    path: str


class Janitor:
    """Sweeps ``folder`` every half minute, from a thread of its own, as long as the process lives.

    Args:
        folder: Of uploads, which belongs to this process alone. Links in it are removed, never followed.
        max_age: Seconds since a file was last written.
        max_bytes: Of all files together; the oldest ones go first.
    """

    def __init__(self, folder: Path, max_age: float = MAX_AGE_SECONDS, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_age = max_age
        self._max_bytes = max_bytes

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="janitor").start()

    def _run(self) -> None:
        while True:
            time.sleep(SWEEP_SECONDS)
            self.sweep(time.time())

    def sweep(self, now: float) -> None:
        """Once. ``now`` in seconds since 1970."""
        files: list[_File] = []
        folders: list[str] = []
        self._look(str(self._folder), files, folders)
        total = sum(file.size for file in files)
        for file in sorted(files):
            if now - file.modified <= self._max_age and total <= self._max_bytes:
                break
            _without_fail(os.unlink, file.path)
            total -= file.size
        for folder in reversed(folders):  # those within others first
            # An upload that begins just now makes its folder first: a new one is left alone.
            if now - _modified(folder) > self._max_age:
                _without_fail(os.rmdir, folder)  # which fails for one with files in it

    def _look(self, folder: str, files: list[_File], folders: list[str]) -> None:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # it went meanwhile
                continue
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(KEPT_PREFIX):
                    folders.append(entry.path)
                    self._look(entry.path, files, folders)
            else:
                files.append(_File(status.st_mtime, status.st_size, entry.path))


def _modified(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _without_fail(action: Callable[[str], None], path: str) -> None:
    with contextlib.suppress(OSError):  # somebody else was faster, or it is not empty
        action(path)
