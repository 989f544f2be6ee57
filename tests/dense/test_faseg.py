"""Deformable attention, focus-aware queries and high-resolution attention against slow definitions."""

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor.anatomy import Feature
from tailor.dense.attended import attended
from tailor.dense.attention import CrossAttention
from tailor.dense.deformable import _by_corners, _by_level
from tailor.dense.faseg import FaSeg
from tailor.dense.focus import FOCUS, averaged, never_empty, starting
from tailor.dense.high_resolution import Attended, HighResolution, best, read
from tailor.errors import ModelError, PlanError

FEATURES = [Feature(f"stage{i}", 8 * 2**i, 4 * 2**i) for i in range(4)]
SMALL = {"width": 32, "queries": 9, "heads": 4, "hidden": 48, "encoder_layers": 1, "encoder_hidden": 32}


def maps(height=64, width=96, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(f.width, height // f.reduction, width // f.reduction) for f in FEATURES]
    return [torch.randn(batch, *size, generator=generator, dtype=torch.float64) for size in sizes]


def head(seed=0, **settings):
    made = FaSeg(**{**SMALL, **settings}).build(FEATURES, 5).double()
    return tiny.shake_(made, seed).eval()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_both_ways_to_sample_agree_also_outside_the_image():
    sizes = [(3, 4), (6, 8)]
    value = normal(2, 60, 2, 5).requires_grad_(True)
    places = (normal(2, 60, 2, 2, 3, 2, seed=1) * 0.6 + 0.5).requires_grad_(True)
    weights = normal(2, 60, 2, 2, 3, seed=2).requires_grad_(True)
    corners, level = (f(value, sizes, places, weights) for f in (_by_corners, _by_level))
    assert_close(corners, level)
    direction = normal(*corners.shape, seed=3)
    inputs = (value, places, weights)
    for a, b in zip(torch.autograd.grad(corners, inputs, direction), torch.autograd.grad(level, inputs, direction)):
        assert_close(a, b)


def test_looking_is_the_weights_times_the_positions():
    attention = tiny.shake_(CrossAttention(16, 4).double())
    query, key, value, also = (
        normal(2, 5, 16),
        normal(2, 7, 16, seed=1),
        normal(2, 7, 16, seed=2),
        normal(2, 7, 6, seed=3),
    )
    allowed = never_empty(normal(2, 5, 7, seed=4) > 0)
    found, looked = attention.looking(query, key, value, allowed, also)
    scored, weights = attention.scored(query, key, value, allowed)
    assert_close(weights.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    assert_close(found, scored)
    assert_close(found, attention(query, key, value, allowed))
    outer = (weights[..., None] * also[:, None]).sum(2)  # the definition, with its large temporary
    assert_close(looked, outer)


def test_one_cell_looked_at_is_that_cells_position():
    dfpq = tiny.shake_(FOCUS["dfpq"](8).double())
    base, position = normal(3, 8), normal(1, 6, 8, seed=1)
    mask = torch.zeros(1, 3, 6, dtype=torch.bool)
    mask[:, :, 4] = True
    assert_close(averaged(position, mask), position[:, 4:5].expand(-1, 3, -1))
    assert_close(dfpq.pooled(base, mask, position, (2, 3)), dfpq.h(position[:, 4:5] + base))
    assert_close(dfpq.looked(base, position[:, 4:5]), dfpq.h(position[:, 4:5] + base))


def test_the_first_query_is_pooled_over_the_foreground_or_as_published_over_the_rest():
    inside = torch.tensor([[[True, False, False], [False, False, False]]])
    assert starting(inside, "foreground").tolist() == [[[True, False, False], [True, True, True]]]
    assert starting(inside, "background").tolist() == [[[False, True, True], [True, True, True]]]


@pytest.mark.parametrize("unit", ["cells", "pixels"])
def test_hrca_is_full_attention_restricted_to_the_best(unit):
    how = HighResolution(unit=unit, ratio=1 / 4)
    attention = tiny.shake_(CrossAttention(16, 4).double())
    level, position, query = normal(2, 16, 16, 24), normal(2, 16, 16, 24, seed=1), normal(2, 5, 16, seed=2)
    scores = Attended(normal(2, 6, seed=3).abs(), (2, 3))
    chosen = best(scores, (16, 24), how)
    assert chosen.shape[1] == (64 if unit == "cells" else 96)
    assert all(len(set(row.tolist())) == len(row) for row in chosen)
    if unit == "cells":
        winner = int(scores.values[0].argmax())
        rows, columns = chosen[0] // 24, chosen[0] % 24
        assert set((rows // 8 * 3 + columns // 8).tolist()) == {winner}
    allowed = torch.zeros(2, 5, 16 * 24, dtype=torch.bool)
    for b in range(2):
        allowed[b, :, chosen[b]] = True
    value = level.flatten(2).transpose(1, 2)
    wanted = attention(query, value + position.flatten(2).transpose(1, 2), value, allowed)
    assert_close(read(attention, query, level, position, scores, how), wanted)


def test_hrca_of_everything_is_vanilla_attention():
    attention = tiny.shake_(CrossAttention(16, 4).double())
    level, position, query = normal(1, 16, 8, 8), normal(1, 16, 8, 8, seed=1), normal(1, 5, 16, seed=2)
    scores = Attended(normal(1, 1).abs(), (1, 1))
    everything = read(attention, query, level, position, scores, HighResolution(ratio=1.0))
    assert_close(everything, read(attention, query, level, position, None, HighResolution(kind="vanilla")))


def test_row_column_attention_weighs_by_column_and_by_row():
    attention = tiny.shake_(CrossAttention(8, 1).double())
    level, position, query = normal(1, 8, 3, 4), normal(1, 8, 3, 4, seed=1), normal(1, 2, 8, seed=2)
    key = (level + position)[0]
    q = attention.q(query)[0] / 8**0.5
    x = (q @ attention.k(key.mean(1).T).T).softmax(-1)
    y = (q @ attention.k(key.mean(2).T).T).softmax(-1)
    value = attention.v(level[0].permute(1, 2, 0))
    wanted = sum(y[:, h, None] * x[:, w, None] * value[h, w] for h in range(3) for w in range(4))
    assert_close(read(attention, query, level, position, None, HighResolution(kind="rcda"))[0], attention.out(wanted))


def test_maps_that_do_not_fit_on_each_other_are_refused():
    with pytest.raises(PlanError, match="17 x 24 is no multiple of one of 2 x 3"):
        best(Attended(torch.ones(1, 6), (2, 3)), (17, 24), HighResolution())


@pytest.mark.parametrize("kind", ["none", "hrca", "vanilla", "random", "rcda"])
@pytest.mark.parametrize("focus", FOCUS)
def test_every_combination_runs_on_the_smallest_image(kind, focus):
    model = head(focus=focus, fine=HighResolution(kind=kind), blocks=5)
    found = model(maps(32, 32, batch=1))
    assert found.classes.shape == (6, 1, 9, 6)
    assert found.masks().shape == (1, 9, 8, 8)
    assert found.masks().isfinite().all()


@pytest.mark.parametrize("position", ["learned", "focus"])
@pytest.mark.parametrize("scores", ["coarsest", "previous"])
def test_every_parameter_learns(position, scores):
    model = head(fine=HighResolution(position=position, scores=scores, ratio=1 / 8))
    found = model(maps())
    (
        found.classes.square().mean() + torch.einsum("dbnc,bchw->dbnhw", found.queries, found.pixels).square().mean()
    ).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_the_slow_decoder_of_the_note_gives_the_same():
    """FASeg's schedule written out as in the definition: full masks, whole weights, outer products."""
    model = head(fine=HighResolution(ratio=1 / 3))
    features = maps()
    with torch.no_grad():
        found = model(features)
        pixels = model.pixels(model.pyramid(features)[::-1])
        decoder = model.decoder
        F = [(x + e[:, None, None]).flatten(2).transpose(1, 2) for x, e in zip(pixels.levels, decoder.level)]
        K = [p.flatten(2).transpose(1, 2) for p in pixels.positions]
        sizes = [x.shape[-2:] for x in pixels.levels]
        h, B = decoder.focus.h, decoder.place

        def predict(x):
            x = decoder.norm(x)
            return torch.einsum("bnc,bchw->bnhw", decoder.masks(x), pixels.masks)

        def mask(logits, level):
            resized = torch.nn.functional.interpolate(logits, size=sizes[level], mode="bilinear", align_corners=False)
            inside = resized.sigmoid().flatten(2) >= 0.5
            return inside | ~inside.any(-1, keepdim=True)

        x = decoder.content.expand(2, -1, -1)
        logits = predict(x)
        first = mask(logits, 0).double()
        place = h(torch.einsum("bns,bsc->bnc", first, K[0]) / first.sum(-1, keepdim=True) + B)
        coarse = None
        for t, block in enumerate(decoder.blocks):
            l = t % 4
            if l < 3:
                o, A = block.cross.scored(x + place, F[l] + K[l], F[l], mask(logits, l))
                coarse = A.sum(1) if l == 0 else coarse
            else:
                omega = best(Attended(coarse, sizes[0]), sizes[3], decoder.fine)
                allowed = torch.zeros(2, 9, F[3].shape[1], dtype=torch.bool)
                for b in range(2):
                    allowed[b, :, omega[b]] = True
                o = block.cross(x + B, F[3] + K[3], F[3], allowed)
            x = block(x, o, place)
            logits = predict(x)
            if l < 3:
                place = h((A[..., None] * K[l][:, None]).sum(2) + B)
    assert_close(found.masks(), logits)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(PlanError, match="between 0 and 1"):
        FaSeg(threshold=1.0)
    with pytest.raises(PlanError, match="does not divide among 8 heads"):
        FaSeg(width=60)
    with pytest.raises(PlanError, match="cannot be read"):
        HighResolution(ratio=0.0)


@pytest.mark.parametrize("focus", ["learned", "dynamic-anchors", "dfpq"])
def test_what_is_drawn_is_what_the_blocks_gave(focus):
    """With one head, a block adds what its last layer makes of the values under the weights."""
    model, given, added = head(blocks=6, focus=focus, threshold=0.6, heads=1), maps(), {}
    blocks, level = model.decoder.blocks, model.decoder.level
    for number, block in enumerate(blocks, 1):
        block.register_forward_pre_hook(lambda _, inputs, n=number: added.update({n: inputs[1]}))
    found, seen = attended(model, given, last=9)
    assert list(seen) == [1, 2, 3, 5, 6]  # the fourth reads the finest level
    assert list(attended(model, given)[1]) == [3, 5, 6]
    assert_close(found.queries, model(given).queries)
    levels = model.pixels(model.pyramid(given)[::-1]).levels
    assert any((weights == 0).any() for weights in seen.values())  # masked
    for number, weights in seen.items():
        at, cross = (number - 1) % 4, blocks[number - 1].cross
        values = cross.v((levels[at] + level[at][:, None, None]).flatten(2).transpose(1, 2))
        assert_close(cross.out(weights.flatten(2) @ values), added[number])


def test_what_has_no_queries_shows_nothing():
    with pytest.raises(ModelError, match="no query looks at anything"):
        attended(torch.nn.Linear(2, 2), torch.zeros(1, 2))
