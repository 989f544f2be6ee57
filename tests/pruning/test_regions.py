"""Features of regions: the whole image is the pooled map, parts add up to it, and nothing is silently empty."""

from typing import NamedTuple

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.errors import PlanError
from tailor.pruning.layers import choose
from tailor.pruning.regions import coverage, means
from tailor.pruning.settings import Sls
from tailor.pruning.sls import collect, collect_regions, measure


class Batch(NamedTuple):
    images: torch.Tensor
    targets: tuple
    sources: tuple
    regions: tuple = ()


def a_batch(model, regions):
    """Three images, the regions of each, every one of its own class."""
    x = tiny.images(model, 3)
    return Batch(x, tuple(torch.arange(len(one)) for one in regions), ("a.png", "b.png", "c.png"), tuple(regions))


@pytest.mark.parametrize("family", ["swin", "convnext", "convnext_nchw", "resnet"])
@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_a_region_that_is_the_whole_image_gives_the_pooled_map(family, kind):
    model = tiny.MODELS[family]()
    anatomy, (height, width) = describe(model), tiny.images(model).shape[-2:]
    whole = torch.tensor([[0, 0, width, height]]) if kind == "boxes" else torch.ones(1, height, width)
    batch = a_batch(model, [whole] * 3)
    found = collect_regions(model, anatomy, [batch])
    pooled = collect(model, anatomy, [batch._replace(targets=torch.arange(3))])
    for mine, theirs in zip(found.values, pooled.values, strict=True):
        assert_close(mine, theirs)
    assert found.fixed == pooled.fixed


def test_tokens_are_pooled_where_they_stand():
    model = tiny.vit()
    kept = []
    model.blocks[0].register_forward_hook(lambda m, given, out: kept.append(out[:, 1:]))
    size = tiny.images(model).shape[-1]
    rows, columns = describe(model).grid
    cell = torch.tensor([[size // columns, 0, 2 * size // columns, size // rows]])
    found = collect_regions(model, describe(model), [a_batch(model, [cell] * 3)])
    assert_close(found.values[0], kept[0][:, 1])


def test_parts_of_an_image_add_up_and_masks_agree_with_boxes():
    maps = torch.randn(1, 5, 5, 3, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0, 32, 13], [0, 13, 32, 40]])
    masks = torch.zeros(2, 40, 32)
    masks[0, :13], masks[1, 13:] = 1, 1
    for regions in (boxes, masks):
        shares = coverage(regions, (40, 32), (5, 5))
        assert_close(shares.sum(0), torch.ones(5, 5))
    upper, lower = means(maps, [boxes], (40, 32), ["a"])
    assert_close((13 * upper + 27 * lower) / 40, maps.mean((0, 1, 2)))


def test_images_may_hold_any_number_of_regions():
    model = tiny.swin()
    boxes = torch.tensor([[0, 0, 20, 20], [20, 20, 40, 40], [3, 3, 9, 30]])
    batch = a_batch(model, [boxes, boxes[:0], boxes[1:]])
    found = collect_regions(model, describe(model), [batch])
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    assert {len(values) for values in found.values} == {5}


def test_regions_decide_like_images_do():
    model = tiny.convnext()
    half = torch.tensor([[0, 0, 64, 32], [0, 32, 64, 64]])
    many = [a_batch(model, [half] * 3)._replace(images=tiny.images(model, 3, seed=i)) for i in range(3)]
    features = collect_regions(model, describe(model), many)
    curve = measure(features, Sls(alpha=-1), processes=1)
    assert choose(curve.scores, Sls(alpha=-1), features.blocks, features.fixed).kept


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        (torch.tensor([[50, 50, 60, 60]]), "region 0 of `a.png` covers nothing"),
        (torch.zeros(2, 40, 40), "region 0 of `a.png` covers nothing"),
        (torch.zeros(2, 7), r"regions of `a.png` have shape \(2, 7\)"),
        (torch.ones(2, 8, 8), "have shape"),
    ],
)
def test_regions_that_mean_nothing_are_said(regions, says):
    model = tiny.swin()
    with pytest.raises(PlanError, match=says):
        collect_regions(model, describe(model), [a_batch(model, [regions] * 3)])
