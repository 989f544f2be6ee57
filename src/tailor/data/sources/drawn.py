"""Objects drawn on images, as plain data in a record, and as the tensors that move with the image.

Boxes are cut to the image; one that lies outside or has no area is no object. Outlines are polygons, COCO's run lengths
or compressed run lengths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from tailor.data.records import Record
from tailor.errors import DataError

Outline = Any
"""Polygons as lists of x, y, x, y, ...; or COCO's `{"size": [H, W], "counts": ...}`."""


FARTHEST = 1e6
"""Pixels from the image's corner at which an outline may have one."""


@dataclass(frozen=True)
class Drawing:
    """The objects of one image of `size` (height, width): class, box (x0, y0, x1, y1) and, for instances, outline."""

    size: tuple[int, int]
    labels: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    outlines: tuple[Outline, ...] = ()


def drawing(size: tuple[int, int], rows: Iterable[tuple[int, Sequence[float], Outline]], outlined: bool) -> Drawing:
    """The objects of an image whose boxes (x0, y0, x1, y1) have an area inside of it."""
    height, width = size
    kept = []
    for label, (x0, y0, x1, y1), outline in rows:
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        if box[2] > box[0] and box[3] > box[1] and (outline or not outlined):
            kept.append((label, box, outline))
    labels, boxes, outlines = zip(*kept) if kept else ((), (), ())
    return Drawing(size, labels, boxes, outlines if outlined else ())


def boxes(record: Record) -> dict[str, Tensor]:
    """Boxes and classes of a record whose target is a `Drawing`."""
    drawn: Drawing = record.target
    placed = torch.tensor(drawn.boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": tv_tensors.BoundingBoxes(placed, format="XYXY", canvas_size=drawn.size),  # type: ignore[call-overload]
        "labels": torch.tensor(drawn.labels, dtype=torch.int64),
    }


def instances(record: Record) -> dict[str, Tensor]:
    """Boxes, classes and masks of a record whose target is a `Drawing` with outlines."""
    drawn: Drawing = record.target
    masks = [mask(outline, drawn.size, record.source) for outline in drawn.outlines]
    stacked = np.stack(masks) if masks else np.zeros((0, *drawn.size), dtype=np.uint8)
    return {**boxes(record), "masks": tv_tensors.Mask(torch.from_numpy(stacked))}


def mask(outline: Outline, size: tuple[int, int], source: str) -> np.ndarray:
    """(H, W) uint8 of 0 and 1; DataError naming the image where the outline is none."""
    try:
        if isinstance(outline, list):
            return _filled(outline, size)
        counts = outline["counts"]
        runs = _uncompressed(counts) if isinstance(counts, str) else [int(run) for run in counts]
        if tuple(outline["size"]) != size or sum(runs) != size[0] * size[1]:
            raise ValueError(f"run lengths of {outline['size']}, the image is {list(size)}")
        values = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
        return np.ascontiguousarray(values.reshape(size[1], size[0]).T)  # column by column
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise DataError(
            f"an outline of `{source}` cannot be drawn: {error}", hint="export the annotations again"
        ) from None


def _filled(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre is inside one of the polygons, row by row."""
    canvas = np.zeros(size, dtype=np.uint8)
    for polygon in polygons:
        x, y = np.array(polygon, dtype=np.float64).reshape(-1, 2).T
        if not max(np.abs(x).max(), np.abs(y).max()) <= FARTHEST:  # NaN is not, either
            raise ValueError("a corner lies nowhere near the image")
        x_next, y_next = np.roll(x, -1), np.roll(y, -1)
        for row in range(max(int(y.min()), 0), min(int(y.max()) + 1, size[0])):
            centre = row + 0.5
            crossed = (y <= centre) != (y_next <= centre)
            share = (centre - y[crossed]) / (y_next - y)[crossed]
            edges = np.sort(x[crossed] + share * (x_next - x)[crossed])
            columns = np.clip(np.ceil(edges - 0.5), 0, size[1]).astype(int)
            for first, last in zip(columns[::2], columns[1::2]):
                canvas[row, first:last] = 1
    return canvas


def _uncompressed(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a letter, differences to the run before the last from the third on."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
