"""Widths cut with the tunes beside the layers: exact, rebuilt on the stock class, and still to be folded exactly."""

import copy
import dataclasses

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.build import Opened, merge_
from tailor.errors import PlanError
from tailor.plans import PLANS
from tailor.preprocessing import Preprocessing
from tailor.pruning.settings import Shares, Widths
from tailor.pruning.width import choose, random_scores
from tailor.spec import BackboneRef, Spec
from tailor.surgery import changed, load_changed_
from tailor.tasks.classification import ClassifierHead
from tailor.tracing import cut_, plan_widths, verify
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merges
from tailor.tuning.beside import Names, Narrowing, names_of
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Entries, Tune
from tailor.workflow.context import Decision
from tailor.workflow.tunes_beside import folded, trace_beside
from tailor.workflow.tunes_beside import left as left_of

EXACTLY = Widths(round_to=1)
CASES = [
    ("vit", "lora-2", "keep"),
    ("vit", "lora-2", "prune"),
    ("vit", "repadapter-4", "prune"),
    ("vit", "adapter-4", "prune"),
    ("vit", "adaptformer-4", "keep"),
    ("vit", "ssf", "keep"),
    ("vit", "site-adapter-4", "prune"),
    ("vit", "vpt-shallow-4", "prune"),
    ("vit", "mlp", "keep"),
    ("swin", "convpass-4", "prune"),
    ("swin", "lora-2", "keep"),
    ("convnext", "adapter-4", "prune"),
    ("resnet", "lora-2", "keep"),
]


def spec_of(plan):
    head = ClassifierHead(tuple("abcde"))
    pre = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Spec(BackboneRef("none", "random"), head, pre, (plan,))


def narrowed(spec, cut):
    """The spec once the cut is added to its plans."""
    return dataclasses.replace(spec, plans=PLANS["width"].add(spec.plans, cut, ()))


def left(model, spec, anatomy, cut, narrow):
    """The tensors that the cut leaves."""
    return left_of(Opened(spec, model, anatomy), Decision((cut,)), narrow)


def tuned(family, method, entries=False):
    """A shaken model with trained tunes, the same without them, and the plan."""
    stock = tiny.MODELS[family]()
    anatomy = describe(stock)
    plan = planner.plan(stock, anatomy, planner.parse(method))
    if entries:
        weight = next(n for n, p in stock.named_parameters() if n.endswith("qkv.weight"))
        bias = weight.replace("weight", "bias")
        scattered = (Entries(weight, tuple(range(0, 3000, 7))), Entries(bias, tuple(range(0, 90, 5))))
        plan = dataclasses.replace(plan, entries=scattered, full=("norm.bias[3:20]",))
    model = tiny.trained_(apply_(copy.deepcopy(stock), plan, anatomy.heads)).eval()
    return stock, model, plan, anatomy


def a_cut(model, spec, anatomy, adapters, shares, seed=0):
    """The traced model and a cut of `shares` of it, by random scores."""
    traced = trace_beside(model, spec, anatomy.heads, (tiny.images(model),), adapters)
    chosen = choose(traced.groups, random_scores(traced.groups, seed), shares, EXACTLY)
    return traced, plan_widths(traced.groups, chosen)


@pytest.mark.parametrize(("family", "method", "adapters"), CASES)
def test_a_cut_beside_the_tunes_is_exact_and_rebuilt_on_the_stock_class(family, method, adapters):
    stock, model, plan, anatomy = tuned(family, method, entries=family == "vit" and method in ("lora-2", "adapter-4"))
    spec, x = spec_of(plan), tiny.images(stock)
    emb = 0.0 if method == "mlp" else 0.3
    traced, cut = a_cut(folded(model), spec, anatomy, adapters, Shares(emb, 0.5, 0.25, 0.5))
    masked = verify(folded(model), cut_(folded(model), cut), traced, cut, (x,))
    assert masked.exact and len(cut.cuts) > 2, masked
    width, fitting = narrowed(spec, cut).plans
    again = apply_(cut_(copy.deepcopy(stock), width), fitting, anatomy.heads).eval()
    load_changed_(
        again, {n: t for n, t in left(model, spec_of(plan), anatomy, cut, again).items() if n in changed(again)}
    )
    with torch.no_grad():
        found, expected = again(x), cut_(folded(model), cut)(x)
        assert_close(found, expected, rtol=1e-5, atol=1e-5)
        if merges(fitting):
            assert_close(merge_(again, fitting)(x), expected, rtol=1e-4, atol=1e-5)


