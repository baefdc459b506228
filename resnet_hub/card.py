"""The model card: a function of config, training record and which pictures there are, nothing else.

So it cannot say what was not measured, or show what is not there.
"""

from collections.abc import Collection, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from resnet_hub.calibration import Calibration
from resnet_hub.card_edits import with_fingerprints
from resnet_hub.checkpoint import (
    CONFUSION_MATRIX_NAME,
    CURVES_NAME,
    MISTAKES_NAME,
    TEST_SAMPLES_NAME,
    TRAIN_SAMPLES_NAME,
    Result,
    TrainingRecord,
)
from resnet_hub.origin import MAX_LENGTH, Origin

#: With more, a confusion matrix in Markdown is no reading matter.
MAX_TABLE_CLASSES = 20
#: With more, a sentence of names is none either.
MAX_NAMES = 100


def model_card(
    config: dict[str, Any], training: TrainingRecord | None, repo_id: str, pictures: Collection[str] = ()
) -> ModelCard:
    """Card with metadata (results as ``model-index``) and text.

    Args:
        config: Content of ``config.json``.
        training: Content of ``training.json``, None for a model that was not trained here.
        repo_id: What the usage examples load: a Hub id or a folder.
        pictures: Names of those that lie beside the card, of ``checkpoint.PICTURE_NAMES``.
    """
    usage = _usage(config, repo_id) if _loads_elsewhere(config) else _usage_here_only(repo_id)
    sections = [_introduction(config), usage]
    if "origin" in config:
        sections.append(_origin(Origin.from_config(config["origin"])))
    if training is not None:
        sections += [
            _training_data(training, pictures),
            _recipe(training, pictures),
            _results(config["label_names"], training, pictures),
        ]
    if "calibration" in config:
        sections.append(_calibration(Calibration.from_config(config["calibration"]), training))
    sections.append(_limits("calibration" in config))
    data = _metadata(config, training, repo_id)
    return ModelCard(with_fingerprints(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections)))


def _metadata(config: dict[str, Any], training: TrainingRecord | None, repo_id: str) -> ModelCardData:
    results = training["results"] if training else []
    # The Hub accepts only its own ids here.
    hub_datasets = [d["name"] for d in training["datasets"] if "/" in d["name"]] if training else []
    elsewhere = ["timm"] if _loads_elsewhere(config) else []
    return ModelCardData(
        license=None if "origin" in config else "apache-2.0",  # of weights from elsewhere it is not ours to give
        library_name="resnet_hub",
        pipeline_tag="image-classification",
        tags=["image-classification", "resnet", config["architecture"], *elsewhere, "pytorch", "safetensors"],
        datasets=hub_datasets or None,
        metrics=["accuracy", "f1"] if results else None,
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=[e for r in results if "variant" not in r for e in _eval_results(r)] or None,
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
    names = ", ".join(f"`{plain(name)}`" for name in config["label_names"][:MAX_NAMES])
    if len(config["label_names"]) > MAX_NAMES:
        names += ", ... (all of them are in `config.json`)"
    narrow = " (a reduced one, see `model_args` in config.json)" if "model_args" in config else ""
    written = "Converted to" if "origin" in config else "Written from scratch with"
    return (
        f"# {network_name(config)}\n\n"
        f"A {network_name(config)}{narrow} that sorts images into {config['num_classes']} classes: {names}. It takes "
        f"RGB images of any size, which are resized to {side} x {side} px. {written} resnet_hub."
    )


def network_name(config: dict[str, Any]) -> str:
    """As a person writes it: ResNet-50, of a ``config.json``."""
    return config["architecture"].replace("resnet", "ResNet-").replace("_keras", " as a Keras course builds it")


def _loads_elsewhere(config: dict[str, Any]) -> bool:
    return "loads_only_in" not in config


def _origin(origin: Origin) -> str:
    text = (
        f"## Origin\n\nThe weights come from `{plain(origin.source)}`, in the format of {plain(origin.library)}. The "
        "license is that of the source."
    )
    return "\n\n".join([text, *(f"Of note: {plain(note, MAX_LENGTH)}." for note in origin.notes)])


def _usage_here_only(repo_id: str) -> str:
    return f"""## Use

```python
from resnet_hub import Predictor                       # images in, labels with scores out

print(Predictor("{repo_id}")("hand.jpg", top_k=3))
```

It loads in resnet_hub alone. Strides, padding, epsilon and biases are those of the course's Keras network, which timm,
transformers and torchvision do not have: with the same weights, theirs would give other answers. So its architecture
has a name that they refuse."""


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


def _training_data(training: TrainingRecord, pictures: Collection[str]) -> str:
    rows = [
        [plain(d["name"]), plain(d["description"]), f"{d['train']:,}", f"{d['validation']:,}", f"{d['test']:,}"]
        for d in training["datasets"]
    ]
    header = ["dataset", "what", "train", "validation", "test"]
    chose = "validation chose the epoch, " if any(d["validation"] for d in training["datasets"]) else ""
    intro = f"Images per split; {chose}test was looked at once."
    parts = [f"## Data\n\n{intro}\n\n{as_table(header, rows)}"]
    for d in training["datasets"]:
        if d.get("test_in_train"):
            parts.append(
                f"Of the {d['test']:,} test images of {plain(d['name'])}, {d['test_in_train']:,} stand in train too, "
                "pixel for pixel: results on them say a little too much."
            )
    if TRAIN_SAMPLES_NAME in pictures:
        alt = "Training images of each class, resized and randomly changed as the network saw them"
        parts.append(_picture(TRAIN_SAMPLES_NAME, alt))
    if TEST_SAMPLES_NAME in pictures:
        parts.append(_picture(TEST_SAMPLES_NAME, "Test images of each class, resized and otherwise unchanged"))
    return "\n\n".join(parts)


def _recipe(training: TrainingRecord, pictures: Collection[str]) -> str:
    rows = [[f"`{plain(key)}`", f"`{plain(str(value))}`"] for key, value in training["recipe"].items()]
    seconds = sum(epoch["seconds"] for epoch in training["history"])
    validated = training["history"][-1]["validation"] is not None
    why = "the best on validation" if validated else "the last: it was trained on the validation images too"
    where = ", ".join(f"{plain(key)} {plain(str(value))}" for key, value in training["hardware"].items())
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in training["versions"].items())
    parts = [
        f"## Training\n\n{len(training['history'])} epochs in {seconds / 60:.1f} minutes; kept is epoch "
        f"{training['best_epoch']}, {why}. Hardware: {where}. Versions: {versions}. The history of "
        "every epoch is in `training.json`."
    ]
    if CURVES_NAME in pictures:
        parts.append(_picture(CURVES_NAME, _curves_in_words(training)))
    return "\n\n".join([*parts, as_table(["option", "value"], rows)])


