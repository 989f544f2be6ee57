"""What a decoder needs of a backbone: a few of its levels as maps, with their channels and strides as data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from tailor.anatomy import Feature


@dataclass(frozen=True)
class FeatureMaps:
    """Callable: images (B, 3, H, W) to one map (B, C, H / reduction, W / reduction) a level, in the model's order.

    It holds the model itself, not a copy: what is trained or wrapped in it is seen at the next call. After a cut of
    widths or a drop of blocks ask for the features anew, since channels and levels are other ones.
    """

    model: nn.Module
    levels: tuple[Feature, ...]
    maps: Callable[[nn.Module, Tensor, Sequence[Feature]], tuple[Tensor, ...]]

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps."""
        return self.maps(self.model, images, self.levels)

    @property
    def channels(self) -> tuple[int, ...]:
        """C by level."""
        return tuple(level.width for level in self.levels)

    @property
    def reductions(self) -> tuple[int, ...]:
        """Stride in pixels by level."""
        return tuple(level.reduction for level in self.levels)
