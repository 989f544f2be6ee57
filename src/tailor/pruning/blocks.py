"""Whole blocks after a cut of widths: in a list of blocks, those with the highest scores stay, in their order.

Isomorphic Pruning makes ConvNeXt-T so, of the 27 blocks of its third stage: a block's score is the mean over its
parameters of the mean of |w * dL/dw| over what the cut has left of them. Blocks that change the shape of what passes
through them stay.
"""

import copy
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from tailor.errors import UsageError, nearest
from tailor.inputs import Example
from tailor.pruning.layers import LayerPlan
from tailor.surgery import get_module
from tailor.tracing import WidthPlan, cut_


def lists_of(blocks: Sequence[str]) -> dict[str, list[str]]:
    """The paths of blocks by the list that holds them: `stages.2.blocks`."""
    found: dict[str, list[str]] = {}
    for path in blocks:
        found.setdefault(path.rpartition(".")[0], []).append(path)
    return found


def check_blocks(keep: Mapping[str, int], blocks: Sequence[str]) -> None:
    """UsageError for a list of blocks that the model has not, or that is no longer than what is to stay of it."""
    known = lists_of(blocks)
    for path, count in keep.items():
        if path not in known:
            raise UsageError(f"the model has no list of blocks `{path}`", hint=nearest(path, list(known)))
        if count >= len(known[path]):
            raise UsageError(
                f"`{path}` has {len(known[path])} blocks, and {count} are to stay", hint="keep fewer, or leave it out"
            )


def block_scores(
    model: nn.Module, elements: Mapping[str, Tensor], cut: WidthPlan, blocks: Sequence[str]
) -> dict[str, float]:
    """The score of each block after the cut of `model`, from scores of single weights before it (by parameter)."""
    scored = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in scored.named_parameters():
            if name in elements:
                parameter.copy_(elements[name])
    cut_(scored, WidthPlan(cut.cuts, cut.slices))  # scores are cut like weights, but nothing is rescaled
    found = {}
    for path in blocks:
        names = [f"{path}.{name}" for name, _ in get_module(scored, path).named_parameters()]
        means = [scored.get_parameter(name).detach().double().mean() for name in names if name in elements]
        found[path] = float(torch.stack(means).mean())
    return found


def keep_blocks(
    blocks: Sequence[str], scores: Mapping[str, float], keep: Mapping[str, int], fixed: Collection[str] = ()
) -> LayerPlan:
    """The plan that keeps of each list in `keep` its highest blocks, of equal ones the earlier, and all others."""
    check_blocks(keep, blocks)
    dropped: set[str] = set()
    for path, count in keep.items():
        ranked = sorted(lists_of(blocks)[path], key=lambda block: (block not in fixed, -scores[block]))
        dropped |= set(ranked[count:]) - set(fixed)
    return LayerPlan(
        kept=tuple(i for i, block in enumerate(blocks) if block not in dropped),
        dropped=tuple(block for block in blocks if block in dropped),
        method="blocks",
        facts={"reason": ", ".join(f"{count} of `{path}` stay" for path, count in keep.items())},
    )


def resizing(model: nn.Module, blocks: Sequence[str], example: Example) -> set[str]:
    """The blocks whose output has another shape than their input."""
    found: set[str] = set()

    def compare(path: str, given: Tensor, made: Tensor) -> None:
        if given.shape != made.shape:
            found.add(path)

    handles = [
        get_module(model, path).register_forward_hook(lambda m, args, output, p=path: compare(p, args[0], output))
        for path in blocks
    ]
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def number_after(name: str, dropped: Collection[str]) -> str:
    """The name of a parameter once the blocks `dropped` (paths) have gone and its own has moved up in its list."""
    for holder, gone in lists_of(tuple(dropped)).items():
        number, _, rest = name.removeprefix(f"{holder}.").partition(".")
        if name.startswith(f"{holder}.") and number.isdecimal():
            above = sum(int(path.rpartition(".")[2]) < int(number) for path in gone)
            return f"{holder}.{int(number) - above}.{rest}"
    return name
