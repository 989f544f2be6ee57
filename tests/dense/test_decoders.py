"""What every decoder does, over the table; then each one's own."""

from dataclasses import replace

import pytest
import timm
import torch
from pydantic import TypeAdapter
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.anatomy import Feature
from tailor.dense import DECODERS, decode, losses
from tailor.dense.attach import attach_
from tailor.dense.linear import LinearDecoder
from tailor.dense.predictions import MaskPredictions, PixelPredictions
from tailor.dense.pyramid import Pyramid, chosen, rungs
from tailor.dense.setr_pup import SetrPup
from tailor.errors import ModelError, PlanError
from tailor.tasks.segmentation import Segmentation
from tailor.tuning.apply import apply_
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.scores import Scores
from tailor.tuning.spt.settings import SPT

PLAIN = [Feature(f"blocks.{i}", 32, 8) for i in range(4)]
STAGES = [Feature(f"stages.{i}", 8 * 2**i, 4 * 2**i) for i in range(4)]
CLASSES = 5
SMALL = {
    "masks": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 2},
    "mask2former": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 3, "encoder_layers": 1},
    "faseg": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 5, "encoder_layers": 1},
    "setr-pup": {"width": 16},
    "mlp": {"width": 16},
}
MASKS = Segmentation.decoders
over_the_table = pytest.mark.parametrize("kind", MASKS)


def made(kind, features=PLAIN, seed=0):
    settings = DECODERS[kind](**SMALL.get(kind, {}))
    selected = settings.select(features)
    return tiny.shake_(settings.build(selected, CLASSES), seed).eval(), selected


