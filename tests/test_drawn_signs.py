import time
from collections import Counter

import numpy as np
import pytest

from resnet_hub.drawn_signs import LABEL_NAMES, draw_sign, draw_signs


@pytest.mark.parametrize("label", range(6))
def test_an_image_is_a_function_of_label_and_seed(label):
    image = draw_sign(label, seed=7)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    assert image.tobytes() == draw_sign(label, seed=7).tobytes()
    assert image.tobytes() != draw_sign(label, seed=8).tobytes()


def test_classes_are_balanced_and_shuffled():
    images, labels = draw_signs(62, seed=0)
    counts = Counter(labels)
    assert len(images) == 62
    assert set(counts) == set(range(len(LABEL_NAMES)))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert labels != sorted(labels)


def test_another_seed_gives_other_images():
    first, second = ({image.tobytes() for image in draw_signs(30, seed)[0]} for seed in (0, 1))
    assert not first & second


def test_600_images_take_under_10_seconds():
    start = time.process_time()  # of this process: a busy neighbour does not count
    draw_signs(600, seed=0)
    assert time.process_time() - start < 10


def test_hands_can_be_drawn_larger():
    image = draw_sign(5, seed=0, image_size=128)
    assert image.size == (128, 128)
    assert np.asarray(image).std() > 5  # something is to be seen


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="0 to 5, got 6"):
        draw_sign(6, seed=0)
    with pytest.raises(ValueError, match="at least 16 px, got 8"):
        draw_sign(0, seed=0, image_size=8)
