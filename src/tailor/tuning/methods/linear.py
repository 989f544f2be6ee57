"""Linear probing: the backbone is frozen, the classifier trains."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import nn

from tailor.anatomy import Anatomy
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Linear:
    """Nothing of the backbone."""

    kind: Literal["linear"] = "linear"
    knob: ClassVar[str] = ""

    def names(self, anatomy: Anatomy, parameters: dict[str, nn.Parameter]) -> tuple[str, ...]:
        """No parameter."""
        return ()
