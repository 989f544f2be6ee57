"""Allocation against an independent, slow reference; that what is counted trains; determinism; messages."""

import copy
import dataclasses
import math

import pytest
import spt_models
import timm
import torch
from pydantic import TypeAdapter

from tailor import backbones
from tailor.errors import PlanError, UsageError
from tailor.surgery import trainable
from tailor.tuning.apply import apply_, cost
from tailor.tuning.methods import MODULES
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt.allocate import SWEEP, allocate
from tailor.tuning.spt.candidates import candidates, price
from tailor.tuning.spt.scores import Scores
from tailor.tuning.spt.settings import SPT, Spt, named

FAMILIES = tuple(spt_models.FAMILIES)
SITE_SETTINGS = [
    Spt(structured=structured, rule=rule, parts=parts, rank=2)
    for structured in ("lora", "site-adapter")
    for rule in ("released", "thesis")
    for parts in ("both", "structured", "unstructured")
]
SITE_SETTINGS.append(Spt(rank=4))  # on the narrowest matrices a module would be no smaller than the matrix
NAMES = [f"{s.structured}-{s.rule}-{s.parts}-{s.rank}" for s in SITE_SETTINGS]


def reference(model, anatomy, scores, settings, budget):
    """The largest tau by trying each: dense masks of the selected weights, then the rule as the paper's code writes it.

    Returns (cost, structured site names, whole vectors as (tensor, start, stop), {tensor: flat entries}).
    """
    pieces = []  # (kind, name, tensor, start, stop, sigma)
    for site in anatomy.sites:
        outs, ins = site.outputs, site.inputs
        start = site.rows[0] * ins if site.rows else 0
        sigma = settings.rank * (ins + outs)
        if settings.structured == "site-adapter":
            sigma = 2 * settings.rank * outs + settings.rank + outs
        grouped = getattr(model.get_submodule(site.path), "groups", 1) > 1
        if grouped or settings.parts == "unstructured" or sigma >= outs * ins:
            sigma = math.inf
        pieces.append(("matrix", site.name, site.tensor, start, start + outs * ins, sigma))
    for vector in anatomy.vectors:
        start, stop = vector.rows or (0, vector.size)
        pieces.append(("vector", vector.name, vector.tensor, start, stop, stop - start))
    alpha, beta = (10, 5) if settings.rule == "released" else (1, 1)
    ranked = []
    for number, (_, _, tensor, start, stop, _) in enumerate(pieces):
        values = scores.tensors[tensor].flatten()[start:stop].tolist()
        ranked += [(-value, number, index) for index, value in enumerate(values) if value > 0]
    ranked.sort()
    fixed = sum(model.get_parameter(name).numel() for name in anatomy.tokens)

    def rule(counts):
        spent, whole = fixed, []
        for n, (kind, name, *_, sigma) in zip(counts, pieces, strict=True):
            if n >= sigma / (alpha if kind == "matrix" else beta):
                spent += sigma
                whole.append(name)
            elif settings.parts != "structured":
                spent += n
        return spent, whole

    counts, best = [0] * len(pieces), 0
    for tau, (_, number, _) in enumerate(ranked, 1):
        counts[number] += 1
        if rule(counts)[0] <= budget:
            best = tau
    masks = {name: torch.zeros(t.numel(), dtype=torch.bool) for name, t in scores.tensors.items()}
    for _, number, index in ranked[:best]:
        masks[pieces[number][2]][pieces[number][3] + index] = True
    spent, whole = rule([int(masks[tensor][start:stop].sum()) for _, _, tensor, start, stop, _ in pieces])
    for _, name, tensor, start, stop, _ in pieces:
        if name in whole or settings.parts == "structured":
            masks[tensor][start:stop] = False
    sites = [name for kind, name, *_ in pieces if kind == "matrix" and name in whole]
    vectors = [
        (tensor, start, stop) for kind, name, tensor, start, stop, _ in pieces if kind == "vector" and name in whole
    ]
    return spent, sites, vectors, {t: m.nonzero().flatten().tolist() for t, m in masks.items() if m.any()}


