"""What a stranger may upload is read as a person sees it, or refused with a short message."""

import contextlib
import io
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub import ImageError
from resnet_hub.images import DRAFT_MARGIN, MAX_PIXELS, Preprocessing, open_image


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def mean_color(image: Image.Image) -> tuple[float, ...]:
    return tuple(np.asarray(image, dtype=float).mean(axis=(0, 1)))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "WEBP", "AVIF", "JPEG", "GIF"])
def test_common_formats_keep_their_colors(file_format):
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    decoded = open_image(encoded(image, file_format))
    assert (decoded.mode, decoded.size) == ("RGB", (40, 30))
    assert mean_color(decoded) == pytest.approx((200, 100, 50), abs=4)


def test_16_bit_gray_is_scaled_not_clipped():
    levels = np.array([[0, 0x4000, 0x8000, 0xFFFF]], dtype=np.uint16)
    decoded = open_image(encoded(Image.fromarray(levels), "PNG"))
    assert np.asarray(decoded)[0, :, 0].tolist() == [0, 64, 128, 255]


def test_float_gray_from_0_to_1_is_scaled_and_other_ranges_are_refused():
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(open_image(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match="export the image with 8 bits"):
        open_image(encoded(Image.fromarray(values * 300), "TIFF"))
    with pytest.raises(ImageError, match="export the image with 8 bits"):
        open_image(encoded(Image.fromarray(values * np.nan), "TIFF"))


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    palette = Image.new("P", (8, 8), 0)
    palette.info["transparency"] = 0
    for image in (clear, palette, Image.new("LA", (8, 8), (0, 0))):
        assert mean_color(open_image(encoded(image, "PNG"))) == (255, 255, 255)
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert mean_color(open_image(encoded(half, "PNG"))) == pytest.approx((127, 127, 127), abs=1)


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = mean_color(open_image(encoded(cmyk, "JPEG", quality=95)))
    assert red > 240
    assert max(green, blue) < 15


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    assert open_image(encoded(gradient(40, 30), "JPEG", exif=exif)).size == (30, 40)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(file_format):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], duration=100)
    red, _, blue = mean_color(open_image(content))
    assert red > 240
    assert blue < 15


def png_header(width: int, height: int) -> bytes:
    """A picture that claims a size and holds nearly nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8000, 13_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    start = time.process_time()
    with pytest.raises(ImageError, match=f"at most {MAX_PIXELS // 10**6} megapixels"):
        open_image(png_header(side, side))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"this is not a picture", "use one of JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "use one of JPEG, PNG"),
        (encoded(gradient(), "PNG")[:-60], "damaged"),
        (encoded(gradient(), "JPEG")[:300], "damaged|use one of"),
    ],
)
def test_what_is_no_image_is_refused_with_a_short_message(content, message):
    with pytest.raises(ImageError, match=message) as raised:
        open_image(content)
    assert len(str(raised.value)) < 150


def test_random_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    originals = [encoded(gradient(), f) for f in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "AVIF")]
    for trial in range(350):
        content = bytearray(originals[trial % len(originals)])
        for position in rng.integers(0, len(content), 8):
            content[position] = rng.integers(0, 256)
        with contextlib.suppress(ImageError):
            assert open_image(bytes(content)).mode == "RGB"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"hand\.jpg: there is no such file"):
        open_image(tmp_path / "hand.jpg")


@pytest.mark.parametrize("source", [None, 5, torch.zeros(3, 8, 8)])
def test_what_is_no_image_at_all_is_not_called_damaged(source):
    with pytest.raises(ImageError, match=f"uint8 arrays, not {type(source).__name__}: convert it"):
        open_image(source)


def test_arrays_of_floats_are_refused_with_what_is_right():
    with pytest.raises(ImageError, match="uint8"):
        open_image(np.zeros((4, 4, 3)))


@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (1200, 1600), (1604, 1204), (642, 482)])
def test_large_jpegs_are_decoded_small_and_look_the_same(width, height):
    """With as much detail in them as fits, and a rotation to apply after all."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(small) + rng.normal(0, 10, (height, width, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    content = encoded(photo, "JPEG", quality=90, exif=exif)
    preprocessing = Preprocessing(32)
    reduced = open_image(content, DRAFT_MARGIN * 32)
    assert min(reduced.size) >= DRAFT_MARGIN * 32
    assert reduced.size[0] <= height / 2  # turned
    found, expected = preprocessing.load(content), preprocessing.resize(open_image(content))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 3


def test_pictures_that_cannot_be_reduced_well_are_decoded_as_they_are():
    for width, height in [(120, 90), (1601, 1201)]:  # the second cannot be halved without moving what is in it
        content = encoded(gradient(width, height), "JPEG")
        assert np.array_equal(open_image(content, DRAFT_MARGIN * 32), open_image(content))
    image = Image.open(io.BytesIO(encoded(gradient(1200, 900), "JPEG")))
    assert open_image(image, 32).size == (1200, 900)  # the caller's own image stays as it is


def test_preprocessing_squashes_the_whole_image():
    pixels = Preprocessing(32)([gradient(100, 40)])
    assert pixels.shape == (1, 3, 32, 32)
    black = (0 - 0.485) / 0.229
    assert pixels[0, 0, 0, 0].item() == pytest.approx(black, abs=0.2)
