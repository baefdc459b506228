"""Pictures of a run: they show what was measured, stay legible, and are the same files for the same run."""

import io
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import datasets
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from resnet_hub.checkpoint import MAX_PICTURE_BYTES, PICTURE_NAMES, Epoch, Result
from resnet_hub.images import Preprocessing
from train import pictures
from train.augmentation import Augmentation
from train.engine import Predictions

# Whatever matplotlib warns of (missing glyphs, tight layouts, mathtext) would stand in the user's terminal.
pytestmark = pytest.mark.filterwarnings("error")

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = [
    "$x^2$ costs $5",
    "猫",
    "犬",
    "<b>bold</b>\n# heading",
    "a name that is too long and ends with a",
    "a name that is too long and ends with b",
    "\u202eevil\x00",
    "عربى",
    "✋🏽 hand",
    "",
    "Größe",
    "W" * 100_000,
]


def texts(figure: Figure) -> list[Text]:
    """What is written in the figure, once drawn."""
    figure.canvas.draw()
    outside = [
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in outside]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def history(num_epochs: int, **validation: float) -> list[Epoch]:
    def metrics(epoch: int) -> dict:
        return {"loss": 2 / epoch, "accuracy": 1 - 0.5 / epoch, "macro_f1": 1 - 0.6 / epoch, "num_images": 9}

    return [
        Epoch(epoch=i, learning_rate=1e-3 / i, train=metrics(i), validation=metrics(i) | validation, seconds=1.0)
        for i in range(1, num_epochs + 1)
    ]


def result(matrix: list[list[int]] | np.ndarray, dataset: str = "signs") -> Result:
    matrix = np.asarray(matrix)
    return Result(
        dataset=dataset,
        split="test",
        loss=0.5,
        accuracy=float(matrix.trace() / matrix.sum()),
        macro_f1=0.5,
        num_images=int(matrix.sum()),
        confusion_matrix=matrix.tolist(),
    )


