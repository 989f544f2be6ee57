"""Which blocks stay at each depth: the first ones, or those that are missed least, one after the other.

How much a block is missed is what the task's mean loss on images of train becomes without it (greedy: the block that is
missed least goes first). Where that would take too long, blocks are ranked by how little they change what passes
through them, in one pass (as ShortGPT, arXiv 2403.03853, which takes the cosine).
"""

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tailor.data.loading import Batch
from tailor.pruning.blocks import resizing
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.surgery import eval_mode, get_module
from tailor.workflow.race.arena import Arena

FIRST, MISSED = "first", "any"
"""The two ways to choose, as names of candidates have them."""


def orders(arena: Arena) -> dict[str, list[int]]:
    """For each way to choose, the indices of the blocks that may go, in the order in which they go."""
    opened = arena.opened
    paths = [block.path for block in opened.anatomy.blocks]
    fixed = resizing(opened.model, paths, arena.context.example) if paths else set()
    free = [i for i, path in enumerate(paths) if path not in fixed and _in_list(opened.model, path)]
    if not free:
        return {}
    return {MISSED: missed_least(arena, paths, free), FIRST: free[::-1]}


def kept_at(order: Sequence[int], blocks: int, depth: int) -> tuple[int, ...]:
    """The blocks that stay where `depth` of them do."""
    gone = set(order[: blocks - depth])
    return tuple(i for i in range(blocks) if i not in gone)


def layer_plan(paths: Sequence[str], kept: Sequence[int]) -> LayerPlan | None:
    """The plan that keeps these blocks; None where all stay."""
    if len(kept) == len(paths):
        return None
    dropped = tuple(path for i, path in enumerate(paths) if i not in kept)
    reason = f"blocks {' '.join(map(str, kept))} of {len(paths)} stay"
    return LayerPlan(tuple(kept), dropped, method="auto", facts={"reason": reason})


def grid(blocks: int, fewest: int, count: int) -> list[int]:
    """At most `count` depths between `fewest` and all `blocks`, both among them; those near the middle first."""
    span = range(fewest, blocks + 1)
    if len(span) > count:
        step = (len(span) - 1) / max(count - 1, 1)
        chosen = sorted({fewest + round(i * step) for i in range(count)})
    else:
        chosen = list(span)
    middle = (blocks * fewest) ** 0.5
    return sorted(chosen, key=lambda depth: (abs(depth - middle), depth))


def missed_least(arena: Arena, paths: Sequence[str], free: Sequence[int]) -> list[int]:
    """The free blocks, the one that is missed least first."""
    batches = _batches(arena)
    began = time.perf_counter()
    loss = _loss(arena, batches)
    loss(arena.opened.model)
    passes = len(free) ** 2 / 2
    if (time.perf_counter() - began) * passes > 0.1 * arena.clock.limit:
        moved = changes(arena.opened.model, [paths[i] for i in free], batches)
        return sorted(free, key=lambda i: moved[paths[i]])
    return greedy(arena.opened.model, paths, free, loss)


def greedy(
    model: nn.Module, paths: Sequence[str], free: Sequence[int], loss: Callable[[nn.Module], float]
) -> list[int]:
    """One block after the other goes, each time the one without which the loss is lowest; the last one stays."""
    order: list[int] = []
    left = list(free)
    while len(left) > 1:
        losses = {i: loss(_without(model, paths, [*order, i])) for i in left}
        gone = min(left, key=lambda i: (losses[i], -i))
        order.append(gone)
        left.remove(gone)
    return [*order, *left]


def changes(model: nn.Module, paths: Sequence[str], batches: Sequence[Batch]) -> dict[str, float]:
    """How far each block moves what passes through it: the squared change over the squared length, of all images."""
    moved, length = dict.fromkeys(paths, 0.0), dict.fromkeys(paths, 1e-12)

    def compare(path: str, given: Tensor, made: Tensor) -> None:
        moved[path] += float((made - given).square().sum())
        length[path] += float(given.square().sum())

    handles = [
        get_module(model, path).register_forward_hook(lambda m, args, out, p=path: compare(p, args[0], out))
        for path in paths
    ]
    try:
        with eval_mode(model), torch.no_grad():
            for batch in batches:
                model(batch.images)
    finally:
        for handle in handles:
            handle.remove()
    return {path: moved[path] / length[path] for path in paths}


def _without(model: nn.Module, paths: Sequence[str], gone: Sequence[int]) -> nn.Module:
    kept = [i for i in range(len(paths)) if i not in gone]
    plan = layer_plan(paths, kept)
    return model if plan is None else apply_layers_(copy.deepcopy(model), plan)


def _in_list(model: nn.Module, path: str) -> bool:
    holder, _, leaf = path.rpartition(".")
    return leaf.isdecimal() and isinstance(get_module(model, holder), nn.Sequential | nn.ModuleList)


def _batches(arena: Arena) -> list[Batch]:
    (part,) = arena.context.sample(min(arena.settings.samples, 128), "train")
    return list(arena.context.batches(part))


def _loss(arena: Arena, batches: Sequence[Batch]) -> Callable[[nn.Module], float]:
    task = arena.context.task

    def loss(model: nn.Module) -> float:
        with eval_mode(model), torch.no_grad():
            return sum(float(task.loss(model(b.images), b.targets).sum()) for b in batches)

    return loss
