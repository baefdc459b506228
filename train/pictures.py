"""Pictures of a run for its checkpoint folder: curves, confusion matrix, samples, mistakes.

They are drawn for a model card, which is read on a phone as well as on a wide screen, on white as well as on black: one
column of one width, an opaque white page, large type, and blue and orange, which everybody can tell apart. At 72 dots
per inch a point is a pixel, so every length here is in px; images and matrices are placed pixel by pixel.

The same input gives the same bytes. matplotlib is imported when the first picture is drawn, not before.
"""

import io
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from resnet_hub.checkpoint import (
    CONFUSION_MATRIX_NAME,
    CURVES_NAME,
    MISTAKES_NAME,
    TEST_SAMPLES_NAME,
    TRAIN_SAMPLES_NAME,
    Epoch,
    Result,
    TrainingRecord,
)
from resnet_hub.errors import DatasetError
from resnet_hub.images import Preprocessing
from train.augmentation import Augmentation, Key
from train.batches import ResizedImages
from train.engine import Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font

#: In px, as every length below.
WIDTH = 960
MARGIN = 30
HEADING_HEIGHT = 120
TITLE_SIZE = 32
TEXT_SIZE = 22
LINE_HEIGHT = 28

INK = "#1f2328"
MUTED = "#59636e"
HAIRLINE = "#dde1e6"
# Okabe and Ito's blue and vermilion (https://jfly.uni-koeln.de/color/).
BLUE = "#0072b2"
ORANGE = "#d55e00"

#: Over matplotlib's defaults, whatever the user's own are.
STYLE = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": TEXT_SIZE,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a label name is a dollar
    "axes.edgecolor": HAIRLINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 2,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT_SIZE,
    "axes.titlepad": 14,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.ymargin": 0.08,
    "grid.color": HAIRLINE,
    "grid.linewidth": 1,
    "lines.linewidth": 4,
    "lines.markersize": 12,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "round",
    "xtick.color": HAIRLINE,
    "ytick.color": HAIRLINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 20,
    "ytick.labelsize": 20,
    "xtick.major.size": 0,
    "xtick.major.pad": 10,
    "ytick.major.size": 0,
    "ytick.major.pad": 8,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}

#: Images beside and below each other, at most. There is more to see, and to read, in a mistake than in a sample.
SAMPLE_COLUMNS, SAMPLE_ROWS = 6, 7
MISTAKE_COLUMNS, MISTAKE_ROWS = 4, 4
GAP = 12

#: Up to so many classes a confusion matrix has names and counts; up to so many more it is a heat map; then it is none.
MAX_NAMED_CLASSES = 100
MAX_MATRIX_CLASSES = 1000

#: Stands for characters that the font lacks.
MISSING = "□"


# ---------------------------------------------------------------------------------------------------------------------
# All pictures of a run, as files


def record_pictures(record: TrainingRecord, label_names: Sequence[str]) -> dict[str, bytes]:
    """Curves and the confusion matrix of the first test result, as PNG by file name. They show no image."""
    pictures = {CURVES_NAME: encode_png(draw_curves(record["history"], record["best_epoch"]))}
    result = next((result for result in record["results"] if result["split"] == "test"), None)
    if result is not None and len(label_names) <= MAX_MATRIX_CLASSES:
        pictures[CONFUSION_MATRIX_NAME] = encode_png(draw_confusion_matrix(result, label_names))
    return pictures


