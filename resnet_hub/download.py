"""Files of a Hub repository in the local cache, with an answer in seconds where the Hub gives none.

``huggingface_hub`` caches, resumes and verifies; it also waits without end for a server that is silent, and retries for
23 s per file where one refuses. So the Hub is asked one question first, against the clock; only who answers it is
trusted with the downloads.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from resnet_hub.errors import CheckpointError

#: How long the Hub has to answer the first question, unless the variable that the Hub's clients know says otherwise.
ANSWER_SECONDS = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 4)
#: Of one file: four times what the weights of a ResNet-152 take.
MAX_FILE_BYTES = 10**9
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

#: How the client says that nobody answered, or not to the end, or not as a Hub does.
UNREACHABLE = (httpx2.TransportError, TimeoutError, ConnectionError)
#: What the client stumbles over in the answer of something else, the login page of a hotel's network, say.
NO_HUB = (ValueError, TypeError, KeyError, AttributeError)

logger = logging.getLogger(__name__)
T = TypeVar("T")


def download(
    repo_id: str,
    names: Collection[str],
    required: Collection[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The cache folder with those files ``names`` that the repository has, all of one commit.

    Where the Hub does not answer, a copy in the cache is taken, with a warning; none that came only in part.

    Args:
        repo_id: A model's, such as ``"user/model"``.
        names: Of files in the repository's root.
        required: Those of ``names`` without which the repository is of no use.
        revision, cache_dir, force_download, token, local_files_only: As in ``huggingface_hub``.

    Raises:
        CheckpointError: no access, no such repository or revision, a required file missing or there only as a pickle,
            or neither Hub nor cache have it.
    """
    wanted = _Wanted(repo_id, tuple(names), tuple(required), revision, cache_dir, force_download, token)
    try:
        if local_files_only:
            return wanted.in_cache("the Hub was not to be asked")
        try:
            commit, found = wanted.ask()
        except _NotAnsweringError as error:
            folder = wanted.in_cache(str(error))
            logger.warning("%s comes from the cache, commit %s: %s.", wanted, folder.name, error)
            return folder
        return wanted.fetch(commit, found)
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is neither a folder nor a Hub id such as 'user/model'") from error


def within(seconds: float, question: Callable[[], T]) -> T:
    """What ``question`` returns or raises. Raises ``TimeoutError`` where that takes longer.

    The client's own timeouts count single reads, and neither the name's look-up nor a server's every address.
    """
    return in_background(question).result(timeout=seconds)


def in_background(question: Callable[[], T]) -> Future[T]:
    """Ask in a thread that holds up nobody, not even the end of the program."""
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer


