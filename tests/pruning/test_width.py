"""Scores of units against a slow reference, rankings and counts on groups made by hand, and the search for a target."""

import copy

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.errors import PlanError, UsageError
from tailor.pruning.elements import NAMES, element_scores, gradients
from tailor.pruning.settings import Shares, Widths
from tailor.pruning.width import choose, random_scores, unit_scores, widths
from tailor.tracing import Group, Groups, cut_, half, plan_widths, settle, trace
from tailor.tuning import planner
from tailor.tuning.apply import apply_

EXACT = Widths(round_to=1)


def group(name, size, label="hidden", kind="linear"):
    return Group(name, label, size, kind, ())


def made(*groups, ties=()):
    return Groups(groups, {}, (), (), (), (), ties)


def kept(groups, scores, shares, settings=EXACT):
    scores = {name: torch.tensor(values, dtype=torch.float64) for name, values in scores.items()}
    return choose(groups, scores, shares, settings)


HALF = Shares(hidden=0.5, embedding=0.5, heads=0.5, head_dim=0.5)
TWO = made(group("a", 4), group("b", 4))


def test_isomorphic_groups_share_a_ranking_and_others_do_not():
    scores = {"a": [9, 8, 7, 6], "b": [1, 2, 3, 4]}
    assert kept(TWO, scores, HALF) == {"a": (0, 1, 2), "b": (3,)}  # b's best stays, so a's worst goes
    assert kept(TWO, scores, Shares(hidden=0.9)) == {"a": (0,), "b": (3,)}
    apart = made(group("a", 4, kind="conv"), group("b", 4))
    assert kept(apart, scores, HALF) == {"a": (0, 1), "b": (2, 3)}
    assert kept(TWO, scores, HALF, Widths("uniform", 1)) == {"a": (0, 1), "b": (2, 3)}
    mixed = made(group("a", 4, kind="conv"), group("b", 4, label="heads"))
    assert kept(mixed, {"a": [5, 5, 5, 1], "b": [2, 3, 4, 5]}, HALF, Widths("depgraph", 1)) == {
        "a": (0, 1, 2),
        "b": (3,),
    }


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5, 0.75])
def test_exactly_the_share_goes_at_ties_too(share):
    found = kept(TWO, {"a": [1.0] * 4, "b": [1.0] * 4}, Shares(hidden=share), EXACT)
    left = sum(len(found.get(name, range(4))) for name in "ab")
    assert left == 8 - -(-share * 8 // 1)


def test_parts_with_no_share_stay_whole():
    groups = made(group("a", 4), group("e", 8, "embedding"))
    assert set(kept(groups, {"a": [1, 2, 3, 4], "e": list(range(8))}, Shares(embedding=0.5))) == {"e"}


@pytest.mark.parametrize(("rounding", "width"), [("nearest", 24), ("down", 16)])
def test_widths_are_rounded_but_not_heads_or_small_groups(rounding, width):
    groups = made(group("a", 32), group("h", 12, "heads"), group("s", 12, kind="small"))
    scores = {"a": list(range(32)), "h": list(range(12)), "s": list(range(12))}
    found = kept(groups, scores, Shares(hidden=0.35, heads=0.35), Widths("isomorphic", 8, rounding))
    assert {name: len(units) for name, units in found.items()} == {"a": width, "h": 7, "s": 7}
    assert found["a"] == tuple(range(32 - width, 32))


def test_groups_that_the_code_ties_keep_equally_many():
    groups = made(group("a", 4, kind="one"), group("b", 4), ties=(("b", "a"),))
    found = kept(groups, {"a": [9, 9, 9, 1], "b": [1, 2, 3, 4]}, Shares(hidden=0.5), Widths("depgraph", 1))
    assert {name: len(units) for name, units in found.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("share", [1.0, -0.1, 1.5])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(PlanError, match="below 100 %"):
        Shares(hidden=share)


def test_every_group_keeps_what_must_stay():
    scores = {"a": [9, 8, 7, 6], "b": [1, 2, 3, 4]}
    found = kept(TWO, scores, Shares(hidden=0.9), Widths(round_to=1, keep_at_least=2))
    assert found == {"a": (0, 1), "b": (2, 3)}
    big = made(group("c", 32))
    down = Widths(round_to=8, rounding="down", keep_at_least=9)
    assert len(kept(big, {"c": range(32)}, Shares(hidden=0.95), down)["c"]) == 16


def test_attention_is_ranked_over_all_layers_or_each_by_itself():
    groups = made(group("a", 4, "heads", "one"), group("b", 4, "heads", "two"))
    scores = {"a": [9, 8, 7, 6], "b": [1, 2, 3, 4]}
    whole = {"a": (0, 1, 2), "b": (3,)}
    assert kept(groups, scores, HALF, Widths(round_to=1, attention="all")) == whole
    assert kept(groups, scores, HALF, Widths("depgraph", 1, attention="layer")) == {"a": (0, 1), "b": (2, 3)}
    assert kept(groups, scores, HALF, Widths(round_to=1)) == {"a": (0, 1), "b": (2, 3)}


def test_parts_that_are_ranked_together_lose_one_share():
    groups = made(group("a", 4), group("e", 4, "embedding"), group("h", 4, "heads"))
    scores = {"a": [1, 2, 3, 4], "e": [5, 6, 7, 8], "h": [1, 2, 3, 4]}
    uneven = Shares(hidden=0.5, embedding=0.25)
    with pytest.raises(PlanError, match=r"`depgraph` ranks the units of embedding, hidden together") as raised:
        kept(groups, scores, uneven, Widths("depgraph", 1))
    assert "--ratio 50%" in raised.value.hint
    assert kept(groups, scores, uneven) == {"a": (2, 3), "e": (1, 2, 3)}
    assert kept(groups, scores, Shares(hidden=0.25, embedding=0.25), Widths("depgraph", 1)) == {"a": (2, 3)}
    apart = Widths("depgraph", 1, attention="layer")  # heads have rankings of their own
    assert kept(groups, scores, Shares(hidden=0.5, heads=0.25), apart) == {"a": (2, 3), "h": (1, 2, 3)}


def test_random_scores_follow_their_seed():
    one, same, other = (random_scores(TWO, seed)["a"] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.fixture(scope="module")
def traced():
    model = tiny.vit(depth=1).double()
    return model, trace(model, (tiny.images(model),)).groups


def test_a_units_score_is_what_its_removal_removes(traced):
    """Sum over all tensors of what a cut takes away: the slow way to a slice, through surgery itself."""
    model, groups = traced
    names = [member.tensor for g in groups.groups for member in g.members if member.tensor.endswith("weight")]
    elements = {name: model.get_parameter(name).detach().abs() for name in dict.fromkeys(names)}
    scores = unit_scores(groups, elements, "none")
    for one in groups.groups:
        members = [member.tensor for member in one.members if member.tensor in elements]
        unit = one.size - 1
        cut = copy.deepcopy(model)
        with torch.no_grad():
            for name in elements:
                cut.get_parameter(name).copy_(elements[name])
        plan = plan_widths(groups, {one.id: tuple(range(unit))})
        cut_(cut, type(plan)(plan.cuts, plan.slices))  # without the rescaling of q rows
        gone = [float(elements[n].sum() - cut.get_parameter(n).detach().sum()) for n in dict.fromkeys(members)]
        if len(set(members)) == len(members):  # each tensor holds the group once
            assert float(scores[one.id][unit]) == pytest.approx(sum(gone) / len(members), rel=1e-9)


def test_the_mean_normaliser_makes_every_group_equal_on_average(traced):
    model, groups = traced
    elements = {name: p.detach().square() for name, p in model.named_parameters()}
    for score in unit_scores(groups, elements).values():
        assert float(score.mean()) == pytest.approx(1)
    for score in unit_scores(groups, elements, "max", everything=True).values():
        assert float(score.max()) == pytest.approx(1)


class Pairs:
    def __init__(self, model):
        self.batches = [(tiny.images(model, 2, seed=i), tiny.labels(2)) for i in range(2)]

    def __iter__(self):
        return iter(self.batches)


def test_gradients_are_the_sum_over_all_images_and_leave_the_model_alone(traced):
    model, _ = traced
    model.requires_grad_(False).train()
    names = ["blocks.0.mlp.fc1.weight", "norm.weight"]
    found = gradients(model, names, Pairs(model))
    assert model.training and not any(p.requires_grad or p.grad is not None for p in model.parameters())
    whole = copy.deepcopy(model).eval().requires_grad_(True)
    x, y = (torch.cat(column) for column in zip(*Pairs(model)))
    torch.nn.functional.cross_entropy(whole(x), y, reduction="sum").backward()
    for name in names:
        assert_close(found[name], whole.get_parameter(name).grad)
    model.eval()


@pytest.mark.parametrize("criterion", NAMES)
def test_every_criterion_scores_every_weight(traced, criterion):
    model, _ = traced
    names = ["blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"]
    found = element_scores(model, names, criterion, Pairs(model))
    assert {n: s.shape for n, s in found.items()} == {n: model.get_parameter(n).shape for n in names}
    assert all((score >= 0).all() and score.sum() > 0 for score in found.values())


def test_criteria_without_what_they_need_are_refused(traced):
    with pytest.raises(UsageError, match="`taylor` needs labelled images"):
        element_scores(traced[0], [], "taylor", None)
    with pytest.raises(UsageError, match="unknown criterion `taylr`"):
        element_scores(traced[0], [], "taylr", None)


def recorded():
    """A model whose attention an earlier cut replaced by recorded code, and a weight in it."""
    model = tiny.swin2()
    x = tiny.images(model)
    settled = settle(model, trace(model, (x,)), (x,))
    return cut_(model, plan_widths(settled.groups, half(settled.groups))), "layers.0.blocks.0.attn.qkv.weight"


def tuned():
    """A model with LoRA beside its layers, and one of its factors."""
    model = tiny.vit(depth=1)
    anatomy = describe(model)
    plan = planner.plan(model, anatomy, planner.parse("lora-2"))
    return apply_(model, plan, anatomy.heads), "blocks.0.attn.qkv.up"


@pytest.mark.parametrize("subject", [recorded, tuned])
def test_what_hessian_cannot_separate_is_a_sentence_and_taylor_scores_it(subject):
    model, name = subject()
    with pytest.raises(PlanError, match=rf"`hessian` cannot score this model: parameter `{name}`") as raised:
        element_scores(model, [name], "hessian", Pairs(model))
    assert "--criterion taylor" in raised.value.hint
    assert float(element_scores(model, [name], "taylor", Pairs(tiny.trained_(model)))[name].sum()) > 0


def by_the_published_rule(groups, scores, shares):
    """A threshold for each scope: embedding and hidden by class, head dims over all layers, heads over all layers."""
    scopes = {}
    for one in groups.groups:
        scopes.setdefault(one.label if one.label in ("heads", "head dim") else one.kind, []).append(one)
    kept = {}
    for members in scopes.values():
        pool = torch.cat([scores[one.id] for one in members])
        gone = len(pool) - int(len(pool) * (1 - shares.of(members[0].label)))
        threshold = pool.sort().values[gone - 1]
        kept |= {one.id: int((scores[one.id] > threshold).sum()) // 2 * 2 for one in members}
        if members[0].label == "heads":
            kept |= {one.id: int((scores[one.id] > threshold).sum()) for one in members}
    return kept


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.25), (0.6, 0.6, 0.3), (0.5, 0.5, 0.1), (0.25, 0.3, 0.3)])
def test_the_published_scopes_and_counts_of_a_vit(shares):
    width, heads, dim = shares
    asked = Shares(embedding=width, hidden=width, heads=heads, head_dim=dim)
    blocks = [(group(f"h{i}", 12, "heads"), group(f"d{i}", 64, "head dim"), group(f"m{i}", 512)) for i in range(12)]
    groups = made(group("e", 384, "embedding", "stream"), *(one for block in blocks for one in block))
    scores = random_scores(groups, 5)
    settings = Widths(round_to=2, rounding="down", attention="all")
    found = widths(groups, scores, asked, settings)
    assert found == by_the_published_rule(groups, scores, asked)
    assert len({found[f"h{i}"] for i in range(12)}) > 1 and len({found[f"d{i}"] for i in range(12)}) > 1


def test_constants_of_a_rotary_embedding_are_pinned_and_the_model_is_ranked():
    """Bands of the embedding lie in a buffer that nothing read: half of them would be gone at the next image size."""
    model = tiny.eva()
    traced = trace(model, (tiny.images(model),))
    pinned = {one.tensor: one.reason for one in traced.groups.pinned}
    assert pinned["rope.bands"] == "no weight lies on it, only `rope.bands`, a constant of the code"
    scores = unit_scores(traced.groups, element_scores(model, dict(model.named_parameters()), "l2", None))
    assert scores.keys() == traced.groups.sizes.keys() and all(bool((s > 0).any()) for s in scores.values())


class Shifted(torch.nn.Module):
    """A shift of its own on what the layer gives: a group that lies on a table alone."""

    def __init__(self):
        super().__init__()
        self.table, self.last = torch.nn.Parameter(torch.randn(1, 8)), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.last(x) * (x.mean(-1, keepdim=True) + self.table).abs().sum(-1, keepdim=True)


def test_a_group_that_lies_on_a_table_alone_is_scored_by_it():
    model = Shifted()
    traced = trace(model, (torch.randn(2, 4),))
    (name,) = traced.groups.sizes
    scores = unit_scores(traced.groups, element_scores(model, dict(model.named_parameters()), "l1", None), "none")
    assert_close(scores[name].float(), model.table.detach().abs()[0])
