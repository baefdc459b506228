"""Train a ResNet from scratch on an image dataset and leave a checkpoint folder.

    accelerate launch train/train.py --config train/recipes/signs.yaml
    torchrun --nproc_per_node 2 train/train.py --dataset_name cifar10
    python train/train.py --help

Without arguments it trains on SIGNS where that is found, else on hands drawn by code.
"""

import math
import sys
import time
import warnings
from pathlib import Path

# The script runs from a checkout, from any directory, without being installed. Its own folder goes from the path:
# ``train`` must mean the package, not this file.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, set_seed
from datasets import Dataset, disable_progress_bars
from torch.utils.data import DataLoader

from resnet_hub import ResNetForImageClassification, ResNetHubError
from resnet_hub.checkpoint import WEIGHTS_NAME, Epoch, Metrics, Result, TrainingRecord
from resnet_hub.errors import ConfigurationError, TrainingError
from train.augmentation import Augmentation
from train.batches import EvaluationBatches, TrainingBatches, make_loader
from train.config import TrainingConfig, parse_config, recipe_of
from train.data import TrainingData, load_training_data
from train.engine import evaluate, train_epoch
from train.environment import choose_mixed_precision, commit, hardware, share_cores, versions
from train.optimization import learning_rate_at, make_optimizer


def main(config: TrainingConfig) -> None:
    """The story: data, model, train and keep the best epoch, test that one once."""
    accelerator = make_accelerator(config)
    if not sys.stderr.isatty():
        disable_progress_bars()  # of ``datasets``, which would fill a log file
    data = load_training_data(config, accelerator)
    output_dir = choose_output_dir(config, data.name, accelerator)
    set_seed(config.seed)
    model = make_model(config, data.label_names)
    record = start_record(config, data, accelerator)
    fit(accelerator, model, data, config, record, output_dir)
    accelerator.wait_for_everyone()  # until the main process has saved the last improvement
    test(accelerator, data, config, record, output_dir)
    accelerator.print(f"saved {output_dir}; serve it with: python app.py --model {output_dir}")
    accelerator.end_training()


