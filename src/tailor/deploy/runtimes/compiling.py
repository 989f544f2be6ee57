"""`torch.compile`: tried once, so that a machine without a compiler is told in a sentence."""

from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from tailor.errors import ModelError
from tailor.inputs import Inputs
from tailor.measure.speed import home
from tailor.tracing.graph.export import quiet


class Compiled(nn.Module):
    """A model behind `torch.compile`, shapes fixed.

    Called through a function of its own: what was compiled is kept by function, a few versions each, and after some
    models of one class but other widths the next would run uncompiled, without a word.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model
        own = FunctionType(_call.__code__.replace(), globals())
        self.compiled = torch.compile(own, dynamic=False)

    def forward(self, *example: Tensor) -> Any:
        """What the model gives."""
        return self.compiled(self._orig_mod, *example)


def _call(model: nn.Module, *example: Tensor) -> Any:
    return model(*example)


def compiled(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The model behind `torch.compile` with fixed shapes; ModelError where that does not work here."""
    device, dtype = home(model)
    example = tuple(one[:1] for one in inputs.example(device=device, dtype=dtype))
    ready = Compiled(model).eval()
    try:
        with torch.inference_mode(), quiet():
            ready(*example)
    except Exception as error:  # the compiler's own, its back end's, and whatever the model raises under it
        raise _explained(error) from None
    return ready


def _explained(error: BaseException) -> ModelError:
    text = f"{type(error).__name__}: {error}"
    if "CxxCompiler" in text or "C++ compiler" in text:
        return ModelError(
            "`torch.compile` needs a C++ compiler, and none works here",
            hint="install one (`apt-get install g++`), or take `--runtime eager`",
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(f"`torch.compile` does not work here: {reason}", hint="take `--runtime eager`")