def spans(plan, anatomy):
    """The whole vectors of a plan as (tensor, start, stop), a fused one in its parts, tokens left out."""
    vectors = {v.name: (v.tensor, *(v.rows or (0, v.size))) for v in anatomy.vectors}
    found = []
    for name in plan.full:
        if name not in anatomy.tokens:
            found += [span for key, span in vectors.items() if name in (key, span[0])]
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SITE_SETTINGS, ids=NAMES)
def test_a_plan_is_that_of_the_slow_reference(family, settings):
    model, anatomy = spt_models.shaken(family)
    scores = spt_models.synthetic(model, anatomy)
    plan = allocate(scores, anatomy, model, settings, 700)
    spent, sites, vectors, entries = reference(model, anatomy, scores, settings, 700)
    assert plan.cost == spent <= 700
    assert [t.site for t in plan.tunes] == sites
    assert sorted(spans(plan, anatomy)) == sorted(vectors)
    assert {e.tensor: list(e.indices) for e in plan.entries} == entries


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SITE_SETTINGS, ids=NAMES)
def test_what_is_counted_is_what_trains_and_never_above_the_budget(family, settings):
    model, anatomy = spt_models.shaken(family)
    scores = spt_models.synthetic(model, anatomy)
    for budget, fill in ((333, False), (700, True), (10**6, False)):
        plan = allocate(scores, anatomy, model, dataclasses.replace(settings, fill=fill), budget)
        tuned = apply_(copy.deepcopy(model), plan, anatomy.heads)
        heads = tuple(f"{head}." for head in anatomy.heads)
        trained = sum(p.numel() for name, p in trainable(tuned).items() if not name.startswith(heads))
        assert plan.cost == trained == cost(model, plan, anatomy.heads) <= budget


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trainable_parameter_gets_a_gradient(family):
    model, anatomy = spt_models.shaken(family)
    plan = allocate(spt_models.synthetic(model, anatomy), anatomy, model, Spt(rank=2, dropout=0.0, drop_path=0.0), 900)
    assert plan.tunes and plan.entries and spans(plan, anatomy)
    tuned = apply_(copy.deepcopy(model), plan, anatomy.heads)
    for name, parameter in trainable(tuned).items():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter)
    tuned(spt_models.batches()[0][0]).square().sum().backward()
    assert all(p.grad is not None for p in trainable(tuned).values())
    # The bias of the keys shifts every attention score of a query alike: its gradient is zero up to rounding.
    moved = [name for name, p in trainable(tuned).items() if bool(p.grad.any())]
    assert len(moved) >= 0.9 * len(trainable(tuned))
    assert not [n for n, p in tuned.named_parameters() if p.grad is not None and not p.requires_grad]


@pytest.mark.parametrize(
    "settings", [Spt(rank=2, rule="thesis"), Spt(rank=2, rule="thesis", structured="site-adapter")]
)
def test_by_the_thesis_rule_the_cost_never_exceeds_the_selected_weights(settings):
    for family in FAMILIES:
        model, anatomy = spt_models.shaken(family)
        fixed = sum(model.get_parameter(name).numel() for name in anatomy.tokens)
        for seed in range(4):
            scores = spt_models.synthetic(model, anatomy, seed)
            for budget in (60, 200, 600, 2000):
                plan = allocate(scores, anatomy, model, settings, budget)
                assert plan.cost <= plan.facts["tau"] + fixed


def test_the_candidates_of_vit_b():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    anatomy = backbones.describe(model)
    everything = candidates(anatomy)
    assert sum(c.site is not None for c in everything) == 72
    assert sum(c.site is None for c in everything) == 122
    assert sum(c.size for c in everything) == 85_056_000
    assert not [c.tensor for c in everything if c.tensor.startswith(("head", "patch_embed", "pos_embed", "cls_token"))]
    for settings, expected in ((Spt(), 1_327_104), (Spt(structured="site-adapter"), 1_410_624)):
        assert sum(price(model, c, settings) or 0 for c in everything) == expected


def test_candidates_are_disjoint_views_of_the_parameters():
    for family in FAMILIES:
        model, anatomy = spt_models.shaken(family)
        seen = {c.tensor: torch.zeros(model.get_parameter(c.tensor).shape) for c in candidates(anatomy)}
        for candidate in candidates(anatomy):
            candidate.view(seen).add_(1)
        assert all(bool((t == 1).all()) for t in seen.values())