def _curves_in_words(training: TrainingRecord) -> str:
    kept = next(epoch for epoch in training["history"] if epoch["epoch"] == training["best_epoch"])
    splits = {"train": "in training", "validation": "on validation"}
    values = [
        f"{name} " + " and ".join(f"{kept[split][key]:.4f} {where}" for split, where in splits.items() if kept[split])
        for key, name in [("loss", "loss"), ("accuracy", "accuracy"), ("macro_f1", "macro-F1")]
    ]
    return f"Loss, accuracy, macro-F1 and learning rate of every epoch. In epoch {kept['epoch']}: {'; '.join(values)}"


def _results(label_names: Sequence[str], training: TrainingRecord, pictures: Collection[str]) -> str:
    rows = [
        [
            plain(r["dataset"]),
            plain(r["split"]),
            str(r["num_images"]),
            f"{r['accuracy']:.4f}",
            f"{r['macro_f1']:.4f}",
            f"{r['loss']:.4f}",
        ]
        for r in training["results"]
        if "variant" not in r
    ]
    parts = [f"## Results\n\n{as_table(['dataset', 'split', 'images', 'accuracy', 'macro-F1', 'loss'], rows)}"]
    parts += _variants(training)
    tests = [r for r in training["results"] if r["split"] == "test" and "variant" not in r]
    for result in tests:
        title = f"Confusion matrix, {plain(result['dataset'])} test"
        # The pictures are of the first one.
        pictured = result is tests[0] and CONFUSION_MATRIX_NAME in pictures
        if pictured:
            parts.append(_picture(CONFUSION_MATRIX_NAME, f"{title}: {_confusions_in_words(label_names, result)}"))
        if len(label_names) <= MAX_TABLE_CLASSES:
            header = ["true \\ predicted", *map(plain, label_names)]
            body = [
                [f"**{plain(name)}**", *map(str, counts)]
                for name, counts in zip(label_names, result["confusion_matrix"], strict=True)
            ]
            table = as_table(header, body)
            # For whoever cannot see the picture, or wants to copy the numbers; in nobody else's way.
            folded = f"<details><summary>{title}, as a table</summary>\n\n{table}\n\n</details>"
            parts.append(folded if pictured else f"{title}:\n\n{table}")
        if result is tests[0] and MISTAKES_NAME in pictures:
            alt = f"The mistakes on {result['dataset']} test with the highest scores: image, prediction, true class"
            parts.append(_picture(MISTAKES_NAME, alt))
    return "\n\n".join(parts)


