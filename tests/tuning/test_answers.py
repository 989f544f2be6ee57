"""Backbones whose code asks its layers for sizes and devices, tuned by SPT: a wrapped layer answers for its own."""

import copy

import pytest
import timm
import torch
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.surgery import trainable
from tailor.tuning.apply import apply_, merge_
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.scores import sensitivity
from tailor.tuning.spt.settings import Spt

ASKING = {
    "davit_tiny": {"depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32), "num_heads": (2, 2, 2, 2)},
    "edgenext_xx_small": {"depths": (1, 1, 1, 2), "dims": (8, 16, 16, 24)},
    "xcit_nano_12_p16_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
}


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("parts", ["structured", "unstructured"])
def test_spt_tunes_every_layer_that_it_ranks(name, parts):
    model = tiny.shake_(timm.create_model(name, num_classes=tiny.CLASSES, **ASKING[name])).eval()
    anatomy, x, y = describe(model), torch.randn(4, 3, 64, 64), tiny.labels(4)
    scores = sensitivity(model, anatomy, [(x, y)])
    settings = Spt(parts=parts, rank=2, dropout=0.0, drop_path=0.0)
    budget = sum(p.numel() for p in model.parameters())
    plan = allocate(scores, anatomy, model, settings, budget // 8)
    tuned = apply_(copy.deepcopy(model), plan, anatomy.heads).eval()
    with torch.no_grad():
        assert_close(tuned(x), model(x), rtol=0, atol=0)
    tiny.trained_(tuned)
    torch.nn.functional.cross_entropy(tuned(x), y).backward()
    silent = [n for n, p in trainable(tuned).items() if p.grad is None or not p.grad.any()]
    assert not silent
    with torch.no_grad():
        before = tuned(x)
        assert_close(merge_(tuned, plan)(x), before, rtol=1e-3, atol=1e-4)
