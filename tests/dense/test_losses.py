"""Losses of masks and pixels: transformers' as the reference, and what is not known is not learnt from."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from tailor.dense import losses, matching, points
from tailor.dense.predictions import IGNORE, MaskPredictions, Objects, PixelPredictions, objects

CLASSES = 4


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def predictions(batch=1, queries=5, depths=2, seed=0):
    return MaskPredictions(
        normal(depths, batch, queries, CLASSES + 1, seed=seed).requires_grad_(True),
        normal(depths, batch, queries, 6, seed=seed + 1).requires_grad_(True),
        normal(batch, 6, 8, 8, seed=seed + 2).requires_grad_(True),
    )


def a_map(batch=1, seed=3, side=32):
    blocks = torch.randint(0, CLASSES, (batch, side // 8, side // 8), generator=torch.Generator().manual_seed(seed))
    return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)


@pytest.fixture
def fixed_points(monkeypatch):
    """Every draw gives the same well-spread points, whoever asks."""

    def rand(*shape, **kwargs):
        number = torch.arange(1, shape[-2] + 1)
        return torch.stack([number * 0.7548776662 % 1, number * 0.5698402910 % 1], -1).expand(*shape).contiguous()

    monkeypatch.setattr(torch, "rand", rand)


def test_the_loss_of_an_image_is_transformers(fixed_points):
    import transformers
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    config = transformers.Mask2FormerConfig(num_labels=CLASSES, train_num_points=64)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    theirs = Mask2FormerLoss(config, weights)
    found, wanted = predictions(), objects(a_map())
    masks = torch.einsum("dbnc,bchw->dbnhw", found.queries, found.pixels)
    auxiliary = [{"masks_queries_logits": masks[0], "class_queries_logits": found.classes[0]}]
    parts = theirs(masks[1], found.classes[1], [wanted[0].masks.float()], [wanted[0].labels], auxiliary)
    total = sum(value * weights[name.rstrip("_0")] for name, value in parts.items())
    ours = losses.of_objects(found, wanted, most=64)
    assert_close(ours, total[None], rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(v.sum(), found, retain_graph=True) for v in (ours, total)]
    for a, b in zip(*grads):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_assignment_is_the_cheapest_of_all():
    found, wanted = predictions(batch=2, queries=4), objects(a_map(batch=2))
    places = points.draw(50, found.pixels, torch.Generator().manual_seed(0))
    queries = matching.match(found, wanted, places)
    most = queries.shape[2]
    costs = matching._costs(found, wanted, places, most).detach()
    for d, b in itertools.product(range(2), range(2)):
        number = len(wanted[b].labels)
        every = [
            sum(costs[d, b, q, g] for g, q in enumerate(order)) for order in itertools.permutations(range(4), number)
        ]
        taken = sum(costs[d, b, queries[d, b, g], g] for g in range(number))
        assert_close(taken, min(every))
        assert (queries[d, b, number:] == -1).all()


def test_costs_that_are_not_finite_are_taken_last():
    found = predictions(queries=6)  # two of them useless, four objects
    with torch.no_grad():
        found.queries[:, :, 1] = float("nan")
        found.queries[:, :, 3] = float("inf")
    queries = matching.match(found, objects(a_map()), points.draw(50, found.pixels))
    assert not {1, 3} & set(queries.flatten().tolist())


def test_more_objects_than_queries_leave_objects_without_one():
    found, wanted = predictions(queries=2), objects(a_map())
    assert len(wanted[0].labels) == 4
    queries = matching.match(found, wanted, points.draw(50, found.pixels))
    assert ((queries >= 0).sum(-1) == 2).all()
    assert losses.of_objects(found, wanted).isfinite().all()


@pytest.mark.parametrize("kind", ["masks", "pixels"])
def test_what_is_not_known_changes_nothing(kind):
    """Where half of an image is not known, other predictions there give the same loss."""
    known = a_map(side=32)
    known[:, :, 16:] = IGNORE
    if kind == "pixels":
        logits = normal(1, CLASSES, 32, 32)
        other = torch.cat([logits[..., :16], normal(1, CLASSES, 32, 16, seed=9)], -1)
        results = [losses.loss(PixelPredictions(x), known) for x in (logits, other)]
    else:
        found = predictions()
        pixels = torch.cat([found.pixels[..., :4], normal(1, 6, 8, 4, seed=9)], -1)
        results = []
        for one in (found.pixels, pixels):
            # a point beside the border reads both sides of the coarse prediction; those are left to the known half
            one = torch.cat([one[..., :4], one[..., 3:4], one[..., 5:]], -1)
            torch.manual_seed(0)
            results.append(losses.loss(MaskPredictions(found.classes, found.queries, one), known))
    if kind == "pixels":
        assert_close(results[0], results[1])
    else:
        # which of the points are least sure is asked of known ones only, and all others have no weight
        assert_close(results[0], results[1], rtol=0, atol=0)


def test_an_image_nothing_is_known_of_has_no_loss_but_a_gradient_of_zero():
    maps = a_map(batch=2)
    maps[1] = IGNORE
    for found in (predictions(batch=2), PixelPredictions(normal(2, CLASSES, 8, 8).requires_grad_(True))):
        result = losses.loss(found, maps)
        assert result[1] == 0 and result[0] > 0
        result[1].backward()
        leaves = found if isinstance(found, MaskPredictions) else found[:1]
        assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_an_image_without_objects_teaches_that_there_are_none():
    found = predictions()
    nothing = Objects(
        torch.zeros(0, dtype=torch.long), torch.zeros(0, 32, 32, dtype=torch.bool), torch.ones(32, 32) > 0
    )
    result = losses.of_objects(found, [nothing])
    wanted = -found.classes[:, 0].log_softmax(-1)[..., -1].mean(-1).sum() * 2
    assert_close(result[0], wanted)


def test_the_loss_of_a_batch_is_that_of_its_images():
    found, maps = predictions(batch=3), a_map(batch=3)
    torch.manual_seed(0)
    together = losses.loss(found, maps)
    for i in range(3):
        torch.manual_seed(0)
        one = MaskPredictions(found.classes[:, i : i + 1], found.queries[:, i : i + 1], found.pixels[i : i + 1])
        assert_close(losses.loss(one, maps[i : i + 1]), together[i : i + 1])


def test_pixels_are_a_mean_over_known_ones_and_auxiliary_heads_weigh_less():
    logits, maps = normal(1, CLASSES, 32, 32), a_map()
    maps[:, :5] = IGNORE
    wanted = torch.nn.functional.cross_entropy(logits, maps, ignore_index=IGNORE)
    assert_close(losses.loss(PixelPredictions(logits), maps), wanted[None])
    assert_close(losses.loss(PixelPredictions(logits, (logits, logits)), maps), 1.8 * wanted[None])


def test_points_of_small_images_are_fewer():
    assert points.count(512, 512) == 12_544
    assert points.count(128, 160) == 2560
    assert points.count(32, 32) == 1024
    assert points.count(1, 1) == 1
