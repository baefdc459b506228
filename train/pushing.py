"""Pushes of a run to the Hub: asked for before any work, done beside the training, and never at its expense."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from resnet_hub.checkpoint import CHECKPOINT_FILES
from resnet_hub.errors import ResNetHubError
from resnet_hub.upload import prepare_repo, push_checkpoint
from train.config import TrainingConfig

#: A run that is finished waits so many seconds for its pushes, at most: less than the half hour for which processes
#: wait for each other.
FINISH_SECONDS = 1500
#: Trained and saved, but not pushed.
EXIT_CODE = 3


class Pusher:
    """Uploads a checkpoint folder from a thread of its own, one upload at a time.

    While one is under way at most one more waits, the newest: on a slow line some are left out. What fails is said and
    counts for nothing but :meth:`finish`.

    Args:
        repo_id: The repository, which exists.
        say: Prints a line.
    """

    def __init__(self, repo_id: str, say: Callable[[str], None]) -> None:
        self.repo_id = repo_id
        self._say = say
        self._waiting: tuple[Path, str, int] | None = None
        self._busy = False
        self._asked = self._done = 0  # numbers of the last push, and of the last one that succeeded
        self._changed = threading.Condition()

    def push(self, folder: Path, title: str) -> None:
        """Upload what ``folder`` holds now. Returns at once: later changes of the folder are another push's.

        Args:
            title: Of the commit.
        """
        self._asked += 1
        try:
            copy = _frozen_copy(folder)
        except OSError as error:  # a full disk
            self._say(f"{title} was not pushed to {self.repo_id} ({error}); the run goes on")
            return
        with self._changed:
            if self._waiting is not None:
                shutil.rmtree(self._waiting[0], ignore_errors=True)
            self._waiting = (copy, title, self._asked)
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, daemon=True).start()

    def finish(self, seconds: float = FINISH_SECONDS) -> bool:
        """Wait until all is uploaded, ``seconds`` at most. Whether the last push succeeded."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._busy and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._busy:
                self._say(f"the push to {self.repo_id} did not end within {seconds:g} s")
            return self._done == self._asked

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._waiting is None:
                    self._busy = False
                    self._changed.notify_all()
                    return
                (folder, title, number), self._waiting = self._waiting, None
            try:
                url = push_checkpoint(folder, self.repo_id, commit_message=title)
                self._done = number
                self._say(f"pushed {title}: {url}")
            except ResNetHubError as error:
                self._say(f"{title} was not pushed: {error}; the run goes on")
            except Exception as error:  # whatever it is, it must not be silent, and not end the run
                self._say(
                    f"{title} was not pushed to {self.repo_id} ({type(error).__name__}: {error}); the run goes on"
                )
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def make_pusher(config: TrainingConfig, accelerator: Accelerator) -> Pusher | None:
    """None where nothing is to be pushed, and on all processes but the main one.

    Raises:
        PushError: it would not be allowed.
    """
    if not config.push_to_hub:
        return None
    repo_id = None
    if accelerator.is_main_process:
        # None leaves it to the account's settings.
        repo_id = prepare_repo(config.hub_model_id, private=config.hub_private_repo or None)
    broadcast_object_list([repo_id])  # before anybody begins to work
    return Pusher(repo_id, accelerator.print) if accelerator.is_main_process else None


def _frozen_copy(folder: Path) -> Path:
    """The checkpoint's files in another folder beside it, which saving over them does not change.

    Links where the disk can: files of a checkpoint are replaced, never written into.
    """
    copy = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        for name in CHECKPOINT_FILES:
            if (folder / name).is_file():
                try:
                    os.link(folder / name, copy / name)
                except OSError:
                    shutil.copyfile(folder / name, copy / name)
    except OSError:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return copy
