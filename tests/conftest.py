"""Shared by the tests: networks that are small enough to train and save in milliseconds."""

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
import training_runs
from loopback_hub import LoopbackHub
from PIL import Image

from resnet_hub import ResNetForImageClassification, ResNetForSigns
from resnet_hub.calibration import Calibration
from resnet_hub.checkpoint import PICTURE_NAMES, TrainingRecord

TINY = {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}


#: The files that take longest, which the workers begin with: one of them last would leave the others idle.
FIRST = (
    "test_resume",
    "test_training",
    "test_server",
    "test_evaluate",
    "test_benchmarks",
    "test_pushing",
    "test_engines",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled networks of the tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny_model() -> ResNetForSigns:
    torch.manual_seed(0)
    return ResNetForSigns(**TINY)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to read; copy it before changing it."""
    torch.manual_seed(0)
    model = ResNetForSigns(**TINY).train()
    model(torch.randn(8, 3, 64, 64))  # BatchNorm statistics away from their initial values
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder to train on in seconds, see ``training_runs``."""
    folder = tmp_path_factory.mktemp("data") / "colors"
    training_runs.write_colors(folder)
    return folder


@pytest.fixture
def train_here(colors: Path) -> Callable[..., int]:
    """``train_here(folder, stop_at=None, **options)``: train on ``colors`` in this process; the exit code."""
    return lambda folder, stop_at=None, **options: training_runs.train_here(
        stop_at=stop_at, **({"dataset_name": str(colors), "output_dir": folder} | options)
    )


@pytest.fixture
def training_record() -> TrainingRecord:
    """As training leaves it, of a run that never was."""
    return _record()


def _record() -> TrainingRecord:
    metrics = {"loss": 0.5, "accuracy": 0.75, "macro_f1": 0.73333, "num_images": 4}
    epoch = {"epoch": 1, "learning_rate": 1e-3, "train": metrics, "validation": metrics, "seconds": 2.5}
    matrix = [[1, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]] + [[0] * 6] * 4
    record = {
        "recipe": {"dataset_name": "signs", "learning_rate": 1e-3},
        "datasets": [{"name": "signs", "description": "photos", "train": 10, "validation": 4, "test": 4}],
        "versions": {"torch": "2"},
        "hardware": {"device": "CPU"},
        "commit": None,
        "history": [epoch],
        "best_epoch": 1,
        "results": [{"dataset": "signs", "split": "test", **metrics, "confusion_matrix": matrix}],
    }
    return json.loads(json.dumps(record))


@pytest.fixture
def pictures() -> dict[str, bytes]:
    """One of each name, no two alike."""
    files = {}
    for i, name in enumerate(PICTURE_NAMES):
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(stream, "PNG")
        files[name] = stream.getvalue()
    return files


class RunningApp(NamedTuple):
    """A page that is served by a process of its own."""

    process: subprocess.Popen
    port: int
    seconds_to_start: float  # wall clock
    cpu_seconds_to_start: float  # what the process itself computed, whatever else the machine does

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def start_app() -> Iterator[Callable[..., RunningApp]]:
    """Starts ``app.py`` on a free port and waits until it answers; ends what it started."""
    processes = []

    def start(*arguments: str, environment: dict[str, str] | None = None) -> RunningApp:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, Path(__file__).parents[1] / "app.py", "--port", str(port), *arguments]
        begin = time.monotonic()
        processes.append(subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"} | (environment or {})))
        app = RunningApp(processes[-1], port, 0, 0)
        while time.monotonic() < begin + 60:
            assert app.process.poll() is None, "app.py ended at once"
            try:
                urllib.request.urlopen(app.url, timeout=5)
            except OSError:
                time.sleep(0.05)
            else:
                used = psutil.Process(app.process.pid).cpu_times()
                return app._replace(
                    seconds_to_start=time.monotonic() - begin, cpu_seconds_to_start=used.user + used.system
                )
        raise TimeoutError("app.py does not answer")

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(60)


@pytest.fixture(scope="session")
def hands_and_animals(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints for the page: one for hands that says what it measured, one for three animals that does not."""
    hands = ResNetForSigns.from_pretrained(tiny_checkpoint)
    hands.training_record = _record()
    hands.calibration = Calibration(0.8, 1e6, "signs", "validation", 4)  # no picture is unfamiliar to it
    hands.test_predictions = {
        "labels": torch.tensor([0, 1, 1, 1]),
        "predictions": torch.tensor([0, 0, 1, 1]),
        "scores": torch.tensor([0.9, 0.6, 0.8, 0.7]),
        "is_unfamiliar": torch.zeros(4, dtype=torch.bool),
    }
    torch.manual_seed(1)
    animals = ResNetForImageClassification("resnet101", label_names=["cat", "<b>dog</b>", "emu"], image_size=96, **TINY)
    animals.calibration = Calibration(1.0, -1e6, "pets", "validation", 4)  # every picture is unfamiliar to it
    folder = tmp_path_factory.mktemp("models")
    hands.save_pretrained(folder / "hands")
    animals.save_pretrained(folder / "animals")
    return folder / "hands", folder / "animals"


@pytest.fixture(scope="session")
def running_app(start_app, hands_and_animals) -> RunningApp:
    return start_app("--models", *map(str, hands_and_animals))


@pytest.fixture(scope="session")
def hub_server() -> Iterator[LoopbackHub]:
    with LoopbackHub(tokens={"hf_me": "me", "hf_other": "other"}).running() as hub:
        yield hub


@pytest.fixture
def hub(hub_server: LoopbackHub) -> Iterator[LoopbackHub]:
    """A Hub on this machine with the accounts ``me`` and ``other``, empty."""
    yield hub_server
    hub_server.faults.clear()
    hub_server.repos.clear()
    hub_server.lfs_objects.clear()
