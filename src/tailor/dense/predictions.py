"""What decoders give, masks with classes or a class for each pixel, and what they are held against."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = 255
"""The value of a label map where nothing is known: neither learnt from nor counted."""


class MaskPredictions(NamedTuple):
    """What all depths of a mask decoder say, the last one best.

    `classes` (D, B, N, C + 1) are logits, the last of them for no object; `queries` (D, B, N, E) times `pixels`
    (B, E, H, W) are the logits of the masks.
    """

    classes: Tensor
    queries: Tensor
    pixels: Tensor

    def masks(self) -> Tensor:
        """The last depth's mask logits (B, N, H, W)."""
        return torch.einsum("bnc,bchw->bnhw", self.queries[-1], self.pixels)

    def cut(self, seen: tuple[int, int], padded: tuple[int, int]) -> "MaskPredictions":
        """Without what was padded at the right and below, to a cell of the map."""
        return self._replace(pixels=corner(self.pixels, seen, padded))


class PixelPredictions(NamedTuple):
    """Logits (B, C, H, W) at any size, and those of auxiliary heads, which only the loss reads."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()

    def cut(self, seen: tuple[int, int], padded: tuple[int, int]) -> "PixelPredictions":
        """Without what was padded at the right and below, to a cell of the map."""
        auxiliary = tuple(corner(one, seen, padded) for one in self.auxiliary)
        return PixelPredictions(corner(self.logits, seen, padded), auxiliary)


class ScorePredictions(NamedTuple):
    """Scores (B, C, H, W) that several looks at an image came to."""

    values: Tensor


def corner(maps: Tensor, seen: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """The cells of maps (..., H, W) of a padded image in which something was seen."""
    rows, columns = (-(-maps.shape[-2 + i] * seen[i] // padded[i]) for i in range(2))
    return maps[..., :rows, :columns]


class Objects(NamedTuple):
    """What is in one image: `labels` (G,), `masks` (G, H, W) bool, and where anything is known, `valid` (H, W) bool."""

    labels: Tensor
    masks: Tensor
    valid: Tensor


def objects(maps: Tensor, ignore: int = IGNORE) -> list[Objects]:
    """A mask for each class that an image shows, from label maps (B, H, W)."""
    found = []
    for image in maps:
        labels = image.unique()
        labels = labels[labels != ignore]
        found.append(Objects(labels.long(), image == labels[:, None, None], image != ignore))
    return found


def padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """(B, length, ...): tensors (G, ...) with zeros behind."""
    out = rows[0].new_zeros(len(rows), length, *rows[0].shape[1:])
    for image, row in zip(out, rows):
        image[: len(row)] = row
    return out
