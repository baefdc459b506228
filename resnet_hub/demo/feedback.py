"""Visitors' corrections: the picture and a line of JSON for each, in a folder of the operator's or a Hub dataset.

Off unless the operator names a place, and the page says when it is on.
"""

import json
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import CommitScheduler
from PIL import Image

from resnet_hub.errors import ConfigurationError

MINUTES_BETWEEN_COMMITS = 10
#: Beyond this many, corrections are no longer taken: a disk that fills up is worse than a correction that is lost.
MAX_CORRECTIONS = 20_000
RECORDS_NAME = "metadata.jsonl"  # the name by which ``datasets`` reads labels beside images


class FeedbackStore:
    """A folder that ``datasets.load_dataset`` reads as it is: ``metadata.jsonl`` beside the pictures.

    Args:
        folder: Where to write; made where it does not exist.
        repo_id: Also upload it to this Hub dataset, every ten minutes.

    Raises:
        ConfigurationError: the folder cannot be written, or the Hub does not take the dataset.
    """

    def __init__(self, folder: Path, repo_id: str | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            records = folder / RECORDS_NAME
            self._count = len(records.read_text().splitlines()) if records.exists() else 0
        except OSError as error:
            raise ConfigurationError(f"corrections cannot be written to {folder} ({error}): choose another") from error
        if repo_id is not None:
            try:
                scheduler = CommitScheduler(
                    repo_id=repo_id,
                    repo_type="dataset",
                    folder_path=folder,
                    every=MINUTES_BETWEEN_COMMITS,
                    private=True,
                    squash_history=False,
                )
            except Exception as error:  # of the Hub's client, whatever it is
                raise ConfigurationError(
                    f"corrections cannot be sent to {repo_id} ({error}): check the id, or run `hf auth login`"
                ) from error
            self._lock = scheduler.lock  # nothing is written while it uploads

    def add(self, image: Image.Image, *, model: str, predicted: str, score: float, label: str) -> bool:
        """Keep one correction; whether there was room for it.

        Args:
            image: RGB. Written anew, so that what cameras add (place, time, owner) does not stay.
            model: Name of the model that was asked.
            predicted, score: Its answer.
            label: What the visitor says it is.
        """
        name = f"{uuid.uuid4().hex}.png"
        record = {
            "file_name": name,
            "label": label,
            "predicted": predicted,
            "score": round(score, 4),
            "model": model,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with self._lock:
            if self._count >= MAX_CORRECTIONS:
                return False
            image.save(self._folder / name)
            with (self._folder / RECORDS_NAME).open("a", encoding="utf-8") as records:
                records.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._count += 1
        return True
