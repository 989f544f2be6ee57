"""NOAH: a sub-net is the supernet cut to its leading slices, the search stays within its limit, it ends in a plan."""

import copy
from dataclasses import replace

import pytest
import spt_models
import torch
from pydantic import TypeAdapter
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from tailor.data.loading import Batch
from tailor.errors import PlanError
from tailor.surgery import trainable
from tailor.tasks.classification import Classification
from tailor.training import Recipe, fit
from tailor.tuning.apply import apply_, cost
from tailor.tuning.methods.adapter import AdaptedOutput
from tailor.tuning.methods.lora import LoraLinear
from tailor.tuning.methods.vpt_deep import PromptedBlock, PromptedWindows, VptDeep
from tailor.tuning.noah.search import draw, evaluator, full, plan, search, sliced, step
from tailor.tuning.noah.settings import Noah
from tailor.tuning.plan import TunePlan

SMALL = Noah(widths=(1, 2, 4), depths=(1, 2), generations=4, population=8, mutations=4, crossovers=4, top=3)
CHOICES = [
    ((2, 1), (4, 2), (1, 4)),
    ((4, 0), (1, 0), (2, 0)),
    ((0, 0), (2, 1), (0, 0)),
    ((1, 4), (0, 0), (4, 0)),
    ((0, 0), (0, 0), (0, 0)),
]


def supernet(family):
    """The plain model, its anatomy, and the supernet with every new parameter away from its start."""
    model, anatomy = spt_models.shaken(family)
    big = apply_(copy.deepcopy(model), plan(model, anatomy, full(anatomy, SMALL)), anatomy.heads).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(big).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model, anatomy, big


def modules(model, kinds):
    return [(path, module) for path, module in model.named_modules() if isinstance(module, kinds)]


def cut_by_hand(model, anatomy, big, widths):
    """The plan of the sub-net applied to the plain model, its parameters copied from the supernet."""
    small = apply_(copy.deepcopy(model), plan(model, anatomy, widths), anatomy.heads).eval()
    for kinds, row in zip(((PromptedBlock, PromptedWindows), LoraLinear, AdaptedOutput), widths, strict=True):
        sources = [module for (_, module), width in zip(modules(big, kinds), row, strict=True) if width]
        for source, (_, target) in zip(sources, modules(small, kinds), strict=True):
            for name, own in target.named_parameters():
                if not name.startswith("base."):
                    with torch.no_grad():
                        own.copy_(source.get_parameter(name)[tuple(slice(n) for n in own.shape)])
    heads = {k: p for k, p in big.named_parameters() if k.startswith(tuple(f"{h}." for h in anatomy.heads))}
    small.load_state_dict(heads, strict=False)
    return small


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("widths", CHOICES, ids=str)
def test_a_sub_net_is_its_own_plan_with_the_leading_slices(family, widths):
    model, anatomy, big = supernet(family)
    images = spt_models.batches()[0][0]
    small = cut_by_hand(model, anatomy, big, widths)
    with torch.no_grad():
        whole = big(images)
        found = functional_call(big, sliced(big, anatomy, widths), (images,))
        assert_close(found, small(images), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, whole)
        assert torch.equal(big(images), whole)


def test_a_step_moves_exactly_the_slices_that_were_drawn():
    _, anatomy, big = supernet("vit")
    images, labels = spt_models.batches()[0]
    torch.manual_seed(5)
    drawn = draw(anatomy, SMALL)
    torch.manual_seed(5)
    share = type("Share", (), {"images": images, "targets": labels})()
    step(anatomy, SMALL, lambda logits, given: cross_entropy(logits, given.targets))(big, share).backward()
    for kinds, row, name, axis in (
        (PromptedBlock, drawn[0], "prompts", 0),
        (LoraLinear, drawn[1], "down", 0),
        (LoraLinear, drawn[1], "up", 1),
        (AdaptedOutput, drawn[2], "adapter.down.weight", 0),
        (AdaptedOutput, drawn[2], "adapter.up.weight", 1),
    ):
        for (_, module), width in zip(modules(big, kinds), row, strict=True):
            grad = module.get_parameter(name).grad
            moved = torch.zeros(4) if grad is None else grad.abs().sum(1 - axis)
            assert bool((moved[:width] > 0).all()) and not moved[width:].any()
    assert big.head.weight.grad is not None


def test_drawn_sub_nets_have_leading_blocks_and_allowed_widths():
    _, anatomy = spt_models.shaken("vit")
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(200):
        for row in draw(anatomy, SMALL, generator):
            depth = sum(1 for w in row if w)
            assert depth in SMALL.depths and all(row[:depth]) and set(row) <= {0, 1, 2, 4}
            seen.add(row)
    assert len(seen) == 3 + 9


def test_what_a_sub_net_costs_is_what_trains_and_the_plan_survives_json():
    model, anatomy = spt_models.shaken("vit")
    made = plan(model, anatomy, CHOICES[0])
    tuned = apply_(copy.deepcopy(model), made, anatomy.heads)
    trained = sum(p.numel() for n, p in trainable(tuned).items() if not n.startswith("head."))
    # d = 16: 3 prompts, rank 6 on qkv (16 + 48), bottlenecks 1 and 4
    assert made.cost == trained == cost(model, made) == 3 * 16 + 6 * 64 + (2 * 16 + 1 + 16) + (2 * 64 + 4 + 16)
    assert TypeAdapter(TunePlan).validate_json(TypeAdapter(TunePlan).dump_json(made)) == made
    assert {tune.method.kind for tune in made.tunes} == {"vpt-deep", "lora", "adapter"}


