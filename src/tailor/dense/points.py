"""Reading maps at points: masks are compared at some points instead of at all pixels (PointRend, Kirillov et al. 2020).

Points are x and y as shares of the image, so that a prediction and a target of another size are read at the same place.
All draws come from torch's default generator or the one given; one set of points serves all images and depths, so that
an image's points do not depend on what else is in its batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = 12_544
"""As published, where crops have 512 pixels a side or more; on small images an eighth of the pixels, yet `FEWEST`."""
FEWEST = 1024
OVERSAMPLE, IMPORTANCE = 3, 0.75
"""Of three times as many points, three quarters are those where the prediction is least sure; the rest are any."""


def count(height: int, width: int, most: int = POINTS) -> int:
    """How many points represent an image of that size."""
    return min(most, max(height * width // 8, min(height * width, FEWEST)))


def draw(number: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(number, 2) places in the image."""
    return torch.rand(number, 2, generator=generator, device=like.device, dtype=torch.float32)


def at(maps: Tensor, points: Tensor) -> Tensor:
    """(B, C, ...): maps (B, C, H, W) read bilinearly at points (P, 2), for all the same, or (B, ..., P, 2)."""
    grid = 2 * points.to(maps.dtype) - 1
    if grid.ndim == 2:
        grid = grid.expand(len(maps), 1, -1, -1)
        return F.grid_sample(maps, grid, align_corners=False)[:, :, 0]
    return F.grid_sample(maps, grid, align_corners=False)


def known(valid: Tensor, points: Tensor) -> Tensor:
    """(B, ..., P) bool: where the pixels around a point are all valid; `valid` (B, H, W), points as in `at`."""
    grid = 2 * points.to(torch.float32) - 1
    shared = grid.ndim == 2
    if shared:
        grid = grid.expand(len(valid), 1, -1, -1)
    read = F.grid_sample(valid[:, None].float(), grid, padding_mode="border", align_corners=False)[:, 0]
    return (read[:, 0] if shared else read) > 1 - 1e-4


def uncertain(logits: Tensor, usable: Tensor, number: int) -> Tensor:
    """(..., number): the positions among points (..., P) where logits are nearest to zero, usable ones first."""
    doubt = logits.abs().masked_fill(~usable, float("inf"))
    return doubt.topk(number, dim=-1, largest=False, sorted=False).indices
