"""The start of the stitching layers: one least-squares problem a layer, over the tokens of all pairs that share it.

SN-Net solves a problem a pair and averages the solutions; the joint solution is never worse. Everything runs in eval
mode, and images are taken as they come: give unaugmented ones.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tailor.ridge import Fit, Sums, solve
from tailor.stitching.routed import Routed

PairTails = dict[tuple[int, int], list[tuple[int, int]]]
"""By layer and the front's block: the pairs' tails, each an anchor and its block."""


def _images(anchor: nn.Module, images: Tensor) -> None:
    anchor(images)


@torch.no_grad()
def sums_of(
    model: Routed,
    batches: Iterable[Any],
    run: Callable[[nn.Module, Any], None] = _images,
    there: Callable[[Any], Tensor] | None = None,
) -> dict[int, Sums]:
    """The sums of each stitching layer's problem over the images (B, C, H, W). Parts of the images may be merged.

    `run` runs an anchor on a batch of another kind, of whose tokens (B, N) `there` says which count.
    """
    device = next(model.parameters()).device
    sums = {n: Sums.zero(layer.inputs, layer.outputs, device) for n, layer in enumerate(model.plan.layers)}
    fronts = {n: layer.front for n, layer in enumerate(model.plan.layers)}
    wanted = _wanted(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for images in batches:
            left, entered = _activations(model, images, run)
            rows = None if there is None else there(images)
            for (layer, j), tails in wanted.items():
                spatial = model.plan.layers[layer].spatial
                targets = [_rows(entered[tail], spatial, rows) for tail in tails]
                sums[layer].add_(_rows(left[fronts[layer], j], spatial, rows), *targets)
    finally:
        for module, mode in modes:
            module.training = mode
    return sums


def start_(model: Routed, sums: Mapping[int, Sums]) -> dict[int, Fit]:
    """Set the stitching layers to the solutions, which come back for the record."""
    fits = {number: solve(part) for number, part in sums.items()}
    with torch.no_grad():
        for number, fit in fits.items():
            layer = model.layers[number]
            assert isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None
            layer.weight.copy_(fit.weight.view_as(layer.weight))
            layer.bias.copy_(fit.bias)
    return fits


def _wanted(model: Routed) -> PairTails:
    found: PairTails = {}
    for route in model.plan.routes:
        for (a, b), layer in zip(pairwise(route.legs), route.layers, strict=True):
            tails = found.setdefault((layer, a.stop - 1), [])
            if (b.anchor, b.start) not in tails:
                tails.append((b.anchor, b.start))
    return found


def _activations(
    model: Routed, images: Any, run: Callable[[nn.Module, Any], None]
) -> tuple[dict[tuple[int, int], Tensor], dict[tuple[int, int], Tensor]]:
    """What leaves and what enters every block of every anchor, by (anchor, block)."""
    left: dict[tuple[int, int], Tensor] = {}
    entered: dict[tuple[int, int], Tensor] = {}
    handles: list[RemovableHandle] = []

    def watch(key: tuple[int, int], block: nn.Module) -> None:
        handles.append(block.register_forward_pre_hook(lambda _, inputs: entered.__setitem__(key, inputs[0])))
        handles.append(block.register_forward_hook(lambda _, inputs, output: left.__setitem__(key, output)))

    for number, anatomy in enumerate(model.anatomies):
        for at in range(len(anatomy.blocks)):
            watch((number, at), model.block(number, at))
    try:
        for anchor in model.anchors:
            run(anchor, images)
    finally:
        for handle in handles:
            handle.remove()
    return left, entered


def _rows(activations: Tensor, spatial: bool, rows: Tensor | None) -> Tensor:
    """With the channels last; of tokens those that count."""
    activations = activations.movedim(1, -1) if spatial else activations
    return activations if rows is None else activations[rows]
