"""Boxes: what a detector gives, and its targets in the model's own pixels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tailor.backbones.composition import Size


class Detections(NamedTuple):
    """The boxes of one image, best first: `boxes` (K, 4) x0 y0 x1 y1 in pixels of the model's input, `scores` and
    `labels` (K,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def scaled(boxes: Tensor, of: Size, to: Size) -> Tensor:
    """Boxes (N, 4) on an image of one size (H, W), on the same image at another."""
    factor = boxes.new_tensor([to[1] / of[1], to[0] / of[0], to[1] / of[1], to[0] / of[0]])
    return boxes * factor


def at_input(targets: Sequence[Mapping[str, Any]], size: Size) -> list[dict[str, Tensor]]:
    """Targets (`boxes`, `labels`, and the `size` their boxes lie on) on the model's input of `size`."""
    found = []
    for one in targets:
        height, width = (int(side) for side in one["size"])
        found.append({"boxes": scaled(one["boxes"], (height, width), size), "labels": one["labels"]})
    return found


def plain(target: Mapping[str, Any]) -> dict[str, Tensor]:
    """A target without the kinds of tensors that move with an image, and with the size that its boxes lie on."""
    own = {name: value.as_subclass(Tensor) for name, value in target.items() if isinstance(value, Tensor)}
    return {**own, "boxes": own["boxes"].float(), "size": torch.tensor(target["boxes"].canvas_size)}
