"""The parts of the page, without a browser: which models, samples and pictures it shows, and what it keeps."""

import io
import json
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import pandas as pd
import pytest
import torch
from PIL import Image

from resnet_hub import CheckpointError, ConfigurationError, Predictor, ResNetForSigns, data, drawn_signs
from resnet_hub.demo import answers, archives, batch, classify, feedback, inspection, models, samples
from resnet_hub.demo.feedback import FeedbackStore
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.errors import DatasetError, ImageError
from resnet_hub.predictor import Answer


@pytest.fixture(autouse=True)
def uploads(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_model_is_read_once_and_the_least_used_one_goes(hands_and_animals, monkeypatch):
    loads = []
    monkeypatch.setattr(models, "Predictor", lambda source, device: loads.append(source) or Predictor(source))
    library = ModelLibrary(hands_and_animals, max_loaded=1)
    assert library.names == ["hands", "animals"]
    assert library.get(None) is library.get("hands")
    assert library.get("animals").label_names[0] == "cat"
    library.get("hands")
    assert loads == [str(folder) for folder in (*hands_and_animals, hands_and_animals[0])]


def test_many_visitors_wait_for_one_load(hands_and_animals, monkeypatch):
    library = ModelLibrary(hands_and_animals)
    loads = []
    monkeypatch.setattr(models, "Predictor", lambda source, device: loads.append(source) or Predictor(source))
    threads = [threading.Thread(target=library.get, args=("animals",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_a_model_that_is_slow_to_come_keeps_nobody_from_another(hands_and_animals, monkeypatch):
    arrived = threading.Event()

    def from_pretrained(name: str, revision: str | None) -> ResNetForSigns:
        assert arrived.wait(60)
        return ResNetForSigns(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))

    library = ModelLibrary([hands_and_animals[0]], allow_hub=True)
    monkeypatch.setattr(models.ResNetForImageClassification, "from_pretrained", from_pretrained)
    monkeypatch.setattr(models, "LOAD_SECONDS", 0.1)
    for i in range(models.MAX_LOADING):
        with pytest.raises(CheckpointError, match=f"user/{i} is still on its way from the Hub: try again"):
            library.get(f"user/{i}")
    with pytest.raises(CheckpointError, match="several models are on their way"):
        library.get("user/more")
    assert library.get(None).label_names == ["0", "1", "2", "3", "4", "5"]
    monkeypatch.setattr(models, "LOAD_SECONDS", 60)
    arrived.set()
    assert library.get("user/0").model.image_size == 64


def test_folders_of_one_name_are_told_apart_by_their_paths(tiny_checkpoint, tmp_path):
    for name in ("a", "b"):
        ResNetForSigns.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / name / "model")
    assert ModelLibrary([tmp_path / "a" / "model", tmp_path / "b" / "model"]).names == [
        str(tmp_path / "a" / "model"),
        str(tmp_path / "b" / "model"),
    ]


def test_visitors_cannot_name_folders(hands_and_animals, monkeypatch):
    monkeypatch.chdir(hands_and_animals[0].parent.parent)
    library = ModelLibrary([hands_and_animals[0]], allow_hub=True)
    local = f"{hands_and_animals[1].parent.name}/animals"
    assert Path(local).is_dir()
    for name in (local, str(hands_and_animals[1]), "../x", "animals", "a/b/c"):
        with pytest.raises(CheckpointError, match="is no id of a Hub model"):
            library.get(name)


def test_what_is_wrong_with_a_hub_model_is_told_without_this_machines_folders(hands_and_animals, monkeypatch):
    def fail(name: str, revision: str | None) -> None:
        assert (name, revision) == ("user/model", "v1")
        raise CheckpointError(
            "Hub model 'user/model': /root/.cache/x/config.json is bad (see https://hf.co/a): repair it"
        )

    library = ModelLibrary([hands_and_animals[0]], allow_hub=True)
    monkeypatch.setattr(models.ResNetForImageClassification, "from_pretrained", fail)
    with pytest.raises(CheckpointError) as error:
        library.get("user/model@v1")
    assert str(error.value) == "Hub model 'user/model': config.json is bad (see https://hf.co/a): repair it"


def test_there_must_be_a_model():
    with pytest.raises(ConfigurationError, match="--models"):
        ModelLibrary([])


# -- samples -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(monkeypatch) -> datasets.Dataset:
    """A test split of hands, two of each class, of which one is damaged."""
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list("012345")))
    columns = {"image": [Image.new("RGB", (40, 30), (i * 9, 0, 0)) for i in range(12)], "label": [*range(6)] * 2}
    rows = datasets.Dataset.from_dict(columns, features)
    monkeypatch.setattr(data, "load_image_dataset", lambda name: {"signs": {"test": rows}}[name])
    return rows