def image_pictures(
    train: Dataset, test: Dataset, predictions: Predictions, preprocessing: Preprocessing, augmentation: Augmentation
) -> dict[str, bytes]:
    """Samples of both splits and the most confident mistakes on ``test``, as PNG by file name. They show its images.

    Without mistakes there is no picture of them.

    Args:
        train, test: Splits with the columns ``image`` and ``label`` (a ``ClassLabel``).
        predictions: Of the model that is kept, on ``test``.
        preprocessing: The model's.
        augmentation: Of the training images, in full strength.

    Raises:
        DatasetError: an image cannot be decoded.
    """
    label_names = test.features["label"].names
    pictures = {}
    for name, title, split, change in [
        (TRAIN_SAMPLES_NAME, "Training images", train, augmentation),
        (TEST_SAMPLES_NAME, "Test images", test, None),
    ]:
        labels = np.asarray(split["label"][:])
        rows = choose_samples(labels)
        pixels = _read_pixels(split, [(1, int(row)) for row in rows], preprocessing, change)
        how = "resized and randomly changed" if change else "resized"
        subtitle = f"{len(rows)} of {len(split):,}, {how}, as the network sees them"
        pictures[name] = encode_png(draw_samples(pixels, labels[rows], label_names, title, subtitle))
    mistakes = most_confident_mistakes(predictions)
    if len(mistakes.rows):
        shown = mistakes.take(slice(MISTAKE_COLUMNS * MISTAKE_ROWS))
        pixels = _read_pixels(test, [(1, int(row)) for row in shown.rows], preprocessing)
        how_many = f"{len(shown.rows)} of {len(mistakes.rows):,} mistakes on {len(predictions.rows):,} test images"
        pictures[MISTAKES_NAME] = encode_png(draw_mistakes(pixels, shown, label_names, how_many))
    return pictures


def choose_samples(labels: np.ndarray) -> np.ndarray:
    """Rows of some images of each class, class by class, at most ``SAMPLE_COLUMNS * SAMPLE_ROWS``.

    As many of each as fit, spread evenly over the split; where not even one of each fits, classes are spread evenly.

    Args:
        labels: int (N,), class indices.
    """
    limit = SAMPLE_COLUMNS * SAMPLE_ROWS
    classes = np.unique(labels)
    classes = classes[_spread(len(classes), limit)]
    # A divisor of the number of columns, so that classes start at the same places in every line.
    divisors = [n for n in range(1, SAMPLE_COLUMNS + 1) if SAMPLE_COLUMNS % n == 0]
    per_class = max(n for n in divisors if n == 1 or n * len(classes) <= limit)
    members = [np.flatnonzero(labels == label) for label in classes]
    return np.concatenate([rows[_spread(len(rows), per_class)] for rows in members])


def _spread(length: int, count: int) -> np.ndarray:
    """``count`` positions in 0..``length`` - 1 (all where there are fewer), evenly spread."""
    return np.arange(length) if length <= count else np.linspace(0, length - 1, count).round().astype(int)


def most_confident_mistakes(predictions: Predictions) -> Predictions:
    """Those that are wrong, the highest score first; of equal ones the earlier row."""
    wrong = np.flatnonzero(predictions.labels != predictions.predictions)
    order = wrong[np.lexsort((predictions.rows[wrong], -predictions.scores[wrong]))]
    return predictions.take(order)


def _read_pixels(
    split: Dataset, keys: Sequence[Key], preprocessing: Preprocessing, augmentation: Augmentation | None = None
) -> np.ndarray:
    """uint8 (N, H, W, 3): what the network sees of these samples, before normalisation."""
    images = ResizedImages(split, preprocessing)
    pixels = []
    for key in keys:
        sample = images[key]
        if isinstance(sample, DatasetError):
            raise sample
        pixels.append(sample[1])
    stacked = np.stack(pixels)
    return stacked if augmentation is None else augmentation(torch.from_numpy(stacked), keys).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# matplotlib, set up


@contextmanager
def _style() -> Iterator[None]:
    """While it lasts, or the function decorated with it runs, matplotlib draws in this house's style, and quietly.

    The user's own settings stay out, for a picture depends on its content alone, and so do matplotlib's notes about its
    font cache, which are nothing to whoever trains.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from matplotlib import style

        with style.context(["default", STYLE]):
            yield
    finally:
        logger.setLevel(level)


def _page(title: str, subtitle: str, height: float, width: float = WIDTH) -> "Figure":
    """An empty page of ``width`` x ``height`` px with a heading, which is larger on a page that is wider."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)
    scale = width / WIDTH
    _write(figure, MARGIN * scale, 50 * scale, title, size=TITLE_SIZE * scale, weight="bold")
    _write(figure, MARGIN * scale, 86 * scale, subtitle, size=TEXT_SIZE * scale, color=MUTED)
    return figure


