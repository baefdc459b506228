"""The one way to decode an untrusted image and the one way to preprocess it: page, scripts and library call these."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from resnet_hub.errors import ConfigurationError, ImageError

#: What is decoded; anything else that Pillow knows (EPS, FITS, ...) is refused, each decoder being one more risk.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
#: About 150 MB as RGB: more than any phone's default picture, far less than a decompression bomb.
MAX_PIXELS = 50_000_000

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Decoders of JPEG give a picture at a half, a quarter or an eighth of its size for less work. Where that leaves this
#: many times the side that it is then resized to, no value of a pixel changes by more than 3 of 255.
DRAFT_MARGIN = 3

ImageSource = str | Path | bytes | BinaryIO | Image.Image | np.ndarray


def open_image(source: ImageSource, min_side: int | None = None) -> Image.Image:
    """Decode ``source`` to an upright 8-bit RGB image as a person sees it.

    EXIF rotation is applied, transparency is laid over white, 16-bit and float gray is scaled to 8 bit, CMYK and
    palettes are converted, and of an animation the first frame is taken.

    Args:
        source: Path, encoded bytes, binary file, Pillow image, or uint8 array of shape (H, W), (H, W, 3) or (H, W, 4).
        min_side: A JPEG that is encoded may come at a half, a quarter or an eighth of its size, which is faster, as
            long as both sides have so many px; default: at its own size.

    Raises:
        ImageError: not an image in one of ``FORMATS``, truncated, without pixels, or more than ``MAX_PIXELS`` pixels.
    """
    name = f"{source}: " if isinstance(source, (str, Path)) else ""
    try:
        image = _open(source)
        _check_size(image)
        if min_side is not None and image is not source:
            _reduce(image, min_side)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(f"{name}{error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}there is no such file: check the path") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}this is no image that can be read here: use one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}{_too_large()}") from error
    # A decoder fed with hostile bytes raises nearly anything (struct.error, SyntaxError, OverflowError, ...), and for
    # the caller all of it means the same.
    except Exception as error:
        raise ImageError(f"{name}the image is damaged and cannot be read: save it again or use another one") from error


def _open(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3):
            raise ImageError(f"arrays must be uint8 of shape (H, W, 3), got {source.dtype} {source.shape}: convert it")
        return Image.fromarray(source)
    if isinstance(source, bytes):
        if not source:
            raise ImageError("the file is empty: use another one")
        source = io.BytesIO(source)
    elif isinstance(source, (str, Path)):
        # Read at once, so that no file handle outlives an error.
        return _open(Path(source).read_bytes())
    elif not hasattr(source, "read"):
        raise ImageError(
            "images are paths, bytes, binary files, Pillow images or uint8 arrays, "
            f"not {type(source).__name__}: convert it"
        )
    return Image.open(source, formats=FORMATS)


def _too_large() -> str:
    return f"the image is too large, at most {MAX_PIXELS // 1_000_000} megapixels are decoded: make it smaller"


def _check_size(image: Image.Image) -> None:
    """Header only: nothing is decoded before the size is known to be bearable."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large())
    if width * height == 0:
        raise ImageError("the image has no pixels: use another one")


def _reduce(image: Image.Image, min_side: int) -> None:
    """Have a JPEG decoded smaller: by the largest factor that leaves ``min_side`` px and divides both sides.

    One that leaves a rest would add to a side what it lacks, and all that is in the picture would move.
    """
    width, height = image.size
    for factor in (8, 4, 2):
        if width % factor == height % factor == 0 and min(width, height) >= factor * min_side:
            image.draft(None, (width // factor, height // factor))  # does nothing to other formats
            return


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_gray_to_8_bit(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_gray_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit integers by their full scale, floats from 0..1; Pillow's own conversion clips both to white or black."""
    values = np.asarray(image, dtype=np.float64)
    full_scale = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= full_scale):
        raise ImageError("gray values lie outside 0..1 (float) or 0..65535 (integer): export the image with 8 bits")
    return Image.fromarray(np.round(values * (255 / full_scale)).astype(np.uint8))


@dataclass(frozen=True)
class Preprocessing:
    """From an RGB image to what the network takes; stored in config.json, so that all four libraries do the same.

    Equal to torchvision's ``Resize((image_size, image_size)), ToTensor(), Normalize(mean, std)`` to the last bit: the
    whole image is squashed to a square, bilinear with antialiasing, and nothing is cropped.

    Args:
        image_size: Side of the square in px.
        mean, std: Per channel, of pixel values in 0..1.
    """

    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ConfigurationError(f"std must be above 0 in each channel, got {self.std}")

    def resize(self, image: Image.Image) -> Image.Image:
        """RGB of any size -> RGB of ``image_size`` x ``image_size``: what the network sees."""
        size = (self.image_size, self.image_size)
        return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)

    def load(self, source: ImageSource) -> Image.Image:
        """Decode and resize: what the network sees of ``source``. For large JPEGs faster than one after the other.

        Raises:
            ImageError: it cannot be decoded.
        """
        return self.resize(open_image(source, DRAFT_MARGIN * self.image_size))

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) in 0..255 -> float32 (N, 3, H, W), channels-last in memory."""
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        return pixels.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> float32 (N, 3, image_size, image_size)."""
        return self.normalize(torch.from_numpy(np.stack([np.asarray(self.resize(image)) for image in images])))
