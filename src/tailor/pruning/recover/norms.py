"""Statistics of batch norms, estimated anew after a cut, such that what leaves each keeps the dense model's scale.

A cut changes what reaches a norm. Its mean and variance are taken from the images; but where these images are not those
that the dense model was trained on, a norm with their statistics makes something else of them than the dense one does,
and what reads it was tuned to the dense one. So its scale and shift are set as well: every channel leaves with the mean
and deviation that it has in the dense model on the same images. Where nothing was cut nothing changes.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailor.errors import DataError
from tailor.pruning.recover.places import RepairPlace, places
from tailor.pruning.recover.way import UnlabelledImages
from tailor.surgery import eval_mode

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance of every channel that enters a norm, by path."""


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The norms that keep statistics, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None
    }


@torch.no_grad()
def estimate_(cut: nn.Module, dense: nn.Module, plans: Iterable[Any], batches: UnlabelledImages) -> int:
    """Set every batch norm of `cut`, which `plans` made of `dense`, in place; how many norms there are.

    Mean and variance are means over the batches; each norm sees what those in front of it, normalising by the batch,
    let through. Where a norm has scale and shift, they give its channels the dense model's mean and deviation. All else
    stays in eval mode. DataError where no batch has two images.
    """
    norms = batch_norms(cut)
    if not norms:
        return 0
    kept = {place.path: place for place in places(dense, plans, _BatchNorm) if place.path in norms}
    with eval_mode(dense), eval_mode(cut):
        aims = _entering(dense, {place.source for place in kept.values()}, batches)
        own(cut, norms.values())
        for path, place in kept.items():
            if norms[path].affine and place.source in aims:
                _aim_(norms[path], place, dense.get_submodule(place.source), *aims[place.source])
        _take_(cut, norms.values(), batches)
    return len(norms)


def own(cut: nn.Module, norms: Iterable[nn.Module]) -> None:
    """Give the norms tensors of their own: a cut copy may share them with the dense model."""
    for norm in norms:
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(norm, name, buffer.clone())
        for name, parameter in norm.named_parameters(recurse=False):
            setattr(norm, name, nn.Parameter(parameter.clone(), parameter.requires_grad))


def _entering(model: nn.Module, paths: Iterable[str], batches: UnlabelledImages) -> Statistics:
    """What enters the norms at `paths`, as norms count it: means over the batches, the variance unbiased."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = [model.get_submodule(path).register_forward_pre_hook(_noting(seen, path)) for path in paths]
    try:
        _run(model, batches)
    finally:
        for handle in handles:
            handle.remove()
    return {
        path: (torch.stack([m for m, _ in found]).mean(0), torch.stack([v for _, v in found]).mean(0))
        for path, found in seen.items()
    }


def _noting(seen: dict[str, list[tuple[Tensor, Tensor]]], path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        over = [dim for dim in range(given[0].ndim) if dim != 1]
        seen.setdefault(path, []).append((given[0].mean(over), given[0].var(over)))

    return note


def _aim_(norm: _BatchNorm, place: RepairPlace, source: Any, mean: Tensor, variance: Tensor) -> None:
    """Scale and shift that give normalised channels the mean and deviation which leave the dense norm."""
    slope = source.weight / (source.running_var + source.eps).sqrt()
    norm.weight.copy_(place.target(slope * (variance + source.eps).sqrt()))
    norm.bias.copy_(place.target(source.bias + slope * (mean - source.running_mean)))


def _take_(model: nn.Module, norms: Iterable[_BatchNorm], batches: UnlabelledImages) -> None:
    """Run the images with the norms in training mode and a plain mean over the batches."""
    momenta = [(norm, norm.momentum) for norm in norms]
    try:
        for norm, _ in momenta:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        _run(model, batches)
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum


def _run(model: nn.Module, batches: UnlabelledImages) -> None:
    device, seen = next(model.parameters()).device, 0
    for images in batches():
        if len(images) > 1:  # one image has no variance where the map is one pixel
            model(images.to(device))
            seen += len(images)
    if not seen:
        raise DataError("the statistics of batch norms need two images at least", hint="give it more")
