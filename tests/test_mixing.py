"""Mixup and CutMix: labels in the shares in which the images are seen."""

import pytest
import torch

from train.mixing import Mixing

KEYS = [(1, row) for row in range(6)]
LABELS = torch.arange(6)
#: Image i is i everywhere, so a pixel tells which share of whom it is.
IMAGES = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous()
NEIGHBOURS = [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("mixing", [Mixing(0, mixup_alpha=0.5), Mixing(0, cutmix_alpha=1.0), Mixing(0, 0.5, 1.0)])
def test_the_share_says_how_much_is_left_of_an_image(mixing):
    mixed, second, shares = mixing(IMAGES, LABELS, KEYS)
    assert second.tolist() == NEIGHBOURS
    assert ((shares >= 0) & (shares <= 1)).all()
    expected = shares * LABELS + (1 - shares) * second
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), expected)
    assert shares.unique().numel() > 3


def test_mixup_blends_and_cutmix_pastes():
    blended, _, shares = Mixing(0, mixup_alpha=1.0)(IMAGES, LABELS, KEYS)
    assert all(image.unique().numel() == 1 for image in blended)
    assert 0 < shares[0] < 1
    pasted, second, _ = Mixing(0, cutmix_alpha=1.0)(IMAGES, LABELS, KEYS)
    for image, own, other in zip(pasted, LABELS, second, strict=True):
        assert set(image.unique().tolist()) <= {float(own), float(other)}


def test_it_is_a_function_of_seed_epoch_and_row_on_any_number_of_processes():
    mixing = Mixing(0, mixup_alpha=0.5, cutmix_alpha=1.0)
    together, _, shares = mixing(IMAGES, LABELS, KEYS)
    half, _, half_shares = mixing(IMAGES[2:4], LABELS[2:4], KEYS[2:4])
    assert torch.equal(half, together[2:4])
    assert torch.equal(half_shares, shares[2:4])
    assert not torch.equal(Mixing(1, mixup_alpha=0.5)(IMAGES, LABELS, KEYS)[2], shares)


def test_the_last_of_an_odd_batch_stays_itself():
    mixed, second, _ = Mixing(0, mixup_alpha=1.0)(IMAGES[:3], LABELS[:3], KEYS[:3])
    assert second.tolist() == [1, 0, 2]
    assert torch.equal(mixed[2], IMAGES[2])


def test_images_given_are_not_changed():
    images = IMAGES.clone()
    Mixing(0, cutmix_alpha=1.0)(images, LABELS, KEYS)
    assert torch.equal(images, IMAGES)
