"""Checkpoint folders and dataset folders to the Hub, in one commit; and, before any work, whether they may go there."""

import tempfile
from collections.abc import Sequence
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

from resnet_hub.card import model_card
from resnet_hub.card_edits import card_text, merge_card, read_card
from resnet_hub.checkpoint import (
    CARD_NAME,
    CHECKPOINT_FILES,
    CONFIG_NAME,
    PICTURE_NAMES,
    PREDICTIONS_NAME,
    TRAINING_NAME,
    WEIGHTS_NAME,
    read_json,
    read_pictures,
    read_predictions,
    read_training_record,
)
from resnet_hub.download import ANSWER_SECONDS, NO_HUB, UNREACHABLE, first_line, unreachable_reason, within
from resnet_hub.errors import CheckpointError, PushError

#: How often a push begins anew because somebody else changed the repository meanwhile.
MAX_ATTEMPTS = 3
_CHANGED_MEANWHILE = 412

Patterns = Sequence[str] | str | None


def prepare_repo(
    repo_id: str, *, repo_type: str = "model", private: bool | None = None, token: str | bool | None = None
) -> str:
    """Make the repository where it does not exist, and make sure that it may be written to.

    Two small requests, against the clock.

    Returns:
        Its full id, where only a name was given.

    Raises:
        PushError: no token, no right to write there, no such id, or no answer.
    """

    def question() -> str:
        api = HfApi(token=token)
        full_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        api.auth_check(full_id, repo_type=repo_type, write=True)  # creating says nothing of a repository that exists
        return full_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise _push_error(repo_id, error) from error
    if token is False or not (token if isinstance(token, str) else get_token()):
        raise PushError(
            f"{repo_id} cannot be pushed to, for nobody is logged in here: run `hf auth login`, or set HF_TOKEN"
        )
    try:
        return within(ANSWER_SECONDS, question)
    except (HfHubHTTPError, *UNREACHABLE, *NO_HUB) as error:
        raise _push_error(repo_id, error) from error


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str = "Push model with resnet_hub",
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    delete_patterns: Patterns = None,
) -> str:
    """Upload the files of a checkpoint folder as they are, in one commit: all of them arrive, or none.

    The card alone is written anew, so that its examples load ``repo_id``; what was written by hand into the one on the
    Hub, or into the folder's, stays. Other files in the folder are not uploaded. As in a folder, record and pictures
    of another checkpoint do not stay in the repository.

    Args:
        folder: It is not changed.
        repo_id: Made where it does not exist.
        private: Of a repository that is made now; default: as the account's settings say.
        token: Default: that of the environment, or of `hf auth login`.
        branch: Which exists; default ``main``.
        create_pr: Leave the branch alone, and propose the commit in a pull request.
        commit_message: Its title.
        allow_patterns, ignore_patterns: Which of the files to upload.
        delete_patterns: Which files of the repository to delete; default: those of a checkpoint that this one lacks.

    Returns:
        The URL of the commit.

    Raises:
        CheckpointError: the folder is no checkpoint.
        PushError: the Hub did not take it, and has nothing of it.
    """
    folder = Path(folder)
    files = _files(folder)
    repo_id = prepare_repo(repo_id, private=private, token=token)
    if delete_patterns is None:
        delete_patterns = [name for name in (TRAINING_NAME, PREDICTIONS_NAME, *PICTURE_NAMES) if name not in files]
    uploaded = list(filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
    api = HfApi(token=token)
    try:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            info = api.model_info(repo_id, revision=branch, timeout=ANSWER_SECONDS)
            operations = _operations(folder, repo_id, info, uploaded, delete_patterns, token)
            try:
                # Weights take minutes: whoever edits the card on the Hub meanwhile must not be overwritten.
                commit = api.create_commit(
                    repo_id,
                    operations,
                    commit_message=commit_message,
                    revision=branch,
                    create_pr=create_pr,
                    parent_commit=info.sha,
                )
            except HfHubHTTPError as error:
                if error.response.status_code != _CHANGED_MEANWHILE or attempt == MAX_ATTEMPTS:
                    raise
            else:
                return commit.pr_url or commit.commit_url
    except (HfHubHTTPError, OSError, RuntimeError, *UNREACHABLE, *NO_HUB) as error:
        raise _push_error(repo_id, error, branch) from error
    raise AssertionError("the last attempt raises or returns")


def _operations(
    folder: Path,
    repo_id: str,
    there: ModelInfo,
    uploaded: list[str],
    delete_patterns: Patterns,
    token: str | bool | None,
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes of the repository, as it is ``there``, one with the files ``uploaded``."""
    names = [sibling.rfilename for sibling in there.siblings]
    deleted = [] if not delete_patterns else filter_repo_objects(names, allow_patterns=delete_patterns)
    operations = [CommitOperationDelete(name) for name in deleted if name not in uploaded]
    for name in uploaded:
        content: bytes | Path = folder / name
        if name == CARD_NAME:
            content = _card(folder, repo_id, there.sha if CARD_NAME in names else None, token).encode()
        operations.append(CommitOperationAdd(name, content))
    return operations


def push_dataset(folder: Path, repo_id: str, *, private: bool | None = None) -> str:
    """Upload a dataset folder, card and ``data/*.parquet``, in the place of what is there.

    Returns:
        The URL of the dataset.

    Raises:
        PushError: the Hub did not take it, and has nothing of it.
    """
    repo_id = prepare_repo(repo_id, repo_type="dataset", private=private)
    api = HfApi()
    try:
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder, delete_patterns="data/*.parquet")
    except (HfHubHTTPError, OSError, RuntimeError, *UNREACHABLE, *NO_HUB) as error:
        raise _push_error(repo_id, error) from error
    return f"{api.endpoint}/datasets/{repo_id}"


def _files(folder: Path) -> list[str]:
    """Names of what there is to upload, the card always among them."""
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}: give a checkpoint folder")
    present = {WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, *read_pictures(folder)}
    if read_training_record(folder) is not None:
        present.add(TRAINING_NAME)
    if read_predictions(folder) is not None:
        present.add(PREDICTIONS_NAME)
    return [name for name in CHECKPOINT_FILES if name in present]


def _card(folder: Path, repo_id: str, commit: str | None, token: str | bool | None) -> str:
    """The folder's card for ``repo_id``, merged with what was written by hand here and at ``commit`` there."""
    pictures = read_pictures(folder)
    card = str(model_card(read_json(folder, CONFIG_NAME), read_training_record(folder), repo_id, pictures))
    here = read_card(folder / CARD_NAME)
    there = None
    if commit is not None:
        with tempfile.TemporaryDirectory() as directory:
            file = hf_hub_download(repo_id, CARD_NAME, revision=commit, token=token, local_dir=directory)
            there = card_text(Path(file))
    for old in (here, there):
        card = card if old is None else merge_card(card, old)
    return card


def _push_error(repo_id: str, error: Exception, branch: str | None = None) -> PushError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, HFValidationError):
        return PushError(f"{repo_id!r} is no Hub id: give one such as 'me/my-model'")
    if isinstance(error, RevisionNotFoundError):
        return PushError(f"{repo_id} has no branch {branch!r}: make it first, or leave it out")
    if status == 401:
        return PushError(
            f"the Hub refuses the access token for {repo_id}: run `hf auth login`, or correct or unset HF_TOKEN"
        )
    if status in (403, 404):
        return PushError(
            f"{repo_id} may not be written to with this access token: give an id of your own, or run `hf auth login` "
            "with a token that may write there"
        )
    # The client's own objections, to a card's metadata for instance, are such errors too.
    objects = isinstance(error, ValueError) and not isinstance(error, (HfHubHTTPError, JSONDecodeError))
    reason = first_line(error) if objects else unreachable_reason(error) or first_line(error)
    return PushError(f"{repo_id} could not be pushed to, {reason}: check the network and HF_ENDPOINT, and push again")
