"""Probabilities are those that the model computes with, and distances are distances."""

import arranged
import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.pruning.convolve.places import find_places
from tailor.pruning.convolve.seen import distance, probabilities


@pytest.mark.parametrize("make", [arranged.pooled, tiny.swin])
def test_probabilities_are_a_mean_over_images_and_windows(make):
    model = make()
    found = find_places(model, backbones.describe(model))
    images = tiny.images(model, batch=3)
    before = model(images)
    seen = probabilities(model, found, [images])
    assert set(seen) == {place.block for place in found}
    for place in found:
        table = seen[place.block]
        assert table.shape[0] == place.attention.heads
        assert_close(table.sum(-1), torch.ones(table.shape[:-1], dtype=torch.float64), rtol=0, atol=1e-5)
    parts = [probabilities(model, found, [images[i : i + 1]])[found[0].block] for i in range(3)]
    assert_close(seen[found[0].block], sum(parts) / 3)
    assert_close(model(images), before, rtol=0, atol=0)


def test_distances_of_known_attention():
    attention = find_places(tiny.vit(), backbones.describe(tiny.vit()))[0].attention
    tokens = attention.prefix + 16
    itself = torch.eye(tokens)
    right = torch.zeros(tokens, tokens)
    for i in range(16):
        right[attention.prefix + i, attention.prefix + i + (1 if i % 4 < 3 else -3)] = 1
    uniform = torch.full((tokens, tokens), 1 / tokens)
    found = distance(torch.stack([itself, right, uniform]), attention)
    assert found[0] == 0
    assert found[1] == pytest.approx((3 * 1 + 3) / 4)
    grid = [(y, x) for y in range(4) for x in range(4)]
    mean = sum(((a - c) ** 2 + (b - d) ** 2) ** 0.5 for a, b in grid for c, d in grid) / 256
    assert found[2] == pytest.approx(mean)