def unreachable_reason(error: BaseException) -> str | None:
    """In words, why the Hub gave no answer that says anything about the repository; None where it gave one."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the Hub"
    if isinstance(error, (TimeoutError, httpx2.TimeoutException)):
        return f"the Hub did not answer within {ANSWER_SECONDS:g} s"
    if isinstance(error, UNREACHABLE):
        return f"the Hub cannot be reached ({error})"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"the Hub answers with error {status}" if status >= 500 or status == 429 else None
    return "what answers is no Hub" if isinstance(error, NO_HUB) else None


class _NotAnsweringError(Exception):
    """The message says in which way."""


@dataclass(frozen=True)
class _Wanted:
    """See :func:`download`."""

    repo_id: str
    names: tuple[str, ...]
    required: tuple[str, ...]
    revision: str | None
    cache_dir: str | Path | None
    force_download: bool
    token: str | bool | None

    def __str__(self) -> str:
        return f"Hub model {self.repo_id!r}" + (f" at revision {self.revision!r}" if self.revision else "")

    def ask(self) -> tuple[str, list[str]]:
        """The commit that ``revision`` means, and which of ``names`` it has."""
        try:
            return within(ANSWER_SECONDS, self._question)
        except (CheckpointError, HFValidationError):
            raise
        except GatedRepoError as error:
            raise CheckpointError(f"{self} is gated: ask for access on its page, then run `hf auth login`") from error
        except RepositoryNotFoundError as error:
            # The Hub does not tell strangers what exists. With a token it is the account that may be the wrong one.
            account = "with an account that may read it" if self.token or get_token() else "nobody is logged in here"
            raise CheckpointError(
                f"{self} does not exist, or is private: check the id (there is no such local folder either), or run "
                f"`hf auth login`, {account}"
            ) from error
        except RevisionNotFoundError as error:
            raise CheckpointError(f"{self} does not exist: give an existing branch, tag or commit") from error
        except (HfHubHTTPError, *UNREACHABLE, *NO_HUB) as error:
            if reason := unreachable_reason(error):
                raise _NotAnsweringError(reason) from error
            raise self._refusal(error) from error

    def _question(self) -> tuple[str, list[str]]:
        info = HfApi().model_info(
            self.repo_id, revision=self.revision, timeout=ANSWER_SECONDS, files_metadata=True, token=self.token
        )
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings}
        siblings = list(sizes)
        self._require(siblings)
        for name in self.names:
            if sizes.get(name, 0) > MAX_FILE_BYTES:
                raise CheckpointError(
                    f"{self} is not downloaded: its {name} has {sizes[name] / 1e9:.1f} GB, more than any model of this "
                    "library; check the id"
                )
        first = self.required[0]
        if self.force_download or not try_to_load_from_cache(self.repo_id, first, self.cache_dir, revision=info.sha):
            # Files may come from another server than answers do: that one has to be there as well.
            url = hf_hub_url(self.repo_id, first, revision=info.sha)
            get_hf_file_metadata(url, token=self.token, timeout=ANSWER_SECONDS)
        return info.sha, [name for name in self.names if name in siblings]

    def _require(self, found: Collection[str]) -> None:
        missing = [name for name in self.required if name not in found]
        pickled = sorted(name for name in found if name.endswith(PICKLE_SUFFIXES))
        if pickled and any(name.endswith(".safetensors") for name in missing):
            raise CheckpointError(
                f"{self} has its weights only as a pickle ({pickled[0]}), which can run code when it is read, so it is "
                "never loaded: ask its owner for safetensors, or convert it yourself where you trust it"
            )
        if missing:
            raise CheckpointError(
                f"{self} has no {missing[0]}, it is no checkpoint of this library: check the id, or push the model "
                "again"
            )

    def _refusal(self, error: HfHubHTTPError) -> CheckpointError:
        if error.response.status_code == 401:  # a token that is expired or mistyped: public models are refused too
            return CheckpointError(
                f"the Hub refuses the access token for {self}: run `hf auth login`, or correct or unset HF_TOKEN"
            )
        if error.response.status_code == 403:
            return CheckpointError(
                f"{self} may not be read with this access token: ask its owner for access, or run `hf auth login` with "
                "a token that may read it"
            )
        return CheckpointError(f"{self} could not be downloaded ({first_line(error)}): try again later")

    def fetch(self, commit: str, names: Sequence[str]) -> Path:
        """Download ``names`` of ``commit``; what the cache has already costs no request."""
        # The weights come last: a folder of the cache that has them has the others.
        *small, large = sorted(names, key=lambda name: name.endswith(".safetensors"))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self._fetch_file(commit, name), small))
        folder = self._fetch_file(commit, large).parent
        if self.revision != commit:
            _remember(folder, self.revision or "main", commit)
        return folder

    def _fetch_file(self, commit: str, name: str) -> Path:
        try:
            file = hf_hub_download(
                self.repo_id,
                name,
                revision=commit,
                cache_dir=self.cache_dir,
                force_download=self.force_download,
                token=self.token,
            )
        except (HfHubHTTPError, OSError, ValueError, *UNREACHABLE) as error:
            raise CheckpointError(
                f"{self} could not be downloaded, {name} broke off ({first_line(error)}): nothing of it is used, try "
                "again later"
            ) from error
        return Path(file)

    def in_cache(self, reason: str) -> Path:
        """The folder of a complete copy. ``reason`` says why the Hub is not asked, for the message."""
        try:
            found = snapshot_download(
                self.repo_id,
                revision=self.revision,
                cache_dir=self.cache_dir,
                local_files_only=True,
                allow_patterns=list(self.names),
            )
        except LocalEntryNotFoundError as error:
            raise self._not_in_cache(reason) from error
        folder = Path(found)
        if not all((folder / name).is_file() for name in self.required):
            raise self._not_in_cache(reason)
        return folder

    def _not_in_cache(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self} is not in the cache, and {reason} (there is no such local folder either): check the network and "
            "HF_ENDPOINT, or give a checkpoint folder"
        )


def _remember(folder: Path, revision: str, commit: str) -> None:
    """Let the cache know what the branch or tag means, for when the Hub is away: only now that all of it is here."""
    file = folder.parents[1] / "refs" / revision
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        if not file.exists() or file.read_text() != commit:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(commit)
            temporary.replace(file)
    except OSError as error:  # a cache that may only be read
        logger.warning("%s cannot be written (%s): without the Hub, %r will not be found.", file, error, revision)


def first_line(error: BaseException) -> str:
    """What the Hub's clients say of an error goes on for pages."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
