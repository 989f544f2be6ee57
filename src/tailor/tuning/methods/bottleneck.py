"""The small network that most adapters are: down to a few channels, a non-linearity, dropout, and up again.

`up` and both biases start at zero, so that adding its output changes nothing at first. Which non-linearity, which start
for `down`, what goes in and where the output is added is each method's own decision.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x): the cheap approximation of GELU that NOAH and Convpass use."""
    return x * torch.sigmoid(1.702 * x)


class Bottleneck(nn.Module):
    """up(dropout(activation(down(x)))) over the channels: the last axis, or axis 1 before `space` axes of positions."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[Tensor], Tensor],
        like: Tensor,
        dropout: float = 0.0,
        space: int = 0,
        start: Callable[[Tensor], Any] = nn.init.xavier_uniform_,
    ) -> None:
        super().__init__()
        make = (nn.Linear, partial(nn.Conv1d, kernel_size=1), partial(nn.Conv2d, kernel_size=1))[space]
        self.down = make(width, hidden, device=like.device, dtype=like.dtype)
        self.up = make(hidden, width, device=like.device, dtype=like.dtype)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        start(self.down.weight)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as `x`."""
        return self.up(self.dropout(self.activation(self.down(x))))


def cost(width: int, hidden: int) -> int:
    """Parameters of a bottleneck: 2dk + k + d."""
    return 2 * width * hidden + hidden + width
