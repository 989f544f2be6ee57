"""Where a swap may take place: the attention and the MLP of each block, with the sizes that their costs follow from.

Read off the modules once, by the paths of the anatomy; everything else in this package goes by these data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from tailor.anatomy import Anatomy, Block
from tailor.backbones.windows import Windows, bias_macs, windows_of
from tailor.errors import ModelError
from tailor.pruning.convolve.plan import Other, Scope, Swap
from tailor.surgery import computes_plainly, get_module


@dataclass(frozen=True)
class AttentionPlace:
    """A self-attention: its widths, and the (rows, columns) of patches that its sequence ends with after `prefix`.

    `beside` are the MACs of a network that makes its position biases.
    """

    path: str
    inputs: int
    heads: int
    channels: int
    outputs: int
    prefix: int
    grid: tuple[int, int]
    windows: Windows | None = None
    beside: int = 0

    def convolved(self, scope: Scope) -> tuple[int, int]:
        """The grid that a convolution in its place sees."""
        return self.windows.size if self.windows and scope == "window" else self.grid

    def swap(self, operation: Other, scope: Scope) -> Swap:
        """The swap of this attention for something else."""
        whole = self.windows is not None and scope == "map"
        return Swap(self.path, operation, self.inputs, self.channels, self.outputs, self.convolved(scope), whole)


@dataclass(frozen=True)
class HiddenPlace:
    """The hidden units of an MLP: one costs `fed` products a token in the layers before `last`, and `outputs` in it."""

    path: str
    last: str
    units: int
    fed: int
    outputs: int
    tokens: int


@dataclass(frozen=True)
class Slot:
    """A block with what may change in it; None where that has gone or is of a kind that cannot."""

    block: str
    attention: AttentionPlace | None
    hidden: HiddenPlace | None


def find_places(model: nn.Module, anatomy: Anatomy) -> tuple[Slot, ...]:
    """The blocks of `model`; ModelError where it has no blocks with a plain self-attention on a grid of patches."""
    if not anatomy.blocks:
        raise _unfit(model, "its blocks are not known", anatomy.family)
    if not any(block.attention or block.convolution for block in anatomy.blocks):
        raise _unfit(model, "its blocks have no attention", anatomy.family)
    return tuple(_place(model, anatomy, block) for block in anatomy.blocks)


def heads_of(places: Sequence[Slot]) -> tuple[Slot, ...]:
    """The heads of every attention as if they were hidden units of the layer behind them, and nothing else."""
    return tuple(Slot(place.block, None, _heads(place.attention) if place.attention else None) for place in places)


def _heads(at: AttentionPlace) -> HiddenPlace:
    """Weights into a head and out of it, and its products with each token that it sees."""
    tokens = prod(at.windows.padded) if at.windows else prod(at.grid) + at.prefix
    seen = prod(at.windows.size) if at.windows else tokens
    fed = at.channels * (3 * at.inputs + 2 * seen)
    return HiddenPlace(at.path, f"{at.path}.proj", at.heads, fed, at.channels * at.outputs, tokens)


def value_bias(attention: Any, qkv: nn.Linear) -> Tensor | None:
    """The bias (heads * channels,) of an attention's values, in `qkv` or beside it; None where it has none."""
    if qkv.bias is not None:
        return qkv.bias[2 * len(qkv.bias) // 3 :]
    beside: Tensor | None = getattr(attention, "v_bias", None)
    return beside


def _place(model: nn.Module, anatomy: Anatomy, block: Block) -> Slot:
    module: Any = get_module(model, block.path)
    windows = windows_of(module) if block.attention_layout == "windows" else None
    grid = windows.map if windows else anatomy.grid
    if grid is None:
        raise _unfit(model, "its patches have no fixed grid of rows and columns", anatomy.family)
    attention = None
    if block.attention:
        attention = _attention(model, block.attention, 0 if windows else anatomy.prefix, grid, windows)
    tokens = grid[0] * grid[1] + (0 if windows else anatomy.prefix)
    hidden = _hidden(model, block.mlp, tokens) if block.mlp else None
    return Slot(block.path, attention, hidden)


def _attention(
    model: nn.Module, path: str, prefix: int, grid: tuple[int, int], windows: Windows | None
) -> AttentionPlace:
    """The sizes of a timm attention with a fused `qkv` and nothing between its heads and `proj`."""
    module: Any = get_module(model, path)
    for name in ("qkv", "proj"):
        layer = getattr(module, name, None)
        if not isinstance(layer, nn.Linear) or not computes_plainly(layer):
            found = "nothing" if layer is None else f"a `{type(layer).__name__}`"
            raise ModelError(
                f"`{path}.{name}` is {found}, a convolution is read from plain linear layers",
                hint="merge the bundle first with `tailor merge`, or take another backbone",
            )
    between = getattr(module, "norm", None)
    if getattr(module, "gate", None) is not None or not (between is None or isinstance(between, nn.Identity)):
        raise ModelError(
            f"`{path}` norms or gates what its heads give, so no convolution shares its weights",
            hint="take another backbone, or `--method isomorphic`",
        )
    qkv, proj, heads = module.qkv, module.proj, int(module.num_heads)
    channels, rest = divmod(qkv.out_features, 3 * heads)
    if rest or proj.in_features != heads * channels:
        raise ModelError(
            f"the heads of `{path}` have different widths for queries and values", hint="use `--method isomorphic`"
        )
    return AttentionPlace(
        path, qkv.in_features, heads, channels, proj.out_features, prefix, grid, windows, bias_macs(module)
    )


def _hidden(model: nn.Module, path: str, tokens: int) -> HiddenPlace | None:
    """The MLP's hidden units; None where it has no last layer `fc2`, or norms the units before it."""
    module: Any = get_module(model, path)
    last = getattr(module, "fc2", None)
    if not isinstance(last, nn.Linear) or not isinstance(getattr(module, "norm", nn.Identity()), nn.Identity):
        return None
    layers = [m for m in module.modules() if isinstance(m, nn.Linear) and m is not last]
    fed = sum(layer.weight.numel() for layer in layers) // last.in_features
    return HiddenPlace(path, f"{path}.fc2", last.in_features, fed, last.out_features, tokens)


def _unfit(model: nn.Module, why: str, family: str) -> ModelError:
    return ModelError(
        f"attention cannot become convolution in `{type(model).__name__}` (family `{family}`): {why}",
        hint="use `--method isomorphic`, which cuts the widths of any backbone",
    )
