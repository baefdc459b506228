"""The Inspect page: what a checkpoint is, how it was trained, what it gets right and what it mistakes."""

import html
import logging
import threading
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from PIL import Image

from resnet_hub.checkpoint import Result, TrainingRecord
from resnet_hub.demo import answers, help
from resnet_hub.demo.classify import model_facts
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.pictures import model_choice
from resnet_hub.demo.queueing import LIGHT
from resnet_hub.errors import DatasetError, ImageError, ResNetHubError
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.images import open_image

logger = logging.getLogger(__name__)

#: Pictures of a cell of the confusion matrix, and of the most confident mistakes.
MAX_PICTURES = 24
PICTURE_SIDE = 160
#: With more classes than this a matrix cannot be read, and the table of classes stands alone.
MAX_MATRIX_CLASSES = 30

#: Each cell is a button, so that it can be reached with the keyboard; a choice goes to Python as an event.
CHOOSE_CELL = """
element.addEventListener('click', event => {
    const cell = event.target.closest('button[data-row]');
    if (cell) trigger('select', {index: [Number(cell.dataset.row), Number(cell.dataset.column)], value: null});
});
"""
NO_PREDICTIONS = "<p class='hint'>This checkpoint does not say what it answered to each test picture.</p>"


class PicturesOfTests:
    """The test splits of datasets that this machine can reach, each loaded once."""

    def __init__(self) -> None:
        self._splits: dict[str, Any] = {}
        self._lock = threading.Lock()

    def of(self, model: ResNetForImageClassification) -> Any | None:
        """The split that the model's stored predictions are of, row by row; None where it cannot be had."""
        told, record = model.test_predictions, model.training_record
        if told is None or record is None or not record["datasets"]:
            return None
        name = record["datasets"][0]["name"]
        with self._lock:
            if name not in self._splits:
                self._splits[name] = _load(name)
            rows = self._splits[name]
        if rows is None or sorted(rows.features["label"].names) != sorted(model.label_names):
            return None
        # Another dataset of that name, or another order, would show pictures that have nothing to do with the answers.
        names = rows.features["label"].names
        labels = [model.label_names.index(names[label]) for label in rows["label"][:]]
        return rows if labels == told["labels"].tolist() else None


def _load(name: str) -> Any | None:
    from resnet_hub.data import ALIASES, load_image_dataset  # takes seconds to import

    # The name comes out of a checkpoint, perhaps a stranger's: only what is known by name is opened for it.
    if name not in ALIASES:
        return None
    try:
        return load_image_dataset(name)["test"]
    except DatasetError as error:
        logger.warning("The Inspect page shows no pictures of %s: %s", name, error)
        return None


