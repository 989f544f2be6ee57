"""The losses of dense tasks, one number an image: (B,).

Masks (Mask2Former's): classes by cross-entropy, matched masks by cross-entropy and dice at points where the prediction
is least sure, at every depth. Deviations: an image is a mean over its own objects, so that a batch is the sum of its
images, whatever the process or step they are in (published: over the objects of the whole batch); pixels without a
known label are left out of every sum (published: they count as outside of each object), and so is an image with none.
"""

from collections.abc import Sequence
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from tailor.dense import points
from tailor.dense.matching import CLASS, DICE, MASK, match
from tailor.dense.predictions import IGNORE, MaskPredictions, Objects, PixelPredictions, ScorePredictions, objects

NO_OBJECT = 0.1
"""Weight of a query that answers for nothing, in the cross-entropy of classes."""
AUXILIARY = 0.4
"""Weight of the loss of each auxiliary head."""


@singledispatch
def loss(found: object, maps: Tensor) -> Tensor:
    """(B,): how far predictions are from label maps (B, H, W) with 255 where nothing is known."""
    raise AssertionError(f"no loss for {type(found).__name__}")


def of_one_size(maps: Tensor | Sequence[Tensor]) -> Tensor:
    """Label maps (B, H, W), of images of several sizes as well: those of another than the first are resized to it."""
    if isinstance(maps, Tensor):
        return maps.long()
    size = maps[0].shape[-2:]
    same = [m if m.shape == size else F.interpolate(m[None, None].float(), size=size)[0, 0] for m in maps]
    return torch.stack([m.long() for m in same])


@loss.register
def _masks(found: MaskPredictions, maps: Tensor) -> Tensor:
    return of_objects(found, objects(maps))


@loss.register
def _pixels(found: PixelPredictions, maps: Tensor) -> Tensor:
    total = by_pixel(found.logits, maps)
    for logits in found.auxiliary:
        total = total + AUXILIARY * by_pixel(logits, maps)
    return total


@loss.register
def _scores(found: ScorePredictions, maps: Tensor) -> Tensor:
    share = found.values / found.values.sum(1, keepdim=True).clamp(min=1e-12)
    return by_pixel(share.clamp(min=1e-12).log(), maps)


def by_pixel(logits: Tensor, maps: Tensor) -> Tensor:
    """(B,): mean cross-entropy over the known pixels of maps (B, H, W), logits (B, C, h, w) resized to them."""
    resized = F.interpolate(logits.float(), size=maps.shape[-2:], mode="bilinear", align_corners=False)
    each = F.cross_entropy(resized, maps, ignore_index=IGNORE, reduction="none")
    return each.sum((1, 2)) / (maps != IGNORE).sum((1, 2)).clamp(min=1)


def of_objects(
    found: MaskPredictions,
    wanted: Sequence[Objects],
    most: int = points.POINTS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B,): the loss of every depth, summed; at most `most` points an object and depth."""
    with torch.autocast(found.classes.device.type, enabled=False):
        full = MaskPredictions(*(tensor.float() if tensor.dtype.itemsize < 4 else tensor for tensor in found))
        height, width = wanted[0].valid.shape
        number = points.count(height, width, most)
        queries = match(full, wanted, points.draw(number, full.pixels, generator))
        anything = torch.stack([one.valid.any() for one in wanted])
        classes = _classes(full.classes, wanted, queries)
        return (CLASS * classes + _at_points(full, wanted, queries, number, generator)) * anything


def _classes(logits: Tensor, wanted: Sequence[Objects], queries: Tensor) -> Tensor:
    """(B,): weighted cross-entropy of all queries of an image, summed over depths."""
    depths, batch, number, classes = logits.shape
    target = torch.full((depths, batch, number), classes - 1, device=logits.device)
    for image, one in enumerate(wanted):
        for depth in range(depths):
            answering = queries[depth, image, : len(one.labels)]
            target[depth, image, answering[answering >= 0]] = one.labels[answering >= 0]
    each = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view_as(target)
    weight = torch.where(target == classes - 1, NO_OBJECT, 1.0).to(each.dtype)
    return ((each * weight).sum(-1) / weight.sum(-1)).sum(0)


def _at_points(
    found: MaskPredictions,
    wanted: Sequence[Objects],
    queries: Tensor,
    number: int,
    generator: torch.Generator | None,
) -> Tensor:
    """(B,): cross-entropy and dice of the matched masks, a mean over an image's objects, summed over depths."""
    depths, batch, most = queries.shape
    nothing = found.queries.sum((0, 2, 3)) * 0 + found.pixels.sum((1, 2, 3)) * 0  # keeps every tensor in the graph
    if not most:
        return nothing
    image = torch.cat([torch.full((len(one.labels),), i) for i, one in enumerate(wanted)]).to(queries.device)
    there = torch.arange(most, device=queries.device) < torch.tensor(
        [len(one.labels) for one in wanted], device=queries.device
    ).unsqueeze(1)  # (B, G)
    each = queries.permute(1, 2, 0)[there]  # (T, D), object by object
    answered = each >= 0
    chosen = found.queries.permute(1, 2, 0, 3)  # (B, N, D, E)
    depth = torch.arange(depths, device=queries.device)
    picked = chosen[image[:, None], each.clamp(min=0), depth]  # (T, D, E)
    parts = [picked[image == i] @ found.pixels[i].flatten(1) for i in range(batch)]
    masks = torch.cat(parts).unflatten(2, found.pixels.shape[-2:])  # (T, D, h, w)
    truth = torch.cat([one.masks for one in wanted])[:, None].float()  # (T, 1, H, W)
    valid = torch.stack([one.valid for one in wanted])[image]
    places = _unsure(masks.detach(), valid, number, generator)  # (T, D, P, 2)
    logits = points.at(masks.flatten(0, 1)[:, None], places.flatten(0, 1)[:, None]).view(*masks.shape[:2], -1)
    target = points.at(truth, places)[:, 0]
    usable = points.known(valid, places).to(logits.dtype)
    crossed = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none") * usable
    inside, target = logits.sigmoid() * usable, target * usable
    overlap = 1 - (2 * (inside * target).sum(-1) + 1) / (inside.sum(-1) + target.sum(-1) + 1)
    both = MASK * crossed.sum(-1) / usable.sum(-1).clamp(min=1) + DICE * overlap  # (T, D)
    total = (both * answered).sum(1)
    share = there.sum(1).clamp(min=1)
    return nothing.index_add(0, image, total) / share


def _unsure(masks: Tensor, valid: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
    """(T, D, P, 2): for each mask (T, D, h, w) the points where it is least sure, and some more anywhere."""
    objects_, depths = masks.shape[:2]
    candidates = points.draw(points.OVERSAMPLE * number, masks, generator)
    hard = int(points.IMPORTANCE * number)
    usable = points.known(valid, candidates)[:, None].expand(-1, depths, -1)
    worst = points.uncertain(points.at(masks, candidates), usable, hard)
    anywhere = points.draw(number - hard, masks, generator).expand(objects_, depths, -1, -1)
    return torch.cat([candidates[worst], anywhere], 2)
