"""Plans: pure data, checked once, saved as JSON, applied to a fresh stock model."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from tailor.errors import PlanError
from tailor.tracing import Cut, WidthPlan, cut, cut_, half, plan_widths, trace, verify
from tailor.tracing.widths.layout import extent, keep_index, parse, unit_of
from tailor.tracing.widths.plan import Recorded
from tailor.tracing.widths.replay import Replayed, operator_of
from tracing.test_exact import MODELS, net

ADAPTER = TypeAdapter(WidthPlan)


@pytest.mark.parametrize("name", ["vit", "swin", "swin v2", "convnext", "mobilenet v2"])
def test_json_plan_and_state_dict_rebuild_the_model_on_a_fresh_one(name):
    model, x, traced = net(name)
    plan = plan_widths(traced.groups, half(traced.groups, 4))
    pruned = cut_(copy.deepcopy(model), plan)
    stock, settings = MODELS[name]
    fresh = timm.create_model(stock, num_classes=5, **settings).double().eval()
    cut_(fresh, ADAPTER.validate_json(ADAPTER.dump_json(plan)))
    fresh.load_state_dict(pruned.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), pruned(x))
    assert ADAPTER.validate_json(ADAPTER.dump_json(plan)) == plan


def test_attributes_follow_the_weights():
    model, _, traced = net("vit")
    keep = {"embedding": range(0, 48, 2), "blocks.0.attn.heads": [0, 2], "blocks.0.attn.head_dim": range(9)}
    pruned = cut_(copy.deepcopy(model), plan_widths(traced.groups, keep))
    attention, stock = pruned.blocks[0].attn, pruned.blocks[1].attn
    assert (attention.num_heads, attention.head_dim, attention.attn_dim) == (2, 9, 18)
    assert attention.scale == pytest.approx(9**-0.5)
    assert (attention.qkv.in_features, attention.qkv.out_features, attention.proj.in_features) == (24, 54, 18)
    assert pruned.blocks[0].norm1.normalized_shape == (24,)
    assert (stock.num_heads, stock.head_dim) == (3, 16)


def test_the_query_rows_carry_the_dense_scale():
    _, _, traced = net("vit")
    plan = plan_widths(traced.groups, {"blocks.0.attn.head_dim": range(4)})
    assert {(r.tensor, r.ranges) for r in plan.rescales} == {
        ("blocks.0.attn.qkv.weight", ((0, 48),)),
        ("blocks.0.attn.qkv.bias", ((0, 48),)),
    }
    assert plan.rescales[0].factor == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((), "keeps no unit"),
        ((2, 1), "not ascending"),
        ((1, 1), "not ascending"),
        ((0, 9), "has 6 units, but the plan keeps unit 9"),
        ((-1, 0), "has 6 units, but the plan keeps unit -1"),
    ],
)
def test_a_cut_is_checked_where_it_is_made(keep, message):
    with pytest.raises(PlanError, match=message):
        Cut("blocks.0.attn.heads", 6, keep)


def test_an_unknown_group_is_named_with_the_nearest():
    groups = net("vit")[2].groups
    with pytest.raises(PlanError, match=r"no group is called `blocks.0.attn.head`") as error:
        plan_widths(groups, {"blocks.0.attn.head": [0]})
    assert "`blocks.0.attn.heads`" in error.value.hint


def test_a_plan_for_another_backbone_is_refused_and_changes_nothing():
    groups = net("vit")[2].groups
    other = timm.create_model(*MODELS["deit3"][:1], **MODELS["deit3"][1]).double()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(PlanError, match=r"the plan expects|has no tensor"):
        cut_(other, plan_widths(groups, half(groups)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_a_plan_cannot_be_applied_twice():
    model, _, traced = net("vit")
    plan = plan_widths(traced.groups, half(traced.groups))
    pruned = cut_(copy.deepcopy(model), plan)
    with pytest.raises(PlanError, match="the plan expects"):
        cut_(pruned, plan)


def test_groups_cut_apart_by_number_must_keep_equal_counts():
    traced = net("chunk, cat")[2]
    (tie,) = traced.groups.ties
    with pytest.raises(PlanError, match=r"keep different counts"):
        plan_widths(traced.groups, {tie[0]: [0, 1]})
    assert plan_widths(traced.groups, {tie[0]: [0, 1], tie[1]: [4, 7]}).cuts


def test_unknown_keys_are_refused():
    text = ADAPTER.dump_json(plan_widths(net("vit")[2].groups, {})).decode()
    with pytest.raises(ValidationError):
        ADAPTER.validate_json(text[:-1] + ', "extra": 1}')


@pytest.mark.parametrize("text", ["3*", "a + ", "(a*b", "a b", "", "a-b", "*"])
def test_a_damaged_layout_is_refused(text):
    with pytest.raises(PlanError, match="not a layout"):
        parse(text)


def test_layouts_say_which_positions_stay_and_which_unit_they_are():
    kept = {"h": torch.tensor([True, False]), "d": torch.tensor([True, False, True]), "e": torch.tensor([False, True])}
    text = "2*h*d + (1 + e)*2"
    assert extent(text, {"h": 2, "d": 3, "e": 2}) == 18
    assert keep_index(text, kept).tolist() == [0, 2, 6, 8, 12, 13, 16, 17]
    assert unit_of("2*h*d", "d", {"h": 2, "d": 3}).tolist() == [0, 1, 2] * 4
    assert unit_of("2*h*d + e", "h", {"h": 2, "d": 3, "e": 1}).tolist() == [0, 0, 0, 1, 1, 1] * 2 + [-1]


def test_a_module_whose_code_fixes_a_size_runs_as_recorded_calls():
    model, x, traced = net("fixed width")
    plan = ADAPTER.validate_json(ADAPTER.dump_json(plan_widths(traced.groups, half(traced.groups))))
    assert [replay.module for replay in plan.replays] == ["body"]
    pruned = cut_(copy.deepcopy(model), plan)
    assert isinstance(pruned.body, Replayed)
    assert set(pruned.state_dict()) == set(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(pruned(x[:1]), pruned(x)[:1], atol=1e-12)  # the batch is not fixed
        large = torch.cat([x, x], 3)
        assert pruned(large).shape == (2, 5)  # nor is the image size


def test_a_plan_runs_no_operator_that_tracing_does_not_know():
    for name in ("from_file.default", "set_.source_Storage", "add.nonsense", "__class__.default"):
        with pytest.raises(PlanError, match="no operator known here"):
            operator_of(name)
    plan = plan_widths(net("fixed width")[2].groups, {})
    assert plan.replays == ()
    full = plan_widths(net("fixed width")[2].groups, half(net("fixed width")[2].groups))
    hostile = replace(full.replays[0], steps=(Recorded("from_file.default", ("/etc/passwd",), {}),))
    with pytest.raises(PlanError, match="no operator known here"):
        cut_(copy.deepcopy(net("fixed width")[0]), replace(full, replays=(hostile,)))


def test_a_cut_copy_leaves_the_model_as_it_was_and_shares_the_rest():
    model, _, traced = net("vit")
    before = copy.deepcopy(model.state_dict())
    plan = plan_widths(traced.groups, half(traced.groups))  # head dims too: q rows are scaled
    assert plan.rescales
    part = cut(model, plan)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(part.state_dict(), cut_(copy.deepcopy(model), plan).state_dict(), rtol=0, atol=0)
    cuts = {piece.tensor for piece in plan.slices}
    ours, theirs = dict(model.named_parameters()), dict(part.named_parameters())
    assert {n for n in ours if ours[n].data_ptr() == theirs[n].data_ptr()} == ours.keys() - cuts != set()
    assert not any(ours[n] is theirs[n] for n in ours)


class Logarithm(nn.Module):
    """What is removed is infinite in the masked reference before it is zeroed."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.a(x).abs().log())


def test_the_logarithm_of_what_was_removed_is_zeroed_too():
    model, x = Logarithm(), torch.randn(2, 4)
    traced = trace(model, (x,))
    plan = plan_widths(traced.groups, {traced.groups.groups[0].id: (0, 3, 5)})
    assert verify(model, cut(model, plan), traced, plan, (x,)).exact