def page(demo: gr.Blocks, library: ModelLibrary, images: PicturesOfTests) -> None:
    """Lay out the page and wire it, inside a page of ``demo``. It is filled when it is visited: that takes a second."""
    gr.Markdown(
        "# Inspect\nHow a network was trained, and what it gets right and wrong on pictures that are new to it.",
        elem_classes="intro",
    )
    name = model_choice(library, "inspected")
    chosen = gr.State(library.default)
    facts = gr.Markdown(elem_id="facts")
    with gr.Tabs():
        with gr.Tab("Mistakes", id="mistakes"):
            gr.Markdown(help.CONFUSION_MATRIX, elem_classes="help")
            matrix = gr.HTML(js_on_load=CHOOSE_CELL, apply_default_css=False, elem_id="matrix")
            cell = gr.HTML(apply_default_css=False, elem_id="cell")
        with gr.Tab("Classes", id="classes"):
            gr.Markdown(help.F1, elem_classes="help")
            classes = gr.Dataframe(interactive=False, show_search="filter", buttons=["copy"], elem_id="per-class")
        with gr.Tab("Training", id="training"):
            with gr.Row():
                loss, accuracy = (_plot(metric) for metric in ("loss", "accuracy"))
            recipe = gr.Dataframe(
                interactive=False, wrap=True, show_search="search", buttons=["copy"], elem_id="recipe"
            )
        with gr.Tab("Network", id="network"):
            gr.Markdown(help.RESIDUAL_BLOCK, elem_classes="help")
            layers = gr.Dataframe(interactive=False, show_search="search", buttons=["copy"], elem_id="layers")

    def inspect(wanted: str, last: str) -> tuple[Any, ...]:
        """A model that cannot be loaded becomes a message, and the last one stays."""
        try:
            model = library.get(wanted).model
        except ResNetHubError as error:
            answers.warn(error)
            return last, last, *[gr.skip()] * 8
        return (
            gr.skip(),
            wanted,
            model_facts(model),
            confusion_matrix(model),
            mistakes(model, images),
            per_class(model),
            curves(model, "loss"),
            curves(model, "accuracy"),
            options(model),
            architecture(model),
        )

    def show_cell(model_name: str, event: gr.EventData) -> str:
        row, column = (int(i) for i in event.index)
        return cell_pictures(library.get(model_name).model, images, row, column)

    quiet = {"api_visibility": "private", **LIGHT}
    shown = [name, chosen, facts, matrix, cell, classes, loss, accuracy, recipe, layers]
    demo.load(inspect, [name, chosen], shown, show_progress_on=facts, **quiet)
    name.input(inspect, [name, chosen], shown, show_progress_on=facts, **quiet)
    matrix.select(show_cell, chosen, cell, **quiet)


# ---------------------------------------------------------------------------------------------------------------------
# What is shown, as functions of the model


def result_on_test(record: TrainingRecord | None) -> Result | None:
    """The first test result, which has the confusion matrix."""
    results = record["results"] if record else []
    return next((r for r in results if r["split"] == "test" and "variant" not in r), None)


