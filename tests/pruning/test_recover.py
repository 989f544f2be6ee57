"""Closed-form recovery: what is determined is exact, no layer gets worse, and how sums are taken does not matter."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import DataError, PlanError
from tailor.layer_rows import applied, given_rows, made_rows
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.pruning.recover import estimate_, repair_
from tailor.pruning.recover.places import places
from tailor.pruning.recover.problem import Problem, solve_
from tailor.pruning.recover.way import Way, WayPart, segments
from tailor.pruning.settings import Repair
from tailor.tracing import cut, half, plan_widths, settle, trace

FAMILIES = pytest.mark.parametrize("family", ["vit", "eva", "swin", "convnext2", "resnet", "efficientnet"])


def traced(model):
    example = (tiny.images(model),)
    return settle(model, trace(model, example), example).groups


def batches(model, count=3, size=4):
    found = [tiny.images(model, size, seed) for seed in range(count)]
    return lambda: iter(found)


def doubled_(model, groups):
    """The last hidden unit of every group computes what the first one does; the cuts that remove it."""
    cuts, tensors = {}, {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for group in groups.groups:
        layouts = {groups.layouts[m.tensor][m.dim] for m in group.members}
        normed = any(use.startswith("layer_norm") for member in group.members for use in member.uses)
        if group.label == "hidden" and layouts == {group.id} and not normed:  # a norm sees how many units there are
            for member in (m for m in group.members if m.dim == 0):
                tensors[member.tensor].data[group.size - 1] = tensors[member.tensor].data[0]
            cuts[group.id] = range(group.size - 1)
    return cuts


@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "convnext_nchw", "resnet", "efficientnet"])
def test_a_unit_that_others_make_up_for_is_not_missed(family):
    model = tiny.MODELS[family]().double().eval()
    groups = traced(model)
    cuts = doubled_(model, groups)
    assert cuts
    plan = plan_widths(groups, cuts)
    narrow, given = cut(model, plan), next(batches(model)()).double()
    with torch.no_grad():
        assert (narrow(given) - model(given)).abs().max() > 1e-3
        done = repair_(narrow, model, [plan], batches(model), Repair(ridge=0))
        assert not done.skipped
        assert_close(narrow(given), model(given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", ["sequential", "parallel"])
@FAMILIES
def test_no_layer_gets_worse_on_the_images_it_saw(family, order):
    model = tiny.MODELS[family]()
    groups = traced(model)
    plan = plan_widths(groups, half(groups))
    narrow = cut(model, plan)  # it shares values with the dense model, which are to stay
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = batches(model)

    def error():
        with torch.no_grad():
            return sum(float((narrow.eval()(x) - model.eval()(x)).square().sum()) for x in images())

    plain = error()
    done = repair_(narrow, model, [plan], images, Repair(order=order))
    assert len(done.layers) > 3 and done.images == 12
    assert all(0 <= layer.after <= layer.before for layer in done.layers)
    assert done.after < 0.8 * done.before
    if order == "sequential":
        assert error() < plain
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_lost_nothing_stays():
    layer = tiny.linear()
    given = tiny.tokens(count=40).flatten(0, 1)
    before = copy.deepcopy(layer.state_dict())
    solved = solve_(layer, Problem.zero(layer).add_(given[:, None], layer(given), layer(given)), 1e-2)
    assert solved.before == solved.after == 0
    assert_close(layer.state_dict(), before, rtol=0, atol=1e-6)


def test_the_solution_is_the_ridges():
    layer = tiny.linear(6, 3).double()
    given, wanted = torch.randn(50, 6).double() + 2, torch.randn(50, 3).double()
    kept = layer.weight.clone()
    solved = solve_(layer, Problem.zero(layer).add_(given[:, None], layer(given), wanted), 0.3)
    centred, aim = given - given.mean(0), wanted - wanted.mean(0)
    gram = centred.t() @ centred
    eps = 0.3 * gram.diagonal().mean() * torch.eye(6).double()
    expected = torch.linalg.solve(gram + eps, centred.t() @ aim + eps @ kept.t()).t()
    assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-10)
    assert_close(layer(given).mean(0), wanted.mean(0), rtol=0, atol=1e-10)
    left = (layer(given) - wanted).square().sum() / aim.square().sum()
    assert solved.after == pytest.approx(float(left), rel=1e-9)


@pytest.mark.parametrize("shares", [(1, 19), (5, 5, 10)])
def test_sums_of_parts_merge(shares):
    layer = nn.Conv2d(4, 6, 3, groups=2, padding=1).double().requires_grad_(False)
    given = torch.randn(20, 4, 5, 5).double()
    chosen = torch.arange(len(given) * 25)

    def problem(images):
        rows = chosen[: len(images) * 25]
        made = layer(images)
        return Problem.zero(layer).add_(
            given_rows(layer, images, made, rows), made_rows(layer, made, rows), made_rows(layer, made.sin(), rows)
        )

    whole, parts = copy.deepcopy(layer), copy.deepcopy(layer)
    solve_(whole, problem(given), 1e-2)
    merged = Problem.zero(layer)
    for part in given.split(shares):
        merged = problem(part).merge(merged)
    solve_(parts, merged, 1e-2)
    assert_close(whole.weight, parts.weight, rtol=0, atol=1e-10)
    assert (whole.weight - layer.weight).abs().max() > 0.01


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 5),
        nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.Conv2d(8, 6, (3, 5), padding="same", dilation=2, bias=False),
        nn.Conv2d(8, 6, 3, groups=2),
    ],
    ids=["linear", "strided", "same", "groups"],
)
def test_rows_are_what_the_layer_multiplies(layer):
    given = torch.randn(2, 9, 8) if isinstance(layer, nn.Linear) else torch.randn(2, 8, 9, 10)
    with torch.no_grad():
        made = layer(given)
        chosen = torch.tensor([0, 3, 11, 13])
        assert_close(applied(layer, given_rows(layer, given, made, chosen)), made_rows(layer, made, chosen))


@pytest.mark.parametrize("family", ["vit", "swin", "resnet", "efficientnet"])
def test_what_is_held_is_what_is_computed_again(family):
    model = tiny.MODELS[family]()
    groups = traced(model)
    plan = plan_widths(groups, half(groups))
    narrow, images = cut(model, plan), batches(model)
    parts = segments(narrow.eval(), model.eval(), [plan], next(images()))
    assert len(parts) == len(backbones.parts(model).blocks) + 2
    ways = [Way(parts, images, torch.device("cpu"), most=most) for most in (1 << 30, 20_000, 0)]
    with torch.no_grad():
        for _ in parts[1:]:
            for way in ways:
                way.go_on()
            states = [list(way.states()) for way in ways]
            for others in states[1:]:
                assert_close(others, states[0], rtol=0, atol=0)
        assert len(ways[0].held) == 3 and not ways[2].held
        assert_close(parts[-1].ours(states[0][0][0]), narrow(next(images())))
        assert_close(parts[-1].theirs(states[0][0][1]), model(next(images())))


def test_a_segment_may_change_what_it_is_given():
    given = torch.randn(2, 3, 4, 4)
    segment = WayPart(lambda x: x.relu_(), lambda x: x.neg_())
    way = Way((segment, segment), lambda: iter([given.clone()]), torch.device("cpu"))
    for _ in range(2):
        for ours, theirs in way.states():
            segment.ours(ours), segment.theirs(theirs)
    ((ours, theirs),) = way.states()
    assert torch.equal(ours, given) and torch.equal(theirs, given)


def test_scaled_queries_and_dropped_blocks_are_followed():
    model = tiny.vit().eval()
    groups = traced(model)
    dims = {g.id: range(0, g.size, 2) for g in groups.groups if g.label == "head dim"}
    plan, layers = plan_widths(groups, dims), LayerPlan(kept=(0, 2), dropped=("blocks.1",))
    narrow = apply_layers_(copy.deepcopy(cut(model, plan)), layers)
    known = {place.path: place for place in places(model, [plan, layers])}
    assert known["blocks.1.attn.qkv"].source == "blocks.2.attn.qkv" and "blocks.2.attn.qkv" not in known
    given = tiny.tokens(32)
    qkv = model.blocks[2].attn.qkv
    assert_close(known["blocks.1.attn.qkv"].target(qkv(given)), narrow.blocks[1].attn.qkv(given))
    done = repair_(narrow, model, [plan, layers], batches(model))
    assert {"blocks.1.attn.proj", "blocks.1.mlp.fc2", "head"} <= {layer.path for layer in done.layers}


def test_statistics_are_those_of_the_images():
    model = tiny.resnet()
    images = batches(model)
    seen = []
    handle = model.bn1.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    norms = estimate_(model, copy.deepcopy(model), [], images)
    handle.remove()
    assert norms == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert_close(model.bn1.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    assert_close(model.bn1.running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    assert model.bn1.momentum == 0.1 and model.training is False


@pytest.mark.parametrize("family", ["resnet", "efficientnet"])
def test_statistics_of_other_images_change_nothing_where_nothing_was_cut(family):
    model = tiny.shake_(getattr(tiny, family)()).eval()
    images = batches(model, count=1, size=256)  # of several, each would be normalised by its own
    again = copy.deepcopy(model)
    estimate_(again, model, [], images)
    with torch.inference_mode():
        assert_close(again(next(images())), model(next(images())), rtol=1e-3, atol=1e-3)


def test_channels_of_a_cut_model_leave_as_in_the_dense_one():
    model = tiny.shake_(tiny.efficientnet()).eval()
    groups = traced(model)
    plan = plan_widths(groups, {g.id: range(0, g.size, 2) for g in groups.groups if g.size > 2})
    narrow, images = cut(model, plan), batches(model, count=1, size=256)
    estimate_(narrow, model, [plan], images)
    left = {place.path: place for place in places(model, [plan], nn.BatchNorm2d)}
    made = {}
    for name, whole in (("ours", narrow), ("theirs", model)):
        for path, module in whole.named_modules():
            if path in left:
                module.register_forward_hook(
                    lambda norm, given, _, key=(name, path): made.__setitem__(
                        key, F.batch_norm(given[0], norm.running_mean, norm.running_var, norm.weight, norm.bias)
                    )
                )
        whole(next(images()))
    for path, place in left.items():
        ours, theirs = made["ours", path], made["theirs", place.source].movedim(1, -1)
        theirs = place.target(theirs).movedim(-1, 1)
        assert_close(ours.mean((0, 2, 3)), theirs.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
        norm = narrow.get_submodule(path)
        wide = norm.running_var > 100 * norm.eps  # what varies less than eps keeps less of its deviation
        assert wide.any()
        assert_close(ours.std((0, 2, 3))[wide], theirs.std((0, 2, 3))[wide], rtol=1e-2, atol=1e-2)


def test_no_image_is_an_error():
    model = tiny.vit()
    with pytest.raises(DataError, match="no image"):
        repair_(copy.deepcopy(model), model, [], lambda: iter(()))
    with pytest.raises(DataError, match="two images"):
        estimate_(tiny.resnet(), tiny.resnet(), [], lambda: iter(()))
    with pytest.raises(PlanError, match="cannot be"):
        Repair(positions=0)
