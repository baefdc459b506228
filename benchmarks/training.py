"""Training, everything in: reading, decoding, augmenting, the step, the metrics. This project beside what others do.

    python benchmarks/training.py                     # ResNet-50 at 64 px, batch 32, as README and recipes train
    python benchmarks/training.py --image-size 224 --batch-size 16

Hands drawn by code are written as PNG into a dataset once; every contestant reads that, on the same cores, in turn:

- ``resnet_hub``: as ``train/train.py`` does it;
- ``plain loop``: what tutorials show: torchvision's network, fp32, Adam, ``.item()`` after every step;
- ``timm``: its loader, network and optimiser with the defaults of its training script;
- ``accelerate``: the loop of its computer-vision example, with what ``accelerate launch`` chooses by itself.

Prints a table, and writes JSON where told.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# The script runs from a checkout, from any directory, without being installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import datasets
import torch
import torchvision
import tyro
from accelerate import Accelerator
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks.machine import describe, markdown, matrix_product_gflops, with_spread, write_json
from resnet_hub import ResNetForImageClassification
from resnet_hub.data import load_image_dataset
from resnet_hub.drawn_signs import LABEL_NAMES
from resnet_hub.images import IMAGENET_MEAN, IMAGENET_STD
from train.batches import Collate, TrainingBatches, make_loader
from train.config import TrainingConfig
from train.engine import Tally, progress, train_step
from train.environment import choose_mixed_precision, keep_memory, make_accelerator
from train.optimization import make_optimizer
from train.trainer import make_augmentation

#: A pass forward and two of the same size backward; multiply and add counted as two, as ceilings are.
PASSES = 3
SEED = 0

#: Trains for one epoch, from reading to metrics; gives back the seconds that it stood still for data, where it knows.
Contestant = Callable[[], float]


def main(
    image_size: int = 64, batch_size: int = 32, steps: int = 20, rounds: int = 5, json_file: Path | None = None
) -> None:
    """Measure.

    Args:
        image_size: Side of the images in px.
        batch_size: Images in a step.
        steps: In a round.
        rounds: Of every contestant, in turn, after one that is not counted.
        json_file: Write figures, versions and hardware there too.
    """
    speeds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    waits: list[float] = []
    # Each in a process of its own: what one sets for all of torch would slow down or speed up the others.
    pools = {name: ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), num_images=batch_size * steps)
        for name, pool in pools.items():
            pool.submit(enter, name, Path(folder), image_size, batch_size).result()
        for number in range(rounds + 1):
            for name, pool in pools.items():
                seconds, waited = pool.submit(take_turn).result()
                if number > 0:
                    speeds[name].append(batch_size * steps / seconds)
                    if name == "resnet_hub":
                        waits.append(waited / seconds)
        for pool in pools.values():
            pool.shutdown()
    report(image_size, batch_size, speeds, waits, json_file)


def enter(name: str, folder: Path, image_size: int, batch_size: int) -> None:
    """In the contestant's process."""
    global _contestant
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_parquet(str(folder / "train.parquet"), cache_dir=str(folder / name))
    _contestant = CONTESTANTS[name](rows, image_size, batch_size)


def take_turn() -> tuple[float, float]:
    """Seconds, and those of them without data."""
    start = time.perf_counter()
    waited = _contestant()
    return time.perf_counter() - start, waited


