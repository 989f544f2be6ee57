"""Bias tuning (BitFit, Ben Zaken et al. 2022): every bias of linear, norm and convolution layers trains."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import nn

from tailor.anatomy import Anatomy
from tailor.settings import STRICT

_BIASES = ("bias", "q_bias", "v_bias")


@dataclass(frozen=True, config=STRICT)
class Bias:
    """All parameters named `bias`: 102,912 on ViT-B/16."""

    kind: Literal["bias"] = "bias"
    knob: ClassVar[str] = ""

    def names(self, anatomy: Anatomy, parameters: dict[str, nn.Parameter]) -> tuple[str, ...]:
        """Every bias, the classifier's left out."""
        return tuple(name for name in parameters if name.rsplit(".", 1)[-1] in _BIASES)
