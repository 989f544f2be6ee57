"""What attention looks at: its probabilities, averaged over images, and how far it looks on average."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailor.pruning.convolve.places import AttentionPlace, Slot
from tailor.surgery import get_module


@torch.no_grad()
def probabilities(model: nn.Module, places: Sequence[Slot], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The mean probabilities (heads, queries, keys) of every attention, over images and windows, by its block.

    Read where the attention drops some of them out, on the way that computes them; the model is left as it was.
    """
    attentions = {p.block: get_module(model, p.attention.path) for p in places if p.attention}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    fused = {block: attention.fused_attn for block, attention in attentions.items()}
    hooks = []
    for block, attention in attentions.items():

        def keep(_: nn.Module, given: tuple[Any, ...], block: str = block) -> None:
            sums[block] = sums.get(block, 0) + given[0].double().sum(0)  # type: ignore[assignment]
            counts[block] = counts.get(block, 0) + len(given[0])

        attention.fused_attn = False  # type: ignore[assignment]
        hooks.append(attention.attn_drop.register_forward_pre_hook(keep))  # type: ignore[union-attr, operator]
    training = model.training
    try:
        model.eval()
        for images in batches:
            model(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
        for block, attention in attentions.items():
            attention.fused_attn = fused[block]
    return {block: total / counts[block] for block, total in sums.items()}


def distance(probability: Tensor, attention: AttentionPlace) -> list[float]:
    """How far each head looks, in patches: the mean over the queries, each patch weighted by its probability.

    Class token and registers are left out, and the probabilities of the patches taken as a whole.
    """
    rows, columns = attention.windows.size if attention.windows else attention.grid
    inside = probability[:, -rows * columns :, -rows * columns :].double()
    inside = inside / inside.sum(-1, keepdim=True)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], 1).double()
    return (inside * torch.cdist(places, places)).sum(-1).mean(-1).tolist()  # type: ignore[no-any-return]
