"""A decoder in the place of a backbone's classifier: the same model object, whose forward pass gives predictions.

So every plan addresses the backbone by the paths it always had. The decoder reads levels by the modules that stood
there when it was attached: where blocks are dropped, it reads the last one that is left at or before each.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor import backbones
from tailor.anatomy import Feature
from tailor.errors import ModelError
from tailor.surgery import get_module, set_module_


class DenseHead(nn.Module):
    """The decoder, and which of the backbone's `levels` it reads: `wanted` are positions in them."""

    def __init__(self, decoder: nn.Module, levels: Sequence[nn.Module], wanted: Sequence[int]) -> None:
        super().__init__()
        self.decoder = decoder
        self.levels = tuple(levels)  # in a tuple, so that they are not modules of the head
        self.wanted = tuple(wanted)
        self.read: tuple[tuple[Feature, nn.Module], ...] = ()  # as found last, as long as it holds
        self.maps: Any = None

    @property
    def stride(self) -> int:
        """Images are padded to a multiple of it."""
        return int(self.decoder.stride)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """What the decoder gives for the maps of the levels it reads."""
        return self.decoder(maps)

    def features(self, model: nn.Module) -> backbones.FeatureMaps:
        """The maps that the decoder reads, of the model as it stands now."""
        if not self.read or any(_at(model, level.path) is not module for level, module in self.read):
            known = backbones.features(model)  # describes the model: not for every pass, nor within a traced one
            self.read, self.maps = self._found(model, known.levels), known.maps
        return backbones.FeatureMaps(model, tuple(level for level, _ in self.read), self.maps)

    def _found(self, model: nn.Module, levels: Sequence[Feature]) -> tuple[tuple[Feature, nn.Module], ...]:
        now = [(level, get_module(model, level.path)) for level in levels]
        inside = [{id(m) for m in module.modules()} for _, module in now]  # a level may stand in a wrapper now
        was = [next((i for i, known in enumerate(self.levels) if id(known) in ids), -1) for ids in inside]
        chosen = []
        for wanted in self.wanted:
            before = [i for i, position in enumerate(was) if position <= wanted]
            chosen.append(now[before[-1] if before else 0])
        return tuple(chosen)


def _at(model: nn.Module, path: str) -> nn.Module | None:
    """What stands at a path, None where nothing does."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def attach_(model: nn.Module, decoder: Any, classes: int, seed: int) -> nn.Module:
    """Put the decoder with these settings in the place of the classifier, its start drawn from `seed`.

    ModelError where the backbone has no levels, or the decoder cannot be made of them.
    """
    levels = backbones.features(model).levels
    selected = decoder.select(levels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = decoder.build(selected, classes)
    paths = backbones.describe(model).heads
    if not paths:
        raise ModelError(f"`{type(model).__name__}` has no classifier to replace", hint="use a timm classifier")
    for path in paths:
        set_module_(model, path, nn.Identity())
    wanted = [levels.index(level) for level in selected]
    head = DenseHead(module, [get_module(model, level.path) for level in levels], wanted)
    like = next(model.parameters())
    set_module_(model, paths[0], head.to(like.device, like.dtype))
    head.features(model)
    model.forward = MethodType(_forward, model)  # type: ignore[method-assign]  # copied with the model, to the copy
    return model


def without_decoder_(model: nn.Module) -> nn.Module:
    """The model with its own forward pass again, if a decoder took its place; the head is for the caller to replace."""
    model.__dict__.pop("forward", None)
    return model


def head_of(model: nn.Module) -> DenseHead:
    """The dense head of a model that has one."""
    return next(module for module in model.modules() if isinstance(module, DenseHead))


def settle_(model: nn.Module) -> None:
    """Look up now, after blocks were dropped, what a dense head reads: a pass that is recorded could not."""
    for module in model.modules():
        if isinstance(module, DenseHead):
            module.features(model)


def _forward(model: nn.Module, images: Tensor) -> Any:
    """Predictions for images (B, 3, H, W) of any size: padded at the right and below, and cut again."""
    head = head_of(model)
    height, width = images.shape[-2:]
    right, below = -width % head.stride, -height % head.stride
    padded = F.pad(images, (0, right, 0, below)) if right or below else images
    found = head(head.features(model)(padded))
    return found.cut((height, width), (height + below, width + right)) if right or below else found
