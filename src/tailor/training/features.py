"""Linear probing at the cost of one pass: what is in front of the head, computed once per image.

Exact where nothing before the head trains or draws; else `head_only` says no, and the ordinary path is the one to take.
The images must be the same in every epoch (no augmentation, no mixing), which is for the caller to know.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailor.criteria.samples import placed
from tailor.surgery import eval_mode, get_module, trainable
from tailor.training.objective import BatchLike


class FeatureBatch(NamedTuple):
    """A batch whose images are features (B, ...)."""

    images: Tensor
    targets: Tensor
    indices: Tensor
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Features:
    """What the head is given for every image of a split, on the CPU, in the order of positions: values (N, ...)."""

    values: Tensor
    targets: Tensor
    sources: tuple[str, ...]

    def batches(
        self, plan: Sequence[Sequence[int]], start: int = 0, process: int = 0, processes: int = 1
    ) -> Iterator[FeatureBatch]:
        """This process's contiguous shares of the global batches in `plan` (positions), from batch `start` on."""
        for batch in plan[start:]:
            count = len(batch)
            share = torch.tensor(batch[process * count // processes : (process + 1) * count // processes]).long()
            names = tuple(self.sources[i] for i in share.tolist())
            yield FeatureBatch(self.values[share], self.targets[share], share, names)


def head_only(model: nn.Module, head: str, images: Tensor) -> tuple[nn.Module, nn.Module] | None:
    """The part before the module `head`, and the head itself; both share their modules with `model`.

    None where training the head on the part's output is not training `model`: where something outside the head trains;
    where the part draws or depends on the mode (dropout, drop-path), as `images` (B, C, H, W) show; or where the
    model's output is not the head's.
    """
    last = get_module(model, head)
    inside = {id(parameter) for parameter in last.parameters()}
    if not trainable(last) or any(id(p) not in inside for p in trainable(model).values()):
        return None
    frozen = _without(model, head)
    modes = {module: module.training for module in model.modules()}
    place = next(p for p in model.parameters() if p.is_floating_point())
    images = placed(images, place.device, place.dtype)
    with torch.random.fork_rng(devices=[place.device] if place.device.type == "cuda" else []), torch.no_grad():
        try:
            whole = model.eval()(images)
            still = frozen.eval()(images)
            given = last(still) if isinstance(still, Tensor) else None
            drawn = _in_training(frozen)(images)
        finally:
            for module, mode in modes.items():
                module.training = mode
    if given is None or not torch.equal(still, drawn) or not torch.equal(whole, given):
        return None
    return frozen, last


def collect(frozen: nn.Module, batches: Iterable[BatchLike], precision: str = "fp32") -> Features:
    """The features of all images in `batches`, which hold each position from 0 once; every module keeps its mode."""
    place = next(p for p in frozen.parameters() if p.is_floating_point())
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    values: list[Tensor] = []
    targets: list[Tensor] = []
    indices: list[Tensor] = []
    sources: list[str] = []
    with eval_mode(frozen):
        for batch in batches:
            # Not inference mode: its tensors could not take part in the head's training.
            with torch.no_grad(), torch.autocast(place.device.type, dtype=dtype, enabled=dtype is not None):
                values.append(frozen(placed(batch.images, place.device, place.dtype)).cpu())
            targets.append(batch.targets)
            indices.append(batch.indices)
            sources += batch.sources
    order = torch.cat(indices).argsort()
    return Features(torch.cat(values)[order], torch.cat(targets)[order], tuple(sources[i] for i in order.tolist()))


def _without(model: nn.Module, path: str) -> nn.Module:
    """A model that shares all modules with `model`, but for `path`, where it passes its input on."""
    first, _, rest = path.partition(".")
    shallow = copy.copy(model)
    shallow._modules = dict(model._modules)
    inner = shallow._modules[first]
    assert inner is not None
    shallow._modules[first] = _without(inner, rest) if rest else nn.Identity()
    return shallow


def _in_training(frozen: nn.Module) -> nn.Module:
    """The mode in which the engine runs modules that do not train."""
    frozen.train()
    for module in frozen.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return frozen
