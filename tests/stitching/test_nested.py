"""A nested palette: a size runs as what it is cut to, smaller ones keep a part of larger ones, the sandwich rule."""

import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.pruning.settings import Shares, Widths
from tailor.pruning.width import choose, random_scores
from tailor.stitching.nested import Nested, NestedPlan, NestedSize, Sandwich, cut_out
from tailor.surgery import trainable
from tailor.tracing import plan_widths, trace
from tailor.tuning.apply import apply_
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Tune, TunePlan


def made(kind="vit", trained=True):
    """A tuned model of four sizes, and its tune plan."""
    model = tiny.MODELS[kind]()
    groups = trace(model, (tiny.images(model),)).groups
    scores = random_scores(groups, 3)
    sizes = [NestedSize("100%")]
    for share in (0.7, 0.5, 0.3):
        keep = choose(groups, scores, Shares(heads=0.5 if share > 0.4 else 0.0, hidden=share), Widths(round_to=1))
        sizes.append(NestedSize(f"{share:.0%}", plan_widths(groups, keep)))
    anatomy = backbones.describe(model)
    layers = [s for s in anatomy.layers if s.block >= 0 and s.op in ("qkv", "proj", "fc1")]
    tune = TunePlan("lora", tunes=tuple(Tune(s.path, Lora(rank=2, dropout=0.0)) for s in layers))
    apply_(model, tune, anatomy.heads)
    nested = Nested(model, NestedPlan(tuple(sizes)))
    if trained:
        tiny.trained_(nested, 4)
    return nested.double().eval(), tune


@pytest.mark.parametrize("kind", ["vit", "swin", "convnext"])
def test_a_size_computes_what_it_is_cut_to(kind):
    nested, tune = made(kind)
    x = tiny.images(nested.model).double()
    before = nested(x)
    counts = []
    for number in range(len(nested.plan.routes)):
        plain = cut_out(nested, tune, number)
        assert type(plain) is type(nested.model)
        assert_close(plain(x), nested.set_route_(number)(x), rtol=0, atol=1e-9)
        counts.append(sum(p.numel() for p in plain.parameters()))
    assert counts[1] < counts[2] < counts[3] < counts[0]
    assert_close(nested.set_route_(0)(x), before, rtol=0, atol=0)


def test_smaller_sizes_keep_a_part_of_what_larger_ones_keep():
    nested, _ = made()
    plans = [size.cut for size in nested.plan.routes[1:]]
    for small, large in itertools.pairwise(plans):
        kept = {cut.group: set(cut.keep) for cut in large.cuts}
        assert all(set(cut.keep) <= kept.get(cut.group, set(range(cut.size))) for cut in small.cuts)


@dataclass
class Share:
    images: torch.Tensor
    targets: torch.Tensor


def test_the_step_is_the_sandwich_rule():
    nested, _ = made()
    sandwich = Sandwich(nested, lambda output, share: F.cross_entropy(output, share.targets), seed=1)
    share = Share(tiny.images(nested.model, 4).double(), tiny.labels(4))
    sandwich.before(0)
    assert sandwich.routes[0] == 1
    assert sorted(sandwich.routes) == [1, 2, 3]
    value = sandwich.step(nested, share)
    value.backward()
    found = {n: p.grad.clone() for n, p in trainable(nested).items() if p.grad is not None}
    nested.zero_grad(set_to_none=True)
    taught = nested.set_route_(0)(share.images)
    losses = [F.cross_entropy(taught, share.targets)]
    for route in sandwich.routes:
        output = nested.set_route_(route)(share.images)
        losses.append(0.5 * F.cross_entropy(output, share.targets) + 0.5 * F.cross_entropy(output, taught.argmax(-1)))
    whole = torch.stack(losses).mean()
    whole.backward()
    assert_close(value, whole.detach())
    for name, parameter in trainable(nested).items():
        if parameter.grad is not None:
            assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)
    sandwich.after(0)
    assert sandwich.visited.tolist() == [1, 1, 1, 1]


def test_a_palette_of_one_size_is_none():
    with pytest.raises(PlanError, match="at least one smaller size"):
        NestedPlan((NestedSize("100%"),))
    with pytest.raises(PlanError, match="has no route `9%`"):
        made()[0].plan.find("9%")
