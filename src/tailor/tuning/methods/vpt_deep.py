"""Deep visual prompt tuning (Jia et al. 2022): every block sees its own learned tokens, whose outputs are dropped.

Plain ViT: `prompts` tokens stand after the prefix tokens at the block's input and are taken out of its output, which is
the paper's overwriting at every block. Swin: every window's attention sees them as keys and values. Deviations: on Swin
they stand behind `norm1` (the paper's pass through it) and skip the MLP, whose output for them would be dropped anyway;
the start, uniform(-v, v), takes 16 for the patch size throughout; `norm2` and the head see patches only. No merging.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.backbones.windows import attend, is_window_attention
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, innermost, like
from tailor.tuning.method import Geometry, Place, RowRanges, Slices, block_places, undefined


@dataclass(frozen=True, config=STRICT)
class VptDeep:
    """Tokens at every block: L p d parameters (460,800 on ViT-B/16 with 50); 12,032 p on Swin-B."""

    kind: Literal["vpt-deep"] = "vpt-deep"
    prompts: int = 10
    dropout: float = 0.0

    identity: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    knob: ClassVar[str] = "prompts"

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """Every block of a plain ViT; where attention looks at windows, as in a Swin, every one of these."""
        if any(block.attention_layout == "windows" for block in anatomy.blocks):
            return block_places(anatomy, self.kind, "attention")
        return token_blocks(anatomy, self.kind)

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """p d."""
        assert geometry is not None
        return self.prompts * geometry.width

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The block or the window attention, with its prompts."""
        assert geometry is not None
        if geometry.layout == "windows":
            return PromptedWindows(layer, self.prompts, geometry.width, self.dropout)
        return PromptedBlock(layer, self.prompts, geometry, self.dropout)


def token_blocks(anatomy: Anatomy, kind: str) -> tuple[Place, ...]:
    """The blocks of a plain ViT; PlanError where extra tokens have no place in the sequence."""
    if not anatomy.blocks:
        raise undefined(kind, anatomy, "its blocks are not known")
    if not any(block.attention for block in anatomy.blocks):
        raise undefined(kind, anatomy, "prompts are tokens, and it has no attention that could read them")
    if anatomy.rotary:
        raise undefined(kind, anatomy, "its rotary position embedding has no position for a prompt")
    return tuple(Place(b.path, geometry=Geometry(b.width, b.attention_layout, anatomy.prefix)) for b in anatomy.blocks)


def fresh(prompts: int, width: int, like: Tensor) -> nn.Parameter:
    """Prompts (p, C), uniform within sqrt(6 / (3 * 16^2 + C)): 0.0625 on ViT-B/16."""
    bound = math.sqrt(6.0 / (3 * 16**2 + width))
    return nn.Parameter(like.new_empty(prompts, width).uniform_(-bound, bound))


@answers_for_base
class PromptedBlock(nn.Module):
    """A block of a plain ViT whose sequence is longer by the prompts. Shapes (B, N, C) as the geometry says."""

    kind: ClassVar[str] = "vpt-deep"
    slices: ClassVar[Slices] = {"prompts": 0}

    def __init__(self, base: nn.Module, prompts: int, geometry: Geometry, dropout: float = 0.0) -> None:
        super().__init__()
        names = [name for name, _ in base.named_parameters()]
        if any(name.endswith("relative_position_bias_table") for name in names):
            raise PlanError(
                "prompts need a sequence of any length: the block's position biases are a table for exactly its tokens",
                hint="use `--method lora`, or a backbone with a position embedding",
            )
        self.base = base
        self.num_prompts, self.num_prefix_tokens = prompts, geometry.prefix
        self.enters, self.leaves = geometry.enters, geometry.leaves
        if self.enters:
            self.prompts = fresh(prompts, geometry.width, like(base))
            self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The block's output; with `enters` the prompts join before it, with `leaves` they are taken out after it."""
        prefix = self.num_prefix_tokens
        if self.enters:
            prompts = self.dropout(self.prompts).to(x.dtype).expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, :prefix], prompts, x[:, prefix:]], dim=1)
        y = self.base(x, *args, **kwargs)
        if self.leaves:
            count = self.prompts.shape[0] if self.enters else self.num_prompts
            y = torch.cat([y[:, :prefix], y[:, prefix + count :]], dim=1)
        return y


@answers_for_base
class PromptedWindows(nn.Module):
    """A Swin window attention whose windows all see the same prompts. Shapes (B * windows, N, C)."""

    kind: ClassVar[str] = "vpt-deep"
    slices: ClassVar[Slices] = {"prompts": 0}

    def __init__(self, base: nn.Module, prompts: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        if innermost(base) is not base or not is_window_attention(base):
            raise PlanError(
                f"prompts cannot join a `{type(innermost(base)).__name__}`: its windows are not described",
                hint="apply `vpt-deep` before other methods at the same attention, or use `--method lora`",
            )
        self.base = base
        self.prompts = fresh(prompts, width, like(base))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention's output for the window's own tokens."""
        return attend(self.base, x, self.dropout(self.prompts).to(x.dtype), mask)
