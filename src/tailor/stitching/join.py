"""One model out of two: the first up to a block, a stitching layer, the second from a block on. Knows no backbone.

Both have the same tree of modules, of which what is registered behind the block also runs behind it (so are timm's
models made). The joined model is of the first one's own class and shares every module and tensor with the two.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.stitching.plan import Layer
from tailor.stitching.space import Shape


def stitching_layer(layer: Layer) -> nn.Linear | nn.Conv2d:
    """The affine map as an ordinary layer, at its start of torch's own."""
    if layer.spatial:
        return nn.Conv2d(layer.inputs, layer.outputs, 1)
    return nn.Linear(layer.inputs, layer.outputs)


def along(
    anchors: Sequence[nn.Module], blocks: Sequence[Sequence[nn.Module]], stitches: Sequence[nn.Module]
) -> nn.Module:
    """A route: of each anchor the blocks of its leg, joined by the stitches."""
    view = anchors[0]
    for number, stitch in enumerate(stitches):
        view = joined(view, blocks[number][-1], stitch, anchors[number + 1], blocks[number + 1][0])
    return view


def joined(front: nn.Module, leave: nn.Module, stitch: nn.Module, tail: nn.Module, enter: nn.Module) -> nn.Module:
    """`front` up to and with its block `leave`, then `stitch`, then `tail` from its block `enter` on.

    PlanError where the two are built so differently that nobody can tell what follows what.
    """
    path, there = _path(front, leave), _path(tail, enter)
    owner, last, first = path[:-1], path[-1], there[-1]
    if owner != there[:-1]:
        raise PlanError(
            f"a model with its block at `{'.'.join(path)}` cannot go on in one at `{'.'.join(there)}`",
            hint="take anchors of one family, and a pair within a stage",
        )
    view = node = _shell(front)
    other = tail
    for name in owner:
        _follow_(node, other, name)
        child = _shell(node._modules[name])  # type: ignore[arg-type]
        node._modules[name] = child
        node, other = child, other._modules[name]  # type: ignore[assignment]
    before = [*_until(node, last), node._modules[last]]
    behind = [other._modules[first], *_after(other, first).values()]
    node._modules = {str(i): module for i, module in enumerate([*before, stitch, *behind])}
    for name, value in vars(tail).items():  # widths that the head, or a fresh one, goes by
        if type(value) is int and type(vars(view).get(name)) is int:
            setattr(view, name, value)
    _levels_(view, tail, owner)
    return view


def shape_of(model: nn.Module, anatomy: Anatomy) -> Shape:
    """What of the model its routes depend on, from one pass; PlanError where it cannot be an anchor."""
    if len(anatomy.blocks) < 2:
        raise PlanError(f"a `{anatomy.family}` backbone has {len(anatomy.blocks)} blocks known, an anchor needs two")
    if anatomy.rotary:
        raise PlanError(
            "an anchor whose blocks are told positions cannot be stitched: it has rotary embeddings",
            hint="take plain vision transformers, Swin, ConvNeXt or ResNets",
        )
    seen: dict[str, torch.Size] = {}
    hooks = [
        model.get_submodule(block.path).register_forward_hook(
            lambda module, inputs, output, path=block.path: seen.__setitem__(path, output.shape)
        )
        for block in anatomy.blocks
    ]
    like = next(p for p in model.parameters() if p.is_floating_point())
    mode = model.training
    try:
        with torch.no_grad():
            model.eval()(*anatomy.inputs.example(1, device=like.device, dtype=like.dtype))
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    shapes = [seen[block.path] for block in anatomy.blocks]
    owners = list(dict.fromkeys(block.path.rpartition(".")[0] for block in anatomy.blocks))  # one list of blocks each
    stages = tuple(owners.index(block.path.rpartition(".")[0]) for block in anatomy.blocks)
    widths = tuple(block.width for block in anatomy.blocks)
    last = all(len(shape) in (3, 4) and shape[-1] == width for shape, width in zip(shapes, widths, strict=True))
    spatial = all(len(shape) == 4 and shape[1] == width for shape, width in zip(shapes, widths, strict=True))
    if not last and not spatial:
        raise PlanError(f"the channels between the blocks of a `{anatomy.family}` backbone are not where expected")
    maps = tuple(tuple(shape[2:] if spatial else shape[1:-1]) for shape in shapes)
    return Shape(stages, widths, maps, spatial)


def _levels_(view: nn.Module, tail: nn.Module, owner: list[str]) -> None:
    """Let what the model says of its levels (timm's `feature_info`) be the tail's from the list of blocks on."""
    mine, theirs = getattr(view, "feature_info", None), getattr(tail, "feature_info", None)
    if not isinstance(mine, list) or not isinstance(theirs, list):
        return
    for position, info in enumerate(mine):
        place = str(info["module"]).split(".")
        if place == owner[: len(place)] and len(theirs) == len(mine):
            setattr(view, "feature_info", [*mine[:position], *theirs[position:]])  # noqa: B010
            return


def _path(model: nn.Module, module: nn.Module) -> list[str]:
    """Where the module stands in the model, as names."""
    return next(path for path, found in model.named_modules() if found is module).split(".")


def _shell(module: nn.Module) -> nn.Module:
    """A module with the same tensors, settings and submodules, of which others may be put in without changing it."""
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    return shell


def _follow_(node: nn.Module, other: nn.Module, name: str) -> None:
    """Let what is registered behind `name` be the other model's."""
    mine, theirs = _after(node, name), _after(other, name)
    if mine.keys() != theirs.keys():
        odd = sorted(mine.keys() ^ theirs.keys())[0]
        raise PlanError(
            f"the anchors are not built alike: only one has `{odd}` behind `{name}`", hint="take anchors of one family"
        )
    node._modules.update(theirs)


def _until(node: nn.Module, name: str) -> list[nn.Module]:
    names = list(node._modules)
    return [node._modules[n] for n in names[: names.index(name)]]  # type: ignore[misc]


def _after(node: nn.Module, name: str) -> dict[str, nn.Module]:
    names = list(node._modules)
    return {n: node._modules[n] for n in names[names.index(name) + 1 :]}  # type: ignore[misc]
