"""A copy of a model in which no layer hides behind a start near zero, for whoever compares a cut with its reference.

Layer scales start at 1e-6, last norms of a branch and some classifiers at zero: whatever a cut does wrong behind them,
the output hardly moves. What can be cut does not depend on the values, so a comparison may be made on others.
"""

import torch
from torch import Tensor, nn

from tailor.tracing.widths.cut import sharing

SCALE, WEIGHT = 0.1, 1e-3
"""Vectors and weights are near zero where no entry is larger; a fresh classifier draws its own with 0.02."""


def awakened(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in eval mode: vectors near zero (biases aside) drawn from 0.5 to 1.5, weights so that sizes stay.

    It shares all other values with the model.
    """
    awake = sharing(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in awake.named_parameters():
            if not name.endswith("bias") and parameter.numel():
                _awake_(parameter, generator)
    return awake


def _awake_(parameter: Tensor, generator: torch.Generator) -> None:
    largest = float(parameter.abs().max())
    if parameter.numel() == max(parameter.shape, default=1):  # a scale may also be (), (C, 1, 1) or (1, 1, C)
        if largest < SCALE:
            parameter.data = (0.5 + torch.rand(parameter.shape, generator=generator)).to(parameter)
    elif largest < WEIGHT:
        drawn = torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5
        parameter.data = drawn.to(parameter)