def fit(
    accelerator: Accelerator,
    model: ResNetForImageClassification,
    data: TrainingData,
    config: TrainingConfig,
    record: TrainingRecord,
    output_dir: Path,
) -> None:
    """Train; after every epoch that is the best on validation so far, save the checkpoint folder."""
    train_rows = data.train
    batches = TrainingBatches(
        len(train_rows),
        config.per_device_train_batch_size,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    train_loader = make_loader(
        train_rows, batches, model.preprocessing, make_augmentation(config), config.dataloader_num_workers
    )
    validation_loader = evaluation_loader(data.validation, model, config, accelerator)
    optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
    network, optimizer = accelerator.prepare(model, optimizer)
    accelerator.print(
        f"{config.model_name} on {len(train_rows):,} images of {' and '.join(data.datasets)}, {len(batches)} steps an "
        f"epoch, {', '.join(f'{key} {value}' for key, value in record['hardware'].items())} -> {output_dir}"
    )

    num_steps = config.num_train_epochs * len(batches)
    for epoch in range(1, config.num_train_epochs + 1):
        start = time.perf_counter()
        batches.epoch = epoch
        steps_before = (epoch - 1) * len(batches)
        learning_rates = [
            learning_rate_at(steps_before + step, num_steps, config.learning_rate, config.warmup_ratio)
            for step in range(len(batches))
        ]
        train_metrics = train_epoch(
            accelerator,
            network,
            train_loader,
            optimizer,
            learning_rates,
            label_smoothing=config.label_smoothing_factor,
            max_grad_norm=config.max_grad_norm,
            description=f"epoch {epoch}/{config.num_train_epochs}",
        )
        if not math.isfinite(train_metrics["loss"]):
            raise TrainingError(
                f"the loss became {train_metrics['loss']} in epoch {epoch}: lower --learning_rate (it peaks at "
                f"{config.learning_rate}) and start again"
            )
        validation = evaluate(accelerator, model, validation_loader, description="validation")
        line = Epoch(
            epoch=epoch,
            learning_rate=learning_rates[-1],
            train=without_matrix(train_metrics),
            validation=without_matrix(validation),
            seconds=round(time.perf_counter() - start, 2),
        )
        record["history"].append(line)
        improved = is_best(record["history"])
        if improved:
            record["best_epoch"] = epoch
            record["results"] = [Result(dataset=data.describe()[0]["name"], split="validation", **validation)]
            save(accelerator, model, record, output_dir, config.save_dtype)
        print_epoch(accelerator, line, improved)


def test(
    accelerator: Accelerator, data: TrainingData, config: TrainingConfig, record: TrainingRecord, output_dir: Path
) -> None:
    """Look at the test images, once, with the best epoch, read from the saved files: what users will load."""
    best = ResNetForImageClassification.from_pretrained(output_dir, map_location=accelerator.device)
    for dataset, rows in zip(record["datasets"], data.tests.values(), strict=True):
        metrics = evaluate(accelerator, best, evaluation_loader(rows, best, config, accelerator), description="test")
        record["results"].append(Result(dataset=dataset["name"], split="test", **metrics))
        accelerator.print(
            f"test on {dataset['name']}: accuracy {metrics['accuracy']:.4f}, macro-F1 {metrics['macro_f1']:.4f}, loss "
            f"{metrics['loss']:.4f} ({metrics['num_images']:,} images, weights of epoch {record['best_epoch']})"
        )
    save(accelerator, best, record, output_dir, config.save_dtype)


# ---------------------------------------------------------------------------------------------------------------------
# What the story is made of


def make_accelerator(config: TrainingConfig) -> Accelerator:
    # The name that replaces it is not in torch 2.11 yet, nor in Accelerate.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    accelerator = Accelerator(
        mixed_precision=choose_mixed_precision(config.mixed_precision),
        # Not told so, Accelerate takes the processes that torchrun starts on a machine without GPU for strangers.
        cpu=not torch.accelerator.is_available(),
        # BatchNorm statistics are averaged once an epoch, so there is no need to copy them in every step.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    share_cores(accelerator)
    return accelerator


def choose_output_dir(config: TrainingConfig, dataset_name: str, accelerator: Accelerator) -> Path:
    """Never one that holds a checkpoint already, unless told so. The main process chooses for all."""
    if config.output_dir is None:
        base = Path("runs") / f"{Path(dataset_name).name}-{config.model_name}"
        candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
        choice = [next(folder for folder in candidates if not folder.exists())]
        return broadcast_object_list(choice)[0]
    if (config.output_dir / WEIGHTS_NAME).exists() and not config.overwrite_output_dir:
        raise ConfigurationError(
            f"{config.output_dir} holds a checkpoint already: choose another --output_dir, or add "
            "--overwrite_output_dir True"
        )
    return config.output_dir


def make_model(config: TrainingConfig, label_names: list[str]) -> ResNetForImageClassification:
    sizes = {"layers": config.layers, "channels": config.channels}
    model = ResNetForImageClassification(
        config.model_name,
        label_names=label_names,
        image_size=config.image_size,
        **{name: value for name, value in sizes.items() if value is not None},
    )
    return model.to(memory_format=torch.channels_last)


def make_augmentation(config: TrainingConfig) -> Augmentation:
    return Augmentation(
        seed=config.seed,
        horizontal_flip=config.horizontal_flip,
        rotation=config.rotation,
        scale=config.scale,
        translation=config.translation,
        color_jitter=config.color_jitter,
    )


def evaluation_loader(
    rows: Dataset, model: ResNetForImageClassification, config: TrainingConfig, accelerator: Accelerator
) -> DataLoader:
    processes = (accelerator.process_index, accelerator.num_processes)
    batches = EvaluationBatches(len(rows), config.per_device_eval_batch_size, *processes)
    return make_loader(rows, batches, model.preprocessing, num_workers=config.dataloader_num_workers)


def start_record(config: TrainingConfig, data: TrainingData, accelerator: Accelerator) -> TrainingRecord:
    described = data.describe()
    return TrainingRecord(
        recipe=recipe_of(config) | {"dataset_name": described[0]["name"]},
        datasets=described,
        versions=versions(),
        hardware=hardware(accelerator),
        commit=commit(),
        history=[],
        best_epoch=0,
        results=[],
    )


def is_best(history: list[Epoch]) -> bool:
    """By validation accuracy; of two alike, as small validation sets give them, the one with the lower loss."""
    ranks = [(line["validation"]["accuracy"], -line["validation"]["loss"]) for line in history]
    return ranks[-1] > max(ranks[:-1], default=(-1.0, 0.0))


def without_matrix(metrics: Metrics) -> Metrics:
    """For the history, where a matrix per epoch would drown the curves."""
    return {key: value for key, value in metrics.items() if key != "confusion_matrix"}


def save(
    accelerator: Accelerator,
    model: ResNetForImageClassification,
    record: TrainingRecord,
    output_dir: Path,
    dtype: str,
) -> None:
    if accelerator.is_main_process:
        model.training_record = record
        model.save_pretrained(output_dir, dtype=getattr(torch, dtype))


def print_epoch(accelerator: Accelerator, line: Epoch, improved: bool) -> None:
    parts = [
        f"{split} loss {line[split]['loss']:.4f} accuracy {line[split]['accuracy']:.4f} "
        f"macro-F1 {line[split]['macro_f1']:.4f}"
        for split in ("train", "validation")
    ]
    best = " (best)" if improved else ""
    accelerator.print(f"epoch {line['epoch']}: {' | '.join(parts)}{best} | {line['seconds']:.1f} s")


if __name__ == "__main__":
    try:
        main(parse_config())
    except ResNetHubError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