def maps(selected, height=32, width=64, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(f.width, height // f.reduction, width // f.reduction) for f in selected]
    return [torch.randn(batch, *size, generator=generator) for size in sizes]


@over_the_table
@pytest.mark.parametrize("features", [PLAIN, STAGES, STAGES[:2], PLAIN[:1]], ids=["plain", "stages", "two", "one"])
def test_any_backbone_gives_scores_of_any_size(kind, features):
    head, selected = made(kind, features)
    found = head(maps(selected))
    values = decode.scores(found, (32, 64))
    assert values.shape == (2, CLASSES, 32, 64) and values.isfinite().all() and (values >= 0).all()
    assert 64 % head.stride == 0


@over_the_table
def test_an_image_does_not_depend_on_those_beside_it(kind):
    head, selected = made(kind)
    whole = maps(selected)
    both = decode.scores(head(whole), (32, 64))
    alone = decode.scores(head([m[1:] for m in whole]), (32, 64))
    assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)


@over_the_table
def test_settings_survive_json_and_refuse_what_they_do_not_know(kind):
    settings = DECODERS[kind](**SMALL.get(kind, {}))
    adapter = TypeAdapter(DECODERS[kind])
    assert adapter.validate_json(adapter.dump_json(settings)) == settings
    assert settings.kind == kind
    with pytest.raises(ValueError, match="widht"):
        adapter.validate_json('{"widht": 3}')


@over_the_table
def test_it_learns_one_image(kind):
    head, selected = made(kind)
    given, target = maps(selected, batch=1), torch.zeros(1, 32, 64, dtype=torch.long)
    target[:, :, 32:] = 3
    target[:, :4] = 255
    head.train()
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    torch.manual_seed(0)
    first = None
    for _ in range(40):
        loss = losses.loss(head(given), target).mean()
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * first
    guessed = decode.scores(head.eval()(given), (32, 64)).argmax(1)
    known = target != 255
    assert (guessed == target)[known].float().mean() > 0.85


def test_published_sizes_of_setr_pup_and_linear():
    large = [Feature(f"blocks.{i}", 1024, 16) for i in range(24)]
    with torch.device("meta"):
        settings = SetrPup()
        selected = settings.select(large)
        assert [f.path for f in selected] == ["blocks.9", "blocks.14", "blocks.19", "blocks.23"]
        head = settings.build(selected, 150)
        assert sum(p.numel() for p in head.parameters()) == 13_143_640
        assert sum(p.numel() for p in head.main.parameters()) == 4_171_414
        small = [Feature(f"blocks.{i}", 384, 16) for i in range(12)]
        linear = LinearDecoder().build(LinearDecoder().select(small), 150)
        assert sum(p.numel() for p in linear.parameters()) == 58_518


@pytest.mark.slow
def test_a_budget_of_1_45_m_on_vit_l_trains_14_6_m_with_setr_pup():
    with torch.device("meta"):
        model = timm.create_model("vit_large_patch16_384", img_size=512)
    anatomy = backbones.describe(model)
    generator = torch.Generator().manual_seed(0)
    scores = {}
    for name, tensor in model.named_parameters():  # one score a row
        drawn = torch.rand(tensor.shape[0], *[1] * (tensor.ndim - 1), generator=generator)
        scores[name] = drawn.expand(tensor.shape) * float(torch.rand((), generator=generator))
    settings = replace(SPT["spt-lora"], parts="structured")
    plan = allocate(Scores(scores, {}), anatomy, model, settings, 1_450_000)
    attached = attach_(model, SetrPup(), 150, seed=0)
    apply_(attached, plan, anatomy.heads)
    trains = sum(p.numel() for p in attached.parameters() if p.requires_grad)
    assert plan.tunes and plan.cost <= 1_450_000 and trains == plan.cost + 13_143_640
    assert round(trains / 1e6, 1) == 14.6


PATCHES = [(8, [1, 0, -1, -2], 32), (16, [2, 1, 0, -1], 32), (14, [2, 1, 0, -1], 28)]


@pytest.mark.parametrize(("patch", "finer", "stride"), PATCHES)
def test_a_plain_transformer_gives_four_sizes(patch, finer, stride):
    features = [Feature("blocks.3", 32, patch)]
    assert [s.finer for s in rungs(features)] == finer
    pyramid = Pyramid(features, norm=True)
    assert pyramid.stride == stride
    found = pyramid([torch.randn(1, 32, 4, 8)])
    assert [m.shape[1] for m in found] == list(pyramid.channels)
    assert [m.shape[-1] for m in found] == [found[-1].shape[-1] * n for n in (8, 4, 2, 1)]


def test_stages_are_taken_as_they_are_and_too_fine_ones_left():
    features = [Feature("stem", 4, 2), *STAGES]
    assert chosen(features) == tuple(STAGES)
    assert [(s.source, s.finer) for s in rungs(STAGES)] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    with pytest.raises(ModelError, match="no level"):
        chosen([])


def test_semantic_scores_are_the_sum_of_class_times_mask():
    found = MaskPredictions(torch.randn(2, 1, 3, 5), torch.randn(2, 1, 3, 4), torch.randn(1, 4, 6, 6))
    chance, masks = found.classes[-1, 0].softmax(-1), torch.einsum("nc,chw->nhw", found.queries[-1, 0], found.pixels[0])
    wanted = sum(chance[n, :4, None, None] * masks[n].sigmoid() for n in range(3))
    assert_close(decode.scores(found, (6, 6))[0], wanted)


def test_bands_change_nothing(monkeypatch):
    found = MaskPredictions(torch.randn(2, 1, 3, 5), torch.randn(2, 1, 3, 4), torch.randn(1, 4, 6, 6))
    whole = decode.scores(found, (12, 12))
    monkeypatch.setattr(decode, "BAND", 3 * 12 * 5)
    assert_close(decode.scores(found, (12, 12)), whole)


def test_instances_are_ranked_by_class_and_mask():
    logits = torch.full((2, 4, 4), -3.0)
    logits[0, :2], logits[1, 2:] = 4.0, 0.5
    pixels = logits[None]
    queries = torch.eye(2)[None, None]
    classes = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])[None, None]
    found = decode.instances(MaskPredictions(classes, queries, pixels), (4, 4), most=3)
    chance = classes[0, 0].softmax(-1)
    sure = torch.tensor([4.0, 0.5]).sigmoid()
    assert_close(found.scores[0], chance[0, 0] * sure[0])
    assert found.labels[:2].tolist() == [0, 1]
    assert (found.masks[0] == (logits[0] > 0)).all() and (found.masks[1] == (logits[1] > 0)).all()
    nothing = MaskPredictions(classes, queries, pixels - 9)
    assert len(decode.instances(nothing, (4, 4)).scores) == 0


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(PlanError, match="width 0"):
        SetrPup(width=0)
    with pytest.raises(PlanError, match="cannot be"):
        DECODERS["masks"](queries=0)


def test_logits_of_pixels_become_chances():
    found = PixelPredictions(torch.randn(1, 3, 2, 2))
    assert_close(decode.scores(found, (5, 5)).sum(1), torch.ones(1, 5, 5))
