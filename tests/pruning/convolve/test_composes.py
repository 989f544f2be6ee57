"""A converted model is an ordinary one: cut by tracing, tuned with every method, shortened, folded, exported."""

from functools import lru_cache

import arranged
import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.deploy.export import export
from tailor.errors import PlanError
from tailor.inputs import Inputs
from tailor.measure.fold import fold
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.tracing import cut, half, plan_widths, settle, trace, verify
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merge_
from tailor.tuning.methods import MODULES

MODELS = {
    "vit": (arranged.pooled, ("conv3", "none", "attention")),
    "swin": (tiny.swin, ("conv3", "none", "attention", "conv3")),
}
models = pytest.mark.parametrize("name", MODELS)


@lru_cache
def converted(name):
    return arranged.case(*MODELS[name], torch.float32)


@models
def test_every_width_is_cut_exactly(name):
    one = converted(name)
    model = one.plain()
    traced = settle(model, trace(model, (one.images,)), (one.images,), record_modules=False)
    channels = [group.id for group in traced.groups.groups if group.id.endswith("attn.hidden")]
    assert len(channels) == MODELS[name][1].count("conv3")
    plan = plan_widths(traced.groups, half(traced.groups))
    assert verify(model, cut(model, plan), traced, plan, (one.images,)).exact


@models
@pytest.mark.parametrize("method", MODULES)
def test_methods_sit_on_the_convolutions_or_leave_them_out(name, method):
    model = converted(name).plain()
    anatomy = backbones.describe(model)
    try:
        planner.plan(converted(name).dense, backbones.describe(converted(name).dense), planner.parse(method))
    except PlanError as error:  # on this family anyway
        with pytest.raises(PlanError, match="is not defined"):
            planner.plan(model, anatomy, planner.parse(method))
        assert "is not defined" in error.message
        return
    plan = planner.plan(model, anatomy, planner.parse(method))
    tuned = tiny.trained_(apply_(model, plan, anatomy.heads)).eval()
    assert tuned(converted(name).images).isfinite().all()


@models
def test_tunes_of_the_convolutions_merge(name):
    one = converted(name)
    model = one.plain()
    anatomy = backbones.describe(model)
    assert {site.op for site in anatomy.sites} >= {"conv", "proj"}
    plan = planner.plan(model, anatomy, planner.parse("site-adapter-2"))
    assert any(tune.site.endswith("attn.conv") for tune in plan.tunes)
    plan = planner.plan(model, anatomy, planner.parse("ssf"))
    tuned = tiny.trained_(apply_(model, plan, anatomy.heads)).eval()
    with torch.no_grad():
        expected = tuned(one.images)
        assert_close(merge_(tuned, plan)(one.images), expected, rtol=1e-4, atol=1e-4)


def test_blocks_drop_norms_fold_and_the_file_agrees(tmp_path):
    one = converted("swin")
    model = apply_layers_(one.plain(), LayerPlan(kept=(0, 1, 2), dropped=("layers.1.blocks.1",)))
    folded = fold(model, (one.images,))
    assert folded.batch_norms == (1, 1)
    assert export(model, Inputs.images(*one.images.shape[1:]), tmp_path / "model.onnx").difference < 1e-4
