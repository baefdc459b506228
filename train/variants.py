"""Validation and test images as visitors' cameras would have shown them: one change at a time, always the same one.

Accuracy on the images as they are says how well a network reads a camera it knows. Accuracy on each variant says what
happens before another wall, in other light, from farther away. The backgrounds are drawn by other code than those of
training (:mod:`train.backgrounds`), so that they are new to the network too.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from train.backgrounds import cut_out, replace_background

#: An image and the draws that belong to its row -> the image as another camera shows it.
Variant = Callable[[Image.Image, np.random.Generator], Image.Image]


def make_variant(name: str, image: Image.Image, row: int) -> Image.Image:
    """The variant ``name`` of :data:`VARIANTS` or :data:`BACKGROUND_VARIANTS`, for the image of ``row``; RGB."""
    variants = VARIANTS | BACKGROUND_VARIANTS
    return variants[name](image, np.random.default_rng((list(variants).index(name), row)))


def _mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    angle = rng.uniform(15, 30) * rng.choice([-1, 1])
    turned = _with_margin(image, 0.5).rotate(angle, Image.Resampling.BILINEAR)
    x, y = (turned.width - image.width) // 2, (turned.height - image.height) // 2
    return turned.crop((x, y, x + image.width, y + image.height))


def _dim(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.35, 0.5))


def _bright(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(rng.uniform(1.3, 1.6))


def _warm_light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _with_gains(image, (1.15, 0.95, rng.uniform(0.6, 0.75)))


def _cold_light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _with_gains(image, (rng.uniform(0.65, 0.8), 0.95, 1.15))


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    return _image(pixels + rng.normal(0, 20, pixels.shape))


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.width / 64 * rng.uniform(0.8, 1.2)))


def _strong_compression(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(12, 20)))
    return Image.open(file).convert("RGB")


def _farther_away(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    smaller = _with_margin(image, (1 / rng.uniform(0.55, 0.7) - 1) / 2)
    return smaller.resize(image.size, Image.Resampling.BILINEAR)


def _wide(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """16:9, as webcams are, the object somewhere in it; squashed to a square when the network sees it."""
    width, height = image.size
    pixels = np.asarray(image)
    extra = round(height * 16 / 9) - width
    left = int(rng.integers(0, extra + 1)) if extra > 0 else 0
    return Image.fromarray(np.pad(pixels, ((0, 0), (left, max(0, extra - left)), (0, 0)), mode="edge"))


def _colored_wall(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _before(image, _plain_wall(image.size, rng))


def _busy_background(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    scenes = (_bookshelf, _window, _foliage, _desk)
    return _before(image, scenes[rng.integers(len(scenes))](image.size, rng))


#: For any images.
VARIANTS: dict[str, Variant] = {
    "mirrored": _mirrored,
    "rotated": _rotated,
    "dim": _dim,
    "bright": _bright,
    "warm light": _warm_light,
    "cold light": _cold_light,
    "noise": _noise,
    "blur": _blur,
    "strong compression": _strong_compression,
    "farther away": _farther_away,
    "wide": _wide,
}
#: For images whose object can be cut out of a plain background, see :func:`train.backgrounds.cut_out`.
BACKGROUND_VARIANTS: dict[str, Variant] = {
    "coloured wall": _colored_wall,
    "busy background": _busy_background,
}


# ---------------------------------------------------------------------------------------------------------------------
# What they are made of


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _with_gains(image: Image.Image, gains: tuple[float, float, float]) -> Image.Image:
    return _image(np.asarray(image, np.float32) * np.asarray(gains, np.float32))


def _with_margin(image: Image.Image, share: float) -> Image.Image:
    """A canvas with a margin of ``share`` of the size on each side, onto which the border's colours continue."""
    x, y = round(image.width * share), round(image.height * share)
    return Image.fromarray(np.pad(np.asarray(image), ((y, y), (x, x), (0, 0)), mode="edge"))


def _before(image: Image.Image, background: Image.Image) -> Image.Image:
    images, backgrounds = (
        torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() for picture in (image, background)
    )
    return _image(replace_background(images, cut_out(images), backgrounds)[0].permute(1, 2, 0).numpy())