def confusions(num_classes: int, total: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    matrix = np.diag(np.full(num_classes, total // num_classes))
    np.add.at(matrix, tuple(rng.integers(0, num_classes, (2, total // 5))), 1)
    return matrix


def noise(num: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, side, side, 3), dtype=np.uint8)


# -- curves -----------------------------------------------------------------------------------------------------------


def test_curves_are_the_history_with_the_kept_epoch_marked():
    line = history(9, loss=0.25, accuracy=0.875, macro_f1=0.75)
    figure = pictures.draw_curves(line, best_epoch=4)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["Loss", "Accuracy", "Macro-F1", "Learning rate"]
    for title, metric, kept in [
        ("Loss", "loss", 0.25),
        ("Accuracy", "accuracy", 0.875),
        ("Macro-F1", "macro_f1", 0.75),
    ]:
        drawn = {curve.get_label(): curve.get_xydata().tolist() for curve in panels[title].lines}
        for label, split in [("training", "train"), ("validation", "validation")]:
            assert drawn[label] == [[epoch["epoch"], epoch[split][metric]] for epoch in line]
        assert [4, kept] in [
            curve.get_xydata().tolist()[0] for curve in panels[title].lines if len(curve.get_xdata()) == 1
        ]
        assert panels[title].get_title(loc="right") == f"{kept:.4f}"
    assert {tuple(axes.lines[0].get_xdata()) for axes in figure.axes} == {(4, 4)}  # the upright line in each
    assert "training" in words(figure)
    assert any("epoch 4 of 9" in text for text in words(figure))


@pytest.mark.parametrize("learning_rate", [0.0, 1e-3])
def test_a_single_epoch_is_a_point_at_a_whole_number(learning_rate):
    line = history(1)
    line[0]["learning_rate"] = learning_rate
    figure = pictures.draw_curves(line, best_epoch=1)
    ticks = figure.axes[0].get_xticklabels()
    assert [text.get_text() for text in texts(figure) if text in ticks] == ["1"]
    assert {curve.get_marker() for curve in figure.axes[0].lines if curve.get_label() == "training"} == {"o"}


def test_one_huge_loss_does_not_flatten_the_others():
    line = history(30)
    assert pictures.draw_curves(line, 30).axes[0].get_yscale() == "linear"
    line[1]["validation"]["loss"] = 1e4
    figure = pictures.draw_curves(line, 30)
    assert figure.axes[0].get_yscale() == "log"
    assert {"0.1", "10", "1000"} <= set(words(figure))


# -- confusion matrix -------------------------------------------------------------------------------------------------


def test_rows_of_the_confusion_matrix_are_true_classes_and_colours_tell_right_from_wrong():
    figure = pictures.draw_confusion_matrix(result([[7, 3, 0], [0, 11, 0], [2, 0, 5]]), ["ant", "bee", "cat"])
    centers: dict[str, list[np.ndarray]] = {}
    for text in texts(figure):
        box = text.get_window_extent()
        centers.setdefault(text.get_text(), []).append(np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2)
    assert "0" not in centers
    rows = {name: min(centers[name], key=lambda center: center[0])[1] for name in ("ant", "bee", "cat")}
    columns = {name: min(centers[name], key=lambda center: center[1])[0] for name in ("ant", "bee", "cat")}
    assert rows["ant"] > rows["bee"] > rows["cat"]
    image = pixels_of(pictures.encode_png(figure)).astype(int)
    for true, predicted, count in [
        ("ant", "ant", "7"),
        ("ant", "bee", "3"),
        ("bee", "bee", "11"),
        ("cat", "ant", "2"),
        ("cat", "cat", "5"),
    ]:
        x, y = columns[predicted], rows[true]
        assert centers[count][0] == pytest.approx([x, y], abs=4)
        red, _, blue = image[round(len(image) - y), round(x) - 50]  # in the cell, beside its count
        assert (blue > red + 100) if true == predicted else (red > blue + 50)
    assert (image[round(len(image) - rows["bee"]), round(columns["cat"]) - 50] == 255).all()


def test_beside_the_matrix_stand_dataset_and_accuracy():
    text = " ".join(words(pictures.draw_confusion_matrix(result([[9, 1], [0, 10]], "my$data$"), ["a", "b"])))
    assert "my$data$ test" in text
    assert "95.0% of 20 images" in text


def test_more_classes_than_can_be_named_become_a_heat_map():
    figure = pictures.draw_confusion_matrix(result(confusions(300)), [f"class {i}" for i in range(300)])
    assert len(texts(figure)) == 4  # title, accuracy, and what rows and columns are
    image = pixels_of(pictures.encode_png(figure)).astype(int)
    assert np.count_nonzero((image[..., 2] - image[..., 0]) > 100) >= 300  # the diagonal


# -- images -----------------------------------------------------------------------------------------------------------


def test_samples_are_enlarged_to_whole_pixels_with_their_class_names():
    images = noise(8, 32)
    figure = pictures.draw_samples(images, [0, 1] * 4, ["cat", "dog"], "Test images", "8 of 9")
    assert words(figure) == ["Test images", "8 of 9", *["cat", "dog"] * 4]
    image = pixels_of(pictures.encode_png(figure))
    top, left = pictures.HEADING_HEIGHT, pictures.MARGIN
    large = images.repeat(4, axis=1).repeat(4, axis=2)
    assert np.array_equal(image[top : top + 128, left : left + 128], large[0])
    second = left + 140 + pictures.GAP
    assert np.array_equal(image[top : top + 128, second : second + 128], large[1])


def test_images_that_are_larger_than_their_place_are_reduced():
    gray = np.full((2, 500, 500, 3), 100, np.uint8)
    image = pixels_of(pictures.encode_png(pictures.draw_samples(gray, [0, 0], ["cat"], "Test images", "")))
    assert image.shape[1] == pictures.WIDTH
    assert (image == 100).all(axis=2).sum() == 2 * 140 * 140


@pytest.mark.parametrize(
    ("num_classes", "per_class"), [(1, 6), (2, 6), (6, 6), (7, 6), (10, 3), (20, 2), (40, 1), (42, 1)]
)
def test_samples_are_as_many_of_each_class_as_fit(num_classes, per_class):
    labels = np.random.default_rng(0).permutation(np.arange(num_classes).repeat(9))
    chosen = pictures.choose_samples(labels)
    assert labels[chosen].tolist() == np.arange(num_classes).repeat(per_class).tolist()
    assert len(set(chosen)) == len(chosen)


def test_of_many_classes_some_are_shown_from_first_to_last():
    shown = np.arange(1000)[pictures.choose_samples(np.arange(1000))]
    assert (len(shown), shown[0], shown[-1]) == (42, 0, 999)
    assert {b - a for a, b in pairwise(shown.tolist())} <= {24, 25}


def test_classes_with_few_images_or_none_are_no_problem():
    assert pictures.choose_samples(np.array([5, 0, 5, 5])).tolist() == [1, 0, 2, 3]


def test_mistakes_are_the_wrong_ones_with_the_highest_score_first():
    predictions = Predictions(
        rows=np.array([30, 10, 20, 40, 50]),
        labels=np.array([0, 1, 2, 0, 1]),
        predictions=np.array([1, 1, 0, 2, 0]),
        scores=np.array([0.9, 1.0, 0.6, 0.9, 0.95]),
        losses=np.zeros(5),
        energies=np.zeros(5),
    )
    mistakes = pictures.most_confident_mistakes(predictions)
    assert mistakes.rows.tolist() == [50, 30, 40, 20]
    assert mistakes.predictions.tolist() == [0, 1, 2, 0]
    figure = pictures.draw_mistakes(noise(4, 32), mistakes, ["ant", "bee", "cat"], "4 of 4 mistakes on 5 test images")
    assert words(figure)[2:] == [
        "ant · 95%",
        "is bee",
        "bee · 90%",
        "is ant",
        "cat · 90%",
        "is ant",
        "ant · 60%",
        "is cat",
    ]


@pytest.fixture(scope="module")
def split() -> datasets.Dataset:
    """Eight pictures that are black on the left and of one gray each on the right, in two classes."""
    images = np.zeros((8, 32, 32, 3), np.uint8)
    images[:, :, 16:] = np.arange(100, 180, 10)[:, None, None, None]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    return datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in images], "label": [0, 1] * 4}, features
    )


MIRROR = Augmentation(
    seed=0, horizontal_flip=1, rotation=0, scale=(1, 1), translation=0, color_jitter=0, color_temperature=0
)


def predictions_with(mistakes: list[int]) -> Predictions:
    rows = np.arange(8)
    return Predictions(
        rows, rows % 2, (rows + np.isin(rows, mistakes)) % 2, np.linspace(0.5, 0.9, 8), *np.zeros((2, 8))
    )


def first_image(png: bytes, side: int) -> np.ndarray:
    top, left = pictures.HEADING_HEIGHT, pictures.MARGIN
    return pixels_of(png)[top : top + side, left : left + side]


def test_training_images_are_shown_as_augmented_and_test_images_as_they_are(split):
    files = pictures.image_pictures(split, split, predictions_with([]), Preprocessing(32), MIRROR)
    assert set(files) == {"train_samples.png", "test_samples.png"}  # and none of mistakes, which there are not
    expected = np.zeros((128, 128, 3), np.uint8)
    expected[:, 64:] = 100
    assert np.array_equal(first_image(files["test_samples.png"], 128), expected)
    assert np.array_equal(first_image(files["train_samples.png"], 128), expected[:, ::-1])


def test_the_picture_of_mistakes_shows_the_images_of_their_rows(split):
    files = pictures.image_pictures(split, split, predictions_with([2, 5]), Preprocessing(32), MIRROR)
    assert (first_image(files["mistakes.png"], 192)[:, 96:] == 150).all()  # row 5, of the higher score


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_are_made_drawable_and_stay_distinct():
    names = pictures.fit_names(HOSTILE, width=200, size=22)
    assert names[0] == "$x^2$ costs $5"
    assert names[1:3] == ["#1 □", "#2 □"]  # the font has no Chinese
    assert names[3].startswith("<b>bol")
    assert names[6] == "evil"
    assert names[9:11] == ["#9", "Größe"]
    assert len(set(names)) == len(HOSTILE)
    assert all(name.isprintable() for name in names)
    assert all(pictures.text_width(name, 22) <= 200 for name in names)


def test_long_names_lose_their_middle():
    assert pictures.fit_names(["german shepherd puppy 1", "german shepherd puppy 2"], width=150, size=22) == [
        "germa…py 1",
        "germa…py 2",
    ]


def draw_mistakes(names: list[str]) -> Figure:
    numbers = np.arange(len(names))
    mistakes = Predictions(numbers, numbers, numbers[::-1], np.ones(len(names)), *np.zeros((2, len(names))))
    return pictures.draw_mistakes(noise(len(names), 48), mistakes, names, "16 of 9,999 mistakes on 10,000 test images")


FIGURES = {
    "curves": lambda: pictures.draw_curves(history(300), 150),
    "two classes": lambda: pictures.draw_confusion_matrix(result([[50_000, 1], [2, 9_000_000]]), ["cat", "dog"]),
    "ten classes": lambda: pictures.draw_confusion_matrix(result(confusions(10)), [f"airplane {i}" for i in range(10)]),
    "hundred classes": lambda: pictures.draw_confusion_matrix(
        result(confusions(100)), [f"aquarium fish number {i}" for i in range(100)]
    ),
    "hostile classes": lambda: pictures.draw_confusion_matrix(result(confusions(12), "x" * 300), HOSTILE),
    "samples": lambda: pictures.draw_samples(noise(12, 64), range(12), HOSTILE, "Training images", "12 of 12"),
    "mistakes": lambda: draw_mistakes(HOSTILE),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_covers_another(name):
    figure = FIGURES[name]()
    boxes = [text.get_window_extent() for text in texts(figure)]
    page = figure.bbox
    assert all(page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes)
    corners = np.array([box.extents for box in boxes])
    low, high = corners[:, None, :2], corners[:, None, 2:]
    overlap = np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1))
    # Letters' boxes hold room for those that reach lower or higher; two px of it may be shared.
    assert np.count_nonzero((overlap > 2).all(axis=2)) == len(boxes)  # each with itself


# -- files ------------------------------------------------------------------------------------------------------------


def test_curves_and_confusion_matrix_come_from_the_record_alone(training_record):
    second = training_record["results"][0] | {"dataset": "drawn-signs", "confusion_matrix": [[9] * 6] * 6}
    training_record["results"] += [second]
    files = pictures.record_pictures(training_record, list("012345"))
    assert set(files) == {"curves.png", "confusion_matrix.png"}
    first = pictures.draw_confusion_matrix(training_record["results"][0], list("012345"))
    assert files["confusion_matrix.png"] == pictures.encode_png(first)


def test_files_are_opaque_and_small_enough_to_travel(split, training_record):
    files = pictures.record_pictures(training_record, list("012345"))
    files |= pictures.image_pictures(split, split, predictions_with([2]), Preprocessing(224), MIRROR)
    assert set(files) == set(PICTURE_NAMES)
    files["noise"] = pictures.encode_png(pictures.draw_samples(noise(42, 224), [0] * 42, ["a"], "Test images", ""))
    for png in files.values():
        image = Image.open(io.BytesIO(png))
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert len(png) < MAX_PICTURE_BYTES


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import train.train, train.pictures
assert "matplotlib" not in sys.modules, "imported before a picture is made"
record = {{"history": {history!r}, "best_epoch": 2, "results": [{result!r}]}}
files = train.pictures.record_pictures(record, ["a", "b"])
assert "matplotlib.pyplot" not in sys.modules, "pyplot's global state"
sys.stdout.buffer.write(b"".join(files.values()))
"""


def test_pictures_are_the_same_bytes_on_a_machine_with_other_settings_and_nothing_is_printed(tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 50\nfigure.facecolor: black\nlines.linewidth: 9\n")
    content = {"history": history(3), "result": result([[1, 2], [3, 4]])}
    script = SCRIPT.format(root=str(ROOT), **content)
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path)}  # which has no font cache either
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, cwd=tmp_path, env=environment, check=False
    )
    assert run.stderr.decode() == ""
    record = {"history": content["history"], "best_epoch": 2, "results": [content["result"]]}
    assert run.stdout == b"".join(pictures.record_pictures(record, ["a", "b"]).values())


def test_matplotlib_is_left_as_it_was():
    before = dict(matplotlib.rcParams)
    pictures.encode_png(pictures.draw_curves(history(2), 1))
    assert dict(matplotlib.rcParams) == before
