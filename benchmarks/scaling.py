"""What grows with the data and the processes: start-up, memory, images per second.

    python benchmarks/scaling.py                        # 1,000 to 100,000 images; 1 and 2 processes
    python benchmarks/scaling.py --sizes 1000 --processes 1

Trains ``train/train.py`` as users start it, on pictures of noise in a dataset folder, with a network so small that all
else shows; then measures the checkpoint with ``train/evaluate.py`` on as many. Prints a table, and writes JSON where
told.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The script runs from a checkout, from any directory, without being installed.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import datasets
import numpy as np
import tyro
from PIL import Image

from benchmarks.machine import describe, markdown, write_json

NUM_CLASSES = 10
TINY = ("--layers", "1", "1", "1", "1", "--channels", "16", "16", "16", "16", "--image_size", "32")


@dataclass(frozen=True)
class Run:
    """Times in seconds, memory in MB, of all processes together.

    Attributes:
        to_first_step: From the command on, where the images are new to this machine, and all are looked at.
        again: The same, for a second run on them.
        memory: The most at any time in training, with the workers.
        evaluation_memory: The same in evaluation.
        images_per_second: In training.
    """

    images: int
    processes: int
    to_first_step: float
    again: float
    memory: float
    evaluation_memory: float
    images_per_second: float


def main(
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000),
    processes: tuple[int, ...] = (1, 2),
    json_file: Path | None = None,
) -> None:
    """Measure.

    Args:
        sizes: Training images.
        processes: Of a run.
        json_file: Write figures, versions and hardware there too.
    """
    datasets.disable_progress_bars()
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            for count in processes:
                folder = Path(temporary, f"{size}-{count}")  # new images each time: those of before are known
                write_noise(folder / "noise", size, seed=len(runs))
                runs.append(measure(folder, size, count))
    print(table(runs))
    if json_file is not None:
        machine = describe(["torch", "datasets", "accelerate"])
        write_json(json_file, {"machine": machine, "runs": [asdict(run) for run in runs]})


def write_noise(folder: Path, num_train: int, seed: int) -> None:
    """A dataset folder of pictures that are all different, and cheap to make."""
    rng = np.random.default_rng(seed)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[str(i) for i in range(NUM_CLASSES)])
    )

    def rows(count: int) -> Iterator[dict[str, Any]]:
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            yield {"image": Image.fromarray(pixels), "label": i % NUM_CLASSES}

    for split, count in {"train": num_train, "validation": 100, "test": 100}.items():
        split_rows = datasets.Dataset.from_generator(
            rows, features=features, gen_kwargs={"count": count}, cache_dir=str(folder.parent / "cache")
        )
        (folder / "data").mkdir(parents=True, exist_ok=True)
        split_rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def measure(folder: Path, size: int, processes: int) -> Run:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launcher = launcher if processes > 1 else []
    train = [*launcher, ROOT / "train" / "train.py", "--dataset_name", folder / "noise", *TINY]
    train += ["--num_train_epochs", "1", "--per_device_train_batch_size", "32", "--sample_pictures", "False"]
    first, memory, output = observe([*train, "--output_dir", folder / "first"])
    seconds = float(re.search(r"\| ([\d.]+) s", output)[1])
    again, _, _ = observe([*train, "--output_dir", folder / "again"], end_after_start=True)
    evaluate = [*launcher, ROOT / "train" / "evaluate.py", folder / "first", "--dataset_name", folder / "noise"]
    _, evaluation_memory, _ = observe([*evaluate, "--split", "train"])
    return Run(size, processes, first, again, memory, evaluation_memory, size / seconds)


def observe(command: list[Any], end_after_start: bool = False) -> tuple[float, float, str]:
    """Run Python; seconds until its first line about steps, the most memory of it and its children, its output."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    most, is_over = [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.2):
            most[0] = max(most[0], memory_of(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds, lines = float("nan"), []
    for line in process.stdout:
        lines.append(line)
        if "steps an epoch" in line:
            seconds = time.perf_counter() - start
            if end_after_start:
                process.terminate()
    code = process.wait()
    is_over.set()
    watcher.join()
    if code != 0 and not end_after_start:
        raise SystemExit("".join(lines))
    return seconds, most[0], "".join(lines)


def memory_of(pid: int) -> float:
    """Of a process and all below it, shared pages counted once, in MB. Linux only; elsewhere it is not told.

    Mapped files are not counted, the dataset's among them: the system takes their pages back when it needs them.
    """
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = int(re.search(r"^Pss_Anon:\s+(\d+)", rollup, flags=re.MULTILINE)[1]) / 1024
    return own + sum(memory_of(int(child)) for child in children)


def table(runs: list[Run]) -> str:
    header = ["images", "processes", "to first step, s", "again, s", "images/s", "memory, MB", "in evaluation, MB"]
    return markdown(
        header,
        [
            [
                f"{run.images:,}",
                str(run.processes),
                f"{run.to_first_step:.1f}",
                f"{run.again:.1f}",
                f"{run.images_per_second:,.0f}",
                f"{run.memory:,.0f}",
                f"{run.evaluation_memory:,.0f}",
            ]
            for run in runs
        ],
    )


if __name__ == "__main__":
    tyro.cli(main)
