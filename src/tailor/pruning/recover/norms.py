"""Statistics of batch norms, estimated anew: a cut changes what reaches them."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailor.errors import DataError
from tailor.pruning.recover.way import Batches
from tailor.surgery import eval_mode


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The norms that keep statistics, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None
    }


@torch.no_grad()
def estimate_(model: nn.Module, batches: Batches) -> int:
    """Set every batch norm's statistics to the mean over the batches; how many norms there are.

    Each sees what norms in front of it, normalising by the batch, let through. All else stays in eval mode. DataError
    where no batch has two images.
    """
    norms = batch_norms(model).values()
    if not norms:
        return 0
    device, seen = next(model.parameters()).device, 0
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model):
        for norm in norms:
            for name, buffer in norm.named_buffers(recurse=False):
                setattr(norm, name, buffer.clone())  # a cut copy may share them with the dense model
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
            norm.train()
        try:
            for images in batches():
                if len(images) > 1:  # one image has no variance where the map is one pixel
                    model(images.to(device))
                    seen += len(images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not seen:
        raise DataError("the statistics of batch norms need two images at least", hint="give it more")
    return len(momenta)
