"""`builtin/shapes-instances`: scenes drawn by the project with two to six shapes that may overlap, and their outlines.

The class is the shape. 800 / 200 / 400 images of 64 x 64, each a function of (seed, its number), drawn when it is read;
what another shape covers is no part of a mask, and a shape of which fewer than 12 pixels are left is not drawn.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from tailor.data.records import ImageData, Record, Split
from tailor.data.sources.shapes import SHAPES, SIDE, background, local, paint

NAME = "builtin/shapes-instances"
SIZES = {"train": 800, "val": 200, "test": 400}
CLASSES = ("disc", "box", "bar", "triangle", "cross")
COUNTS = (2, 6)
VISIBLE = 12
_STREAM = 29  # of the seed, apart from the other scenes


def load(where: str, seed: int) -> ImageData:
    """The scenes; another `seed` gives other ones."""
    splits, first = {}, 0
    for name, size in SIZES.items():
        records = tuple(Record(f"{NAME}#{first + i}", first + i) for i in range(size))
        splits[name] = Split(name, records, opener=_Picture(seed), annotate=_Truth(seed))
        first += size
    return ImageData(NAME, CLASSES, splits, (f"drawn with seed {seed}",), kind="instances")


@dataclass(frozen=True)
class _Picture:
    """Draws scene n of `builtin/shapes-instances#n`."""

    seed: int

    def __call__(self, source: str) -> Image.Image:
        return scene(self.seed, int(source.rpartition("#")[2]))[0]


@dataclass(frozen=True)
class _Truth:
    """The objects of a record's scene."""

    seed: int

    def __call__(self, record: Record) -> dict[str, Tensor]:
        _, labels, masks = scene(self.seed, record.target)
        boxes = [_box(mask) for mask in masks]
        placed = torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4))
        return {
            "boxes": tv_tensors.BoundingBoxes(placed, format="XYXY", canvas_size=(SIDE, SIDE)),  # type: ignore[call-overload]
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": tv_tensors.Mask(torch.from_numpy(masks.astype(np.uint8))),
        }


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def scene(seed: int, number: int) -> tuple[Image.Image, list[int], np.ndarray]:
    """The picture, the class of each object and its visible pixels (K, SIDE, SIDE), the lowest object first."""
    rng = np.random.default_rng([seed, _STREAM, number])
    canvas = background(rng)
    labels: list[int] = []
    masks = np.zeros((0, SIDE, SIDE), dtype=bool)
    for _ in range(int(rng.integers(COUNTS[0], COUNTS[1] + 1))):
        label, radius = int(rng.integers(len(CLASSES))), rng.uniform(7, 15)
        x, y = rng.uniform(radius, SIDE - radius, size=2)
        distance = SHAPES[label](*local(x, y, rng.uniform(0, 2 * math.pi)), radius)
        covered = masks & (distance >= 0)
        if (covered.sum((1, 2)) < VISIBLE).any() or (distance < 0).sum() < VISIBLE:
            continue
        canvas = paint(canvas, rng, distance)
        labels.append(label)
        masks = np.concatenate([covered, (distance < 0)[None]])
    noisy = canvas + rng.normal(0, rng.uniform(0.02, 0.05), canvas.shape)
    return Image.fromarray((noisy.clip(0, 1) * 255).round().astype(np.uint8)), labels, masks