def test_the_search_finds_the_best_of_a_small_space_and_never_exceeds_the_limit():
    model, anatomy = spt_models.shaken("vit")
    prices, tried = {}, {}

    def price(widths):
        return prices.setdefault(widths, plan(model, anatomy, widths).cost)

    def value(widths):  # wants a wide LoRA in both blocks and nothing else
        assert widths not in tried
        tried[widths] = sum(widths[1]) - 0.1 * (sum(widths[0]) + sum(widths[2]))
        return tried[widths]

    settings = Noah(widths=(1, 2, 4), depths=(1, 2), generations=12, population=12, mutations=8, crossovers=8, top=4)
    limit = 8 * 64 + 16 + 49
    found = search(value, price, anatomy, settings, limit)
    assert found.widths == ((1, 0), (4, 4), (1, 0)) and found.cost == limit
    assert found.value == max(tried.values()) and list(found.history) == sorted(found.history)
    assert len(tried) < 300 and all(price(w) <= limit for w in tried)
    assert len(found.history) == 12
    tried.clear()
    again = search(value, price, anatomy, settings, limit)
    assert again == found
    tried.clear()
    tight = search(value, price, anatomy, settings, price(((1, 0), (1, 0), (1, 0))))
    assert tight.widths == ((1, 0), (1, 0), (1, 0))


def test_no_sub_net_is_tried_twice():
    model, anatomy = spt_models.shaken("vit")
    tried = []
    search(lambda w: tried.append(w) or 0.5, lambda w: plan(model, anatomy, w).cost, anatomy, SMALL, 10**6)
    assert len(tried) == len(set(tried)) and 8 < len(tried) <= 8 + 3 * 8


def test_the_evaluator_counts_right_answers_in_eval_mode():
    _, anatomy, big = supernet("vit")
    batches = spt_models.batches()
    big.train()
    training = []
    big.head.register_forward_pre_hook(lambda _, x: training.append(any(m.training for m in big.modules())))
    measure = evaluator(big, anatomy, batches)
    assert big.training
    parameters = sliced(big.eval(), anatomy, CHOICES[0])
    with torch.no_grad():
        right = sum(int((functional_call(big, parameters, (x,)).argmax(1) == y).sum()) for x, y in batches)
    big.train()
    training.clear()
    assert measure(CHOICES[0]) == right / 6
    assert training == [False] * 3
    assert all(m.training for m in big.modules())


def test_a_limit_below_the_smallest_sub_net_is_refused():
    model, anatomy = spt_models.shaken("vit")
    with pytest.raises(PlanError, match=r"its smallest sub-net has 129") as caught:
        search(lambda _: 0.0, lambda w: plan(model, anatomy, w).cost, anatomy, SMALL, 128)
    assert "--budget 129" in caught.value.hint


def test_a_backbone_without_described_blocks_is_refused():
    anatomy = replace(spt_models.shaken("vit")[1], blocks=(), family="generic")
    with pytest.raises(PlanError, match="`noah` is not defined on a `generic` backbone: its blocks are not known"):
        full(anatomy, SMALL)
    with pytest.raises(PlanError, match="`vpt-deep` is not defined on a `generic` backbone: its blocks are not known"):
        VptDeep().places(anatomy)


def test_depths_beyond_the_backbone_are_refused():
    _, anatomy = spt_models.shaken("vit")
    with pytest.raises(PlanError, match="reach to 12, the backbone has 2 blocks"):
        full(anatomy, Noah())


def test_it_is_refused_where_one_of_the_methods_has_no_place():
    model, anatomy = spt_models.shaken("convnext")
    with pytest.raises(PlanError, match="vpt-deep"):
        plan(model, anatomy, tuple((1,) * len(anatomy.blocks) for _ in range(3)))


def test_supernet_search_and_winner_on_the_engine(tmp_path):
    model, anatomy = spt_models.shaken("vit")
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = (images.mean((1, 2, 3)) > 0).long()
    batch = Batch(images, labels, torch.arange(12), tuple("abcdefghijkl"))
    recipe, task = Recipe(epochs=6, batch_size=12, lr=5e-3), Classification()
    big = apply_(copy.deepcopy(model), plan(model, anatomy, full(anatomy, SMALL)), anatomy.heads)
    start = copy.deepcopy(dict(trainable(big)))
    trained = step(anatomy, SMALL, lambda output, share: share.loss(task, output))
    feed = {"batches": lambda epoch, start, process, processes: [batch][start:], "steps_per_epoch": 1}
    fit(big, recipe, task, run=tmp_path / "supernet", step=trained, **feed)
    assert all(not torch.equal(p, start[name]) for name, p in trainable(big).items())
    found = search(evaluator(big, anatomy, [batch]), lambda w: plan(model, anatomy, w).cost, anatomy, SMALL, limit=600)
    winner = plan(model, anatomy, found.widths)
    assert winner.cost == found.cost <= 600
    tuned = apply_(copy.deepcopy(model), winner, anatomy.heads)
    result = fit(tuned, recipe, task, run=tmp_path / "winner", **feed)
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]
