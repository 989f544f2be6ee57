"""Shallow visual prompt tuning (Jia et al. 2022): learned tokens join at the first block and travel through all.

Deviation: they are taken out after the last block, so that pooling over patches, features and decoders see what they
expect; the class token is the same either way. On Swin the paper's prompts pass through window partition and patch
merging, for which timm's maps have no room: refused. Not mergeable.
"""

import dataclasses
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import nn

from tailor.anatomy import Anatomy
from tailor.settings import STRICT
from tailor.tuning.method import Geometry, Place, RowRanges, undefined
from tailor.tuning.methods.vpt_deep import PromptedBlock, token_blocks


@dataclass(frozen=True, config=STRICT)
class VptShallow:
    """Tokens at the first block: p d parameters (38,400 on ViT-B/16 with 50)."""

    kind: Literal["vpt-shallow"] = "vpt-shallow"
    prompts: int = 10
    dropout: float = 0.0

    identity: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    knob: ClassVar[str] = "prompts"

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """The first block, where the prompts join, and the last, after which they leave."""
        if any(block.attention_layout == "windows" for block in anatomy.blocks):
            raise undefined(self.kind, anatomy, "prompts cannot travel through its patch merging", "vpt-deep")
        places = token_blocks(anatomy, self.kind)
        if len(places) == 1:
            return places
        return (_at(places[0], enters=True, leaves=False), _at(places[-1], enters=False, leaves=True))

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """p d where they join, nothing where they leave."""
        assert geometry is not None
        return self.prompts * geometry.width if geometry.enters else 0

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The block at which prompts join or leave."""
        assert geometry is not None
        return PromptedBlock(layer, self.prompts, geometry, self.dropout)


def _at(place: Place, enters: bool, leaves: bool) -> Place:
    assert place.geometry is not None
    return dataclasses.replace(place, geometry=dataclasses.replace(place.geometry, enters=enters, leaves=leaves))
