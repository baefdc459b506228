"""The Batch page: many pictures, or a zip of them, in; a table out, to sort and to take along."""

import html
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd
from gradio.utils import get_upload_folder
from PIL import Image

from resnet_hub.demo import answers
from resnet_hub.demo.archives import read_images
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.pictures import model_choice
from resnet_hub.demo.queueing import BULK
from resnet_hub.demo.uploads import upload_path
from resnet_hub.errors import ImageError, ResNetHubError
from resnet_hub.images import DRAFT_MARGIN, open_image
from resnet_hub.predictor import Answer, Predictor

INVITATION = "Add pictures, or a zip of pictures, and press the button."
HEADERS = ["", "File", "Answer", "Probability", "Second", "Unfamiliar", "Error"]
#: Side in px of the pictures in the table.
THUMBNAIL = 48
#: Pictures that go through the network together.
BATCH_SIZE = 32
#: After which a batch ends with what it has: others wait meanwhile.
MAX_SECONDS = 300


class Row(NamedTuple):
    """One picture: its answer, or why there is none."""

    name: str
    thumbnail: str
    answer: Answer | None
    error: str


def page(library: ModelLibrary) -> None:
    """Lay out the page and wire it, inside a page of a ``gr.Blocks``."""

    def run(
        uploads: list[dict[str, Any]] | None,
        name: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio's way
    ) -> tuple[Any, ...]:
        hidden = gr.DownloadButton(visible=False)
        if not uploads:
            return INVITATION, gr.skip(), hidden, hidden
        try:
            predictor = library.get(name)
            files = [upload_path(upload) for upload in uploads]
        except ResNetHubError as error:
            answers.warn(error)
            return INVITATION, gr.skip(), hidden, hidden
        rows = []
        for row in classify_files(predictor, files):
            rows.append(row)
            progress((len(rows), None), desc="Reading", unit="pictures")
        table = as_frame(rows)
        csv_file, parquet_file = _write(table)
        return (
            summary(rows),
            gr.Dataframe(_shown(rows), visible=True),
            gr.DownloadButton(value=csv_file, visible=True),
            gr.DownloadButton(value=parquet_file, visible=True),
        )

    gr.Markdown("# Batch\nMany pictures at once, or a zip of them, into one table.", elem_classes="intro")
    with gr.Row(elem_classes="workbench"):
        files = gr.File(file_count="multiple", label="Pictures or a zip", type="filepath", elem_id="files", height=220)
        with gr.Column(elem_classes="sheet"):
            model = model_choice(library, "batch-model")
            button = gr.Button("Classify them", variant="primary", elem_id="run")
            status = gr.Markdown(INVITATION, elem_id="status")
            with gr.Row():
                as_csv = gr.DownloadButton("CSV", visible=False, elem_id="csv")
                as_parquet = gr.DownloadButton("Parquet", visible=False, elem_id="parquet")
    table = gr.Dataframe(
        headers=HEADERS,
        datatype=["html", "str", "str", "number", "str", "str", "str"],
        interactive=False,
        visible=False,
        wrap=True,
        show_search="filter",
        buttons=["fullscreen"],
        column_widths=["72px", "220px", "120px", "120px", "140px", "120px", "280px"],
        elem_id="table",
    )
    button.click(
        run,
        [files, model],
        [status, table, as_csv, as_parquet],
        preprocess=False,
        show_progress_on=status,
        api_visibility="private",
        **BULK,
    )


def classify_files(predictor: Predictor, files: list[Path]) -> Iterator[Row]:
    """A row for each picture, in order; a broken one has its error, and the first one that comes too late, too."""
    contents = read_images(files)
    deadline = time.monotonic() + MAX_SECONDS
    while batch := list(islice(contents, BATCH_SIZE)):
        if time.monotonic() > deadline:
            name, _ = batch[0]
            late = f"The {MAX_SECONDS / 60:g} minutes for a batch are over: send this picture and those after it again."
            yield Row(name, "", None, late)
            return
        names, contents_of_batch = zip(*batch, strict=True)
        min_side = DRAFT_MARGIN * max(predictor.model.image_size, THUMBNAIL)
        opened = list(predictor.readers.map(_open, contents_of_batch, repeat(min_side)))
        images = [image for image in opened if isinstance(image, Image.Image)]
        found = iter(predictor.answer(images, top_k=2, batch_size=BATCH_SIZE))
        for name, image in zip(names, opened, strict=True):
            if isinstance(image, ImageError):
                yield Row(name, "", None, answers.sentence(image))
            else:
                yield Row(name, _thumbnail(image, name), next(found), "")


def _open(content: bytes | ImageError, min_side: int) -> Image.Image | ImageError:
    try:
        return content if isinstance(content, ImageError) else open_image(content, min_side)
    except ImageError as error:
        return error


def _thumbnail(image: Image.Image, name: str) -> str:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return answers.inline(image, name)


def summary(rows: list[Row]) -> str:
    """How many there are of what, as Markdown."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.answer:
            label = html.escape(row.answer.predictions[0]["label"])
            counts[label] = counts.get(label, 0) + 1
    errors = sum(row.answer is None for row in rows)
    listed = ", ".join(f"{n} × **{label}**" for label, n in sorted(counts.items(), key=lambda item: -item[1]))  # noqa: RUF001
    broken = f" {errors} could not be read: the table says why." if errors else ""
    return f"{len(rows):,} pictures: {listed or 'none could be read'}.{broken}"


def as_frame(rows: list[Row]) -> pd.DataFrame:
    """The table to take along."""
    return pd.DataFrame(
        {
            "file": [row.name for row in rows],
            "label": [row.answer.predictions[0]["label"] if row.answer else None for row in rows],
            "score": [row.answer.predictions[0]["score"] if row.answer else None for row in rows],
            "second_label": [_second(row)[0] for row in rows],
            "second_score": [_second(row)[1] for row in rows],
            "is_unfamiliar": [row.answer.is_unfamiliar if row.answer else None for row in rows],
            "error": [row.error or None for row in rows],
        }
    )


def _second(row: Row) -> tuple[str | None, float | None]:
    if row.answer is None or len(row.answer.predictions) < 2:
        return None, None
    second = row.answer.predictions[1]
    return second["label"], second["score"]


def _shown(rows: list[Row]) -> list[list[Any]]:
    shown = []
    for row in rows:
        label, score = _second(row)
        shown.append(
            [
                row.thumbnail,
                row.name,
                row.answer.predictions[0]["label"] if row.answer else "",
                round(row.answer.predictions[0]["score"], 3) if row.answer else None,
                f"{label} ({score:.0%})" if label is not None else "",
                "yes" if row.answer and row.answer.is_unfamiliar else "",
                row.error,
            ]
        )
    return shown


def _write(table: pd.DataFrame) -> tuple[str, str]:
    """CSV and Parquet in the folder of uploads, under a name that nobody else can guess."""
    folder = Path(get_upload_folder(), secrets.token_hex(16))
    folder.mkdir(parents=True)
    write: dict[str, Callable[[Path], Any]] = {
        "predictions.csv": lambda file: table.to_csv(file, index=False),
        "predictions.parquet": lambda file: table.to_parquet(file, index=False),
    }
    for name, to_file in write.items():
        to_file(folder / name)
    return str(folder / "predictions.csv"), str(folder / "predictions.parquet")
