"""SSF (Lian et al. 2022): after every operation, each channel is scaled and shifted: y = gamma * x + beta.

Operations are the patch projection, norms, linear layers and convolutions that the anatomy lists. gamma ~ N(1, 0.02^2)
and beta ~ N(0, 0.02^2): no identity at step 0. Merged into the operation itself: W' = diag(gamma) W, b' = gamma b +
beta, norms alike; exact, also where Swin pads. Deviation: what has no bias (RMS norms, a ResNet's convolutions, the qkv
of Eva and Swin v2) is scaled only, so that the merged model is the stock one, key for key. The paper's learning rates
are far above others' (1e-3 to 5e-2, chosen per task).
"""

import copy
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from timm.layers import LayerNorm2d, RmsNorm, RmsNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.surgery import computes_plainly
from tailor.tuning.layers import answers_for_base, innermost
from tailor.tuning.method import Geometry, Place, RowRanges

_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, nn.RMSNorm, RmsNorm, RmsNorm2d)
_CHANNELS_SECOND = (nn.Conv1d, nn.Conv2d, nn.GroupNorm, _BatchNorm, LayerNorm2d, RmsNorm2d)


@dataclass(frozen=True, config=STRICT)
class Ssf:
    """A scale and a shift per channel: 205,824 on ViT-B/16, 274,432 on Swin-B. `spread` is the start's deviation."""

    kind: Literal["ssf"] = "ssf"
    spread: float = 0.02

    identity: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    knob: ClassVar[str] = ""

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """Every operation that the anatomy lists."""
        return tuple(Place(path) for path in anatomy.operations)

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """Two per channel; one where there is no bias to take the shift."""
        operation = _operation(layer)
        weight: Tensor = operation.weight  # type: ignore[assignment]
        return weight.shape[0] * (2 if _shifts(operation) else 1)

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The operation with scale and shift behind it."""
        return ScaledShifted(layer, self.spread)

    def merge(self, module: nn.Module) -> nn.Module:
        """The operation with scaled weight and bias, in float64 and cast once."""
        assert isinstance(module, ScaledShifted)
        base = copy.deepcopy(module.base)
        operation = _operation(base)
        weight: nn.Parameter = operation.weight  # type: ignore[assignment]
        gamma = module.gamma.detach().double()
        with torch.no_grad():
            scaled = weight.double() * gamma.view(-1, *[1] * (weight.ndim - 1))
            weight.copy_(scaled.to(weight.dtype))
        if module.beta is not None:
            bias: nn.Parameter = operation.bias  # type: ignore[assignment]
            with torch.no_grad():
                bias.copy_((module.beta.double() + gamma * bias.double()).to(bias.dtype))
        return base


@answers_for_base
class ScaledShifted(nn.Module):
    """gamma * base(x) + beta over the channel axis of the operation's output."""

    def __init__(self, base: nn.Module, spread: float) -> None:
        super().__init__()
        operation = _operation(base)
        weight: Tensor = operation.weight  # type: ignore[assignment]
        channels = weight.shape[0]
        self.base = base
        self.channels_second = isinstance(operation, _CHANNELS_SECOND)
        self.gamma = nn.Parameter(weight.new_empty(channels).normal_(1.0, spread))
        self.beta = nn.Parameter(weight.new_empty(channels).normal_(0.0, spread)) if _shifts(operation) else None

    def forward(self, x: Tensor) -> Tensor:
        """The operation's own shapes."""
        y = self.base(x)
        shape = (-1, *[1] * (y.ndim - 2)) if self.channels_second else (-1,)
        gamma = self.gamma.to(y.dtype).view(shape)
        if self.beta is None:
            return y * gamma
        return torch.addcmul(self.beta.to(y.dtype).view(shape), y, gamma)


def _operation(layer: nn.Module) -> nn.Module:
    operation = innermost(layer)
    if not computes_plainly(operation) and not isinstance(operation, _NORMS):
        raise PlanError(
            f"`ssf` cannot be folded into a `{type(operation).__name__}`: its weight does not scale its whole output",
            hint="use `--method bias` or `--method lora`",
        )
    return operation


def _shifts(operation: nn.Module) -> bool:
    return getattr(operation, "bias", None) is not None