def test_photos_come_before_drawings_and_only_for_their_classes(photos):
    library = samples.SampleLibrary(["signs"])
    titles = library.titles(list("543210"))
    assert titles == ["Photos (SIGNS test split)", "Drawn by code"]
    assert library.titles(["cat", "dog"]) == []
    files = library.files(titles[0], ["3", "0"], 5)
    assert [name for _, name in files] == ["3", "3", "0", "0"]
    assert [Image.open(file).getpixel((0, 0))[0] for file, _ in files] == [27, 81, 0, 54]
    assert len(library.files(titles[1], list("012345"), 4)) == 24


def test_a_dataset_that_cannot_be_loaded_leaves_the_drawings(monkeypatch, caplog):
    def fail(name: str) -> None:
        raise DatasetError("SIGNS is not on this machine")

    monkeypatch.setattr(data, "load_image_dataset", fail)
    assert samples.SampleLibrary(["signs"]).titles(drawn_signs.LABEL_NAMES) == ["Drawn by code"]
    assert "no pictures of signs to try" in caplog.text


# -- answers -----------------------------------------------------------------------------------------------------------


def answer(*scores: float, is_unfamiliar: bool | None = None) -> Answer:
    return Answer([{"label": f"c{i}", "score": score} for i, score in enumerate(scores)], is_unfamiliar)


def test_the_verdict_says_how_sure_and_what_to_do():
    assert "reads **c0** and is 90% sure" in answers.verdict(answer(0.9, 0.1), 0.0123)
    assert "<small>12 ms</small>" in answers.verdict(answer(0.9, 0.1), 0.0123)
    assert "wavers between **c0** and **c1**" in answers.verdict(answer(0.5, 0.4, 0.1), 0)
    assert "unlike those that the network learned from" in answers.verdict(answer(0.9, 0.1, is_unfamiliar=True), 0)


def test_names_of_strangers_are_text_and_not_html():
    hostile = Answer([{"label": "<img src=x onerror=alert(1)>", "score": 0.9}], None)
    for shown in (answers.verdict(hostile, 0), answers.bars(hostile)):
        assert "<img" not in shown
    assert 'alt="' not in answers.inline(Image.new("RGB", (4, 4)), "' onload='x")
    assert "&#x27; onload=" in answers.inline(Image.new("RGB", (4, 4)), "' onload='x")


# -- batch and archives ------------------------------------------------------------------------------------------------


def write_zip(file: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def png(color: str = "tan") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), color).save(stream, "PNG")
    return stream.getvalue()


def test_a_broken_file_is_one_row_with_its_error(hands_and_animals, tmp_path):
    predictor = Predictor(hands_and_animals[0])
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.jpg").write_text("no picture")
    archive = write_zip(tmp_path / "c.zip", **{"hands/d.png": png("navy"), "__MACOSX/._d.png": b"x", "e.png": b"x"})
    rows = list(batch.classify_files(predictor, [tmp_path / "a.png", tmp_path / "b.jpg", archive]))
    assert [row.name for row in rows] == ["a.png", "b.jpg", "hands/d.png", "e.png"]
    assert [row.answer is None for row in rows] == [False, True, False, True]
    assert "This is no image" in rows[1].error
    frame = batch.as_frame(rows)
    assert frame["label"][2] == predictor(Image.new("RGB", (40, 40), "navy"))[0]["label"]
    assert frame["error"].notna().tolist() == [False, True, False, True]
    assert batch.summary(rows).endswith("2 could not be read: the table says why.")