def test_depthwise_convolutions_train_by_single_weights_only():
    model, anatomy = spt_models.shaken("convnext")
    depthwise = [c for c in candidates(anatomy) if c.site and c.site.kind == "depthwise"]
    assert depthwise and all(price(model, c, Spt(rank=1)) is None for c in depthwise)
    kernels = [c for c in candidates(anatomy) if c.operation == "downsample" and c.site]
    assert kernels and all(price(model, c, Spt(rank=1)) for c in kernels)


def test_filling_spends_the_whole_budget_and_keeps_what_was_chosen():
    model, anatomy = spt_models.shaken("vit")
    scores = spt_models.synthetic(model, anatomy)
    for budget in (120, 333, 700, 1500):
        plain = allocate(scores, anatomy, model, Spt(rank=2), budget)
        filled = allocate(scores, anatomy, model, Spt(rank=2, fill=True), budget)
        assert filled.cost == budget >= plain.cost
        assert set(plain.tunes) <= set(filled.tunes)
        assert set(spans(plain, anatomy)) <= set(spans(filled, anatomy))


def test_filling_goes_on_behind_weights_that_cost_nothing():
    model, anatomy = spt_models.shaken("vit")
    scores = spt_models.synthetic(model, anatomy)
    loud = {n: t + 1e6 if "mlp.fc" in n and n.endswith("weight") else t for n, t in scores.tensors.items()}
    # Four structured matrices take the first 4,096 places of the ranking and 320 parameters.
    plan = allocate(Scores(loud, {}), anatomy, model, Spt(rank=1, fill=True), 450)
    assert [t.site for t in plan.tunes][-1] == "blocks.1.mlp.fc2" and plan.facts["tau"] > 4096
    assert plan.cost == 450


def test_the_released_sweep_takes_the_nearest_cost_and_of_ties_the_larger_tau():
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", embed_dim=96, depth=4, num_heads=3)
    anatomy = backbones.describe(model)
    generator = torch.Generator().manual_seed(0)
    names = dict.fromkeys(c.tensor for c in candidates(anatomy))
    tensors = {n: torch.randn(model.get_parameter(n).shape, generator=generator).square() for n in names}
    scores = Scores(tensors, {})
    # At most 443,136 weights compete, so the sweep has 22 values; each cost once more, by counting.
    ranked = torch.cat([c.view(tensors) for c in candidates(anatomy)]).argsort(descending=True, stable=True)
    owner = torch.cat([torch.full((c.size,), i) for i, c in enumerate(candidates(anatomy))])
    costs = {}
    for tau in [t for t in SWEEP if t <= len(ranked)]:
        costs[tau] = 96
        for c, n in zip(candidates(anatomy), torch.bincount(owner[ranked[:tau]], minlength=200).tolist(), strict=False):
            sigma = price(model, c, Spt()) or c.size
            costs[tau] += sigma if n >= sigma / (10 if c.site else 5) else n
    for budget in (4000, 30_000, 10**6):
        expected = min(costs, key=lambda tau: (abs(costs[tau] - budget), -tau))
        plan = allocate(scores, anatomy, model, Spt(nearest=True), budget)
        assert (plan.facts["tau"], plan.cost) == (expected, costs[expected])
    assert list(costs.values()).count(max(costs.values())) > 1  # the last budget had a tie


def test_ties_do_not_depend_on_the_order_of_the_scores():
    model, anatomy = spt_models.shaken("vit")
    scores = spt_models.synthetic(model, anatomy)
    flat = Scores({name: torch.ones_like(t) for name, t in scores.tensors.items()}, {})
    for given in (scores, flat):
        turned = Scores(dict(reversed(given.tensors.items())), given.facts)
        for settings in SITE_SETTINGS:
            plans = [allocate(s, anatomy, model, settings, 400) for s in (given, turned, given)]
            assert plans[0] == plans[1] == plans[2]


