"""`builtin/shapes-location|orientation|count`: small scenes drawn by the project; structure, not texture.

Like the structured tasks of VTAB: 16 x positions (dSprites), 16 orientations (dSprites), 3 to 10 objects (CLEVR).
800 / 200 / 1000 images of 64 x 64, each a function of (seed, task, its number), drawn when it is read (1 to 2 ms).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tailor.data.sources.assemble import Listing
from tailor.errors import DataError

SIDE = 64
SIZES = {"train": 800, "val": 200, "test": 1000}
BINS = 16
COUNTS = range(3, 11)
JITTER = 0.4  # of a bin, to either side: nothing lies on the border of two classes
MARGIN = 6.0  # pixels between the border and the leftmost and rightmost centre
Draw = Callable[[np.random.Generator, int], np.ndarray]


def load(where: str, seed: int) -> Listing:
    """The scenes of one task; another `seed` gives other scenes."""
    kind = where.strip().lower().removeprefix("builtin/shapes-")
    if kind not in TASKS:
        raise DataError(f"`{where}` has several objects an image", hint="add `--task instances`")
    classes = TASKS[kind][0]
    rows: dict[str, list[tuple[str, str]]] = {}
    first = 0
    for split, size in SIZES.items():
        labels = _labels(seed, first, size, len(classes))
        rows[split] = [(f"builtin/shapes-{kind}#{first + i}", classes[label]) for i, label in enumerate(labels)]
        first += size
    truth = tuple(classes.index(name) for split in SIZES for _, name in rows[split])
    notes = (f"drawn with seed {seed}",)
    return Listing(f"builtin/shapes-{kind}", rows, classes=classes, opener=_Scenes(kind, seed, truth), notes=notes)


@dataclass(frozen=True)
class _Scenes:
    """Draws scene n of `builtin/shapes-KIND#n`."""

    kind: str
    seed: int
    labels: tuple[int, ...]

    def __call__(self, source: str) -> Image.Image:
        number = int(source.rpartition("#")[2])
        rng = np.random.default_rng([self.seed, list(TASKS).index(self.kind), number])
        scene = TASKS[self.kind][1](rng, self.labels[number])
        noisy = scene + rng.normal(0, rng.uniform(0.02, 0.07), scene.shape)
        return Image.fromarray((noisy.clip(0, 1) * 255).round().astype(np.uint8))


def _labels(seed: int, first: int, size: int, classes: int) -> list[int]:
    """Labels of `size` scenes, every class as often as any other (give or take one), in random order."""
    labels = np.arange(size) % classes
    return [int(label) for label in np.random.default_rng([seed, 7, first]).permutation(labels)]


def _location(rng: np.random.Generator, label: int) -> np.ndarray:
    """One light shape in the dark; the label is the bin of its centre's x. Everything else is free."""
    x = MARGIN + (SIDE - 2 * MARGIN) * (label + 0.5 + rng.uniform(-JITTER, JITTER)) / BINS
    y, radius = rng.uniform(10, SIDE - 10), rng.uniform(5, 9)
    shape = SHAPES[rng.integers(len(SHAPES))]
    return _light(shape(*local(x, y, rng.uniform(0, 2 * math.pi)), radius))


def _orientation(rng: np.random.Generator, label: int) -> np.ndarray:
    """One light shape without rotational symmetry in the dark; the label is the bin of its angle."""
    angle = 2 * math.pi * (label + rng.uniform(-JITTER, JITTER)) / BINS
    x, y = rng.uniform(18, SIDE - 18, size=2)
    shape = _POINTED[rng.integers(len(_POINTED))]
    return _light(shape(*local(x, y, angle), rng.uniform(9, 15)))


def _count(rng: np.random.Generator, label: int) -> np.ndarray:
    """As many shapes as the label says, apart from each other."""
    canvas = background(rng)
    placed: list[tuple[float, float, float]] = []
    largest = 7.0
    while len(placed) < COUNTS[label]:
        radius = rng.uniform(3.0, largest)
        x, y = rng.uniform(radius + 1, SIDE - radius - 1, size=2)
        if any(math.hypot(x - a, y - b) < radius + r + 1.5 for a, b, r in placed):
            largest = max(3.5, largest * 0.98)  # a crowded scene needs smaller ones; 10 of radius 3.5 always fit
            continue
        placed.append((x, y, radius))
        shape = SHAPES[rng.integers(len(SHAPES))]
        canvas = paint(canvas, rng, shape(*local(x, y, rng.uniform(0, 2 * math.pi)), radius))
    return canvas


