"""A segmenter that looks several times: the mean of its scores over scales, mirrored images and windows.

Every look's scores are resized to the largest one; what is asked of them is decided afterwards, at the image's size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.dense import decode
from tailor.dense.predictions import ScorePredictions
from tailor.dense.views import Views

STRIDE = 2 / 3
"""Of a window's side, from one window to the next."""


class Several(nn.Module):
    """The model, whose own input is `own` (H, W), as `views` says; images are given at the size of the largest look."""

    def __init__(self, model: nn.Module, views: Views, own: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.views, self.own = model, views, own

    def forward(self, images: Tensor) -> ScorePredictions:
        """Mean scores (B, C, H, W) for images (B, 3, H, W)."""
        size = (images.shape[-2], images.shape[-1])
        total: Tensor | None = None
        sizes = self.views.sizes(self.own)
        for look in sizes:
            given = images if look == size else F.interpolate(images, look, mode="bilinear", antialias=True)
            values = self._scores(given)
            if self.views.flip:
                values = (values + self._scores(given.flip(-1)).flip(-1)) / 2
            if look != size:
                values = F.interpolate(values, size, mode="bilinear", align_corners=False)
            total = values if total is None else total + values
        assert total is not None, "views have a scale"
        return ScorePredictions(total / len(sizes))

    def _scores(self, images: Tensor) -> Tensor:
        """(B, C, H, W): in one piece, or the mean of the windows that see a pixel."""
        height, width = images.shape[-2:]
        high, wide = (min(side, own) for side, own in zip((height, width), self.own, strict=True))
        if not self.views.windows or (high, wide) == (height, width):
            return decode.scores(self.model(images), (height, width))
        total, seen = None, images.new_zeros(1, 1, height, width)
        for top in starts(height, high):
            for left in starts(width, wide):
                part = (..., slice(top, top + high), slice(left, left + wide))
                values = decode.scores(self.model(images[part]), (high, wide))
                if total is None:
                    total = torch.zeros(*values.shape[:2], height, width, dtype=values.dtype, device=values.device)
                total[part] += values
                seen[part] += 1
        assert total is not None, "an image has a window"
        return total / seen


def starts(length: int, window: int) -> list[int]:
    """Where windows begin, evenly, at most two thirds of a window apart, the last one at the end."""
    steps = -(-(length - window) // max(1, int(STRIDE * window)))
    return [round(i * (length - window) / max(1, steps)) for i in range(steps + 1)]
