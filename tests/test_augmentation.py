"""Augmentation: one draw per (seed, epoch, row), and every change does what its name says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from train.augmentation import Augmentation
from train.backgrounds import cut_out

KEYS = [(1, row) for row in range(8)]
OFF = Augmentation(
    seed=0, horizontal_flip=0, rotation=0, scale=(1, 1), translation=0, color_jitter=0, color_temperature=0
)
EVERYTHING = Augmentation(
    seed=0, aspect_ratio=0.5, background_replacement=0.5, blur=1, noise=0.1, random_erasing=0.5, color_jitter=0.5
)


@pytest.fixture
def pixels() -> torch.Tensor:
    """Noise, of medium brightness so that no change is clipped away."""
    return torch.from_numpy(np.random.default_rng(0).integers(60, 160, (8, 32, 32, 3), dtype=np.uint8))


def hands_before_a_wall() -> torch.Tensor:
    """A skin-coloured disc before a light wall, uint8 (8, 64, 64, 3)."""
    pixels = torch.full((8, 64, 64, 3), 220, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    pixels[:, (y - 36) ** 2 + (x - 32) ** 2 < 14**2] = torch.tensor([200, 140, 110], dtype=torch.uint8)
    return pixels


@pytest.mark.parametrize("augmentation", [Augmentation(seed=0), EVERYTHING])
def test_it_is_a_function_of_seed_epoch_and_row(pixels, augmentation):
    together = augmentation(pixels, KEYS)
    assert torch.equal(augmentation(pixels, KEYS), together)
    assert not torch.equal(augmentation(pixels, [(2, row) for row in range(8)]), together)
    assert not torch.equal(replace(augmentation, seed=1)(pixels, KEYS), together)


@pytest.mark.parametrize("name", ["rotation", "background_replacement", "noise", "random_erasing"])
def test_an_image_does_not_depend_on_those_beside_it(name):
    pixels = hands_before_a_wall()
    augmentation = replace(EVERYTHING, blur=0, **{name: getattr(EVERYTHING, name)})
    together = augmentation(pixels, KEYS)
    for row in range(8):
        assert torch.equal(augmentation(pixels[row : row + 1], KEYS[row : row + 1])[0], together[row])


def test_switched_off_it_changes_nothing(pixels):
    assert torch.equal(OFF(pixels, KEYS), pixels)
    assert torch.equal(replace(EVERYTHING, strength=0)(pixels, KEYS), pixels)


def test_strength_scales_what_is_changed(pixels):
    def difference(strength: float) -> float:
        changed = Augmentation(seed=0, horizontal_flip=0, strength=strength)(pixels, KEYS)
        return (changed.float() - pixels.float()).abs().mean().item()

    assert 0 < difference(0.05) < difference(0.5)


def test_strength_rises_over_the_first_epochs(pixels):
    rising = Augmentation(seed=0, warmup_epochs=4)
    for epoch, strength in [(1, 0.25), (2, 0.5), (4, 1), (9, 1)]:
        keys = [(epoch, row) for row in range(8)]
        assert torch.equal(rising(pixels, keys), Augmentation(seed=0, strength=strength)(pixels, keys))


def test_flip_alone_mirrors(pixels):
    assert torch.equal(replace(OFF, horizontal_flip=1)(pixels, KEYS), pixels.flip(2))


def extent(pixels: torch.Tensor) -> tuple[int, int]:
    """Height and width in px of what is skin-coloured."""
    is_skin = pixels[..., 2] < 170
    return int(is_skin.any(dim=1).sum()), int(is_skin.any(dim=0).sum())


def test_scale_makes_things_smaller_and_larger():
    height, width = extent(hands_before_a_wall()[0])
    for factor in (0.6, 1.3):
        for image in replace(OFF, scale=(factor, factor))(hands_before_a_wall(), KEYS):
            assert extent(image) == pytest.approx((factor * height, factor * width), abs=2)


def test_aspect_ratio_squashes_without_changing_the_area():
    height, width = extent(hands_before_a_wall()[0])
    ratios = []
    for image in replace(OFF, aspect_ratio=0.8)(hands_before_a_wall(), KEYS):
        new_height, new_width = extent(image)
        assert new_height * new_width == pytest.approx(height * width, rel=0.15)
        ratios.append(new_width / new_height)
    assert min(ratios) < 0.85
    assert max(ratios) > 1.2


def test_warm_light_is_redder_and_cold_light_bluer():
    gray = torch.full((8, 8, 8, 3), 128, dtype=torch.uint8)
    red, _, blue = replace(OFF, color_temperature=0.4)(gray, KEYS).float().mean(dim=(1, 2)).T
    assert (red > blue + 10).any()
    assert (blue > red + 10).any()
    assert torch.all((red > 128) == (blue < 128))  # one gains what the other loses


def test_blur_smooths_and_noise_roughens(pixels):
    def roughness(images: torch.Tensor) -> float:
        return images.float().diff(dim=2).abs().mean().item()

    assert roughness(replace(OFF, blur=2)(pixels, KEYS)) < 0.8 * roughness(pixels)
    assert roughness(replace(OFF, noise=0.2)(pixels, KEYS)) > 1.1 * roughness(pixels)


def test_random_erasing_leaves_a_rectangle_of_one_gray(pixels):
    erased = replace(OFF, random_erasing=1)(pixels, KEYS)
    for before, after in zip(pixels, erased, strict=True):
        changed = (before != after).any(dim=2)
        share = changed.float().mean().item()
        assert 0.01 < share < 0.25
        rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
        box = after[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.unique().numel() == 1


def test_background_is_replaced_and_the_object_stays():
    pixels = hands_before_a_wall()
    changed = replace(OFF, background_replacement=1)(pixels, KEYS).float()
    center = changed[:, 30:42, 26:38]
    assert (center - torch.tensor([200.0, 140, 110])).abs().max() < 5
    corners = changed[:, :6, :6].mean(dim=(1, 2))
    assert (corners - 220).abs().mean() > 30
    assert corners.std(dim=0).mean() > 20  # another one for every image


def test_background_replacement_leaves_images_alone_that_have_no_plain_wall(pixels):
    colorful = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8))
    colorful = colorful.view(8, 8, 8, 8, 8, 3)[:, :, :1, :, :1].expand(8, 8, 8, 8, 8, 3).reshape(8, 64, 64, 3)
    assert torch.equal(replace(OFF, background_replacement=1)(colorful, KEYS), colorful)


def test_cut_out_finds_the_object_and_not_its_shadow():
    images = hands_before_a_wall().permute(0, 3, 1, 2).float()
    images[:, :, 50:60, 5:20] *= 0.7  # a shadow on the wall
    coverage = cut_out(images)
    assert coverage.shape == (8, 1, 64, 64)
    assert coverage[:, :, 30:42, 26:38].min() > 0.95
    assert coverage[:, :, :10].max() < 0.05
    assert coverage[:, :, 52:58, 7:18].max() < 0.05