def _write(figure: "Figure", x: float, y: float, text: str, **properties: object) -> None:
    """``text`` whose baseline, unless aligned otherwise, starts ``x`` px from the left and ``y`` px from the top."""
    width, height = figure.bbox.size
    figure.text(x / width, 1 - y / height, text, **properties)


def _place_framed(figure: "Figure", x: int, y: int, pixels: np.ndarray) -> None:
    """``pixels`` uint8 (H, W, 3), unscaled, their upper left corner ``x`` px from the left and ``y`` px from the top.

    The hairline around them is for those that are as white as the page.
    """
    framed = np.pad(pixels, ((1, 1), (1, 1), (0, 1)), constant_values=255)  # RGBA: RGB would take matplotlib seconds
    framed[[0, -1], :, :3] = framed[:, [0, -1], :3] = _rgb(HAIRLINE)
    figure.figimage(framed, x - 1, round(figure.bbox.height) - y - len(pixels) - 1)


def _rgb(color: str) -> np.ndarray:
    return np.array(list(bytes.fromhex(color[1:])))


@_style()
def encode_png(figure: "Figure") -> bytes:
    """RGB, so that no dark page shines through, and no metadata, so that the same picture is the same file."""
    figure.canvas.draw()
    stream = io.BytesIO()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).save(stream, "PNG", optimize=True)
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Names, which may be anything


def fit_names(names: Sequence[str], width: float, size: float) -> list[str]:
    """The names as they can be drawn: each on one line of ``width`` px, in letters of ``size`` px.

    Control characters and line breaks become spaces, characters that the font lacks ``MISSING``, and long names lose
    their middle. What can then not be told from another, or not be read, gets its index in front.
    """
    drawable = [_drawable(name) for name in names]
    fitted = [_fit(name, width, size) for name in drawable]
    times = Counter(fitted)
    return [
        short if times[short] == 1 and short.strip(MISSING + " ") else _fit(f"#{i} {name}".rstrip(), width, size)
        for i, (short, name) in enumerate(zip(fitted, drawable, strict=True))
    ]


def _drawable(text: str) -> str:
    text = unicodedata.normalize("NFC", text[:1000])  # of a name of a megabyte that is more than enough
    text = "".join(character if character.isprintable() else " " for character in text)
    font = _font()
    return " ".join("".join(c if font.get_char_index(ord(c)) else MISSING for c in text).split())


def _fit(text: str, width: float, size: float) -> str:
    """``text``, or so much of its beginning and end as fits, with an ellipsis between them."""
    if text_width(text, size) <= width:
        return text
    for kept in range(min(len(text) - 1, 100), 1, -1):
        shorter = f"{text[: (kept + 1) // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
        if text_width(shorter, size) <= width:
            return shorter
    return "…"


def text_width(text: str, size: float) -> float:
    """In px, of regular letters of ``size`` px."""
    font = _font()
    font.set_size(size, 72)
    font.set_text(text)
    return font.get_width_height()[0] / 64


