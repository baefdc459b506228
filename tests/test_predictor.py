import io

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub import ConfigurationError, ImageError, Predictor, ResNetForSigns
from resnet_hub.calibration import Calibration


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint) -> Predictor:
    return Predictor(tiny_checkpoint)


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 100, 3), dtype=np.uint8))


def test_one_image_gives_labels_with_scores_best_first(predictor):
    predictions = predictor(photo(0), top_k=10)
    assert sorted(p["label"] for p in predictions) == ["0", "1", "2", "3", "4", "5"]
    scores = [p["score"] for p in predictions]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    assert predictor(photo(0), top_k=2) == predictions[:2]


def test_a_list_gives_a_list_equal_to_one_by_one(predictor):
    images = [photo(seed) for seed in range(5)]
    together = predictor(images, batch_size=2)
    for image, predictions in zip(images, together, strict=True):
        alone = predictor(image)
        assert [p["label"] for p in predictions] == [p["label"] for p in alone]
        assert [p["score"] for p in predictions] == pytest.approx([p["score"] for p in alone], abs=1e-6)
    assert predictor([]) == []


def test_every_kind_of_source_gives_the_same_answer(predictor, tmp_path):
    image = photo(0)
    image.save(tmp_path / "hand.png")
    content = (tmp_path / "hand.png").read_bytes()
    sources = [tmp_path / "hand.png", str(tmp_path / "hand.png"), content, io.BytesIO(content), np.asarray(image)]
    assert all(predictor(source) == predictor(image) for source in sources)


def test_a_loaded_model_is_taken_as_it_is(tiny_model):
    assert Predictor(tiny_model).model is tiny_model
    assert not tiny_model.training


def test_a_broken_image_raises_and_names_its_file(predictor, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        predictor([photo(0), tmp_path / "broken.jpg"])


@pytest.mark.parametrize("top_k", [0, 2.5, "2", None])
def test_only_a_number_of_classes_is_taken_for_top_k(predictor, top_k):
    with pytest.raises(ConfigurationError, match=f"top_k must be an integer of at least 1, got {top_k!r}"):
        predictor(photo(0), top_k=top_k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cude"}, "device 'cude' cannot be used here .*: use 'cpu'"),
        ({"precision": "fp32", "training_images": [photo(0)]}, "go together with precision='int8'"),
        ({"precision": "int8", "training_images": "photos"}, "training_images are a list of images"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_model, options, message):
    with pytest.raises(ConfigurationError, match=message):
        Predictor(tiny_model, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused(tiny_model):
    with pytest.raises(ConfigurationError, match="device 'cuda' cannot be used here"):
        Predictor(tiny_model, device="cuda")


def test_labels_are_those_of_the_checkpoint(tmp_path):
    names = ["red", "green", "blue"]
    ResNetForSigns(label_names=names, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)).save_pretrained(tmp_path)
    assert {p["label"] for p in Predictor(tmp_path)(photo(0))} == set(names)


def test_an_answer_says_whether_the_image_is_familiar(tiny_checkpoint):
    predictor = Predictor(tiny_checkpoint)
    predictor.model.calibration = None
    assert predictor.answer([photo(0)])[0].is_unfamiliar is None
    for bound, expected in [(-1e9, True), (1e9, False)]:
        predictor.model.calibration = Calibration(1.0, bound, "signs", "validation", 108)
        answer = predictor.answer([photo(0), photo(1)], top_k=2)[1]
        assert answer.is_unfamiliar is expected
        assert answer.predictions == predictor(photo(1), top_k=2)
