"""The model card: a function of config and training record alone, so that it cannot say what was not measured."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from resnet_hub.checkpoint import Result, TrainingRecord


def model_card(config: dict[str, Any], training: TrainingRecord | None, repo_id: str) -> ModelCard:
    """Card with metadata (results as ``model-index``) and text.

    Args:
        config: Content of ``config.json``.
        training: Content of ``training.json``, None for a model that was not trained here.
        repo_id: What the usage examples load: a Hub id or a folder.
    """
    sections = [_introduction(config), _usage(config, repo_id)]
    if training is not None:
        sections += [_training_data(training), _recipe(training), _results(config["label_names"], training)]
    sections.append(_limits())
    data = _metadata(config, training, repo_id)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _metadata(config: dict[str, Any], training: TrainingRecord | None, repo_id: str) -> ModelCardData:
    results = training["results"] if training else []
    # The Hub accepts only its own ids here.
    hub_datasets = [d["name"] for d in training["datasets"] if "/" in d["name"]] if training else []
    return ModelCardData(
        license="apache-2.0",
        library_name="resnet_hub",
        pipeline_tag="image-classification",
        tags=["image-classification", "resnet", config["architecture"], "timm", "pytorch", "safetensors"],
        datasets=hub_datasets or None,
        metrics=["accuracy", "f1"] if results else None,
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=[e for result in results for e in _eval_results(result)] or None,
    )


def _eval_results(result: Result) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=result["dataset"],
            dataset_name=result["dataset"],
            dataset_split=result["split"],
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=round(value, 4),
        )
        for metric_type, metric_name, value in [
            ("accuracy", "Accuracy", result["accuracy"]),
            ("f1", "Macro F1", result["macro_f1"]),
        ]
    ]


def _introduction(config: dict[str, Any]) -> str:
    side = config["pretrained_cfg"]["input_size"][1]
    names = ", ".join(f"`{_plain(name)}`" for name in config["label_names"])
    narrow = " (a reduced one, see `model_args` in config.json)" if "model_args" in config else ""
    return (
        f"# {_title(config)}\n\n"
        f"A {_title(config)}{narrow} that sorts images into {config['num_classes']} classes: {names}. It takes RGB "
        f"images of any size, which are resized to {side} x {side} px. Written from scratch with resnet_hub."
    )


def _title(config: dict[str, Any]) -> str:
    return config["architecture"].replace("resnet", "ResNet-")


def _usage(config: dict[str, Any], repo_id: str) -> str:
    return f"""## Use

The same files load in four libraries with equal logits.

```python
from resnet_hub import Predictor                       # images in, labels with scores out

print(Predictor("{repo_id}")("hand.jpg", top_k=3))
```

```python
from resnet_hub import ResNetForImageClassification    # the network itself

model = ResNetForImageClassification.from_pretrained("{repo_id}")
```

```python
import timm

model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()
```

```python
from transformers import pipeline                      # needs timm

print(pipeline("image-classification", model="{repo_id}")("hand.jpg"))
```

```python
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torchvision.models import {config["architecture"]}

model = {config["architecture"]}(num_classes={config["num_classes"]})
model.load_state_dict(load_file(hf_hub_download("{repo_id}", "model.safetensors")))
```"""


def _training_data(training: TrainingRecord) -> str:
    rows = [
        [_plain(d["name"]), _plain(d["description"]), f"{d['train']:,}", f"{d['validation']:,}", f"{d['test']:,}"]
        for d in training["datasets"]
    ]
    header = ["dataset", "what", "train", "validation", "test"]
    intro = "Images per split; validation chose the epoch, test was looked at once."
    return f"## Data\n\n{intro}\n\n{_table(header, rows)}"


def _recipe(training: TrainingRecord) -> str:
    rows = [[f"`{key}`", f"`{_plain(str(value))}`"] for key, value in training["recipe"].items()]
    seconds = sum(epoch["seconds"] for epoch in training["history"])
    where = ", ".join(f"{key} {_plain(str(value))}" for key, value in training["hardware"].items())
    versions = ", ".join(f"{name} {_plain(version)}" for name, version in training["versions"].items())
    return (
        f"## Training\n\n{len(training['history'])} epochs in {seconds / 60:.1f} minutes; kept is epoch "
        f"{training['best_epoch']}, the best on validation. Hardware: {where}. Versions: {versions}. The history of "
        f"every epoch is in `training.json`.\n\n{_table(['option', 'value'], rows)}"
    )


def _results(label_names: Sequence[str], training: TrainingRecord) -> str:
    rows = [
        [
            _plain(r["dataset"]),
            r["split"],
            str(r["num_images"]),
            f"{r['accuracy']:.4f}",
            f"{r['macro_f1']:.4f}",
            f"{r['loss']:.4f}",
        ]
        for r in training["results"]
    ]
    parts = [f"## Results\n\n{_table(['dataset', 'split', 'images', 'accuracy', 'macro-F1', 'loss'], rows)}"]
    for result in training["results"]:
        matrix = result["confusion_matrix"]
        # A matrix of 100 classes is no reading matter; it stands in training.json all the same.
        if result["split"] != "test" or len(matrix) > 20:
            continue
        header = ["true \\ predicted", *map(_plain, label_names)]
        body = [[f"**{_plain(n)}**", *map(str, row)] for n, row in zip(label_names, matrix, strict=True)]
        parts.append(f"Confusion matrix, {_plain(result['dataset'])} {result['split']}:\n\n{_table(header, body)}")
    return "\n\n".join(parts)


def _limits() -> str:
    return (
        "## Limits\n\nIt knows its classes and nothing else: any image at all gets one of them, and the score does "
        "not say whether the image belongs to any. Images unlike the training data (another background, light, "
        "camera or pose) are read less well than the figures say. Measure it on your own images before you rely on it."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Names come from datasets and configs of strangers: keep them from breaking out of table, code or HTML."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.translate(str.maketrans({"|": "/", "`": "'", "<": "(", ">": ")"}))