def test_a_batch_that_takes_too_long_ends_with_what_it_has(hands_and_animals, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "BATCH_SIZE", 2)
    ticks = iter([0, 10, 1000])
    monkeypatch.setattr(batch, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for file in files:
        file.write_bytes(png())
    rows = list(batch.classify_files(Predictor(hands_and_animals[0]), files))
    assert [row.name for row in rows] == ["0.png", "1.png", "2.png"]
    assert rows[1].answer is not None
    assert "send this picture and those after it again" in rows[2].error


def test_the_table_to_take_along_is_csv_and_parquet(hands_and_animals, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    frame = batch.as_frame(list(batch.classify_files(Predictor(hands_and_animals[0]), [tmp_path / "a.png"])))
    as_csv, as_parquet = batch._write(frame)
    pd.testing.assert_frame_equal(pd.read_parquet(as_parquet), frame)
    assert pd.read_csv(as_csv)["label"].astype(str).tolist() == frame["label"].tolist()
    assert Path(as_csv).parent != Path(batch._write(frame)[0]).parent


def test_a_zip_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 1000)
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1500)
    archive = write_zip(tmp_path / "x.zip", bomb=bytes(10**6), a=bytes(900), b=bytes(900))
    (_, bomb), (_, a), (_, b) = archives.read_images([archive])
    assert isinstance(bomb, ImageError)
    assert a == bytes(900)
    assert isinstance(b, ImageError)
    assert "make it smaller, or send fewer" in str(b)


def test_more_pictures_than_allowed_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_IMAGES", 2)
    found = list(archives.read_images([write_zip(tmp_path / "x.zip", a=b"1", b=b"2", c=b"3", d=b"4")]))
    assert [content for _, content in found[:2]] == [b"1", b"2"]
    assert "only the first 2 pictures" in str(found[2][1])
    assert len(found) == 3


def test_zips_made_to_harm_give_rows_with_errors(tmp_path):
    damaged = write_zip(tmp_path / "damaged.zip", **{"a.png": png()})
    content = bytearray(damaged.read_bytes())
    content[40:60] = bytes(20)
    damaged.write_bytes(content)
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../../up\n.png", png())
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a.png", png())
    locked = bytearray((tmp_path / "locked.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)

    found = list(archives.read_images([tmp_path / f"{name}.zip" for name in ("damaged", "links", "locked")]))
    assert [name for name, _ in found] == ["a.png", "../../up?.png", "a.png"]
    assert "damaged" in str(found[0][1])
    assert found[1][1] == png()
    assert "encrypted" in str(found[2][1])


# -- inspection --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hands(hands_and_animals) -> ResNetForSigns:
    return ResNetForSigns.from_pretrained(hands_and_animals[0])


def test_the_matrix_is_the_records_and_empty_cells_cannot_be_chosen(hands):
    shown = inspection.confusion_matrix(hands)
    assert "aria-label='1 taken for 0: 1 pictures' >1</button>" in shown
    assert shown.count("<button") == 36
    assert shown.count("disabled") == 33
    hands.training_record = None
    assert "tells nothing of its training" in inspection.confusion_matrix(hands)


def test_mistakes_and_cells_show_the_surest_first(hands):
    nowhere = inspection.PicturesOfTests()
    assert "1 mistakes, the surest first" in inspection.mistakes(hands, nowhere)
    assert "0 (60%), is 1" in inspection.mistakes(hands, nowhere)
    cell = inspection.cell_pictures(hands, nowhere, 1, 1)
    assert "2 pictures of 1, taken for 1" in cell
    assert cell.index("80%") < cell.index("70%")
    assert "not on this machine" in cell
    assert "Choose a cell" in inspection.cell_pictures(hands, nowhere, 9, 0)


def test_pictures_are_shown_only_of_the_split_that_the_answers_are_of(hands, monkeypatch):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list("012345")))

    def split(labels: list[int]) -> datasets.Dataset:
        return datasets.Dataset.from_dict(
            {"image": [Image.new("RGB", (8, 8))] * len(labels), "label": labels}, features
        )

    for labels, is_shown in [([0, 1, 1, 1], True), ([1, 0, 1, 1], False), ([0, 1, 1], False)]:
        monkeypatch.setattr(data, "load_image_dataset", lambda name, labels=labels: {"test": split(labels)})
        assert (inspection.PicturesOfTests().of(hands) is not None) == is_shown
        assert ("<img" in inspection.mistakes(hands, inspection.PicturesOfTests())) == is_shown


