"""What carries a model out, a row each: a module and its inputs in, something to call in the module's place out.

Models that are compared run in the same runtime and form. Names, and what a runtime needs, are known without torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tailor.deploy.packages import ONNX, check_installed
from tailor.errors import UsageError, nearest
from tailor.inputs import Inputs
from tailor.settings import Rows

if TYPE_CHECKING:
    from torch import nn

Name = Literal["eager", "compile", "onnx"]

RUNTIMES: "Rows[Callable[[nn.Module, Inputs], nn.Module]]" = Rows(
    {
        "eager": "tailor.deploy.runtimes.eager.eager",
        "compile": "tailor.deploy.runtimes.compiling.compiled",
        "onnx": "tailor.deploy.runtimes.onnx.session",
    }
)
PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ONNX}
"""What has to be installed beside tailor."""
ARRANGED = ("eager", "compile")
"""Those that leave the order of a tensor's channels to its owner."""


@dataclass(frozen=True)
class Runtime:
    """A runtime, and whether convolutions hold the channels of a pixel side by side."""

    name: str = "eager"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.channels_last and self.name not in ARRANGED:
            raise UsageError(
                f"channels last is nothing to ask of `{self.name}`: it orders its tensors itself",
                hint="leave `--channels-last` out",
            )

    def __str__(self) -> str:
        return self.name + (", channels last" if self.channels_last else "")


EAGER = Runtime()
"""PyTorch as it is."""


def check(name: str) -> None:
    """UsageError for an unknown name, TailorError where something that it needs is not installed."""
    if name not in RUNTIMES:
        raise UsageError(f"no runtime is called `{name}`", hint=nearest(name, [*RUNTIMES]))
    check_installed(*PACKAGES.get(name, ()))


def tried(name: str) -> None:
    """ModelError where the runtime does not work here, as one layer in it shows: told before anything takes long."""
    from torch import nn

    ready(nn.Linear(4, 4), Inputs.images(1, 2, 4), Runtime(name))


def ready(model: "nn.Module", inputs: Inputs, runtime: Runtime) -> "nn.Module":
    """What computes as the model does, in that runtime; ModelError where it cannot be had."""
    from tailor.deploy.runtimes.eager import side_by_side

    return RUNTIMES[runtime.name](side_by_side(model) if runtime.channels_last else model, inputs)