def _light(distance: np.ndarray) -> np.ndarray:
    """White where `distance` (signed, pixels) is negative, black elsewhere, as dSprites draws its sprites.

    With colours and textures, 800 images teach a small backbone nothing about these two tasks.
    """
    return np.repeat((0.5 - distance).clip(0, 1)[:, :, None], 3, axis=2)


_number = tuple(str(i) for i in range(BINS))
TASKS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "location": (_number, _location),
    "orientation": (_number, _orientation),
    "count": (tuple(str(n) for n in COUNTS), _count),
}


def background(rng: np.random.Generator) -> np.ndarray:
    """A plain colour with soft blotches and a coarse weave, (SIDE, SIDE, 3) in 0..1."""
    base = rng.uniform(0.15, 0.85, size=3)
    canvas = np.broadcast_to(base, (SIDE, SIDE, 3)).copy()
    for cells, strength in ((4, 0.10), (16, 0.05)):
        blotches = rng.normal(0, strength, size=(cells, cells)).astype(np.float32)
        tint = rng.uniform(0.5, 1.0, size=3)
        soft = np.asarray(Image.fromarray(blotches).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        canvas += soft[:, :, None] * tint
    return canvas


def paint(canvas: np.ndarray, rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """`canvas` with one object where `distance` (signed, pixels) is negative: anti-aliased, shaded, set off."""
    base = canvas.mean(axis=(0, 1))
    colour = rng.uniform(0, 1, size=3)
    while np.abs(colour - base).max() < 0.4:
        colour = rng.uniform(0, 1, size=3)
    slope = rng.uniform(-0.15, 0.15, size=2)
    shade = 1 + (_X - SIDE / 2) / SIDE * slope[0] + (_Y - SIDE / 2) / SIDE * slope[1]
    cover = (0.5 - distance).clip(0, 1)[:, :, None]
    return canvas * (1 - cover) + (colour * shade[:, :, None]) * cover


_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64) + 0.5


def local(x: float, y: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of every pixel in the frame of an object at (x, y) turned by `angle`."""
    dx, dy, cos, sin = _X - x, _Y - y, math.cos(angle), math.sin(angle)
    return cos * dx + sin * dy, cos * dy - sin * dx


# Shapes: signed distance in pixels (exact along the edges) from local coordinates and a radius that bounds the shape.


def _disc(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(u, v) - radius


def _box(u: np.ndarray, v: np.ndarray, radius: float, ratio: float = 1.0) -> np.ndarray:
    half = radius / math.hypot(1, ratio)
    return np.maximum(np.abs(u) - half, np.abs(v) - half * ratio)


def _bar(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    return _box(u, v, radius, 0.45)


def _triangle(u: np.ndarray, v: np.ndarray, radius: float, width: float = math.pi / 3) -> np.ndarray:
    """A triangle with its tip at (radius, 0) and tip angle `width`; equilateral by default."""
    half = width / 2
    sides = math.sin(half) * (u - radius) + math.cos(half) * np.abs(v)
    return np.maximum(sides, -radius * math.cos(width) - u)


def _cross(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    return np.minimum(_bar(u, v, radius), _bar(v, u, radius))


def _arrowhead(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    return _triangle(u, v, radius, math.pi / 5)


def _comet(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """A disc with a tail."""
    return np.minimum(_disc(u + 0.5 * radius, v, 0.5 * radius), _triangle(u, v, radius, math.pi / 7))


def _key(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """A bar with a ring behind."""
    ring = np.abs(_disc(u + 0.55 * radius, v, 0.33 * radius)) - 0.12 * radius
    return np.minimum(ring, np.maximum(np.abs(u - 0.4 * radius) - 0.6 * radius, np.abs(v) - 0.13 * radius))


SHAPES = (_disc, _box, _bar, _triangle, _cross)
_POINTED = (_arrowhead, _comet, _key)