def report(
    image_size: int,
    batch_size: int,
    speeds: dict[str, list[float]],
    waits: list[float],
    json_file: Path | None,
) -> None:
    machine = describe(["torch", "torchvision", "timm", "accelerate", "datasets"])
    precision = torch.bfloat16 if choose_mixed_precision("auto") == "bf16" else torch.float32
    ceiling = matrix_product_gflops(precision, "cuda" if torch.cuda.is_available() else "cpu")
    gflop = PASSES * forward_gflop(image_size)
    median = {name: sorted(values)[len(values) // 2] for name, values in speeds.items()}
    print(
        f"ResNet-50, {image_size} px, batch {batch_size}, images/s: median of {len(waits)} rounds (range)\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['versions']}\n"
    )
    rows = [
        [name, with_spread(values), f"{median['resnet_hub'] / median[name]:.2f}"] for name, values in speeds.items()
    ]
    print(markdown(["", "images/s", "resnet_hub is faster by"], rows))
    share = median["resnet_hub"] * gflop / ceiling
    print(
        f"\nresnet_hub computes {median['resnet_hub'] * gflop:,.0f} GFLOP/s, {share:.0%} of the {ceiling:,.0f} that a "
        f"product of matrices reaches in {str(precision).removeprefix('torch.')}; it stands still for data for "
        f"{100 * sorted(waits)[len(waits) // 2]:.1f} % of the time."
    )
    if json_file is not None:
        content = {"image_size": image_size, "batch_size": batch_size, "images_per_second": speeds}
        content |= {"data_wait": waits, "ceiling_gflops": ceiling, "gflop_per_image": gflop, "machine": machine}
        write_json(json_file, content)


def forward_gflop(image_size: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        torchvision.models.resnet50(num_classes=len(LABEL_NAMES))(torch.empty(1, 3, image_size, image_size))
    return counter.get_total_flops() / 1e9


def write_rows(folder: Path, num_images: int) -> None:
    """Drawn hands, encoded, on disk: what is decoded again and again."""
    datasets.disable_progress_bars()
    rows = load_image_dataset("drawn-signs")["train"]
    rows.select([i % len(rows) for i in range(num_images)]).to_parquet(folder / "train.parquet")


# ---------------------------------------------------------------------------------------------------------------------
# Contestants


def ours(rows: datasets.Dataset, image_size: int, batch_size: int) -> Contestant:
    accelerator = make_accelerator("auto")
    keep_memory(accelerator)
    config = TrainingConfig(per_device_train_batch_size=batch_size, image_size=image_size)
    model = ResNetForImageClassification(label_names=LABEL_NAMES, image_size=image_size)
    batches = TrainingBatches(len(rows), batch_size, SEED)
    collate = Collate(model.preprocessing, make_augmentation(config))
    loader = make_loader(rows, batches, collate, num_workers=config.dataloader_num_workers)
    optimizer = make_optimizer(model, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    model = model.to(memory_format=torch.channels_last)
    network, optimizer = accelerator.prepare(model, optimizer)

    def run() -> float:
        network.train()
        batches.epoch += 1
        tally, waited = Tally(), 0.0
        stream = progress(loader, "", accelerator)
        while True:
            start = time.perf_counter()
            batch = next(stream, None)
            waited += time.perf_counter() - start
            if batch is None:
                break
            batch = batch.to(accelerator.device)
            [(logits, losses)] = train_step(
                *(accelerator, network, optimizer, [batch]),
                label_smoothing=config.label_smoothing_factor,
                max_grad_norm=config.max_grad_norm,
            )
            tally.add(batch, logits, losses)
        tally.predictions().metrics(len(LABEL_NAMES))
        return waited

    return run


def transforms(image_size: int) -> v2.Compose:
    """Augmentation of about the same kind as ours, image by image, as the peers do it."""
    return v2.Compose(
        [
            v2.Resize((image_size, image_size)),
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(degrees=15, translate=(0.1, 0.1), scale=(0.9, 1.1)),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


class TransformedRows(torch.utils.data.Dataset):
    """(image, label) of each row, as torchvision's datasets give them."""

    def __init__(self, rows: datasets.Dataset, transform: Callable | None) -> None:
        self.rows = rows
        self.transform = transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = self.rows[index]
        return self.transform(row["image"].convert("RGB")), row["label"]


def plain(rows: datasets.Dataset, image_size: int, batch_size: int) -> Contestant:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torchvision.models.resnet50(num_classes=len(LABEL_NAMES)).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    loader = DataLoader(TransformedRows(rows, transforms(image_size)), batch_size, shuffle=True, num_workers=1)

    def run() -> float:
        loss_sum, correct = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            logits = model(images)
            loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            correct += (logits.argmax(dim=1) == labels).sum().item()
        return 0.0

    return run


def with_timm(rows: datasets.Dataset, image_size: int, batch_size: int) -> Contestant:
    import timm
    from timm.data import create_loader
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model("resnet50", num_classes=len(LABEL_NAMES)).to(device).train()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, weight_decay=2e-5, momentum=0.9)
    loader = create_loader(
        TransformedRows(rows, None),
        input_size=(3, image_size, image_size),
        batch_size=batch_size,
        is_training=True,
        color_jitter=0.4,
        hflip=0.5,
        num_workers=1,
        use_prefetcher=device.type == "cuda",
        device=device,
    )
    criterion = torch.nn.CrossEntropyLoss()

    def run() -> float:
        meter = AverageMeter()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.update(loss.item(), len(images))
        return 0.0

    return run


def with_accelerate(rows: datasets.Dataset, image_size: int, batch_size: int) -> Contestant:
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
    model = torchvision.models.resnet50(num_classes=len(LABEL_NAMES)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TransformedRows(rows, transforms(image_size)), batch_size, shuffle=True, num_workers=1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def run() -> float:
        total = 0.0
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            total += loss.detach().float()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return 0.0

    return run


CONTESTANTS = {"resnet_hub": ours, "plain loop": plain, "timm": with_timm, "accelerate": with_accelerate}

if __name__ == "__main__":
    tyro.cli(main)