def confusion_matrix(model: ResNetForImageClassification) -> str:
    """As an HTML table whose cells are buttons, darker the larger their share of the true class."""
    result = result_on_test(model.training_record)
    if result is None:
        return "<p class='hint'>This checkpoint tells nothing of its training.</p>"
    if model.num_classes > MAX_MATRIX_CLASSES:
        return f"<p class='hint'>With {model.num_classes} classes, see the table of classes instead.</p>"
    names = [html.escape(name, quote=True) for name in model.label_names]
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    body = ""
    for i, counts in enumerate(result["confusion_matrix"]):
        cells = ""
        for j, count in enumerate(counts):
            share = count / max(1, sum(counts))
            kind = "right" if i == j else "wrong"
            label = f"{names[i]} taken for {names[j]}: {count} pictures"
            cells += (
                f"<td><button class='{kind}' style='--share:{share:.3f}' data-row='{i}' data-column='{j}' "
                f"aria-label='{label}' {'disabled' if count == 0 else ''}>{count}</button></td>"
            )
        body += f"<tr><th scope='row'>{names[i]}</th>{cells}</tr>"
    return (
        "<div class='scroll'><table class='matrix'><caption>Rows: true class. Columns: answer. "
        f"{html.escape(result['dataset'])}, test</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def mistakes(model: ResNetForImageClassification, images: PicturesOfTests) -> str:
    """The test pictures that the network was surest of and wrong, as HTML."""
    told = model.test_predictions
    if told is None:
        return NO_PREDICTIONS
    wrong = np.flatnonzero((told["labels"] != told["predictions"]).numpy())
    if not len(wrong):
        return "<p class='hint'>No mistake on the test pictures.</p>"
    surest = wrong[np.argsort(-told["scores"].numpy()[wrong], kind="stable")]
    return _pictures(f"{len(wrong)} mistakes, the surest first", model, images, surest)


def cell_pictures(model: ResNetForImageClassification, images: PicturesOfTests, row: int, column: int) -> str:
    """The test pictures of class ``row`` that were taken for class ``column``, the surest first, as HTML."""
    told = model.test_predictions
    if told is None:
        return NO_PREDICTIONS
    if not (0 <= row < model.num_classes and 0 <= column < model.num_classes):
        return "<p class='hint'>Choose a cell of the matrix.</p>"
    found = np.flatnonzero(((told["labels"] == row) & (told["predictions"] == column)).numpy())
    surest = found[np.argsort(-told["scores"].numpy()[found], kind="stable")]
    names = model.label_names
    return _pictures(f"{len(found)} pictures of {names[row]}, taken for {names[column]}", model, images, surest)


def _pictures(title: str, model: ResNetForImageClassification, images: PicturesOfTests, rows: Sequence[int]) -> str:
    """Those at these rows with answer, truth and probability; in words where the pictures cannot be had."""
    told, split, names = model.test_predictions, images.of(model), model.label_names
    figures = ""
    for row in rows[:MAX_PICTURES]:
        label, prediction = names[told["labels"][row]], names[told["predictions"][row]]
        caption = f"{prediction} ({told['scores'][row]:.0%}), is {label}"
        picture = _picture(split, int(row), caption) if split is not None else f"<p>Test picture {row}</p>"
        figures += f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"
    more = f" (the first {MAX_PICTURES})" if len(rows) > MAX_PICTURES else ""
    note = "" if split is not None else "<p class='hint'>Its pictures are not on this machine.</p>"
    return f"<h3>{html.escape(title)}{more}</h3>{note}<div class='pictures'>{figures}</div>"


def _picture(split: Any, row: int, alt: str) -> str:
    try:
        image = open_image(split[row]["image"])
    except ImageError:
        return "<p>It cannot be read.</p>"
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    enlarge = max(1, PICTURE_SIDE // max(image.size))
    return answers.inline(image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.BICUBIC), alt)


def per_class(model: ResNetForImageClassification) -> pd.DataFrame:
    """Precision, recall and F1 of each class, and how many test pictures it has."""
    columns = ["Class", "Precision", "Recall", "F1", "Pictures"]
    result = result_on_test(model.training_record)
    if result is None:
        return pd.DataFrame(columns=columns)
    matrix = np.array(result["confusion_matrix"], dtype=np.float64)
    hits, answered, true = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    values = [
        np.divide(over, under, out=np.zeros_like(hits), where=under > 0).round(4)
        for over, under in [(hits, answered), (hits, true), (2 * hits, answered + true)]
    ]
    return pd.DataFrame(dict(zip(columns, [model.label_names, *values, true.astype(int)], strict=True)))


def curves(model: ResNetForImageClassification, metric: str) -> pd.DataFrame:
    """The metric by epoch and split."""
    history = model.training_record["history"] if model.training_record else []
    rows = [
        {"epoch": line["epoch"], metric: round(line[split][metric], 4), "images": split}
        for line in history
        for split in ("train", "validation")
        if line[split] is not None
    ]
    return pd.DataFrame(rows, columns=["epoch", metric, "images"])


def _plot(metric: str) -> gr.LinePlot:
    return gr.LinePlot(
        x="epoch",
        y=metric,
        color="images",
        title=f"{metric.capitalize()} by epoch",
        x_axis_format="d",
        y_lim=(0, 1) if metric == "accuracy" else None,
        color_map={"train": "#94a3b8", "validation": "#0d9488"},
        height=260,
        min_width=320,
        elem_id=f"curve-{metric}",
    )


def options(model: ResNetForImageClassification) -> pd.DataFrame:
    """Recipe, hardware and versions, one line each."""
    record = model.training_record
    rows = []
    if record is not None:
        rows = [(name, str(value)) for name, value in record["recipe"].items()]
        rows += [(name, str(value)) for part in ("hardware", "versions") for name, value in record[part].items()]
    return pd.DataFrame(rows, columns=["Option", "Value"])


def architecture(model: ResNetForImageClassification) -> pd.DataFrame:
    """Every layer with its output's shape and its parameters."""
    rows = [
        (layer.name, layer.kind, " × ".join(map(str, layer.output_shape)), layer.num_parameters)  # noqa: RUF001
        for layer in model.summary().layers
    ]
    return pd.DataFrame(rows, columns=["Layer", "Kind", "Output", "Parameters"])
