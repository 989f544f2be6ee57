"""Small shaken backbones of three families, and scores for them that contain ties and zeros."""

from functools import cache

import timm
import torch
from torch import Tensor, nn

from tailor import backbones
from tailor.anatomy import Anatomy
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.scores import Scores

FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2)},
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
}


@cache
def shaken(family: str) -> tuple[nn.Module, Anatomy]:
    """The model, every parameter drawn afresh, and its anatomy. Shared between tests: copy it before changing it."""
    name, settings = FAMILIES[family]
    model = timm.create_model(name, num_classes=5, **settings).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model, backbones.describe(model)


def synthetic(model: nn.Module, anatomy: Anatomy, seed: int = 0) -> Scores:
    """Scores with a heavy tail, a scale for each row and each tensor, many ties, and a few zeros."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in dict.fromkeys(c.tensor for c in candidates(anatomy)):
        shape = model.get_parameter(name).shape
        rows = torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator).square()
        scale = float(torch.randn(1, generator=generator).exp()) * (4 if len(shape) == 1 else 1)
        tensors[name] = (torch.randn(shape, generator=generator).square() * rows * scale * 4).round() / 4
    return Scores(tensors, {"unit": "sample", "samples": 6})


def batches(count: int = 6, size: int = 2, pixels: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(count, 3, pixels, pixels, generator=generator), torch.arange(count) % 5
    return list(zip(images.split(size), labels.split(size), strict=True))
