"""The only operations that reach into a module: find, replace, freeze, and name what a plan made trainable.

Nothing here decides anything; names that end in `_` change the module they are given and return it.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailor.errors import PlanError, nearest

_PLAIN = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward)
_RANGE = re.compile(r"^(?P<tensor>.+)\[(?P<start>\d+):(?P<stop>\d+)\]$")


def get_module(model: nn.Module, path: str) -> nn.Module:
    """The submodule at `path`; a PlanError with the nearest names where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules()]
        raise PlanError(f"the model has no module `{path}`", hint=nearest(path, known)) from None


def set_module_(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put `module` at `path`, where something must stand already."""
    get_module(model, path)
    parent, _, leaf = path.rpartition(".")
    owner = model.get_submodule(parent)
    if isinstance(owner, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        owner._modules[leaf] = module
    else:
        setattr(owner, leaf, module)
    return model


def get_parameter(model: nn.Module, name: str) -> nn.Parameter:
    """The parameter called `name`; a PlanError with the nearest names where there is none."""
    parameters = dict(model.named_parameters())
    if name not in parameters:
        raise PlanError(f"the model has no parameter `{name}`", hint=nearest(name, list(parameters)))
    return parameters[name]


def split_range(name: str) -> tuple[str, tuple[int, int] | None]:
    """`"b.bias[8:16]"` -> `("b.bias", (8, 16))`; a plain name -> `(name, None)`."""
    match = _RANGE.match(name)
    if not match:
        return name, None
    return match["tensor"], (int(match["start"]), int(match["stop"]))


def computes_plainly(layer: nn.Module) -> bool:
    """Whether it is a linear layer or convolution whose weight acts as stored.

    Not so where a class has a forward pass of its own: timm's convolutions that standardise their weight, or pad by the
    size of the image. What is put beside such a layer, or folded into its weight, would compute something else.
    """
    return isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and type(layer).forward in _PLAIN


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode, and every module's own mode back afterwards.

    Before and after it passes through training mode, where modules drop what they keep for evaluation: some of timm's
    keep the position biases that they looked up, with the graph of that pass, or of widths that are gone by then.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train()  # no chain of calls: some of timm's attentions return nothing from `train`
        model.eval()
        yield model
    finally:
        model.train()
        for module, training in modes:
            module.training = training


def forget_(model: nn.Module) -> nn.Module:
    """Let modules drop what they keep for evaluation; every module keeps its mode."""
    with eval_mode(model):
        return model


def freeze_(model: nn.Module) -> nn.Module:
    """No parameter trains."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def hold_(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Keep the weights of linear layers and convolutions that do not train in that type, embeddings aside.

    PlanError where a module writes what it learns into such a weight: half precision would lose it.
    """
    for path, module in model.named_modules():
        if callable(getattr(module, "write_through_", None)):
            raise PlanError(f"`{path}` writes into its frozen weight", hint="leave `frozen` out of the recipe")
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        layer = isinstance(module, nn.Linear | nn.Conv2d) and id(weight) not in looked_up
        if layer and weight is not None and not weight.requires_grad:
            weight.data = weight.data.to(dtype)
    return model


def as_held(model: nn.Module) -> AbstractContextManager[object]:
    """In which a model computes, whatever its weights are held in."""
    found = next((p for p in model.parameters() if p.dtype == torch.bfloat16), None)
    kind = "cpu" if found is None else found.device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=found is not None)


def running_statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that training changes: the statistics of batch norms with at least one trained parameter.

    A batch norm whose parameters are all frozen is held in eval mode while training, so its statistics stay.
    """
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and any(p.requires_grad for p in module.parameters(recurse=False)):
            for name, buffer in module.named_buffers(recurse=False):
                yield f"{path}.{name}" if path else name, buffer


def changed(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that training may change: what a bundle of a tuned model stores and a checkpoint holds."""
    return {**trainable(model), **dict(running_statistics(model))}


def load_changed_(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Copy exactly the tensors that `changed` names into the model; PlanError on any other key set or shape."""
    own = changed(model)
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        found = f"missing `{missing[0]}`" if missing else f"unknown `{extra[0]}`"
        raise PlanError(
            f"the tensors do not fit the plan: {found} ({len(missing)} missing, {len(extra)} unknown)",
            hint="the file belongs to another plan or backbone",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            given = tensors[name]
            if given.shape != tensor.shape:
                raise PlanError(
                    f"tensor `{name}` has shape {tuple(given.shape)}, the plan expects {tuple(tensor.shape)}",
                    hint="the file belongs to another plan or backbone",
                )
            tensor.copy_(given)
    return write_through_(model)


def write_through_(model: nn.Module) -> nn.Module:
    """Let every module that keeps a delta beside a frozen weight write it into that weight."""
    for module in model.modules():
        write = getattr(module, "write_through_", None)
        if callable(write):
            write()
    return model