def test_a_checkpoint_cannot_name_the_folder_that_is_opened(hands, monkeypatch):
    monkeypatch.setattr(data, "load_image_dataset", lambda name: pytest.fail(f"opened {name}"))
    hands.training_record["datasets"][0]["name"] = "/home/me/private"
    assert inspection.PicturesOfTests().of(hands) is None


def test_classes_have_precision_recall_and_f1(hands):
    frame = inspection.per_class(hands)
    assert frame.loc[0].tolist() == ["0", 0.5, 1.0, 0.6667, 1]
    assert frame.loc[1].tolist() == ["1", 1.0, 0.6667, 0.8, 3]
    assert frame.loc[5].tolist() == ["5", 0, 0, 0, 0]


def test_curves_recipe_and_layers_are_tables(hands):
    assert inspection.curves(hands, "loss").values.tolist() == [[1, 0.5, "train"], [1, 0.5, "validation"]]
    assert ["learning_rate", "0.001"] in inspection.options(hands).values.tolist()
    assert ["torch", "2"] in inspection.options(hands).values.tolist()
    layers = inspection.architecture(hands)
    assert layers["Parameters"].sum() == sum(parameter.numel() for parameter in hands.parameters())
    hands.training_record = None
    assert inspection.curves(hands, "loss").empty
    assert inspection.options(hands).empty


# -- feedback ----------------------------------------------------------------------------------------------------------


def test_corrections_are_a_folder_that_datasets_reads(tmp_path):
    store = FeedbackStore(tmp_path / "kept")
    for i in range(3):
        image = Image.new("RGB", (8, 8), (i, 0, 0))
        assert store.add(image, model="hands", predicted="1", score=0.6, label=str(i))
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "kept"), split="train")
    assert {(row["image"].getpixel((0, 0))[0], row["label"], row["predicted"]) for row in rows} == {
        (i, str(i), "1") for i in range(3)
    }


def test_corrections_end_where_the_room_for_them_does(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "MAX_CORRECTIONS", 1)
    image = Image.new("RGB", (8, 8))
    assert FeedbackStore(tmp_path).add(image, model="m", predicted="1", score=0.6, label="2")
    assert not FeedbackStore(tmp_path).add(image, model="m", predicted="1", score=0.6, label="2")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_camera_adds_to_a_picture_is_not_kept(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.info["exif"] = b"Exif\x00\x00 at home"
    FeedbackStore(tmp_path).add(image, model="m", predicted="1", score=0.6, label="2")
    record = json.loads((tmp_path / "metadata.jsonl").read_text())
    assert b"at home" not in (tmp_path / record["file_name"]).read_bytes()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="choose another"):
        FeedbackStore(tmp_path / "file" / "kept")


# -- what the page says of a model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [({"architecture": "resnet101"}, "ResNet-101"), ({"variant": "keras"}, "ResNet-50 as a Keras course builds it")],
)
def test_a_network_is_called_what_it_is(options, name):
    with torch.device("meta"):
        model = ResNetForSigns(**options)
    assert classify.model_facts(model).startswith(f"{name} · 6 classes")
