"""Partial-k: the last k blocks and the final norm train."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Partial:
    """The last `blocks` blocks and the final norm: 7,089,408 parameters on ViT-B/16 with one block."""

    kind: Literal["partial"] = "partial"
    blocks: int = 1
    knob: ClassVar[str] = "blocks"

    def names(self, anatomy: Anatomy, parameters: dict[str, nn.Parameter]) -> tuple[str, ...]:
        """Parameters below the last blocks and the final norm; PlanError where there are fewer blocks."""
        if not 1 <= self.blocks <= len(anatomy.blocks):
            raise PlanError(
                f"`partial-{self.blocks}` needs {self.blocks} blocks, the backbone has {len(anatomy.blocks)}",
                hint="use `--method bias` or `--method linear` on a backbone without described blocks",
            )
        roots = [block.path for block in anatomy.blocks[-self.blocks :]]
        if anatomy.final_norm:
            roots.append(anatomy.final_norm)
        return tuple(n for n in parameters if any(n.startswith(root + ".") for root in roots))
