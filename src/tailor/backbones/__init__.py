"""Backbones: make one by name, describe what it consists of. One file a family, one row in `FAMILIES`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from tailor.anatomy import Anatomy
from tailor.backbones import causal, convnext, efficientnet, generic, resnet, swin, vit, walk
from tailor.backbones.composition import BlockStep, Parts
from tailor.backbones.create import Config, attach_head_, config_of, create, input_of, names, set_drop_path_
from tailor.backbones.levels import FeatureMaps
from tailor.backbones.local import local
from tailor.backbones.weights import digest
from tailor.errors import ModelError

FAMILIES = {
    "vit": vit,
    "swin": swin,
    "convnext": convnext,
    "resnet": resnet,
    "efficientnet": efficientnet,
    "llama": causal,
    "generic": generic,  # matches everything: keep it last
}
"""Family name to the module that recognises (`matches`), describes (`describe`) and takes apart (`parts`, `maps`) its
models; the first match counts."""


def describe(model: nn.Module) -> Anatomy:
    """The anatomy of a model, by the first family that recognises it."""
    anatomy = _family(model).describe(model)
    return replace(anatomy, notes=(*anatomy.notes, *walk.own_ways(model)))


def parts(model: nn.Module, size: tuple[int, int] | None = None) -> Parts:
    """The model as stem, blocks and tail, for images of `size` (H, W), its own where none is given."""
    found: Parts = _family(model).parts(model, size or walk.inputs_of(model).image[1:])
    joints = {path for path, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    blocks = (replace(part, residual=False) if part.path in joints else part for part in found.blocks)
    return replace(found, blocks=tuple(blocks))


def features(model: nn.Module, at: Sequence[int] | None = None) -> FeatureMaps:
    """Maps of the levels `at` (positions in `describe(model).features`; all where none is given), as a callable."""
    family = _family(model)
    known = family.describe(model).features
    if not known:
        raise ModelError(
            f"`{type(model).__name__}` gives no maps of its inside",
            hint="take a backbone with levels, or add its family",
        )
    if at is not None and not all(-len(known) <= i < len(known) for i in at):
        raise ModelError(f"the backbone has {len(known)} levels, asked for: {list(at)}", hint="count from 0")
    return FeatureMaps(model, tuple(known[i] for i in sorted(i % len(known) for i in at)) if at else known, family.maps)


def follow_(model: nn.Module) -> nn.Module:
    """The model, what it says of itself (numbers of layers, widths) as it stands after something was taken from it."""
    follow = getattr(_family(model), "follow_", None)
    return model if follow is None else follow(model)  # type: ignore[no-any-return]


def _family(model: nn.Module) -> Any:
    return next(family for family in FAMILIES.values() if family.matches(model))


__all__ = [
    "FAMILIES",
    "BlockStep",
    "Config",
    "FeatureMaps",
    "Parts",
    "attach_head_",
    "config_of",
    "create",
    "describe",
    "digest",
    "features",
    "follow_",
    "input_of",
    "local",
    "names",
    "parts",
    "set_drop_path_",
]