@cache
def _font() -> "FT2Font":
    """The font of ``STYLE``, which comes with matplotlib."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")))


# ---------------------------------------------------------------------------------------------------------------------
# Curves

CURVE_STYLES = {
    "training": {"color": ORANGE, "linestyle": (0, (1.6, 1.4))},
    "validation": {"color": BLUE},
    "learning rate": {"color": MUTED},
}


@_style()
def draw_curves(history: Sequence[Epoch], best_epoch: int) -> "Figure":
    """Loss, accuracy and macro-F1 of training and validation, and the learning rate, by epoch; the kept one is marked.

    Args:
        history: At least one epoch; all with validation metrics, or none.
        best_epoch: The ``epoch`` of one of them.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    epochs = [line["epoch"] for line in history]
    splits = {"training": "train"}
    if history[0]["validation"] is not None:
        splits["validation"] = "validation"
    curves = {
        title: {label: [line[split][metric] for line in history] for label, split in splits.items()}
        for title, metric in [("Loss", "loss"), ("Accuracy", "accuracy"), ("Macro-F1", "macro_f1")]
    }
    curves["Learning rate"] = {"learning rate": [line["learning_rate"] for line in history]}

    height, places = 860, [(100, 166), (585, 166), (100, 536), (585, 536)]
    subtitle = f"The line marks epoch {best_epoch} of {len(history):,}, which is kept"
    if "validation" in splits:
        subtitle += "; in blue its validation figures"
    figure = _page("Training curves", subtitle, height)
    for (title, lines), (x, y) in zip(curves.items(), places, strict=True):
        axes = figure.add_axes(
            (x / WIDTH, 1 - (y + 240) / height, 345 / WIDTH, 240 / height),
            sharey=figure.axes[1] if title == "Macro-F1" else None,  # comparable with accuracy
        )
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.axvline(best_epoch, color=MUTED, linewidth=2)
        for label, values in lines.items():
            axes.plot(epochs, values, label=label, marker="o" if len(epochs) == 1 else "", **CURVE_STYLES[label])
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        if "validation" in lines:
            kept = lines["validation"][epochs.index(best_epoch)]
            axes.plot(best_epoch, kept, "o", color=BLUE, markersize=16, markeredgecolor="white", markeredgewidth=2)
            axes.set_title(f"{kept:.4f}", loc="right", color=BLUE)
        if title == "Learning rate":
            axes.set_ylim(bottom=0)
        if title == "Loss" and _spans_magnitudes([value for values in lines.values() for value in values]):
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(1 - 14 / WIDTH, 1 - 14 / height), ncols=2)
    return figure


def _spans_magnitudes(losses: Sequence[float]) -> bool:
    """Whether one loss towers above the others, as at the start of a long run: on a linear scale they would be flat."""
    return min(losses) > 0 and max(losses) > 20 * float(np.median(losses))


# ---------------------------------------------------------------------------------------------------------------------
# Confusion matrix


@_style()
def draw_confusion_matrix(result: Result, label_names: Sequence[str]) -> "Figure":
    """The confusion matrix of a test result: rows are true classes, columns predicted ones, colours shares of the row.

    Up to ``MAX_NAMED_CLASSES`` classes it has names and counts, and grows beyond ``WIDTH`` so that they stay legible in
    full size; with more it is a heat map.

    Args:
        result: With its ``confusion_matrix``.
        label_names: One for each row, at most ``MAX_MATRIX_CLASSES``.
    """
    matrix = np.asarray(result["confusion_matrix"])
    named = len(matrix) <= MAX_NAMED_CLASSES
    size = min(TEXT_SIZE, max(18, 400 / len(matrix)))
    names = fit_names(label_names, 190, size) if named else []
    longest = max((text_width(name, size) for name in names), default=0)
    cell = int((WIDTH - 2 * MARGIN - longest - 50) / len(matrix))
    cell = min(200, max(34, cell)) if named else max(1, cell)
    side_by_side = longest <= cell - 8  # the names of the columns; else they stand upright

    side = cell * len(matrix)
    axis_size = max(TEXT_SIZE, side // 50)
    before, below = longest + axis_size + 54, (size if side_by_side else longest) + axis_size + 62
    width = max(WIDTH, round(before + side + MARGIN))
    top = round(HEADING_HEIGHT * width / WIDTH)
    left = round((width - MARGIN - side + before) / 2)
    figure = _page(
        f"Confusion matrix, {_fit(_drawable(result['dataset']), 400, TITLE_SIZE)} {result['split']}",
        f"{result['accuracy']:.1%} of {result['num_images']:,} images are right (blue), the others wrong (orange)",
        round(top + side + below),
        width,
    )
    colors = _cell_colors(matrix)
    cells = colors.repeat(cell, axis=0).repeat(cell, axis=1)
    if named:
        cells[cell - 1 : -1 : cell] = cells[:, cell - 1 : -1 : cell] = _rgb(HAIRLINE)
    _place_framed(figure, left, top, cells)
    axis_style = {"size": axis_size, "color": MUTED}
    x, y = left - longest - 34, top + side / 2
    _write(figure, x, y, "true class", rotation=90, ha="right", va="center", **axis_style)
    x, y = left + side / 2, top + side + below - 30
    _write(figure, x, y, "predicted class", ha="center", **axis_style)
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell
        _write(figure, left - 14, top + middle, name, size=size, ha="right", va="center_baseline")
        rotation = 0 if side_by_side else 90
        _write(figure, left + middle, top + side + 14, name, size=size, ha="center", va="top", rotation=rotation)
    if named:
        size *= min(1, (cell - 6) / text_width(str(matrix.max()), size))
        for i, j in np.argwhere(matrix):
            x, y = left + (j + 0.5) * cell, top + (i + 0.5) * cell
            color = "white" if _luminance(colors[i, j]) < 0.3 else INK
            _write(figure, x, y, str(matrix[i, j]), size=size, color=color, ha="center", va="center_baseline")
    return figure


def _cell_colors(matrix: np.ndarray) -> np.ndarray:
    """uint8 (classes, classes, 3): the larger the share of the row, the stronger; by its root, for most are small."""
    strength = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))[..., None]
    full = np.where(np.eye(len(matrix), dtype=bool)[..., None], _rgb(BLUE), _rgb(ORANGE))
    return (255 + strength * (full - 255)).round().astype(np.uint8)


