"""The training loop. It can stop after any step, and goes on from there as if it had not."""

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from resnet_hub import ResNetForImageClassification
from resnet_hub.checkpoint import Epoch, Metrics, Result, TrainingRecord
from resnet_hub.errors import ConfigurationError, TrainingError
from train.augmentation import Augmentation
from train.batches import Batch, Collate, EvaluationBatches, TrainingBatches, make_loader
from train.config import TrainingConfig, options_of
from train.data import TrainingData
from train.engine import Tally, average_statistics, evaluate, progress, statistics_of, train_step
from train.mixing import Mixing
from train.optimization import (
    ExponentialMovingAverage,
    LearningRate,
    freeze_up_to,
    make_optimizer,
    set_learning_rate,
)
from train.pushing import Pusher
from train.selection import best_epochs, should_stop
from train.states import State, save_state
from train.watch import Interrupted, Watch

#: Options that a resumed run may have otherwise, as long as an update still sees as many images.
_PARTS_OF_THE_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")


class Trainer:
    """Trains on ``data.train``, validates after every epoch and keeps the best checkpoint in ``output_dir``.

    What changes while it runs is in :meth:`state`: weights, their average, the optimiser's moments, the step, the
    history and the metrics of the epoch under way. All else is a function of the configuration and of these.

    Args:
        model: On the CPU, as it starts; from then on the one that learns.
        record: Told how every epoch went.
        pusher: Given every checkpoint that ``output_dir`` gets; None for none of them.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: ResNetForImageClassification,
        data: TrainingData,
        config: TrainingConfig,
        record: TrainingRecord,
        output_dir: Path,
        pusher: Pusher | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.config = config
        self.record = record
        self.output_dir = output_dir
        self.pusher = pusher
        self.model = model
        self.average = ExponentialMovingAverage(model, config.ema_decay) if config.ema_decay > 0 else None
        self.frozen = [] if config.freeze == "none" else freeze_up_to(model, config.freeze)

        collate = Collate(model.preprocessing, make_augmentation(config), make_mixing(config))
        processes = (accelerator.process_index, accelerator.num_processes)
        self.batches = TrainingBatches(len(data.train), config.per_device_train_batch_size, config.seed, *processes)
        self.loader = make_loader(data.train, self.batches, collate, num_workers=config.dataloader_num_workers)
        self.validation_loader = None
        if not config.train_on_validation:
            self.validation_loader = make_loader(
                data.validation,
                EvaluationBatches(len(data.validation), config.per_device_eval_batch_size, *processes),
                Collate(model.preprocessing),
                num_workers=config.dataloader_num_workers,
            )
        optimizer = make_optimizer(
            model,
            config.optim,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            body_ratio=config.body_learning_rate_ratio,
        )
        if config.torch_compile:
            model.compile()
        self.network, self.optimizer = accelerator.prepare(model, optimizer)
        if self.average is not None:
            self.average.average.to(accelerator.device)

        self.steps_per_epoch = math.ceil(len(self.batches) / config.gradient_accumulation_steps)
        self.learning_rate = LearningRate(
            config.learning_rate,
            config.num_train_epochs * self.steps_per_epoch,
            config.lr_scheduler_type,
            config.warmup_ratio,
            config.lr_step_epochs * self.steps_per_epoch,
            config.lr_step_gamma,
        )
        self.validation_name = data.describe()[0]["name"]
        self.step = 0
        self.tally = Tally()
        self.seconds = 0.0  # of the epoch under way, before this process started
        self.data_wait = 0.0  # of the epoch under way

    @property
    def epoch(self) -> int:
        """The one under way, from 1."""
        return len(self.record["history"]) + 1

    @property
    def trained(self) -> ResNetForImageClassification:
        """What is validated and kept: the averaged weights where there are any."""
        return self.model if self.average is None else self.average.average

    @property
    def is_finished(self) -> bool:
        history, config = self.record["history"], self.config
        if len(history) == config.num_train_epochs:
            return True
        return config.early_stopping_patience > 0 and should_stop(
            history, config.monitor, config.early_stopping_patience, config.early_stopping_min_delta
        )

    # -- the loop ------------------------------------------------------------------------------------------------------

    def fit(self, watch: Watch) -> None:
        """Train to the end. Raises ``Interrupted`` after a whole step, or ``TrainingError`` where the loss broke."""
        while not self.is_finished:
            start = time.perf_counter() - self.seconds
            try:
                train = self._train_epoch(watch)
                validation = self._validate(watch)
            except Interrupted:
                self.seconds = time.perf_counter() - start
                raise
            self._finish_epoch(train, validation, time.perf_counter() - start)
            if self.config.save_strategy == "epoch":
                self.save_state()
        if len(self.record["history"]) < self.config.num_train_epochs:
            self.accelerator.print(
                f"stopped early: {self.config.early_stopping_patience} epochs without a better {self.config.monitor}"
            )

    def _train_epoch(self, watch: Watch) -> Metrics:
        """What is left of the epoch under way.

        Returns:
            Metrics of its images as they were when trained on, augmented; the loss is the one minimised.
        """
        accumulated = self.config.gradient_accumulation_steps
        self.batches.epoch = self.epoch
        self.batches.start = (self.step - (self.epoch - 1) * self.steps_per_epoch) * accumulated
        self.network.train()
        for module in self.frozen:
            module.eval()
        stream = progress(self.loader, f"epoch {self.epoch}/{self.config.num_train_epochs}", self.accelerator)
        while batches := self._next_batches(stream):
            self._update([batch.to(self.accelerator.device) for batch in batches], watch)
        watch.settle()
        for model in self._models():
            average_statistics(self.accelerator, model)
        return self.tally.predictions().metrics(self.model.num_classes)

    def _next_batches(self, stream: Iterator[Batch]) -> list[Batch]:
        """Those of one update, none at the end. While it waits for them, training stands still."""
        start = time.perf_counter()
        batches = list(islice(stream, self.config.gradient_accumulation_steps))
        self.data_wait += time.perf_counter() - start
        return batches

    def _update(self, batches: Sequence[Batch], watch: Watch) -> None:
        learning_rate = self.learning_rate(self.step)
        set_learning_rate(self.optimizer, learning_rate)
        try:
            outputs = train_step(
                self.accelerator,
                self.network,
                self.optimizer,
                batches,
                label_smoothing=self.config.label_smoothing_factor,
                max_grad_norm=self.config.max_grad_norm,
            )
        except RuntimeError as error:
            if self.config.detect_anomaly:
                raise TrainingError(f"step {self.step + 1}, learning rate {learning_rate:.3g}: {error}") from error
            raise
        for batch, (logits, losses) in zip(batches, outputs, strict=True):
            self.tally.add(batch, logits, losses)
        if self.average is not None:
            self.average.update(self.model, self.step)
        self.step += 1
        step, losses = self.step, torch.cat([losses for _, losses in outputs])

        def describe() -> str:
            rows = torch.cat([batch.rows for batch in batches])[~torch.isfinite(losses)].tolist()
            return (
                f"step {step} of {self.learning_rate.num_steps} (epoch {self.epoch}, learning rate "
                f"{learning_rate:.3g}), training images in rows {', '.join(map(str, rows[:32]))}"
            )

        watch.look(losses, describe)
        if self.config.save_strategy == "steps" and self.step % self.config.save_steps == 0:
            watch.settle()
            self.save_state()

    def _validate(self, watch: Watch) -> Metrics | None:
        if self.validation_loader is None:
            return None
        with self.accelerator.autocast():
            predictions = evaluate(
                self.accelerator, self.trained, self.validation_loader, description="validation", watch=watch
            )
        watch.settle()
        metrics = predictions.metrics(self.model.num_classes)
        if not math.isfinite(metrics["loss"]):
            raise TrainingError(
                f"the validation loss became {metrics['loss']} in epoch {self.epoch}: lower --learning_rate. What was "
                "saved is of the epochs before"
            )
        return metrics

    def _finish_epoch(self, train: Metrics, validation: Metrics | None, seconds: float) -> None:
        """Write the epoch down; keep its checkpoint where it is among the best."""
        epoch, history = self.epoch, self.record["history"]
        line = Epoch(
            epoch=epoch,
            learning_rate=self.learning_rate(self.step - 1),
            train=without_matrix(train),
            validation=None if validation is None else without_matrix(validation),
            seconds=round(seconds, 2),
            data_wait=round(self.data_wait, 2),
        )
        history.append(line)
        self.tally, self.seconds, self.data_wait = Tally(), 0.0, 0.0
        if validation is None:
            is_best = epoch == self.config.num_train_epochs
            results = []
        else:
            is_best = best_epochs(history, self.config.monitor, 1) == [epoch]
            results = [Result(dataset=self.validation_name, split="validation", **validation)]
        if is_best:
            self.record["best_epoch"] = epoch
            self.record["results"] = results
            self._save_checkpoint(self.output_dir)
            if self.pusher is not None:
                self.pusher.push(self.output_dir, f"epoch {epoch}")
        if self.config.save_top_k != 1:
            self._keep_top_k(epoch)
        self._report(line, is_best)

    def _keep_top_k(self, epoch: int) -> None:
        kept = {
            f"epoch-{number:04d}"
            for number in best_epochs(self.record["history"], self.config.monitor, self.config.save_top_k)
        }
        folder = self.output_dir / "top_k"
        if f"epoch-{epoch:04d}" in kept:
            self._save_checkpoint(folder / f"epoch-{epoch:04d}")
        if self.accelerator.is_main_process and folder.is_dir():
            for old in folder.iterdir():
                if old.name not in kept:
                    shutil.rmtree(old)

    def _save_checkpoint(self, folder: Path) -> None:
        if self.accelerator.is_main_process:
            self.trained.training_record, self.trained.pictures = self.record, {}
            self.trained.save_pretrained(folder, dtype=getattr(torch, self.config.save_dtype))

    def _report(self, line: Epoch, is_best: bool) -> None:
        splits = {split: line[split] for split in ("train", "validation") if line[split] is not None}
        texts = [
            f"{split} loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.4f} macro-F1 {metrics['macro_f1']:.4f}"
            for split, metrics in splits.items()
        ]
        best = " (best)" if is_best else ""
        waiting = f", {line['data_wait'] / line['seconds']:.0%} of it waiting for data" if line["seconds"] else ""
        self.accelerator.print(f"epoch {line['epoch']}: {' | '.join(texts)}{best} | {line['seconds']:.1f} s{waiting}")
        values = {
            f"{split}/{name}": metrics[name]
            for split, metrics in splits.items()
            for name in ("loss", "accuracy", "macro_f1")
        }
        self.accelerator.log(values | {"learning_rate": line["learning_rate"]}, step=line["epoch"])

    # -- going on ------------------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        """Call it on every process. Raises ``CheckpointError`` where the state cannot be written."""
        state = self.state()
        if self.accelerator.is_main_process:
            save_state(self.output_dir, self.step, state, self.config.save_total_limit)

    def state(self) -> State:
        """Everything that :meth:`restore` needs, the same on every process. Call it on every process."""
        tensors = {"tally": self.tally.gather()}
        for i, model in enumerate(self._models()):
            tensors |= {f"model.{i}.{name}": value for name, value in model.state_dict().items()}
            # Between two averagings each process has statistics of its own.
            gathered = gather_object([{name: value.cpu() for name, value in statistics_of(model).items()}])
            for name in gathered[0]:
                tensors[f"statistics.{i}.{name}"] = torch.stack([statistics[name] for statistics in gathered])
        for i, moments in enumerate(self._moments()):
            tensors |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        scaler = self.accelerator.scaler
        values = {
            "step": self.step,
            "seconds": self.seconds,
            "data_wait": self.data_wait,
            "record": self.record,
            "options": options_of(self.config),
            "images_per_update": self._images_per_update,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        return State(values, {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()})

    def restore(self, state: State) -> None:
        """Go on from ``state``, the same on every process.

        Raises:
            ConfigurationError: it is that of another run.
        """
        self._check_same_run(state.values)
        tensors = state.tensors
        for i, model in enumerate(self._models()):
            model.load_state_dict(_below(f"model.{i}.", tensors))
            for name, value in _below(f"statistics.{i}.", tensors).items():
                # On another number of processes no one has seen the same images: all start from the mean.
                same = len(value) == self.accelerator.num_processes
                mine = value[self.accelerator.process_index] if same else value.mean(dim=0)
                model.get_buffer(name).copy_(mine)
        for i, (parameter, moments) in enumerate(zip(self._parameters(), self._moments(), strict=True)):
            for name, value in _below(f"optimizer.{i}.", tensors).items():
                # In the parameter's own memory order, which fused optimisers take for granted.
                empty = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
                moments[name] = empty.copy_(value)
        if state.values["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.values["scaler"])
        self.step = state.values["step"]
        self.seconds = state.values["seconds"]
        self.data_wait = state.values["data_wait"]
        self.record.update(state.values["record"])
        # One process has what all had collected: it is sorted and summed over all of them anyway.
        self.tally = Tally(tensors["tally"].to(self.accelerator.device) if self.accelerator.is_main_process else None)

    def _check_same_run(self, values: dict[str, Any]) -> None:
        before, now = values["record"]["recipe"], self.record["recipe"]
        changed = [
            f"--{name} was {before.get(name)}, is {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if name not in _PARTS_OF_THE_BATCH and _as_json(before.get(name)) != _as_json(now.get(name))
        ]
        if values["images_per_update"] != self._images_per_update:
            changed.append(
                f"images per update were {values['images_per_update']}, are {self._images_per_update} "
                "(--per_device_train_batch_size x --gradient_accumulation_steps x processes)"
            )
        if values["record"]["datasets"] != self.record["datasets"]:
            changed.append(f"the data was {values['record']['datasets']}, is {self.record['datasets']}")
        if changed:
            raise ConfigurationError(
                f"{self.output_dir} holds an unfinished run of other options, which cannot go on with these: "
                f"{'; '.join(changed)}. Choose another --output_dir to start anew"
            )

    @property
    def _images_per_update(self) -> int:
        config = self.config
        per_process = config.per_device_train_batch_size * config.gradient_accumulation_steps
        return per_process * self.accelerator.num_processes

    def _models(self) -> list[ResNetForImageClassification]:
        return [self.model] if self.average is None else [self.model, self.average.average]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _moments(self) -> list[dict[str, Tensor]]:
        """What the optimiser remembers of each parameter; empty before the first step."""
        return [self.optimizer.optimizer.state[parameter] for parameter in self._parameters()]


def make_augmentation(config: TrainingConfig) -> Augmentation:
    return Augmentation(
        seed=config.seed,
        horizontal_flip=config.horizontal_flip,
        rotation=config.rotation,
        scale=config.scale,
        aspect_ratio=config.aspect_ratio,
        translation=config.translation,
        background_replacement=config.background_replacement,
        color_jitter=config.color_jitter,
        color_temperature=config.color_temperature,
        blur=config.blur,
        noise=config.noise,
        random_erasing=config.random_erasing,
        strength=config.augmentation_strength,
        warmup_epochs=round(config.augmentation_warmup_ratio * config.num_train_epochs),
    )


def make_mixing(config: TrainingConfig) -> Mixing | None:
    if config.mixup_alpha == config.cutmix_alpha == 0:
        return None
    return Mixing(config.seed, config.mixup_alpha, config.cutmix_alpha)


def without_matrix(metrics: Metrics) -> Metrics:
    """For the history, where a matrix per epoch would drown the curves."""
    return {key: value for key, value in metrics.items() if key != "confusion_matrix"}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
