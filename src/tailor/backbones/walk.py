"""Turn a family's list of blocks into sites, vectors and operations: the walk that every family shares.

A family file says where its blocks are and what to leave out; this file reads the modules inside and never guesses
from names beyond the labels of operations.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tailor.anatomy import Block, Site, Vector
from tailor.inputs import Inputs
from tailor.surgery import computes_plainly

_FUSED = ("q", "k", "v")
_LABELS = {"q_proj": "q", "k_proj": "k", "v_proj": "v"}


def block_of(path: str, blocks: Sequence[Block]) -> int:
    """Index of the block that holds `path`, or -1."""
    for index, block in enumerate(blocks):
        if path.startswith(block.path + "."):
            return index
    return -1


def within(path: str, roots: Iterable[str]) -> bool:
    """Whether `path` is one of `roots` or lies below one."""
    return any(path == root or path.startswith(root + ".") for root in roots)


def swapped(module: nn.Module, block: Block) -> Block:
    """The block as its module is: without attention where `attn` says that it `replaces` it, or is missing."""
    attention = getattr(module, "attn", None)
    if not isinstance(attention, nn.Module):
        return replace(block, attention=None)
    other = getattr(attention, "replaces_attention", "")
    if not other:
        return block
    return replace(block, attention=None, convolution=block.attention if other == "convolution" else None)


def blocks_in(holder: Iterable[Any], width: int) -> list[tuple[int, Any, int]]:
    """The blocks of a list: position, module and width, which is `width` where the list does not say otherwise.

    A bare layer among them joins two backbones: it is no block, and those before it are as wide as its inputs.
    """
    modules = list(holder)
    joints = {i: m.weight.shape[1] for i, m in enumerate(modules) if isinstance(m, nn.Linear | nn.Conv2d)}
    found = []
    for position, module in enumerate(modules):
        if position not in joints:
            following = next((inputs for at, inputs in joints.items() if at > position), width)
            found.append((position, module, following))
    return found


def sites_of(model: nn.Module, blocks: Sequence[Block], excluded: Sequence[str]) -> tuple[Site, ...]:
    """Every linear layer and convolution outside `excluded`; a fused qkv as three sites by rows."""
    sites: list[Site] = []
    for path, module in model.named_modules():
        if within(path, excluded) or not computes_plainly(module):
            continue
        index = block_of(path, blocks)
        leaf = path.rsplit(".", 1)[-1]
        op = _LABELS.get(leaf, leaf if index >= 0 and not leaf.isdigit() else _label(path, blocks, index))
        weight: Tensor = module.weight  # type: ignore[assignment]
        outputs, inputs = weight.shape[0], weight[0].numel()
        if leaf == "qkv" and isinstance(module, nn.Linear) and outputs % 3 == 0:
            third = outputs // 3
            for position, part in enumerate(_FUSED):
                rows = (position * third, (position + 1) * third)
                sites.append(Site(path, part, third, inputs, index, part, rows))
            continue
        kind = "linear" if isinstance(module, nn.Linear) else "conv"
        if not isinstance(module, nn.Linear) and module.groups > 1:
            kind = "depthwise"
        sites.append(Site(path, op, outputs, inputs, index, kind=kind))  # type: ignore[arg-type]
    return tuple(sites)


def _label(path: str, blocks: Sequence[Block], index: int) -> str:
    """A stable label for a layer whose own name is a number: the nearest name above it (`downsample`)."""
    inner = path[len(blocks[index].path) + 1 :] if index >= 0 else path
    words = [word for word in inner.split(".") if not word.isdigit()]
    return words[-1] if words else inner


def vectors_of(model: nn.Module, blocks: Sequence[Block], excluded: Sequence[str]) -> tuple[Vector, ...]:
    """Every one-dimensional parameter outside `excluded`; a fused qkv bias as three ranges."""
    vectors: list[Vector] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim != 1 or within(name, excluded):
            continue
        index = block_of(name, blocks)
        owner, _, leaf = name.rpartition(".")
        module = owner.rsplit(".", 1)[-1]
        if module == "qkv" and leaf == "bias" and parameter.numel() % 3 == 0:
            third = parameter.numel() // 3
            for position, part in enumerate(_FUSED):
                rows = (position * third, (position + 1) * third)
                vectors.append(Vector(name, f"{part}.bias", third, index, rows))
            continue
        label = _LABELS.get(module, module if not module.isdigit() else _label(owner, blocks, index))
        op = leaf if index >= 0 and owner == blocks[index].path else f"{label}.{leaf}"
        vectors.append(Vector(name, op, parameter.numel(), index))
    return tuple(vectors)


def operations_of(model: nn.Module, excluded: Sequence[str]) -> tuple[str, ...]:
    """Paths of the modules with a weight that scale channels: convolutions, linear layers and norms, in order."""
    paths = []
    for path, module in model.named_modules():
        if within(path, excluded) or not path:
            continue
        if computes_plainly(module) or is_norm(module):
            paths.append(path)
    return tuple(paths)


def is_norm(module: nn.Module) -> bool:
    """A leaf whose one-dimensional weight scales channels and that is neither linear nor a convolution."""
    weight = getattr(module, "weight", None)
    named = "norm" in type(module).__name__.lower()
    return named and isinstance(weight, nn.Parameter) and weight.ndim == 1 and not list(module.children())


def own_ways(model: nn.Module) -> tuple[str, ...]:
    """A sentence where linear layers or convolutions are left out because they compute in a way of their own."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    odd = [layer for layer in layers if not computes_plainly(layer)]
    if not odd:
        return ()
    kinds = ", ".join(sorted({f"`{type(layer).__name__}`" for layer in odd}))
    return (f"{len(odd)} layers compute in a way of their own and take no modules, scales or single entries: {kinds}",)


def heads_of(model: nn.Module) -> tuple[str, ...]:
    """The classifier layers as timm's configuration names them."""
    config: Mapping[str, object] = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    named = config.get("classifier") or "head"
    names = (named,) if isinstance(named, str) else tuple(named)  # type: ignore[arg-type]
    known = dict(model.named_modules())
    return tuple(name for name in names if name in known)


def inputs_of(model: nn.Module) -> Inputs:
    """The images that the model expects: the patch embedding's own size where it has one, else timm's configuration."""
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    if isinstance(size, tuple) and len(size) == 2:
        height, width = size
    return Inputs.images(int(channels), int(height), int(width))
