"""How much a block matters by itself: what SLS is compared with. One number a block; the lowest go first.

`influence` is ShortGPT's (Men et al. 2024, arXiv 2403.03853): one minus the cosine between what goes into a block and
what comes out, a position at a time. Magnitude and Taylor are means of |w| and |w * dL/dw| over a block's weights, so
that blocks of several widths compare.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.anatomy import Block
from tailor.surgery import eval_mode, get_module


def influence(model: nn.Module, blocks: Sequence[Block], images: Iterable[Tensor]) -> dict[str, float]:
    """By path: 1 - cosine of each position's features before and after the block, the mean over positions and images.

    Infinite for a block that changes the shape of what passes through it.
    """
    taps = {block.path: _Tap(block) for block in blocks}
    device = next(model.parameters()).device
    handles = [get_module(model, path).register_forward_hook(tap) for path, tap in taps.items()]
    try:
        with torch.no_grad(), eval_mode(model):
            for batch in images:
                model(batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return {path: tap.total / tap.count if tap.count else float("inf") for path, tap in taps.items()}


class _Tap:
    """A hook that adds up how far a block turns what passes through it."""

    def __init__(self, block: Block) -> None:
        self.layout, self.total, self.count = block.attention_layout, 0.0, 0

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if given[0].shape != output.shape:
            return
        channels = 1 if output.ndim == 4 and self.layout == "nchw" else -1
        turned = 1 - F.cosine_similarity(given[0].float(), output.float(), dim=channels)
        self.total += float(turned.flatten(1).mean(1).sum())
        self.count += len(output)


def of_weights(elements: Mapping[str, Tensor], blocks: Sequence[Block]) -> dict[str, float]:
    """By path: the mean of the scores of all weights in the block."""
    found = {}
    for block in blocks:
        inside = [score for name, score in elements.items() if name.startswith(f"{block.path}.")]
        found[block.path] = sum(float(s.double().sum()) for s in inside) / max(sum(s.numel() for s in inside), 1)
    return found


def depth(blocks: Sequence[Block]) -> dict[str, float]:
    """By path: the earlier a block, the more it counts, so that the last go."""
    return {block.path: float(len(blocks) - index) for index, block in enumerate(blocks)}


def lots(blocks: Sequence[Block], seed: int) -> dict[str, float]:
    """By path: a number drawn from the seed."""
    drawn = torch.rand(len(blocks), generator=torch.Generator().manual_seed(seed)).tolist()
    return dict(zip((block.path for block in blocks), drawn, strict=True))
