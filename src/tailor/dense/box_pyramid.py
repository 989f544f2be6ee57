"""The maps that torchvision's detectors read, of any backbone: strides of 8, 16 and 32 pixels, and one coarser."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from tailor.anatomy import Feature
from tailor.dense.pyramid import Pyramid


class BoxPyramid(nn.Module):
    """Four maps (B, width, H, W), finest first, through a feature pyramid network (Lin et al. 2017)."""

    def __init__(self, features: Sequence[Feature], width: int, norm: bool) -> None:
        super().__init__()
        self.pyramid = Pyramid(features, norm, skip=1)
        self.out_channels = width  # torchvision asks for it by this name
        self.network = FeaturePyramidNetwork(list(self.pyramid.channels), width, LastLevelMaxPool())

    @property
    def stride(self) -> int:
        """Of the coarsest map that comes from the backbone."""
        return self.pyramid.stride

    @property
    def strides(self) -> tuple[int, ...]:
        """Of all four."""
        return (self.stride // 4, self.stride // 2, self.stride, self.stride * 2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From the maps of the chosen features."""
        three = self.pyramid(maps)
        return list(self.network(OrderedDict((str(i), one) for i, one in enumerate(three))).values())

    def size(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        """(H, W) of the input that gave these four maps."""
        return (maps[2].shape[-2] * self.stride, maps[2].shape[-1] * self.stride)


def anchors(generator: AnchorGenerator, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(A, 4): the anchors of one image of `size`, level by level."""
    images = ImageList(maps[0].new_zeros(1, 1, *size), [size])
    return generator(images, [one[:1] for one in maps])[0]
