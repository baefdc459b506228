"""Train a ResNet from scratch on an image dataset and leave a checkpoint folder.

    accelerate launch train/train.py --config train/recipes/signs.yaml
    torchrun --nproc_per_node 2 train/train.py --dataset_name cifar10
    python train/train.py --help

Without arguments it trains on SIGNS where that is found, else on hands drawn by code.
"""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

# The script runs from a checkout, from any directory, without being installed. Its own folder goes from the path:
# ``train`` must mean the package, not this file.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from datasets import Dataset, disable_progress_bars

from resnet_hub import ResNetForImageClassification, convert
from resnet_hub.calibration import Calibration, fit_calibration
from resnet_hub.checkpoint import TRAINING_NAME, WEIGHTS_NAME, Result, TrainingRecord, read_training_record
from resnet_hub.command import run_command
from resnet_hub.data import public_name
from resnet_hub.errors import ConfigurationError, TrainingError
from train.batches import Collate, EvaluationBatches, make_loader
from train.config import TrainingConfig, parse_config, recipe_of
from train.data import TrainingData, choose_dataset, load_training_data
from train.engine import Predictions, evaluate
from train.environment import commit, hardware, keep_memory, make_accelerator, versions
from train.initialization import load_initial_weights
from train.pictures import image_pictures, record_pictures
from train.pushing import EXIT_CODE, Pusher, make_pusher
from train.states import State, find_states, load_newest_state, remove_leftovers, remove_states
from train.tracking import start_tracking
from train.trainer import Trainer, make_augmentation, without_matrix
from train.variants import BACKGROUND_VARIANTS, VARIANTS
from train.watch import Interrupted, Watch, is_loss_of_a_process


