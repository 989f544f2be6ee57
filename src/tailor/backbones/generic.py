"""Any other timm classifier: linear and convolution sites by module type, no blocks.

A site counts only if the model really calls the module: some code reads a layer's weight directly, where a module put
in its place would do nothing. One forward pass finds out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Feature
from tailor.backbones import walk
from tailor.backbones.composition import Parts, Size
from tailor.errors import ModelError
from tailor.inputs import Inputs
from tailor.surgery import eval_mode


def matches(model: nn.Module) -> bool:
    """Every model."""
    return True


def describe(model: nn.Module) -> Anatomy:
    """Sites, vectors and operations of a model nobody described by hand."""
    heads = walk.heads_of(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    first = config.get("first_conv") or ()
    stems = (first,) if isinstance(first, str) else tuple(first)
    inputs = walk.inputs_of(model)
    silent = _uncalled(model, inputs)
    excluded = (*stems, *heads, *silent)
    note: tuple[str, ...] = (
        f"`{type(model).__name__}` is not described by hand: methods that sit in blocks are not defined on it",
    )
    if silent:
        note = (*note, f"{len(silent)} layers are never called as modules and cannot be tuned: `{silent[0]}` ...")
    return Anatomy(
        family="generic",
        blocks=(),
        sites=walk.sites_of(model, (), excluded),
        vectors=walk.vectors_of(model, (), (*stems, *heads)),
        operations=walk.operations_of(model, (*heads, *silent)),
        features=_levels(model),
        heads=heads,
        width=int(getattr(model, "num_features", 0)),
        inputs=inputs,
        notes=note,
    )


def _levels(model: Any) -> tuple[Feature, ...]:
    """Levels as timm's own `feature_info` has them; none where the model has no way to give their maps."""
    if not hasattr(model, "forward_intermediates"):
        return ()
    info = getattr(model, "feature_info", ())
    return tuple(Feature(str(i["module"]), int(i["num_chs"]), int(i["reduction"])) for i in info)


def maps(model: Any, images: Tensor, levels: Sequence[Feature]) -> tuple[Tensor, ...]:
    """The levels that timm's own `forward_intermediates` gives."""
    known = [feature.path for feature in _levels(model)]
    found = model.forward_intermediates(images, indices=[known.index(f.path) for f in levels], intermediates_only=True)
    if len(found) != len(levels) or any(not isinstance(m, Tensor) or m.ndim != 4 for m in found):
        raise ModelError(f"`{type(model).__name__}` gives no maps of its levels", hint="take another backbone")
    return tuple(found)


def parts(model: nn.Module, size: Size) -> Parts:
    """A model that nobody described by hand is not taken apart: ModelError."""
    raise ModelError(
        f"`{type(model).__name__}` is not described by hand: where its blocks begin and end is not known",
        hint="take a ViT, Swin, ConvNeXt, ResNet, EfficientNet or MobileNet, or add a file for its family",
    )


def _uncalled(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Paths of linear layers and convolutions that a forward pass does not go through as modules."""
    candidates = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    called: set[int] = set()
    hooks = [m.register_forward_hook(lambda module, _i, _o: called.add(id(module))) for m in candidates.values()]
    like = next(model.parameters())
    try:
        with eval_mode(model), torch.inference_mode():
            model(*inputs.example(1, device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(name for name, module in candidates.items() if id(module) not in called)