@pytest.mark.parametrize("name", SPT)
def test_a_plan_survives_json(name):
    if SPT[name].structured not in MODULES:
        pytest.fail(f"`{SPT[name].structured}` is not in the table of methods")
    model, anatomy = spt_models.shaken("vit")
    settings = dataclasses.replace(SPT[name], rank=2)
    plan = allocate(spt_models.synthetic(model, anatomy), anatomy, model, settings, 800)
    adapter = TypeAdapter(TunePlan)
    assert plan.method == name
    assert adapter.validate_json(adapter.dump_json(plan)) == plan
    settings_adapter = TypeAdapter(Spt)
    assert settings_adapter.validate_json(settings_adapter.dump_json(settings)) == settings


def test_prompts_stand_only_in_blocks_with_a_sensitive_matrix():
    model, anatomy = spt_models.shaken("vit")
    scores = spt_models.synthetic(model, anatomy)
    loud = {n: t * (100.0 if n == "blocks.1.mlp.fc2.weight" else 0.01) for n, t in scores.tensors.items()}
    plan = allocate(Scores(loud, {}), anatomy, model, Spt(structured="vpt-deep", rank=2), 100)
    assert [t.site for t in plan.tunes] == ["blocks.1"]
    assert plan.tunes[0].method.prompts == (100 - 16) // 16
    assert not plan.entries and plan.full == ("cls_token",)
    tuned = apply_(copy.deepcopy(model), plan, anatomy.heads)
    trained = sum(p.numel() for name, p in trainable(tuned).items() if not name.startswith("head."))
    assert trained == plan.cost == 16 + 5 * 16


def test_prompts_are_refused_where_there_is_no_attention():
    model, anatomy = spt_models.shaken("convnext")
    with pytest.raises(PlanError, match="vpt-deep"):
        allocate(spt_models.synthetic(model, anatomy), anatomy, model, Spt(structured="vpt-deep", rank=2), 800)


@pytest.mark.parametrize(
    ("budget", "settings", "message"),
    [
        (0, Spt(), "budget must be above zero"),
        (-5, Spt(), "budget must be above zero"),
        (16, Spt(), "too small for one weight beside the 16 of the learned tokens, the least is 17"),
        (20, Spt(parts="structured", rank=2), "too small for one module or vector"),
        (20, Spt(structured="vpt-deep", rank=2), "no matrix is sensitive enough"),
        (100, Spt(nearest=True), "the released sweep starts at 20,000"),
    ],
)
def test_a_budget_that_buys_nothing_is_refused(budget, settings, message):
    model, anatomy = spt_models.shaken("vit")
    with pytest.raises(PlanError, match=message) as caught:
        allocate(spt_models.synthetic(model, anatomy), anatomy, model, settings, budget)
    assert caught.value.hint


def test_the_least_budget_that_the_message_names_is_enough():
    model, anatomy = spt_models.shaken("vit")
    assert allocate(spt_models.synthetic(model, anatomy), anatomy, model, Spt(), 17).cost == 17


def test_scores_of_another_backbone_are_refused():
    model, anatomy = spt_models.shaken("vit")
    tensors = spt_models.synthetic(model, anatomy).tensors
    short = {n: t for n, t in tensors.items() if n != "norm.weight"}
    with pytest.raises(PlanError, match=r"no scores for `norm\.weight`"):
        allocate(Scores(short, {}), anatomy, model, Spt(), 400)
    with pytest.raises(PlanError, match=r"`norm\.weight` have shape \(17,\), the model expects \(16,\)"):
        allocate(Scores({**tensors, "norm.weight": torch.ones(17)}, {}), anatomy, model, Spt(), 400)
    with pytest.raises(PlanError, match="not finite"):
        allocate(Scores({**tensors, "norm.weight": torch.full((16,), torch.nan)}, {}), anatomy, model, Spt(), 400)


def test_names_say_the_rank_and_unknown_ones_are_refused():
    assert named("spt-adapter-4") == Spt(structured="site-adapter", rank=4)
    assert named("spt-lora") == Spt()
    with pytest.raises(UsageError, match="unknown method `spt-lorra`"):
        named("spt-lorra")
    with pytest.raises(PlanError, match="above zero"):
        named("spt-lora-0")
