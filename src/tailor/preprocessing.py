"""How an image or a text becomes a backbone's input, as data: what a spec stores and the transforms carry out."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from tailor.errors import DataError
from tailor.inputs import Inputs
from tailor.settings import STRICT

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


SMALLEST_STD, SMALLEST_CROP = 1e-6, 0.1
"""Below these, pixels overflow and resized images fill the memory."""


@dataclass(frozen=True, config=STRICT)
class Preprocessing:
    """How an image becomes the model's input: `size` (H, W), and the mean and standard deviation of each channel.

    `squash` resizes both sides to size / crop_pct (VTAB's way: crop_pct 1), `center` the shorter side; both then take
    the central (H, W).
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"
    crop: Literal["squash", "center"] = "squash"
    crop_pct: float = 1.0

    reads: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise DataError(
                f"image size must be positive: {self.size[0]} x {self.size[1]}", hint="write for instance 224"
            )
        if not all(math.isfinite(mean) for mean in self.mean):
            raise DataError(f"the mean of every channel is a number: {self.mean}", hint="ImageNet's are near 0.45")
        if not all(SMALLEST_STD <= std < math.inf for std in self.std):
            raise DataError(
                f"the standard deviation of every channel must be positive: {self.std}", hint="ImageNet's are near 0.23"
            )
        if not SMALLEST_CROP <= self.crop_pct <= 1:
            raise DataError(
                f"crop_pct must be from {SMALLEST_CROP} to 1, found: {self.crop_pct}", hint="write for instance 0.9"
            )

    @property
    def inputs(self) -> Inputs:
        """What a model that is given such images is called with."""
        return Inputs.images(len(self.mean), *self.size)

    def __str__(self) -> str:
        return f"{self.size[0]} x {self.size[1]} px, {self.interpolation}, {self.crop}"

    @classmethod
    def of(
        cls, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], interpolation: Interpolation
    ) -> "Preprocessing":
        """That of a backbone with this configuration."""
        return cls(size, tuple(mean), tuple(std), interpolation)  # type: ignore[arg-type]  # three channels, checked


LONGEST_TEXT, LARGEST_VOCABULARY = 1 << 14, 1 << 24
"""Tokens that a text may have, and that there may be."""


@dataclass(frozen=True, config=STRICT)
class Tokens:
    """How a text becomes the model's input: by the tokeniser of the language model of that name, cut at `longest`.

    `vocabulary` is how many tokens the model knows.
    """

    tokeniser: str
    vocabulary: int
    longest: int = 256
    kind: Literal["tokens"] = "tokens"

    reads: ClassVar[str] = "texts"

    def __post_init__(self) -> None:
        if not 2 <= self.longest <= LONGEST_TEXT:
            raise DataError(
                f"texts of {self.longest} tokens cannot be", hint="write for instance `longest: 256` in the recipe"
            )
        if not 2 <= self.vocabulary <= LARGEST_VOCABULARY:
            raise DataError(f"a vocabulary of {self.vocabulary} tokens cannot be", hint="name another model")

    def __str__(self) -> str:
        return f"text of at most {self.longest} tokens, by the tokeniser of `{self.tokeniser}`"

    @property
    def size(self) -> tuple[int, int]:
        """(1, N): what stands for an image's height and width."""
        return (1, self.longest)

    @property
    def inputs(self) -> Inputs:
        """What a model that is given such texts is called with."""
        return Inputs.tokens(self.longest, self.vocabulary)


Input = Preprocessing | Tokens
"""What a spec may say of a model's input; `reads` names what it is made of."""
