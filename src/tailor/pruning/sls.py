"""How well the classes separate after each block of a model: one pass over the images, then t-SNE from the top down.

SLS (arXiv 2407.14330) and its code: the class token of a ViT's raw block output; in a Swin the mean over tokens after
the stage's patch merging; else the pooled map. Deviations: the code runs the model once a block, and every t-SNE in
all threads; here one pass collects all, blocks below the end of the walk are never scored, and the scored ones run in
processes of one thread each, which is faster and gives the same values.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Block
from tailor.criteria.silhouette import Separation, separation
from tailor.errors import PlanError
from tailor.events import Progress
from tailor.pruning.layers import walk
from tailor.pruning.regions import means
from tailor.pruning.settings import Sls
from tailor.surgery import eval_mode, get_module

WORTH_A_PROCESS = 300
"""Images from which on one t-SNE takes longer than starting a process for it."""
FEW = 4
"""Samples of a class below which its silhouette is mostly noise."""


@dataclass(frozen=True)
class BlockFeatures:
    """What every block gives for every image: `values` (N, C_l) a block, `labels` (N,); `fixed` blocks resize maps."""

    blocks: tuple[str, ...]
    values: tuple[Tensor, ...]
    labels: Tensor
    fixed: tuple[int, ...] = ()

    @property
    def warning(self) -> str:
        """A sentence where the classes have too few samples for the curve to mean much, else nothing."""
        counts = np.unique(self.labels.numpy(), return_counts=True)[1]
        middle = float(np.median(counts))
        if middle >= FEW:
            return ""
        return f"half of the {len(counts)} classes have {middle:g} images or fewer: the curve is mostly noise"


@dataclass(frozen=True)
class Curve:
    """The separation after each block, None where it was not needed, and the maps of those that were scored."""

    scores: tuple[float | None, ...]
    planes: dict[int, np.ndarray]


def collect(model: nn.Module, anatomy: Anatomy, batches: Iterable[Any]) -> BlockFeatures:
    """The features of all blocks in one pass; batches have `images` (B, 3, H, W), `labels` and `sources`.

    PlanError where the anatomy has no blocks, and, with block and image named, where a feature is not finite.
    """
    return _collected(model, anatomy, batches, regional=False)


def collect_regions(model: nn.Module, anatomy: Anatomy, batches: Iterable[Any]) -> BlockFeatures:
    """The features of regions, for dense tasks: a sample is a region, its feature the mean of the map there.

    Batches have `images`, `sources`, and for each image `regions`, boxes (n, 4) in pixels of the input or masks
    (n, H, W), and `labels` (n,). The class token, where there is one, is left aside.
    """
    return _collected(model, anatomy, batches, regional=True)


def _collected(model: nn.Module, anatomy: Anatomy, batches: Iterable[Any], regional: bool) -> BlockFeatures:
    if not anatomy.blocks:
        raise PlanError(
            f"`sls` is not defined on a `{anatomy.family}` backbone: its blocks are not known",
            hint="use `--method isomorphic`, which needs only a graph",
        )
    taps = [_Tap(block, anatomy, model) for block in anatomy.blocks]
    labels = []
    place = next(p for p in model.parameters() if p.is_floating_point())
    with ExitStack() as stack, torch.no_grad(), eval_mode(model):
        for tap in taps:
            stack.callback(get_module(model, tap.block.path).register_forward_hook(tap).remove)
        for batch in batches:
            for tap in taps:
                tap.batch = batch if regional else None
            model(batch.images.to(place.device, place.dtype))
            labels += list(batch.targets) if regional else [batch.targets]
            sources = batch.sources
            if regional:
                sources = [s for s, there in zip(sources, batch.targets, strict=True) for _ in range(len(there))]
            for tap in taps:
                tap.check(sources)
    return BlockFeatures(
        tuple(tap.block.path for tap in taps),
        tuple(torch.cat(tap.found) for tap in taps),
        torch.cat(labels),
        tuple(i for i, tap in enumerate(taps) if tap.resizes),
    )


class _Tap:
    """A hook that keeps one block's feature (B, C) of each batch, and whether the block changes its map's size.

    With a `batch` of regions it keeps theirs, (R, C).
    """

    def __init__(self, block: Block, anatomy: Anatomy, model: nn.Module) -> None:
        self.block, self.anatomy = block, anatomy
        self.merging = get_module(model, block.merging) if block.merging else nn.Identity()
        self.found: list[Tensor] = []
        self.resizes = False
        self.batch: Any = None

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        before, after = given[0].shape, output.shape
        self.resizes |= before[2:] != after[2:] if len(after) == 3 else before[1:] != after[1:]
        merged = self.merging(output)
        self.found.append((self._pooled(merged) if self.batch is None else self._regional(merged)).float().cpu())

    def _regional(self, x: Tensor) -> Tensor:
        """The mean of each region of the batch."""
        images = self.batch.images
        if x.ndim == 3:
            if self.anatomy.grid is None:
                raise PlanError(f"the tokens of `{self.block.path}` stand on no fixed grid", hint="pool whole images")
            own = self.anatomy.inputs.image[1:]  # a decoder may see images of another size than the backbone's own
            patch = [side // cells for side, cells in zip(own, self.anatomy.grid)]
            grid = (images.shape[-2] // patch[0], images.shape[-1] // patch[1])
            x = x[:, -grid[0] * grid[1] :].unflatten(1, grid)
        elif self.block.attention_layout == "nchw":
            x = x.permute(0, 2, 3, 1)
        return means(x, self.batch.regions, (images.shape[-2], images.shape[-1]), self.batch.sources)

    def _pooled(self, x: Tensor) -> Tensor:
        """The class token of (B, N, C), or the mean of its patches; the mean of a map (B, H, W, C) or (B, C, H, W)."""
        if x.ndim == 3:
            if "cls_token" in self.anatomy.tokens:
                return x[:, 0]
            grid = self.anatomy.grid
            patches = grid[0] * grid[1] if grid else x.shape[1] - self.anatomy.prefix
            return x[:, -patches:].mean(1)  # prompts may stand between the prefix and the patches
        return x.mean((2, 3)) if self.block.attention_layout == "nchw" else x.mean((1, 2))

    def check(self, sources: Sequence[str]) -> None:
        broken = (~self.found[-1].isfinite()).any(1).nonzero()
        if len(broken):
            raise PlanError(
                f"the feature of block `{self.block.path}` is not finite for image `{sources[int(broken[0])]}`",
                hint="look at that image and at the weights",
            )


def measure(
    features: BlockFeatures,
    settings: Sls,
    *,
    seed: int = 0,
    processes: int | None = None,
    whole: bool = False,
    progress: Progress = lambda done, total: None,
) -> Curve:
    """The curve from the last block down, as far as the walk needs it, or, with `whole`, all of it.

    `processes` None means one a core for sets where that is worth it; the values do not depend on it.
    """
    count = len(features.blocks)
    scores: list[float | None] = [None] * count
    planes: dict[int, np.ndarray] = {}
    workers = processes or _workers(len(features.labels))
    order = list(range(count))[::-1]
    for start in range(0, count, workers):
        if not whole and walk(scores, settings) is not None:
            break
        turn = order[start : start + workers]
        for index, found in zip(turn, _score(features, turn, seed, workers), strict=True):
            scores[index], planes[index] = found.score, found.plane
        progress(start + len(turn), count)
    return Curve(tuple(scores), planes)


def again(features: BlockFeatures, block: int, seeds: Sequence[int], processes: int | None = None) -> list[float]:
    """The separation after one block under other seeds: how far a value near the threshold can be trusted."""
    workers = processes or _workers(len(features.labels))
    with parallel_config(backend="loky", inner_max_num_threads=1):
        found = Parallel(n_jobs=workers)(_job(features, block, seed) for seed in seeds)
    return [one.score for one in found]


def _score(features: BlockFeatures, blocks: Sequence[int], seed: int, workers: int) -> list[Separation]:
    with parallel_config(backend="loky", inner_max_num_threads=1):
        return list(Parallel(n_jobs=min(workers, len(blocks)))(_job(features, block, seed) for block in blocks))


def _job(features: BlockFeatures, block: int, seed: int) -> Any:
    values, labels = features.values[block].numpy(), features.labels.numpy()
    return delayed(separation)(values, labels, layer=features.blocks[block], seed=seed)


def _workers(samples: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if samples >= WORTH_A_PROCESS else 1
