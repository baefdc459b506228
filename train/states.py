"""What a run needs to go on exactly where it stopped, as safetensors and JSON: saved, found, loaded.

A state is a folder ``states/step-00000123`` in the run's folder. It gets its name by a rename once it is complete and
on the disk, so that a folder of that name always is a whole state, whatever killed the process that wrote it.
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from resnet_hub.checkpoint import finish_file, write_json
from resnet_hub.errors import CheckpointError

FOLDER = "states"
TENSORS_NAME = "tensors.safetensors"
STATE_NAME = "state.json"
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class State:
    """``values`` (JSON) and ``tensors`` of a run after a step."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def save_state(run_folder: Path, step: int, state: State, limit: int) -> None:
    """Write a state and remove the oldest ones beyond ``limit``.

    Raises:
        CheckpointError: it cannot be written; earlier states are as they were.
    """
    folder = run_folder / FOLDER / f"step-{step:08d}"
    if folder.exists():  # from before a resume: the same state
        return
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
        save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, staging / TENSORS_NAME)
        write_json(staging / STATE_NAME, state.values)
        for file in staging.iterdir():
            finish_file(file)
        os.replace(staging, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"saving the state after step {step} to {folder} failed ({error}): earlier states are unchanged; make room "
            f"and go on with --resume_from_checkpoint {run_folder}"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    for old in find_states(run_folder)[:-limit]:
        shutil.rmtree(old, ignore_errors=True)


def find_states(run_folder: Path) -> list[Path]:
    """Folders of the complete states, oldest first."""
    folder = run_folder / FOLDER
    return sorted(f for f in folder.iterdir() if _NAME.fullmatch(f.name)) if folder.is_dir() else []


def load_newest_state(run_folder: Path) -> State | None:
    """The newest state that can be read, or None where there is none. Says which ones a damaged disk has spoilt."""
    for folder in reversed(find_states(run_folder)):
        try:
            return State(read_values(folder), load_file(folder / TENSORS_NAME))
        except (OSError, ValueError, SafetensorError) as error:
            print(f"{folder} cannot be read ({error}): trying the one before")
    return None


def read_values(folder: Path) -> dict[str, Any]:
    """The JSON part of a state. Raises ``OSError`` or ``ValueError`` where it cannot be read."""
    return json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))


def remove_states(run_folder: Path) -> None:
    """All of them: a finished run has nothing to go on with."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)


def remove_leftovers(run_folder: Path) -> None:
    """Half-written folders of processes that were killed while they saved."""
    staged = [*run_folder.parent.glob(f".{run_folder.name}-*.tmp"), *(run_folder / FOLDER).glob(".step-*.tmp")]
    for folder in staged:
        shutil.rmtree(folder, ignore_errors=True)