def _variants(training: TrainingRecord) -> list[str]:
    """Accuracy on images as other cameras show them, where it was measured: variants down, splits across."""
    results = [r for r in training["results"] if "variant" in r]
    if not results:
        return []
    splits = list(dict.fromkeys(r["split"] for r in results))
    accuracies: dict[str, dict[str, float]] = {}
    for r in results:
        accuracies.setdefault(r["variant"], {})[r["split"]] = r["accuracy"]
    columns = [[row[split] for row in accuracies.values() if split in row] for split in splits]
    means = [sum(column) / len(column) for column in columns]
    rows = [
        [plain(name), *(f"{row[split]:.4f}" if split in row else "" for split in splits)]
        for name, row in accuracies.items()
    ]
    rows.append(["**mean**", *(f"**{mean:.4f}**" for mean in means)])
    intro = (
        f"Accuracy on the images of {plain(results[0]['dataset'])} as other cameras would show them, one change at a "
        "time (`train/variants.py`):"
    )
    return [f"{intro}\n\n{as_table(['variant', *map(plain, splits)], rows)}"]


def _confusions_in_words(label_names: Sequence[str], result: Result) -> str:
    matrix = result["confusion_matrix"]
    right = sum(row[i] for i, row in enumerate(matrix))
    mistakes = [(-n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    worst = "; ".join(f"{label_names[i]} taken for {label_names[j]}: {-n}" for n, i, j in sorted(mistakes)[:3])
    return f"{right} of {result['num_images']} images right" + (f". Most frequent mistakes: {worst}" if worst else "")


def _calibration(calibration: Calibration, training: TrainingRecord | None) -> str:
    """How far the answers can be trusted, and what that was fitted on."""
    on_itself = training is None or not training["recipe"].get("calibration_from")
    source = "" if on_itself else " by the run that chose the recipe, which did not learn from them"
    text = (
        f"## Calibration\n\nFitted on the {calibration.num_images:,} images of {plain(calibration.dataset)} "
        f"({plain(calibration.split)}){source}, stored in `config.json`, and used by resnet_hub alone. Scores are "
        f"the softmax of the logits divided by {calibration.temperature:.3f}, so that of the answers with a score "
        "of 0.9 nine in ten are right. An image whose energy (minus the logarithm of the sum of the exponentiated "
        f"logits) is above {calibration.max_energy:.3f} is called unfamiliar: unlike the training images."
    )
    rows = [
        [
            plain(r["dataset"]),
            plain(r.get("variant", "as they are")),
            f"{r['calibration_error']:.4f}",
            f"{r['unfamiliar']:.1%}",
        ]
        for r in (training["results"] if training else [])
        if r["split"] == "test" and "calibration_error" in r
    ]
    if not rows:
        return text
    header = ["test images of", "how", "calibration error", "called unfamiliar"]
    return f"{text}\n\n{as_table(header, rows)}"


def _limits(tells_unfamiliar: bool) -> str:
    score = "does not say whether the image belongs to any"
    if tells_unfamiliar:
        score = (
            "tells how sure the network is, not whether the image belongs to any; the check for unfamiliar images "
            "tells most of those apart, not all"
        )
    return (
        "## Limits\n\nIt knows its classes and nothing else: any image at all gets one of them, and the score "
        f"{score}. Images unlike the training data (another background, light, camera or pose) are read less well than "
        "the figures say. Measure it on your own images before you rely on it."
    )


def _picture(name: str, alt: str) -> str:
    """A file beside the card, and in words what it shows."""
    return f"![{plain(alt, limit=2000)}]({name})"


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(text: str, limit: int = 200) -> str:
    """``text`` as Markdown that shows it and does nothing else, of at most ``limit`` characters.

    Names come from datasets and configs of strangers: they must not break out of a table, code or a picture's words,
    nor become HTML or links.
    """
    harmless = printable(text, limit).translate(_HARMLESS)
    return harmless.replace("://", ":// ").replace("www.", "www. ")  # as links are made of bare addresses


def printable(text: str, limit: int = 200) -> str:
    """``text`` without commands to a terminal, on one line, of at most ``limit`` characters."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else " " for c in shown)


_HARMLESS = str.maketrans({"|": "/", "`": "'", "<": "(", ">": ")", "[": "(", "]": ")", "\\": "/"})
