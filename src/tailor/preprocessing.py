"""How an image becomes a backbone's input, as data: what a spec stores and what the transforms carry out."""

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tailor.errors import DataError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
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

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise DataError(
                f"image size must be positive: {self.size[0]} x {self.size[1]}", hint="write for instance 224"
            )
        if min(self.std) <= 0:
            raise DataError(
                f"the standard deviation of every channel must be positive: {self.std}", hint="ImageNet's are near 0.23"
            )
        if not 0 < self.crop_pct <= 1:
            raise DataError(f"crop_pct must be above 0 and at most 1: {self.crop_pct}", hint="write for instance 0.9")
