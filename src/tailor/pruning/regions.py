"""Means of a map over regions of its image: what SLS takes for a sample where images hold several labelled things.

A region is a box or a mask; each cell of the map counts by the share of it that the region covers, so small regions
have a mean as well, and a region that is the whole image has the map's own mean.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tailor.errors import PlanError


def means(maps: Tensor, regions: Sequence[Tensor], size: tuple[int, int], sources: Sequence[str]) -> Tensor:
    """(R, C): the mean of each region, image by image, of `maps` (B, H, W, C), for images of `size` (height, width).

    `regions` holds for each image boxes (n, 4), x0 y0 x1 y1 in pixels, or masks (n, height, width).
    """
    found = [maps.new_zeros(0, maps.shape[-1])]
    for image, those, source in zip(maps, regions, sources, strict=True):
        shares = coverage(those, size, (image.shape[0], image.shape[1]), source).to(image)
        weights = shares / shares.sum((1, 2), keepdim=True)
        found.append(torch.einsum("nhw,hwc->nc", weights, image))
    return torch.cat(found)


def coverage(regions: Tensor, size: tuple[int, int], grid: tuple[int, int], source: str = "") -> Tensor:
    """(n, h, w): how much of each cell of the grid each region covers, from 0 to 1; PlanError where one covers none."""
    if regions.ndim == 3 and tuple(regions.shape[1:]) == size:
        shares = F.adaptive_avg_pool2d(regions.float(), grid)
    elif regions.ndim == 2 and regions.shape[1] == 4:
        x0, y0, x1, y1 = regions.float().unbind(1)
        shares = _along(y0, y1, size[0], grid[0])[:, :, None] * _along(x0, x1, size[1], grid[1])[:, None, :]
    else:
        raise PlanError(
            f"regions of `{source}` have shape {tuple(regions.shape)}",
            hint=f"give boxes (n, 4) in pixels, or masks (n, {size[0]}, {size[1]}) of the model's input",
        )
    empty = (shares.sum((1, 2)) <= 0).nonzero()
    if len(empty):
        raise PlanError(f"region {int(empty[0])} of `{source}` covers nothing of the image", hint="leave it out")
    return shares


def _along(start: Tensor, stop: Tensor, pixels: int, cells: int) -> Tensor:
    """(n, cells): the share of each cell of a line of `pixels` that lies between start and stop."""
    edges = torch.arange(cells + 1) * (pixels / cells)
    inside = torch.minimum(stop[:, None], edges[1:]) - torch.maximum(start[:, None], edges[:-1])
    return inside.clamp(min=0) * (cells / pixels)