def test_kept_tunes_lose_nothing_where_the_embedding_stays():
    _, model, plan, anatomy = tuned("vit", "convpass-4")
    spec = spec_of(plan)
    _, cut = a_cut(folded(model), spec, anatomy, "keep", Shares(heads=0.5, head_dim=0.25, hidden=0.5))
    assert {piece.tensor for piece in cut.slices} and not [s for s in cut.slices if ".branch." in s.tensor]
    assert narrowed(spec, cut).plans[1] == plan


def test_pruned_tunes_are_narrower_each_by_itself():
    _, model, plan, anatomy = tuned("vit", "site-adapter-8")
    _, cut = a_cut(folded(model), spec_of(plan), anatomy, "prune", Shares(hidden=0.5))
    ranks = {tune.site: tune.method.rank for tune in narrowed(spec_of(plan), cut).plans[1].tunes}
    assert 0 < min(ranks.values()) < max(ranks.values()) <= 8
    assert len({rank for site, rank in ranks.items() if site.startswith("blocks.0.attn.qkv")}) == 1


def test_cutting_twice_composes():
    stock, model, plan, anatomy = tuned("vit", "lora-2", entries=True)
    spec, x = spec_of(plan), tiny.images(stock)
    for seed in (0, 1):
        _, cut = a_cut(folded(model), spec, anatomy, "keep", Shares(0.2, 0.0, 0.0, 0.3), seed)
        expected = cut_(folded(model), cut)
        spec, before = narrowed(spec, cut), (model, spec)
        fresh = copy.deepcopy(stock)
        for width in spec.pruning:
            cut_(fresh, width)
        model = apply_(fresh, spec.tuning[0], anatomy.heads).eval()
        tensors = left(*before, anatomy, cut, model)
        load_changed_(model, {n: tensors[n] for n in changed(model)})
        with torch.no_grad():
            assert_close(model(x), expected(x), rtol=1e-5, atol=1e-5)
    assert [plan.kind for plan in spec.plans] == ["width", "width", "tune"]


def test_a_tune_that_cannot_follow_is_named():
    stock, model, plan, anatomy = tuned("vit", "mlp")
    _, cut = a_cut(folded(model), spec_of(plan), anatomy, "keep", Shares(embedding=0.3))
    width, fitting = narrowed(spec_of(plan), cut).plans
    again = apply_(cut_(copy.deepcopy(stock), width), fitting, anatomy.heads)
    with pytest.raises(PlanError, match="cannot be cut beside its layer"):
        left(model, spec_of(plan), anatomy, cut, again)


def test_names_are_found_through_every_wrapper():
    names = Names({"blocks.0": 1, "blocks.0.attn.qkv": 2})
    assert names.place("blocks.0.base.attn.qkv.base.base.weight").stock == "blocks.0.attn.qkv.weight"
    assert names.place("blocks.0.base.attn.qkv.base.down").tune == "blocks.0.attn.qkv"
    assert names.place("blocks.0.prompts").stock is None
    assert names.place("blocks.0.base.attn.qkv").stock is None  # the wrapper, not what it wraps
    assert names.place("blocks.1.attn.qkv.weight").stock == "blocks.1.attn.qkv.weight"


def test_a_factor_keeps_its_size_when_a_rank_shrinks():
    _, model, plan, anatomy = tuned("vit", "lora-4")
    scaled = dataclasses.replace(
        plan, tunes=tuple(Tune(t.site, Lora(rank=4, alpha=8.0), t.rows, t.geometry) for t in plan.tunes)
    )
    _, cut = a_cut(folded(model), spec_of(scaled), anatomy, "prune", Shares(hidden=0.5))
    for tune in Narrowing(cut, names_of((scaled,))).fitted(scaled).tunes:
        assert tune.method.alpha / tune.method.rank == 2.0
