"""`torch.compile` for a measurement: tried once, so that a machine without a compiler is told in a sentence."""

import torch
from torch import nn

from tailor.errors import ModelError
from tailor.inputs import Example
from tailor.tracing.graph.export import quiet


def compiled(model: nn.Module, example: Example) -> nn.Module:
    """The model behind `torch.compile` with fixed shapes; ModelError where that does not work here."""
    ready = torch.compile(model.eval(), dynamic=False)
    try:
        with torch.inference_mode(), quiet():
            ready(*example)
    except Exception as error:  # the compiler's own, its back end's, and whatever the model raises under it
        raise _explained(error) from None
    return ready  # type: ignore[return-value]


def _explained(error: BaseException) -> ModelError:
    text = f"{type(error).__name__}: {error}"
    if "CxxCompiler" in text or "C++ compiler" in text:
        return ModelError(
            "`torch.compile` needs a C++ compiler, and none works here",
            hint="install one (`apt-get install g++`), or measure without `--compile`",
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(f"`torch.compile` does not work here: {reason}", hint="measure without `--compile`")
