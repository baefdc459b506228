"""Hands showing 0 to 5, drawn by code: samples and training data for machines with neither the Hub nor photos.

A hand is a set of capsules (rounded sticks that may taper), each at a depth of its own. Together they give a height
field; its slope gives the light and shade, its hollows the creases between fingers. :func:`sample_hand` chooses what
the hand does and whose it is, :func:`sample_scene` where it is seen, and everything after that is drawing.

Lengths of a hand are in palm widths: x to the right, y towards the fingertips, z towards the viewer, the origin in the
middle of the palm, the thumb on the left. Colours are linear RGB in 0..1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

LABEL_NAMES = ("0", "1", "2", "3", "4", "5")
MIN_IMAGE_SIZE = 16

INDEX, MIDDLE, RING, LITTLE = range(4)
#: Which fingers are up, for each number and way of showing it, and whether the thumb is; with the way's weight.
POSES: dict[int, list[tuple[float, tuple[int, ...], bool]]] = {
    1: [(1.0, (INDEX,), False)],
    2: [(0.92, (INDEX, MIDDLE), False), (0.08, (INDEX,), True)],
    3: [(0.55, (INDEX, MIDDLE), True), (0.45, (INDEX, MIDDLE, RING), False)],
    4: [(1.0, (INDEX, MIDDLE, RING, LITTLE), False)],
    5: [(1.0, (INDEX, MIDDLE, RING, LITTLE), True)],
}

#: An average hand, index to little finger.
KNUCKLES = np.array([[-0.36, 0.42], [-0.12, 0.48], [0.12, 0.44], [0.34, 0.31]])
FINGER_LENGTHS = np.array([0.86, 0.96, 0.89, 0.69])
FINGER_RADII = np.array([0.120, 0.125, 0.118, 0.102])
PHALANGES = (0.46, 0.30, 0.24)  # of a finger's length, from the knuckle

#: From very light to very dark; every hand lies between two neighbours.
SKIN_TONES = np.array(
    [
        [0.96, 0.80, 0.71],
        [0.90, 0.70, 0.57],
        [0.79, 0.57, 0.43],
        [0.64, 0.43, 0.30],
        [0.45, 0.29, 0.20],
        [0.29, 0.18, 0.13],
    ]
)
SUPERSAMPLING = 2


@dataclass(frozen=True)
class Capsule:
    """A rounded stick from ``start`` to ``end`` (x, y, z), whose radius goes from one value to the other.

    ``flatness`` is its thickness towards the viewer as a share of its width; ``redness`` reddens the far end.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radii: tuple[float, float]
    flatness: float = 1.0
    redness: float = 0.0