def main(config: TrainingConfig) -> int:
    """The story: data, model, train and keep the best epoch, test that one once. Returns the exit code."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    accelerator = make_accelerator(config.mixed_precision)
    if not sys.stderr.isatty():
        disable_progress_bars()  # of ``datasets``, which would fill a log file
    pusher = make_pusher(config, accelerator)
    told = config.resume_from_checkpoint or "auto"
    if told != "auto" and is_finished(Path(told)) and not find_states(Path(told)):  # for which no data is needed
        return end_finished(Path(told), accelerator, pusher)
    # What can be refused without the images comes before them: to look at all of a large dataset takes minutes.
    name = choose_dataset(config, accelerator)
    output_dir = choose_output_dir(config, name, accelerator)
    calibration = read_calibration(config.calibration_from) if config.calibration_from else None
    initial = convert.read(config.init_from) if config.init_from else None
    data = load_training_data(name, config, accelerator)
    state = find_state(config, output_dir, accelerator)
    if state is None and is_finished(output_dir) and config.resume_from_checkpoint:
        return end_finished(output_dir, accelerator, pusher)
    set_seed(config.seed, deterministic=config.deterministic)
    model = make_model(config, data.label_names, accelerator, initial)
    record = start_record(config, data, accelerator)
    every_save = pusher if config.hub_strategy == "every_save" else None
    trainer = Trainer(accelerator, model, data, config, record, output_dir, every_save)
    if state is not None:
        trainer.restore(state)
    start_tracking(accelerator, config, output_dir)
    announce(trainer, data)
    keep_memory(accelerator)
    with Watch(accelerator) as watch:
        try:
            trainer.fit(watch)
            accelerator.wait_for_everyone()  # until the main process has saved the last improvement
            test(accelerator, data, config, record, output_dir, watch, calibration)
        except Interrupted as interruption:
            trainer.save_state()
            accelerator.print(
                f"{interruption} in epoch {trainer.epoch}, after step {trainer.step} of "
                f"{trainer.learning_rate.num_steps}: saved. Go on with: train/train.py --resume_from_checkpoint "
                f"{output_dir}"
            )
            accelerator.end_training()
            return interruption.exit_code
        except RuntimeError as error:
            if is_loss_of_a_process(error):
                raise TrainingError(
                    f"another of the {accelerator.num_processes} processes ended, its own output says why; start all "
                    f"of them again with: train/train.py --resume_from_checkpoint {output_dir}"
                ) from error
            raise
    if accelerator.is_main_process:
        remove_states(output_dir)
    accelerator.print(f"saved {output_dir}; serve it with: python app.py --models {output_dir}")
    exit_code = push_result(pusher, output_dir) if pusher is not None else 0
    accelerator.end_training()
    return exit_code


def end_finished(output_dir: Path, accelerator: Accelerator, pusher: Pusher | None) -> int:
    accelerator.print(f"{output_dir} is a finished run: nothing to go on with")
    return push_result(pusher, output_dir) if pusher is not None else 0


def announce(trainer: Trainer, data: TrainingData) -> None:
    images = f"{len(data.train):,} images of {' and '.join(data.datasets)}"
    where = ", ".join(f"{key} {value}" for key, value in trainer.record["hardware"].items())
    begin = f"from step {trainer.step} " if trainer.step else ""
    steps = trainer.steps_per_epoch
    batch = trainer.config.per_device_train_batch_size * trainer.accelerator.num_processes
    left_out = len(data.train) - steps * batch
    others = f" ({left_out:,} images, others each time, fill no batch and wait)" if left_out else ""
    trainer.accelerator.print(
        f"{trainer.config.model_name} {begin}on {images}, {steps:,} steps an epoch{others}, {where} -> "
        f"{trainer.output_dir}"
    )


def test(
    accelerator: Accelerator,
    data: TrainingData,
    config: TrainingConfig,
    record: TrainingRecord,
    output_dir: Path,
    watch: Watch,
    calibration: Calibration | None,
) -> None:
    """Look at the test images, once, with the best epoch, read from the saved files: what users will load.

    Before that the validation images tell how far its answers can be trusted, if not ``calibration`` does.
    """
    best = ResNetForImageClassification.from_pretrained(output_dir, map_location=accelerator.device)
    best.calibration = calibration

    def look(rows: Dataset, variant: str | None = None, keep_logits: bool = False) -> Predictions:
        return predict(accelerator, best, rows, config, watch, variant, keep_logits)

    name = record["datasets"][0]["name"]
    if not config.train_on_validation:
        validation = look(data.validation, keep_logits=True)
        best.calibration = fit_calibration(
            torch.from_numpy(validation.logits), torch.from_numpy(validation.labels), name, "validation"
        )

    # Of a run that was interrupted here only the validation result is there yet.
    results = [result for result in record["results"] if result["split"] == "validation" and "variant" not in result]
    predictions = {name: look(rows) for name, rows in data.tests.items()}
    for dataset, predicted in zip(record["datasets"], predictions.values(), strict=True):
        result = Result(dataset=dataset["name"], split="test", **predicted.metrics(best.num_classes))
        results.append(result | trust(predicted, best.calibration))
        accelerator.print(
            f"test on {dataset['name']}: accuracy {result['accuracy']:.4f}, macro-F1 {result['macro_f1']:.4f}, loss "
            f"{result['loss']:.4f} ({result['num_images']:,} images, weights of epoch {record['best_epoch']})"
        )
    if config.measure_variants:
        splits = {"test": data.tests[data.name]}
        if not config.train_on_validation:
            splits = {"validation": data.validation} | splits
        for split, rows in splits.items():
            for variant in [*VARIANTS, *(BACKGROUND_VARIANTS if config.measures_backgrounds else ())]:
                predicted = look(rows, variant)
                metrics = without_matrix(predicted.metrics(best.num_classes))  # one per split is enough
                metrics |= trust(predicted, best.calibration)
                results.append(Result(dataset=name, split=split, variant=variant, **metrics))
                accelerator.print(f"{split}, {variant}: accuracy {metrics['accuracy']:.4f}")
    record["results"] = results
    if accelerator.is_main_process:
        dtype = getattr(torch, config.save_dtype)
        best.training_record, best.pictures = record, {}
        best.test_predictions = as_tensors(predictions[data.name], best.calibration)
        best.save_pretrained(output_dir, dtype=dtype)  # before the pictures: what they fail on must not cost the result
        best.pictures = record_pictures(record, best.label_names)
        if config.sample_pictures:
            best.pictures |= image_pictures(
                data.train,
                data.tests[data.name],
                predictions[data.name],
                best.preprocessing,
                replace(make_augmentation(config), warmup_epochs=0),
            )
        best.save_pretrained(output_dir, dtype=dtype)


def push_result(pusher: Pusher, output_dir: Path) -> int:
    """Push the finished checkpoint and wait for it. Returns the exit code: what is not on the Hub is on the disk."""
    pusher.push(output_dir, "the finished model")
    try:
        pushed = pusher.finish()
    except KeyboardInterrupt:
        pushed = False
    if pushed:
        return 0
    print(
        f"error: {output_dir} is saved, but not pushed: push it with: resnet-hub push {output_dir} {pusher.repo_id}",
        file=sys.stderr,
    )
    return EXIT_CODE


def predict(
    accelerator: Accelerator,
    model: ResNetForImageClassification,
    rows: Dataset,
    config: TrainingConfig,
    watch: Watch,
    variant: str | None,
    keep_logits: bool,
) -> Predictions:
    processes = (accelerator.process_index, accelerator.num_processes)
    loader = make_loader(
        rows,
        EvaluationBatches(len(rows), config.per_device_eval_batch_size, *processes),
        Collate(model.preprocessing),
        variant=variant,
        num_workers=config.dataloader_num_workers,
    )
    predictions = evaluate(
        accelerator, model, loader, description=variant or "test", watch=watch, keep_logits=keep_logits
    )
    watch.settle()
    return predictions


def as_tensors(predictions: Predictions, calibration: Calibration | None) -> dict[str, torch.Tensor]:
    """For ``checkpoint.read_predictions``."""
    is_unfamiliar = predictions.energies > (calibration.max_energy if calibration else math.inf)
    return {
        "labels": torch.from_numpy(predictions.labels),
        "predictions": torch.from_numpy(predictions.predictions),
        "scores": torch.from_numpy(predictions.scores).float(),
        "is_unfamiliar": torch.from_numpy(is_unfamiliar),
    }


def trust(predictions: Predictions, calibration: Calibration | None) -> dict[str, float]:
    """How far the calibrated answers can be trusted, for :class:`Result`; nothing without a calibration."""
    if calibration is None:
        return {}
    return {
        "calibration_error": predictions.calibration_error(),
        "unfamiliar": float((predictions.energies > calibration.max_energy).mean()),
    }


# ---------------------------------------------------------------------------------------------------------------------
# What the story is made of


def choose_output_dir(config: TrainingConfig, dataset_name: str, accelerator: Accelerator) -> Path:
    """Never one that holds a checkpoint already, unless told so. The main process chooses for all."""
    resumes = config.resume_from_checkpoint
    if resumes not in (None, "auto"):
        return Path(resumes)
    if config.output_dir is None:
        base = Path("runs") / f"{Path(dataset_name).name}-{config.model_name}"
        candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
        unfinished = [folder for folder in candidates if find_states(folder)] if resumes == "auto" else []
        choice = [unfinished[-1] if unfinished else next(folder for folder in candidates if not folder.exists())]
        return broadcast_object_list(choice)[0]
    if resumes is None and not config.overwrite_output_dir:
        if find_states(config.output_dir):
            raise ConfigurationError(
                f"{config.output_dir} holds an unfinished run: go on with --resume_from_checkpoint auto, choose "
                "another --output_dir, or add --overwrite_output_dir True"
            )
        if (config.output_dir / WEIGHTS_NAME).exists():
            raise ConfigurationError(
                f"{config.output_dir} holds a checkpoint already: choose another --output_dir, or add "
                "--overwrite_output_dir True"
            )
    return config.output_dir


def find_state(config: TrainingConfig, output_dir: Path, accelerator: Accelerator) -> State | None:
    """What the run goes on from, None for a new one; read by the main process, which may have the only disk."""
    resumes = config.resume_from_checkpoint
    state = None
    if accelerator.is_main_process:
        remove_leftovers(output_dir)
        if resumes is None:
            remove_states(output_dir)
        else:
            state = load_newest_state(output_dir)
    state = broadcast_object_list([state])[0]
    if state is None and resumes not in (None, "auto") and not is_finished(output_dir):
        raise ConfigurationError(
            f"{resumes} holds no state to go on from: give the folder of an unfinished run, or leave "
            "--resume_from_checkpoint out to start anew"
        )
    return state


def is_finished(output_dir: Path) -> bool:
    """Whether a run in this folder has been tested, its last act."""
    if not (output_dir / TRAINING_NAME).exists():
        return False
    record = read_training_record(output_dir)
    return any(result["split"] == "test" for result in record["results"])


def read_calibration(source: str) -> Calibration:
    """Raises ``ConfigurationError`` where the checkpoint has none."""
    calibration = ResNetForImageClassification.from_pretrained(source).calibration
    if calibration is None:
        raise ConfigurationError(f"--calibration_from {source} has no calibration: give a checkpoint of train.py")
    return calibration


def make_model(
    config: TrainingConfig,
    label_names: list[str],
    accelerator: Accelerator,
    initial: ResNetForImageClassification | None,
) -> ResNetForImageClassification:
    """What learns. ``initial`` is what ``config.init_from`` names."""
    sizes = {"layers": config.layers, "channels": config.channels}
    model = ResNetForImageClassification(
        config.model_name,
        label_names=label_names,
        image_size=config.image_size,
        variant=config.model_variant,
        **{name: value for name, value in sizes.items() if value is not None},
    )
    if initial is not None:
        accelerator.print(load_initial_weights(model, initial, config.init_from))
    if config.freeze != "none":
        accelerator.print(f"everything up to {config.freeze} stays as it is")
    return model.to(memory_format=torch.channels_last)


def start_record(config: TrainingConfig, data: TrainingData, accelerator: Accelerator) -> TrainingRecord:
    described = data.describe()
    recipe = recipe_of(config) | {"dataset_name": described[0]["name"]}
    for name in ("extra_dataset_name", "init_from", "calibration_from"):
        if name in recipe:
            recipe[name] = public_name(recipe[name])
    return TrainingRecord(
        recipe=recipe,
        datasets=described,
        versions=versions(),
        hardware=hardware(accelerator),
        commit=commit(),
        history=[],
        best_epoch=0,
        results=[],
    )


if __name__ == "__main__":
    run_command(lambda: main(parse_config()))
