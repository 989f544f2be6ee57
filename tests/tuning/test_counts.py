"""Trainable parameters as the papers' formulas give them, without the head."""

import dataclasses
from functools import cache

import pytest
import timm
import torch

from tailor.backbones import describe
from tailor.inputs import Inputs
from tailor.measure.count import macs
from tailor.tuning import planner
from tailor.tuning.apply import apply_, cost
from tailor.tuning.method import site_places
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Tune, TunePlan

VIT_B = {
    "full": 85_798_656,
    "linear": 0,
    "partial-1": 7_089_408,
    "bias": 102_912,
    "mlp-3": 1_181_184 + 3_072,  # the table's hidden layers, and their batch norms
    "vpt-shallow-50": 768 * 50,
    "vpt-deep-50": 9_216 * 50,
    "adapter-8": 156_768,
    "adapter-32": 599_424,
    "adaptformer-64": 1_189_632,
    "adaptformer-8": 156_768,
    "lora-8": 294_912,
    "lora-16": 589_824,
    "convpass-8": 327_552,
    "repadapter-8": 239_808,
    "ssf": 205_824,
    "site-adapter-8": 1_410_624,
}
SWIN_B = {
    "full": 86_743_224,
    "partial-1": 12_603_680,
    "bias": 137_216,
    "mlp-3": 2 * 1024 * 1025 + 4 * 1024,
    "vpt-deep-1": 12_032,
    "vpt-deep-50": 12_032 * 50,
    "adapter-8": 204_736,
    "lora-8": 385_024,
    "convpass-8": 437_504,
    "repadapter-8": 313_216,
    "ssf": 274_432,
}
CONVNEXT_B = {"full": 87_566_464, "bias": 130_304}
COUNTS = {
    "vit_base_patch16_224": VIT_B,
    "swin_base_patch4_window7_224": SWIN_B,
    "convnext_base": CONVNEXT_B,
}


@cache
def _backbone(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    return model, describe(model)


@pytest.mark.parametrize(
    ("backbone", "method", "expected"),
    [(name, method, count) for name, counts in COUNTS.items() for method, count in counts.items()],
)
def test_the_tables_count(backbone, method, expected):
    model, anatomy = _backbone(backbone)
    assert planner.plan(model, anatomy, planner.parse(method)).cost == expected


def test_lora_on_every_matrix_of_a_vit():
    model, anatomy = _backbone("vit_base_patch16_224")
    places = site_places(anatomy, fused=False)
    tunes = tuple(Tune(f"{p.path}[{p.part}]" if p.part else p.path, Lora(rank=8), p.rows) for p in places)
    assert len(places) == 72
    assert cost(model, TunePlan("spt-lora", tunes=tunes)) == 1_327_104


def test_convpass_on_attention_only():
    model, anatomy = _backbone("vit_base_patch16_224")
    plan = planner.plan(model, anatomy, planner.parse("convpass-8"))
    attention = dataclasses.replace(plan, tunes=tuple(t for t in plan.tunes if t.path.endswith("attn")))
    assert cost(model, attention) == 163_776


def test_repadapter_without_biases():
    model, anatomy = _backbone("vit_base_patch16_224")
    plan = planner.plan(model, anatomy, planner.parse("repadapter-8"))
    assert plan.cost - len(plan.tunes) * (8 + 768) == 221_184


@pytest.mark.parametrize(
    ("method", "million"),
    [("adapter-8", 29.0), ("lora-8", 58.1), ("repadapter-8", 43.6), ("convpass-8", 60.8), ("adaptformer-64", 232.4)],
)
def test_the_note_s_unmerged_overhead(method, million):
    """Section 5.1, to its last digit: the extra multiplications of one image on ViT-B/16."""
    model, anatomy = _backbone("vit_base_patch16_224")
    plain = macs(model, Inputs.images(3, 224, 224))
    with torch.device("meta"):
        tuned = timm.create_model("vit_base_patch16_224", num_classes=10)
    apply_(tuned, planner.plan(model, anatomy, planner.parse(method)), anatomy.heads)
    assert (macs(tuned, Inputs.images(3, 224, 224)) - plain) / 1e6 == pytest.approx(million, abs=0.06)
