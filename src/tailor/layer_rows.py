"""A layer as a least-squares problem: rows of what it was given (patches, for a convolution) and of what it made.

Of an activation at most so many positions are taken an image; which, is drawn from the seed, the same for the dense and
the cut layer. Convolutions with groups are one problem a group.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.surgery import computes_plainly


def channels_last(layer: nn.Module, made: Tensor) -> Tensor:
    """An output with its channels last, (..., M)."""
    return made.movedim(1, -1) if isinstance(layer, nn.Conv2d) else made


def drawn(positions: int, most: int, seed: int) -> Tensor:
    """Which of the positions are taken, ascending: all, or `most` of them."""
    if positions <= most:
        return torch.arange(positions)
    order = torch.randperm(positions, generator=torch.Generator().manual_seed(seed))
    return order[:most].sort().values


def made_rows(layer: nn.Module, made: Tensor, chosen: Tensor) -> Tensor:
    """The chosen rows (r, M) of what the layer made."""
    return channels_last(layer, made).flatten(0, -2)[chosen.to(made.device)]


def given_rows(layer: Any, given: Tensor, made: Tensor, chosen: Tensor) -> Tensor:
    """What the layer saw to make the chosen rows: (r, groups, n), n as its weight's columns, flattened."""
    if isinstance(layer, nn.Linear):
        return given.flatten(0, -2)[chosen.to(given.device)][:, None]
    return _patches(layer, given, made, chosen.to(given.device)).unflatten(1, (layer.groups, -1))


def _patches(layer: nn.Conv2d, given: Tensor, made: Tensor, chosen: Tensor) -> Tensor:
    """(r, C * kh * kw) of the given map (B, C, H, W), in the order of a kernel."""
    size = tuple(int(n) for n in made.shape[-2:])
    before = [_padding(layer, axis, int(given.shape[2 + axis]), size[axis]) for axis in (0, 1)]
    reach = [(size[a] - 1) * layer.stride[a] + (layer.kernel_size[a] - 1) * layer.dilation[a] + 1 for a in (0, 1)]
    behind = [max(reach[a] - int(given.shape[2 + a]) - before[a], 0) for a in (0, 1)]
    padded = F.pad(given, (before[1], behind[1], before[0], behind[0]))
    image, place = chosen // (size[0] * size[1]), chosen % (size[0] * size[1])
    steps = [torch.arange(layer.kernel_size[a], device=given.device) * layer.dilation[a] for a in (0, 1)]
    y = (place // size[1] * layer.stride[0])[:, None] + steps[0]
    x = (place % size[1] * layer.stride[1])[:, None] + steps[1]
    taken = padded[image[:, None, None], :, y[:, :, None], x[:, None, :]]  # (r, kh, kw, C)
    return taken.permute(0, 3, 1, 2).flatten(1)


def _padding(layer: nn.Conv2d, axis: int, given: int, made: int) -> int:
    """Zeros in front: the layer's own, or what a layer adds that pads by the size of its map, half of it rounded up."""
    if computes_plainly(layer) and not isinstance(layer.padding, str):
        return int(layer.padding[axis])
    reach = (made - 1) * layer.stride[axis] + (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
    return max(reach - given, 0) // 2


def weight_rows(layer: Any) -> Tensor:
    """The weight as one matrix a group: (groups, M / groups, n), a view."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return layer.weight.detach().flatten(1).unflatten(0, (groups, -1))  # type: ignore[no-any-return]


def applied(layer: Any, rows: Tensor) -> Tensor:
    """What the layer's weight and bias make of given rows: (r, M)."""
    made = torch.einsum("rgn,gmn->rgm", rows, weight_rows(layer).to(rows)).flatten(1)
    return made if layer.bias is None else made + layer.bias.detach().to(made)


def as_stored(layer: Any, given: Tensor, made: Tensor) -> bool:
    """Whether the layer computes what its stored weight says: not where it standardises it, or pads in its own way."""
    if given.ndim < 2 or (isinstance(layer, nn.Conv2d) and given.ndim != 4) or not made.numel():
        return False
    chosen = drawn(channels_last(layer, made)[..., 0].numel(), 64, 0)
    wanted = made_rows(layer, made, chosen)
    if made.shape[1 if isinstance(layer, nn.Conv2d) else -1] != layer.weight.shape[0]:
        return False
    error = (applied(layer, given_rows(layer, given, made, chosen)) - wanted).abs().max()
    return bool(error <= 1e-3 * wanted.abs().max().clamp_min(1e-6))
