"""Looking at a linear or convolution layer through whatever methods were put around it."""

from torch import nn


def plain(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    """The linear or convolution layer under any wrappers."""
    while not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        layer = layer.base  # type: ignore[assignment]
    return layer  # type: ignore[return-value]


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer or of a convolution seen as a matrix."""
    weight = plain(layer).weight
    return weight.shape[0], weight[0].numel()
