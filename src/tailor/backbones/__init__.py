"""Backbones: make one by name, describe what it consists of. One file a family, one row in `FAMILIES`."""

from dataclasses import replace

from torch import nn

from tailor.anatomy import Anatomy
from tailor.backbones import convnext, generic, parts, resnet, swin, vit
from tailor.backbones.create import Config, attach_head_, config_of, create, set_drop_path_
from tailor.backbones.weights import digest

FAMILIES = {
    "vit": vit,
    "swin": swin,
    "convnext": convnext,
    "resnet": resnet,
    "generic": generic,  # matches everything: keep it last
}
"""Family name to the module that recognises (`matches`) and describes (`describe`) it; the first match counts."""


def describe(model: nn.Module) -> Anatomy:
    """The anatomy of a model, by the first family that recognises it."""
    for family in FAMILIES.values():
        if family.matches(model):
            anatomy = family.describe(model)
            return replace(anatomy, notes=(*anatomy.notes, *parts.own_ways(model)))
    raise AssertionError("the generic family matches everything")


__all__ = ["FAMILIES", "Config", "attach_head_", "config_of", "create", "describe", "digest", "set_drop_path_"]