@dataclass(frozen=True)
class Hand:
    """What is drawn of a hand: its parts, in palm widths, and its skin."""

    capsules: list[Capsule]
    skin: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Where the hand is and how the light falls. Lengths in image sides, angles in radians."""

    center: tuple[float, float]
    palm_width: float
    rotation: float
    mirrored: bool
    light: np.ndarray  # unit vector towards the light, z towards the viewer
    ambient: float
    shadow: tuple[float, float, float]  # offset x, offset y, strength
    white: np.ndarray  # gain of each channel: exposure and colour of the light
    noise: float
    blur: float


# ---------------------------------------------------------------------------------------------------------------------
# Choosing a hand and a scene


def sample_hand(rng: np.random.Generator, label: int) -> Hand:
    """A person's hand that shows ``label``."""
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    low = min(int(tone), len(SKIN_TONES) - 2)
    skin = SKIN_TONES[low] + (tone - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
    skin = np.clip(skin * rng.uniform(0.94, 1.06, 3), 0.05, 1)
    length, width = rng.uniform(0.9, 1.14), rng.uniform(0.88, 1.12)
    capsules = ring_hand(rng, length, width) if label == 0 else counting_hand(rng, label, length, width)
    # A hand seen obliquely is narrower.
    squeeze = rng.uniform(0.74, 1.0) if label else rng.uniform(0.88, 1.05)
    return Hand([_scaled(capsule, squeeze) for capsule in [*capsules, *forearm(rng)]], skin)


def counting_hand(rng: np.random.Generator, label: int, length: float, width: float) -> list[Capsule]:
    """Palm towards the viewer, some fingers up and the others folded over it."""
    ways = POSES[label]
    _, raised, thumb_up = ways[rng.choice(len(ways), p=[weight for weight, _, _ in ways])]
    # Fingers held together or splayed, the outer ones always more than the inner.
    splay = rng.uniform(-0.01, 0.22)
    angles = splay * np.array([-1.25, -0.35, 0.55, 1.6]) + rng.normal(0, 0.035, 4)
    capsules = palm(rng)
    for finger in range(4):
        if finger in raised:
            capsules += raised_finger(rng, finger, angles[finger], length, width)
        else:
            capsules += folded_finger(rng, finger, width)
    return capsules + (raised_thumb(rng, length, width) if thumb_up else folded_thumb(rng, raised, width))


def palm(rng: np.random.Generator) -> list[Capsule]:
    """Four bones under one skin, and the ball of the thumb."""
    wrist = np.array([[-0.20, -0.52], [-0.07, -0.55], [0.07, -0.55], [0.20, -0.50]])
    bones = [
        Capsule((*wrist[i], -0.02), (*(KNUCKLES[i] - (0, 0.06)), 0.0), (0.20, 0.165), flatness=0.55) for i in range(4)
    ]
    thick = rng.uniform(0.19, 0.24)
    return [
        *bones,
        Capsule((-0.12, -0.42, 0.02), (-0.34, -0.02, 0.04), (thick, 0.17), flatness=0.75),
        Capsule((0.20, -0.38, 0.01), (0.32, 0.10, 0.01), (0.17, 0.14), flatness=0.7),
    ]


def raised_finger(rng: np.random.Generator, finger: int, angle: float, length: float, width: float) -> list[Capsule]:
    """Three bones in a line that bends a little, sideways and towards the viewer (which shortens it)."""
    sizes = FINGER_LENGTHS[finger] * length * rng.uniform(0.92, 1.06) * np.array(PHALANGES)
    curl = abs(rng.normal(0, 0.22))  # per joint, towards the viewer
    sideways = rng.normal(0, 0.05)
    radius = FINGER_RADII[finger] * width
    joint = np.array([*KNUCKLES[finger], 0.02])
    capsules = []
    for i, size in enumerate(sizes):
        tilt = curl * i
        direction = np.array([math.sin(angle) * math.cos(tilt), math.cos(angle) * math.cos(tilt), math.sin(tilt)])
        end = joint + size * direction
        radii = (radius * (1 - 0.07 * i), radius * (1 - 0.07 * (i + 1)))
        capsules.append(Capsule(tuple(joint), tuple(end), radii, redness=0.5 if i == 2 else 0.15))
        joint, angle = end, angle + sideways
    return capsules


def folded_finger(rng: np.random.Generator, finger: int, width: float) -> list[Capsule]:
    """Bent at the knuckle and again in the middle: what one sees is a short, thick end that lies on the palm."""
    x, y = KNUCKLES[finger]
    radius = FINGER_RADII[finger] * width * 1.08
    reach = rng.uniform(0.30, 0.40)
    top = (x * 0.95, y + rng.uniform(0.0, 0.07), 0.13)
    tip = (x * 0.82 + rng.normal(0, 0.015), y - reach, 0.19)
    return [
        Capsule((x, y - 0.08, 0.04), top, (radius, radius)),
        Capsule(top, tip, (radius, radius * 0.92), redness=0.5),
    ]


def raised_thumb(rng: np.random.Generator, length: float, width: float) -> list[Capsule]:
    angle = -rng.uniform(0.6, 1.15)  # from upright, away from the fingers
    direction = np.array([math.sin(angle), math.cos(angle)])
    bent = angle + rng.normal(0.12, 0.16)
    tip_direction = np.array([math.sin(bent), math.cos(bent)])
    base = np.array([-0.34, -0.12])
    joint = base + 0.40 * length * direction
    tip = joint + 0.33 * length * tip_direction
    radius = 0.145 * width
    return [
        Capsule((-0.20, -0.36, 0.03), (*base, 0.03), (0.20, 0.17)),
        Capsule((*base, 0.03), (*joint, 0.05), (0.165 * width, radius * 0.92)),
        Capsule((*joint, 0.05), (*tip, 0.06), (radius * 0.92, radius * 0.78), redness=0.5),
    ]


def folded_thumb(rng: np.random.Generator, raised: tuple[int, ...], width: float) -> list[Capsule]:
    """Across the palm, over the folded fingers; with four fingers up it lies lower, on the palm itself."""
    lies_on_palm = len(raised) == 4
    tip = np.array([rng.uniform(-0.02, 0.14), rng.uniform(-0.08, 0.08) if lies_on_palm else rng.uniform(0.0, 0.14)])
    tip[0] += 0.06 * (RING in raised)
    base, depth = np.array([-0.40, -0.14]), 0.16 if lies_on_palm else 0.27
    joint = base + 0.55 * (tip - base) + (0, rng.uniform(0.03, 0.09))
    return [
        Capsule((-0.22, -0.38, 0.05), (*base, 0.09), (0.19, 0.155)),
        Capsule((*base, 0.09), (*joint, depth), (0.15 * width, 0.135 * width)),
        Capsule((*joint, depth), (*tip, depth + 0.02), (0.132 * width, 0.11 * width), redness=0.5),
    ]


def ring_hand(rng: np.random.Generator, length: float, width: float) -> list[Capsule]:
    """0: thumb and fingers bent to a ring, seen from the side of the index finger, with a hole between them."""
    hole = rng.uniform(0.27, 0.42) * length  # radius of the fingers' middle line
    squash = rng.uniform(0.75, 1.05)  # of the ring's width against its height
    center = np.array([-0.16, 0.36])
    radius = 0.118 * width
    stack = rng.uniform(0.03, 0.14)  # how far the other fingers look out behind the index finger
    lean = rng.uniform(-0.25, 0.75)
    capsules = [
        # The side of the palm, from the knuckles down to the wrist.
        Capsule((0.26, 0.22, -0.05), (0.12, -0.42, -0.05), (0.27, 0.30), flatness=0.75),
        Capsule((0.05, -0.10, 0.0), (0.05, -0.45, 0.0), (0.24, 0.26), flatness=0.8),
    ]
    for finger in (LITTLE, RING, MIDDLE, INDEX):
        offset = stack * finger * np.array([math.sin(lean), math.cos(lean)])
        reach = 2.62 - 0.16 * finger * rng.uniform(0.3, 1.3)
        path = _arc(center + offset, hole * (1 + 0.05 * finger), squash, np.linspace(-0.2, reach, 4))
        radii = np.linspace(1.16, 0.86, len(path)) * radius * FINGER_RADII[finger] / FINGER_RADII[INDEX]
        capsules += _chain(path, radii, depth=-0.09 * finger)
    # The thumb closes the ring from below and meets the index finger's tip.
    path = _arc(center, hole, squash, np.array([-1.0, -2.2, -3.45 + rng.uniform(-0.1, 0.15)]))
    capsules.append(Capsule((0.06, -0.30, 0.02), (*path[0], 0.04), (0.22, 0.17)))
    return capsules + _chain(path, np.linspace(1.35, 0.98, len(path)) * radius, depth=0.03)


def _arc(center: np.ndarray, radius: float, squash: float, angles: np.ndarray) -> np.ndarray:
    """The joints (N, 2) of a bent finger, on an ellipse; angles in radians from the x axis, counter-clockwise."""
    return center + radius * np.stack([squash * np.cos(angles), np.sin(angles)], axis=1)


def _chain(path: np.ndarray, radii: np.ndarray, depth: float) -> list[Capsule]:
    last = len(path) - 2
    return [
        Capsule((*path[i], depth), (*path[i + 1], depth), (radii[i], radii[i + 1]), redness=0.5 if i == last else 0.1)
        for i in range(last + 1)
    ]


def forearm(rng: np.random.Generator) -> list[Capsule]:
    """Longer than any picture; bent a little at the wrist."""
    bend = rng.normal(0, 0.28)
    end = (4.5 * math.sin(bend), -0.45 - 4.5 * math.cos(bend), -0.08)
    return [Capsule((0.0, -0.45, -0.06), end, (0.29 * rng.uniform(0.92, 1.1), 0.62), flatness=0.8)]


def _scaled(capsule: Capsule, squeeze: float) -> Capsule:
    start, end = ((squeeze * p[0], p[1], p[2]) for p in (capsule.start, capsule.end))
    narrow = math.sqrt(squeeze)  # radii have no direction, so they take half of it
    return replace(capsule, start=start, end=end, radii=(capsule.radii[0] * narrow, capsule.radii[1] * narrow))


def sample_scene(rng: np.random.Generator, label: int) -> Scene:
    angle = rng.uniform(0, 2 * math.pi)
    height = rng.uniform(0.55, 1.3)
    light = np.array([math.cos(angle), math.sin(angle), height])
    warmth = rng.normal(0, 0.06)
    exposure = math.exp(rng.normal(-0.02, 0.11))
    # A raised hand is longer above its palm than below, so the palm sits lower than the middle.
    low = 0.56 if label else 0.52
    return Scene(
        center=(rng.normal(0.5, 0.075), rng.normal(low, 0.07)),
        palm_width=rng.uniform(0.22, 0.37) * (1.15 if label == 0 else 1.0),
        rotation=rng.normal(0, 0.38),
        mirrored=bool(rng.random() < 0.5),
        light=light / np.linalg.norm(light),
        ambient=rng.uniform(0.5, 0.75),
        shadow=(-0.06 * math.cos(angle) * rng.random(), 0.06 * math.sin(angle) * rng.random(), rng.uniform(0.0, 0.4)),
        white=exposure * np.array([1 + warmth, 1.0, 1 - warmth]),
        noise=rng.uniform(0, 0.02),
        blur=max(0.0, rng.normal(0.0, 0.3)),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Backgrounds, (side, side, 3)


def sample_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """About half light walls as in photos of one's hand, the others coloured or busy."""
    kinds: list[tuple[float, Callable[[np.random.Generator, int], np.ndarray]]] = [
        (0.5, light_wall),
        (0.2, colored_wall),
        (0.3, busy_room),
    ]
    draw = kinds[rng.choice(len(kinds), p=[weight for weight, _ in kinds])][1]
    return draw(rng, side)


def light_wall(rng: np.random.Generator, side: int) -> np.ndarray:
    base = rng.uniform(0.62, 0.95) * (1 + rng.normal(0, 0.02, 3))
    return base * _slope(rng, side, rng.uniform(0, 0.25))[..., None]


def colored_wall(rng: np.random.Generator, side: int) -> np.ndarray:
    base = _paint(rng)
    return base * _slope(rng, side, rng.uniform(0, 0.35))[..., None]


def busy_room(rng: np.random.Generator, side: int) -> np.ndarray:
    """Rectangles like furniture, round things, stripes and texture, often out of focus."""
    room = colored_wall(rng, side)
    x, y = _grid(side)
    for _ in range(rng.integers(3, 12)):
        color = _paint(rng)
        cx, cy = rng.random(2)
        w, h = rng.uniform(0.04, 0.45, 2)
        kind = rng.random()
        if kind < 0.5:
            turned = rng.normal(0, 0.3)
            u = (x - cx) * math.cos(turned) + (y - cy) * math.sin(turned)
            v = (y - cy) * math.cos(turned) - (x - cx) * math.sin(turned)
            mask = (abs(u) < w) & (abs(v) < h)
        elif kind < 0.8:
            mask = ((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 < 1
        else:
            angle = rng.uniform(0, math.pi)
            mask = np.sin((x * math.cos(angle) + y * math.sin(angle)) * rng.uniform(8, 60)) > rng.uniform(0, 0.8)
            mask &= (abs(x - cx) < 2 * w) & (abs(y - cy) < 2 * h)
        room[mask] = room[mask] * 0.15 + color * 0.85
    if rng.random() < 0.4:
        cells = int(rng.integers(4, side // 2))
        texture = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        grain = np.asarray(texture.resize((side, side), Image.Resampling.BICUBIC), dtype=float) / 255
        room *= 1 + rng.uniform(0.1, 0.6) * (grain[..., None] - 0.5)
    return _blurred(room, rng.uniform(0, 0.03) * side)


def _paint(rng: np.random.Generator) -> np.ndarray:
    """A colour that things in rooms have: mostly muted."""
    gray = rng.uniform(0.08, 0.92)
    return np.clip(gray + rng.beta(1.2, 3) * (rng.random(3) - gray), 0.02, 1)


def _slope(rng: np.random.Generator, side: int, depth: float) -> np.ndarray:
    """Light that falls off across the wall, 1 - depth .. 1."""
    x, y = _grid(side)
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)
    return 1 - depth * (ramp + 0.71) / 1.42


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


@dataclass(frozen=True)
class Relief:
    """The viewer's side of the hand as a height field, in palm widths; ``height`` counts only inside ``mask``."""

    height: np.ndarray  # (side, side)
    mask: np.ndarray  # (side, side), bool
    redness: np.ndarray  # (side, side)


def render(hand: Hand, scene: Scene, background: np.ndarray, rng: np.random.Generator, image_size: int) -> Image.Image:
    """``background`` is (side, side, 3) with side = SUPERSAMPLING * image_size; the result has image_size."""
    side = background.shape[0]
    relief = raise_relief(hand, scene, side)
    picture = cast_shadow(background, relief.mask, scene)
    picture = np.where(relief.mask[..., None], shade(hand, scene, relief, side), picture)
    return expose(picture * scene.white, scene, rng, image_size)


def raise_relief(hand: Hand, scene: Scene, side: int) -> Relief:
    height = np.full((side, side), -np.inf)
    redness = np.zeros((side, side))
    cos, sin = math.cos(scene.rotation), math.sin(scene.rotation)
    flip = -1 if scene.mirrored else 1
    unit = scene.palm_width * side

    def to_pixels(point: tuple[float, float, float]) -> np.ndarray:
        x, y = flip * point[0], point[1]
        return side * np.array(scene.center) + unit * np.array([x * cos + y * sin, x * sin - y * cos])

    for capsule in hand.capsules:
        a, b = to_pixels(capsule.start), to_pixels(capsule.end)
        reach = unit * max(capsule.radii) + 1
        x0, y0 = np.maximum(np.floor(np.minimum(a, b) - reach), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(np.maximum(a, b) + reach), side).astype(int)
        if x0 >= x1 or y0 >= y1:
            continue
        x = np.arange(x0, x1)[None, :] + 0.5 - a[0]
        y = np.arange(y0, y1)[:, None] + 0.5 - a[1]
        along = b - a
        t = np.clip((x * along[0] + y * along[1]) / max(along @ along, 1e-9), 0, 1)
        distance2 = ((x - t * along[0]) ** 2 + (y - t * along[1]) ** 2) / unit**2
        radius = capsule.radii[0] + t * (capsule.radii[1] - capsule.radii[0])
        bulge = radius**2 - distance2
        level = capsule.start[2] + t * (capsule.end[2] - capsule.start[2])
        level = level + capsule.flatness * np.sqrt(np.maximum(bulge, 0))
        window = (slice(y0, y1), slice(x0, x1))
        nearer = (bulge > 0) & (level > height[window])
        height[window] = np.where(nearer, level, height[window])
        redness[window] = np.where(nearer, capsule.redness * t, redness[window])
    return Relief(height, height > -np.inf, redness)


def shade(hand: Hand, scene: Scene, relief: Relief, side: int) -> np.ndarray:
    """Lambert's cosine on the relief's slope, darker in its hollows, redder at fingertips and in shade."""
    floor = relief.height[relief.mask].min() - 0.1 if relief.mask.any() else 0.0
    height = np.where(relief.mask, relief.height, floor)
    # Rounded off by about a pixel of the result: skin has no edges.
    height = _blurred_plane(height, 0.02 * scene.palm_width * side)
    unit = scene.palm_width * side
    slope_y, slope_x = np.gradient(height * unit)
    slope_x, slope_y = np.clip(slope_x, -1.6, 1.6), np.clip(slope_y, -1.6, 1.6)
    norm = np.sqrt(slope_x**2 + slope_y**2 + 1)
    # Image rows run downwards, the light's y upwards.
    cosine = (-slope_x * scene.light[0] + slope_y * scene.light[1] + scene.light[2]) / norm
    filled = np.where(relief.mask, relief.height, relief.height[relief.mask].mean() if relief.mask.any() else 0.0)
    hollow = np.maximum(_blurred_plane(filled, 0.09 * unit) - filled, 0)
    rim = 1 / norm  # surfaces seen edge-on are darker
    light = scene.ambient * (0.72 + 0.28 * rim) + (1.12 - scene.ambient) * np.maximum(cosine, 0)
    light = np.clip(light * np.exp(-5.5 * hollow), 0.12, 1.3)
    tint = 1 + relief.redness[..., None] * np.array([0.05, -0.06, -0.04])
    # Light that comes through skin is red: shade takes less of the red than of the rest.
    return hand.skin * tint * light[..., None] ** np.array([0.85, 1.0, 1.06])


def cast_shadow(background: np.ndarray, mask: np.ndarray, scene: Scene) -> np.ndarray:
    side = background.shape[0]
    dx, dy, strength = scene.shadow
    moved = np.roll(mask.astype(float), (round(dy * side), round(dx * side)), axis=(0, 1))
    return background * (1 - strength * _blurred_plane(moved, 0.035 * side)[..., None])


def expose(picture: np.ndarray, scene: Scene, rng: np.random.Generator, image_size: int) -> Image.Image:
    """Down to the final size, through a lens and onto a sensor."""
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize((image_size, image_size), Image.Resampling.BOX)
    if scene.blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(scene.blur * image_size / 64))
    grain = rng.normal(0, 255 * scene.noise, (image_size, image_size, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of each pixel's middle, in image sides, y downwards."""
    ticks = (np.arange(side) + 0.5) / side
    return np.meshgrid(ticks, ticks)


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    pixels = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return np.asarray(pixels.filter(ImageFilter.GaussianBlur(sigma)), dtype=float) / 255


def _blurred_plane(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of one plane of any range; three passes of a box, which converge to it."""
    width = max(1, round(sigma * 2))
    for _ in range(3):
        for axis in (0, 1):
            padded = np.pad(plane, [(width, width) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
            sums = np.cumsum(padded, axis=axis)
            n = plane.shape[axis]
            ahead = np.take(sums, np.arange(n) + width + width // 2, axis=axis)
            behind = np.take(sums, np.arange(n) + width + width // 2 - width, axis=axis)
            plane = (ahead - behind) / width
    return plane


# ---------------------------------------------------------------------------------------------------------------------
# The two ways in


def draw_sign(label: int, seed: int, image_size: int = 64) -> Image.Image:
    """A hand showing ``label``, RGB, ``image_size`` x ``image_size`` px: a function of the arguments alone.

    Raises:
        ValueError: ``label`` outside 0..5, or ``image_size`` below 16.
    """
    if label not in range(len(LABEL_NAMES)):
        raise ValueError(f"label must be 0 to {len(LABEL_NAMES) - 1}, got {label!r}")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE} px, got {image_size}")
    rng = np.random.default_rng((seed, label))
    hand, scene = sample_hand(rng, label), sample_scene(rng, label)
    background = sample_background(rng, SUPERSAMPLING * image_size)
    return render(hand, scene, background, rng, image_size)


def draw_signs(num_images: int, seed: int, image_size: int = 64) -> tuple[list[Image.Image], list[int]]:
    """``num_images`` hands with their labels, shuffled; the classes' counts differ by at most one."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_images) % len(LABEL_NAMES)).tolist()
    # Seeds from the generator: those of two data sets overlap no more than by chance.
    seeds = rng.integers(0, 2**63, num_images).tolist()
    return [draw_sign(label, s, image_size) for label, s in zip(labels, seeds, strict=True)], labels
