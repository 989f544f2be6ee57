"""Full fine-tuning: every parameter trains. The upper bound in cost that every other method is measured against."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import nn

from tailor.anatomy import Anatomy
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Full:
    """All parameters of the backbone."""

    kind: Literal["full"] = "full"
    knob: ClassVar[str] = ""

    def names(self, anatomy: Anatomy, parameters: dict[str, nn.Parameter]) -> tuple[str, ...]:
        """Every parameter."""
        return tuple(parameters)
