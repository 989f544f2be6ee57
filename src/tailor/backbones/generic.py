"""Any other timm classifier: linear and convolution sites by module type, no blocks.

A site counts only if the model really calls the module: some code reads a layer's weight directly, where a module put
in its place would do nothing. One forward pass finds out.
"""

import torch
from torch import nn

from tailor.anatomy import Anatomy
from tailor.backbones import parts


def matches(model: nn.Module) -> bool:
    """Every model."""
    return True


def describe(model: nn.Module) -> Anatomy:
    """Sites, vectors and operations of a model nobody described by hand."""
    heads = parts.heads_of(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    first = config.get("first_conv") or ()
    stems = (first,) if isinstance(first, str) else tuple(first)
    size = parts.input_size_of(model)
    silent = _uncalled(model, size)
    excluded = (*stems, *heads, *silent)
    note: tuple[str, ...] = (
        f"`{type(model).__name__}` is not described by hand: methods that sit in blocks are not defined on it",
    )
    if silent:
        note = (*note, f"{len(silent)} layers are never called as modules and cannot be tuned: `{silent[0]}` ...")
    return Anatomy(
        family="generic",
        blocks=(),
        sites=parts.sites_of(model, (), excluded),
        vectors=parts.vectors_of(model, (), (*stems, *heads)),
        operations=parts.operations_of(model, (*heads, *silent)),
        features=(),
        heads=heads,
        width=int(getattr(model, "num_features", 0)),
        input_size=size,
        notes=note,
    )


def _uncalled(model: nn.Module, size: tuple[int, int, int]) -> tuple[str, ...]:
    """Paths of linear layers and convolutions that a forward pass does not go through as modules."""
    candidates = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    called: set[int] = set()
    hooks = [m.register_forward_hook(lambda module, _i, _o: called.add(id(module))) for m in candidates.values()]
    training = {m: m.training for m in model.modules()}
    like = next(model.parameters())
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *size, device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return tuple(name for name, module in candidates.items() if id(module) not in called)