def _luminance(rgb: np.ndarray) -> float:
    """Relative, 0 (black) to 1 (white)."""
    return float((rgb / 255) ** 2.2 @ (0.2126, 0.7152, 0.0722))


# ---------------------------------------------------------------------------------------------------------------------
# Images


def draw_samples(
    pixels: np.ndarray, labels: Sequence[int], label_names: Sequence[str], title: str, subtitle: str
) -> "Figure":
    """Images with their class names below.

    Args:
        pixels: uint8 (N, side, side, 3).
        labels: Class index of each.
    """
    names = fit_names(label_names, _column_width(SAMPLE_COLUMNS), TEXT_SIZE)
    return _draw_grid(pixels, [[(names[label], INK)] for label in labels], SAMPLE_COLUMNS, title, subtitle)


def draw_mistakes(pixels: np.ndarray, mistakes: Predictions, label_names: Sequence[str], how_many: str) -> "Figure":
    """Images with the class predicted, its score, and the true class below.

    Args:
        pixels: uint8 (N, side, side, 3).
        mistakes: What was said of them.
        how_many: They are, of how many; for the heading.
    """
    names = fit_names(label_names, _column_width(MISTAKE_COLUMNS) - text_width(" · 100%", TEXT_SIZE), TEXT_SIZE)
    captions = [
        [(f"{names[prediction]} · {score:.0%}", ORANGE), (f"is {names[label]}", INK)]
        for label, prediction, score in zip(mistakes.labels, mistakes.predictions, mistakes.scores, strict=True)
    ]
    subtitle = f"{how_many}. Orange is the prediction"
    return _draw_grid(pixels, captions, MISTAKE_COLUMNS, "Most confident mistakes", subtitle)


@_style()
def _draw_grid(
    pixels: np.ndarray, captions: Sequence[Sequence[tuple[str, str]]], num_columns: int, title: str, subtitle: str
) -> "Figure":
    """Images in lines of ``num_columns``, enlarged; each caption is lines of text and their colours."""
    column_width = _column_width(num_columns)
    pixels = _enlarge(pixels, column_width)
    side = pixels.shape[1]
    line_height = side + LINE_HEIGHT * len(captions[0]) + 28
    num_lines = -(-len(pixels) // num_columns)
    figure = _page(title, subtitle, HEADING_HEIGHT + num_lines * line_height)
    for i, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        line, column = divmod(i, num_columns)
        x, y = MARGIN + column * (column_width + GAP), HEADING_HEIGHT + line * line_height
        _place_framed(figure, x, y, image)
        for j, (text, color) in enumerate(caption, start=1):
            _write(figure, x, y + side + j * LINE_HEIGHT, text, color=color)
    return figure


def _column_width(num_columns: int) -> int:
    return (WIDTH - 2 * MARGIN - (num_columns - 1) * GAP) // num_columns


def _enlarge(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """To the largest multiple of its size that fits ``max_side``, pixels staying squares; larger ones are reduced."""
    factor = max_side // pixels.shape[1]
    if factor:
        return pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    size = (max_side, max_side)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for image in pixels])