def _color(rng: np.random.Generator, darkest: float = 20, lightest: float = 235) -> tuple[int, int, int]:
    return tuple(int(value) for value in rng.uniform(darkest, lightest, 3))


def _plain_wall(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Of any colour, darker towards one side."""
    width, height = size
    shade = 1 - rng.uniform(0, 0.35) * np.linspace(0, 1, width)[None, :, None]
    wall = np.asarray(_color(rng))[None, None, :] * np.ones((height, 1, 1)) * shade
    return _image(wall[:, :: rng.choice([-1, 1])])


def _drawn(
    size: tuple[int, int], ground: tuple[int, int, int], draw: Callable[[ImageDraw.ImageDraw, int, int], None]
) -> Image.Image:
    """What ``draw`` puts on a canvas four times as large, shrunk: smooth edges."""
    canvas = Image.new("RGB", (4 * size[0], 4 * size[1]), ground)
    draw(ImageDraw.Draw(canvas), *canvas.size)
    return canvas.resize(size, Image.Resampling.LANCZOS)


def _bookshelf(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    def draw(canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        for shelf in range(num_shelves := int(rng.integers(2, 5))):
            bottom = (shelf + 1) * height // num_shelves
            x = 0.0
            while x < width:
                book = width * rng.uniform(0.03, 0.1)
                top = bottom - height / num_shelves * rng.uniform(0.6, 0.95)
                canvas.rectangle((x, top, x + book, bottom), fill=_color(rng), outline=(20, 15, 10))
                x += book
            canvas.rectangle((0, bottom - height // 40, width, bottom), fill=(95, 70, 45))

    return _drawn(size, (60, 45, 35), draw)


def _window(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    def draw(canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        skyline = height * rng.uniform(0.4, 0.7)
        canvas.rectangle((0, skyline, width, height), fill=(90, 120, 80))
        for _ in range(8):  # houses
            x, side, top = rng.uniform(0, width), width * rng.uniform(0.1, 0.25), skyline - height * rng.uniform(0, 0.3)
            canvas.rectangle((x, top, x + side, skyline + 10), fill=_color(rng, 60, 200))
        frame = _color(rng, 150, 250)
        for share in (0, rng.uniform(0.35, 0.65), 1):
            canvas.line((share * width, 0, share * width, height), fill=frame, width=width // 16)
            canvas.line((0, share * height, width, share * height), fill=frame, width=width // 16)

    return _drawn(size, (185, 210, 240), draw)


def _foliage(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    def draw(canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        for _ in range(250):
            x, y = rng.uniform(-0.1, 1) * width, rng.uniform(-0.1, 1) * height
            long, short = width * rng.uniform(0.05, 0.16), width * rng.uniform(0.02, 0.06)
            green = rng.uniform(50, 200)
            fill = tuple(int(green * share) for share in (rng.uniform(0.4, 0.9), 1, rng.uniform(0.2, 0.6)))
            canvas.ellipse((x, y, x + long, y + short) if rng.random() < 0.5 else (x, y, x + short, y + long), fill)

    return _drawn(size, (30, 50, 25), draw)


def _desk(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Wood, papers, pens, a cup: brown things, which are as red as skin."""

    def draw(canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        for y in range(0, height, max(1, height // 24)):  # the grain
            canvas.line((0, y, width, y + rng.uniform(-8, 8)), fill=(130, int(rng.uniform(80, 105)), 60), width=3)
        for _ in range(int(rng.integers(3, 8))):
            x, y = rng.uniform(0, 1, 2) * (width, height)
            corners = [(x + width * a, y + height * b) for a, b in rng.uniform(-0.25, 0.25, (4, 2))]
            if rng.random() < 0.5:
                canvas.polygon(corners, fill=_color(rng, 180, 250))
            else:
                canvas.line(corners[:2], fill=_color(rng), width=width // 40)
        x, y, radius = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height, width * rng.uniform(0.06, 0.15)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_color(rng), outline=(240, 240, 240))

    return _drawn(size, (145, 100, 65), draw)
