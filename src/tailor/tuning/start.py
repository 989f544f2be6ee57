"""Where low-rank updates begin: in the directions in which what a layer is given varies most.

Paischer et al., "Explained variance adaptation" (EVA, arXiv 2410.07170), without their moving of ranks between layers.
`up` stays at zero, so the model computes what it did; but a gradient step on `up` then reaches what the layer is given,
where random directions mostly miss it. Second moments are summed in float64, so memory does not grow with the images,
and every process that sees the same images starts alike.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tailor.layer_rows import as_stored, channels_last, drawn, given_rows
from tailor.surgery import eval_mode, get_module
from tailor.tuning.layers import plain
from tailor.tuning.plan import TunePlan

POSITIONS = 64
"""Of an activation, positions an image that count at most; which, is drawn from the seed."""


class Moments:
    """Sums over rows (r, n): how many, the sum, and the sum of products."""

    def __init__(self) -> None:
        self.count = 0
        self.sum: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def add_(self, rows: Tensor) -> None:
        """Take in more rows."""
        wide = rows.double()
        self.count += len(wide)
        self.sum = self.sum + wide.sum(0)
        self.products = self.products + wide.T @ wide

    def directions(self, most: int) -> Tensor:
        """(m, n), m at most `most`: orthonormal, the largest variance first, the largest entry of each positive."""
        assert isinstance(self.sum, Tensor) and isinstance(self.products, Tensor)
        mean = self.sum / self.count
        found = torch.linalg.eigh(self.products / self.count - mean[:, None] * mean)
        kept = found.eigenvectors[:, found.eigenvalues > 1e-9 * found.eigenvalues[-1]].flip(1).T[:most]
        largest = kept.gather(1, kept.abs().argmax(1, keepdim=True))
        return kept * largest.sign()


def wants_start(plan: TunePlan) -> bool:
    """Whether any module of the plan begins in its layer's inputs."""
    return any(getattr(tune.method, "start", "random") == "inputs" for tune in plan.tunes)


@torch.no_grad()
def start_(model: nn.Module, plan: TunePlan, batches: Callable[[], Iterable[Tensor]], seed: int = 0) -> int:
    """Set `down` of the modules that ask for it, in place; how many were set.

    Images (B, C, H, W) as the model takes them; no labels. A layer that is not run, or that computes in a way of its
    own, keeps its random start, and so do directions beyond those in which its inputs vary.
    """
    paths = dict.fromkeys(t.path for t in plan.tunes if getattr(t.method, "start", "random") == "inputs")
    modules: dict[str, Any] = {path: get_module(model, path) for path in paths}
    moments = {path: Moments() for path in paths}
    device = next(model.parameters()).device
    with eval_mode(model), _watching(modules, moments, seed):
        for images in batches():
            model(images.to(device))
    done = 0
    for path, found in moments.items():
        if found.count:
            _begin_(modules[path], found)
            done += 1
    return done


def _begin_(module: Any, found: Moments) -> None:
    """Every range of a layer's outputs has its own part of `down`; all begin in the same directions."""
    rank = module.up.shape[1]
    best = found.directions(rank).to(module.down)
    for start in range(0, len(module.down), rank):
        module.down[start : start + len(best)] = best.view(-1, *module.down.shape[1:])


@contextmanager
def _watching(modules: dict[str, Any], moments: dict[str, Moments], seed: int) -> Iterator[None]:
    handles = []
    for path, module in modules.items():

        def note(wrapper: Any, given: tuple[Any, ...], made: Tensor, path: str = path) -> None:
            layer = plain(wrapper.base)
            if as_stored(layer, given[0], made):
                count = channels_last(layer, made)[..., 0].numel()
                chosen = drawn(count, POSITIONS * len(given[0]), seed)
                moments[path].add_(given_rows(layer, given[0], made, chosen).flatten(1))

        handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
