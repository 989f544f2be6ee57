"""What stands in an attention's place after the swap: a bottleneck convolution over the patch tokens, or nothing.

Plain modules without settings of the search: they can be traced, tuned, exported and filled from a file like any other.
"""

import torch
from torch import Tensor, nn

from tailor.pruning.convolve.plan import Order, Skip, Swap


class TokenConvolution(nn.Module):
    """Convolution to D channels, batch norm and ReLU, linear layer back, on tokens (B, N, C) that end with a grid.

    What comes before the grid's height * width tokens (class, registers, prompts) passes through unchanged. `norm` is
    the identity once it is folded. Everything beyond the first argument (masks, rotary positions) means nothing here.
    """

    replaces_attention = "convolution"

    def __init__(self, swap: Swap, order: Order, folded: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        size = swap.kernel
        self.grid = swap.grid
        self.order = order
        self.conv = nn.Conv2d(swap.inputs, swap.channels, size, padding=size // 2, dtype=dtype)
        self.norm = nn.Identity() if folded else nn.BatchNorm2d(swap.channels, dtype=dtype)
        self.act = nn.ReLU()
        self.proj = nn.Linear(swap.channels, swap.outputs, dtype=dtype)

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """(B, N, C) as (B, N, C)."""
        before = x.shape[1] - self.grid[0] * self.grid[1]
        y = self.conv(x[:, before:].transpose(1, 2).unflatten(2, self.grid))
        y = self.act(self.norm(y)) if self.order == "bn-relu" else self.norm(self.act(y))
        y = self.proj(y.flatten(2).transpose(1, 2))
        return torch.cat([x[:, :before], y], 1) if before else y


class NoAttention(nn.Module):
    """Adds nothing (`zero`), or, as the fine-tuning of the released models has it, its own input (`norm`)."""

    replaces_attention = "nothing"

    def __init__(self, skip: Skip) -> None:
        super().__init__()
        self.skip = skip

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """(B, N, C) as (B, N, C)."""
        return torch.zeros_like(x) if self.skip == "zero" else x
