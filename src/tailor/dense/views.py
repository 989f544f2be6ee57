"""How a segmenter looks at an image: at which scales, mirrored too or not, whole or in windows. Plain settings."""

import math
from dataclasses import dataclass

from tailor.errors import UsageError

SMALLEST, LARGEST = 0.1, 64.0
MOST_SIDE = 1 << 14
"""Pixels of the longer side of what is looked at."""


@dataclass(frozen=True)
class Views:
    """One look an entry of `scales`, relative to the size that the model was made for; with `flip` two.

    With `windows` what is larger than the model's own size is read in pieces of that size, which overlap by a third.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    windows: bool = False

    def __post_init__(self) -> None:
        if not self.scales or not all(SMALLEST <= scale <= LARGEST for scale in self.scales):
            raise UsageError(
                f"an image is looked at in {SMALLEST:g} to {LARGEST:g} times the model's size",
                hint="write for instance `--scales 0.75,1,1.25`",
            )

    @property
    def plain(self) -> bool:
        """Whether it is one look at the model's own size, as when nothing is said."""
        return self == Views(windows=self.windows)

    def sizes(self, own: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """(H, W) of each look by a model of size `own`; UsageError where one is too large."""
        if self.plain:
            return (own,)
        found = tuple((max(1, round(own[0] * scale)), max(1, round(own[1] * scale))) for scale in self.scales)
        if max(map(max, found)) > MOST_SIDE:
            raise UsageError(
                f"{max(self.scales):g} times {own[0]} x {own[1]} pixels are more than {MOST_SIDE:,} a side",
                hint="write smaller `--scales`",
            )
        return found

    def size(self, own: tuple[int, int]) -> tuple[int, int]:
        """(H, W) that images are read at: the largest look, from which the smaller ones are made."""
        return max(self.sizes(own))

    def share(self, batch: int) -> int:
        """Images of a batch that take no more memory than `batch` at the model's own size."""
        return max(1, math.floor(batch / max(1.0, *self.scales) ** 2))


ONCE = Views()
"""Once, at the model's own size: what is done where nothing is said."""


def read_views(scales: str | None, flip: bool, windows: bool) -> Views:
    """The views of flags: scales with commas. UsageError where one is no number."""
    try:
        numbers = tuple(float(part) for part in scales.split(",")) if scales else (1.0,)
    except ValueError:
        raise UsageError(f"`--scales {scales}` is no list of numbers", hint="write `--scales 0.75,1,1.25`") from None
    return Views(numbers, flip, windows)
