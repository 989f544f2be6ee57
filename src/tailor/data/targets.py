"""Targets of any kind, and how those of a batch are put together.

A target is a class index, a number, a `tv_tensors.Mask` (H, W) of class indices, or a dictionary for objects: `boxes`
(`tv_tensors.BoundingBoxes`, N x 4, XYXY), `labels` (N,) int64 and, for outlines, `masks` (`tv_tensors.Mask`, N, H, W).
What is a tv_tensor moves with its image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from tailor.errors import DataError

PLACED = (tv_tensors.Mask, tv_tensors.BoundingBoxes)
"""What has a place in its image, and is resized, cropped and flipped with it."""

Collate = Callable[[Sequence[Tensor], Sequence[Any]], tuple[Tensor, Any]]
"""B images (3, H, W) and B targets -> images (B, 3, H, W), and targets that can be cut to `[start:stop]`."""


def stacked(images: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, Any]:
    """Images (B, 3, H, W); classes as (B,) int64, numbers as (B,) float32, masks of one size as (B, H, W) int64."""
    if isinstance(targets[0], Tensor):
        return torch.stack(list(images)), torch.stack([t.as_subclass(Tensor).long() for t in targets])
    whole = all(isinstance(target, int) for target in targets)
    return torch.stack(list(images)), torch.tensor(targets, dtype=torch.int64 if whole else torch.float32)


def listed(images: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, tuple[Any, ...]]:
    """Images (B, 3, H, W) and the targets as they are, one an image: objects, or masks of different sizes."""
    return torch.stack(list(images)), tuple(targets)


def is_placed(target: Any) -> bool:
    """Whether something in the target moves with its image."""
    return any(isinstance(leaf, PLACED) for leaf in tree_leaves(target))


def moved(target: Any, move: Callable[[Any], Any]) -> Any:
    """The target after `move` of everything that has a place in the image."""
    return tree_map_only(PLACED, move, target)


def inside(target: Any) -> Any:
    """Objects cut to their image, without those of which less than a pixel a side is left; others as they are."""
    if not (isinstance(target, dict) and isinstance(target.get("boxes"), tv_tensors.BoundingBoxes)):
        return target
    boxes = F.clamp_bounding_boxes(target["boxes"])
    _, kept = F.sanitize_bounding_boxes(boxes, min_size=1.0)
    rows = {name: value for name, value in target.items() if isinstance(value, Tensor) and name != "boxes"}
    chosen = {name: _rows(value, kept) for name, value in {"boxes": boxes, **rows}.items()}
    return {**target, **chosen}


def _rows(values: Tensor, kept: Tensor) -> Tensor:
    """The rows (N, ...) that are kept, of the same kind of tensor."""
    found = values.as_subclass(Tensor)[kept]
    return tv_tensors.wrap(found, like=values) if isinstance(values, tv_tensors.TVTensor) else found


def check_size(target: Any, size: tuple[int, int], source: str) -> None:
    """DataError where a mask or the canvas of boxes is not (height, width) as the image is."""
    for leaf in tree_leaves(target):
        if not isinstance(leaf, PLACED):
            continue
        own = tuple(leaf.canvas_size if isinstance(leaf, tv_tensors.BoundingBoxes) else leaf.shape[-2:])
        if own != size:
            raise DataError(
                f"`{source}` is {size[1]} x {size[0]} pixels, what is drawn on it {own[1]} x {own[0]}",
                hint="annotate the image as it is stored, upright and at its own size",
            )
