"""What every tuning method promises, over the tables of methods and the families of small models."""

import copy
import dataclasses
from functools import cache

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.testing import assert_close

import tiny
from tailor.anatomy import Anatomy
from tailor.backbones import describe
from tailor.errors import PlanError
from tailor.surgery import changed, load_changed_, trainable
from tailor.tuning import planner
from tailor.tuning.apply import apply_, cost, merge_, merges, wrapped_paths
from tailor.tuning.methods import MODULES, SELECTIONS
from tailor.tuning.plan import TunePlan

METHODS = {**SELECTIONS, **MODULES}
MERGING = [kind for kind, method in MODULES.items() if method.merges]
WITH_KNOB = [kind for kind, method in METHODS.items() if method.knob]

CONVOLUTIONAL = {"convnext", "convnext_nchw", "convnext2", "resnet", "efficientnet"}
NOT_DEFINED = {
    "vpt-shallow": CONVOLUTIONAL | {"eva", "swin", "swin2"},
    "vpt-deep": CONVOLUTIONAL | {"eva"},
    "convpass": CONVOLUTIONAL,
    "adapter": {"resnet", "efficientnet"},
    "adaptformer": {"resnet", "efficientnet"},
    "repadapter": {"resnet", "efficientnet"},
}
"""Families where a method has no place: there it says so in a sentence."""


def _pairs(kinds):
    """Every method on every family where it is defined."""
    pairs = [(kind, family) for kind in kinds for family in tiny.MODELS if family not in NOT_DEFINED.get(kind, ())]
    return pytest.mark.parametrize(("kind", "family"), pairs, ids=[f"{kind}-{family}" for kind, family in pairs])


@cache
def _described(family: str) -> tuple[nn.Module, Anatomy]:
    model = tiny.MODELS[family]()
    return model, describe(model)


def _method(kind: str, quiet: bool = False):
    """The method as its table makes it; `quiet` without dropout and drop path."""
    method = METHODS[kind]()
    off = {f.name: 0.0 for f in dataclasses.fields(method) if f.name in ("dropout", "drop_path")} if quiet else {}
    return dataclasses.replace(method, **off)


def _planned(kind: str, family: str, quiet: bool = False) -> tuple[nn.Module, Anatomy, TunePlan]:
    model, anatomy = _described(family)
    return copy.deepcopy(model), anatomy, planner.plan(model, anatomy, _method(kind, quiet))


def _tuned(kind: str, family: str, quiet: bool = True) -> tuple[nn.Module, Anatomy, TunePlan]:
    model, anatomy, plan = _planned(kind, family, quiet)
    return apply_(model, plan, anatomy.heads).eval(), anatomy, plan


@pytest.mark.parametrize(("kind", "family"), [(k, f) for k, families in NOT_DEFINED.items() for f in sorted(families)])
def test_where_a_method_is_not_defined_it_says_why(kind, family):
    with pytest.raises(PlanError, match=f"`{kind}` is not defined on a `[a-z]+` backbone: .") as refusal:
        planner.plan(*_described(family), _method(kind))
    assert refusal.value.hint.startswith("use `--method ") and "\n" not in refusal.value.message


ALL = pytest.mark.parametrize("kind", METHODS)


@_pairs(METHODS)
def test_a_plan_survives_json(kind, family):
    _, _, plan = _planned(kind, family)
    adapter = TypeAdapter(TunePlan)
    assert adapter.validate_json(adapter.dump_json(plan)) == plan


@_pairs(METHODS)
def test_what_is_counted_is_what_trains(kind, family):
    model, anatomy, plan = _planned(kind, family)
    classifier = sum(p.numel() for head in anatomy.heads for p in model.get_submodule(head).parameters())
    assert cost(model, plan, anatomy.heads) == plan.cost
    apply_(model, plan, anatomy.heads)
    assert sum(p.numel() for p in trainable(model).values()) - classifier == plan.cost


@_pairs(MODULES)
def test_step_zero_is_the_identity_where_claimed(kind, family):
    model, anatomy, plan = _planned(kind, family, quiet=True)
    x = tiny.images(model)
    with torch.no_grad():
        before = model(x)
        after = apply_(model, plan, anatomy.heads).eval()(x)
    if MODULES[kind].identity:
        assert_close(after, before, rtol=0, atol=0)
    else:
        assert not torch.equal(after, before)


@_pairs(MERGING)
def test_merging_keeps_the_function(kind, family):
    model, _, plan = _tuned(kind, family)
    tiny.trained_(model)
    precise = copy.deepcopy(model).double()
    x = tiny.images(model)
    assert merges(plan)
    for tuned, image, allowed in ((model, x, 1e-5), (precise, x.double(), 1e-10)):
        with torch.no_grad():
            before = tuned(image)
            merged = merge_(tuned, plan)(image)
        assert (merged - before).abs().max() <= allowed * before.abs().max()


@_pairs(MERGING)
def test_a_merged_model_is_built_of_the_plain_layers(kind, family):
    model, _, plan = _tuned(kind, family)
    plain = _described(family)[0]
    merged = merge_(model, plan)
    assert [type(m) for m in merged.modules()] == [type(m) for m in plain.modules()]
    assert merged.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("kind", [kind for kind in MODULES if kind not in MERGING])
def test_a_method_that_cannot_be_merged_says_so(kind):
    model, _, plan = _tuned(kind, "vit")
    with pytest.raises(PlanError, match=f"`{kind}` cannot be merged"):
        merge_(model, plan)


@_pairs(METHODS)
def test_everything_that_trains_gets_a_gradient_and_nothing_else_does(kind, family):
    model, _, _ = _tuned(kind, family)
    tiny.trained_(model)  # at the start the zero `up` keeps gradients from `down`
    torch.nn.functional.cross_entropy(model(tiny.images(model, 4)), tiny.labels(4)).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


@ALL
def test_training_moves_what_the_plan_names_and_nothing_else(kind):
    """From the method's own start, so that one from which it cannot move (two zero matrices) is found too."""
    model, _, _ = _tuned(kind, "vit")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2, weight_decay=0.0)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tiny.images(model, 4)), tiny.labels(4)).backward()
        optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == changed(model).keys()


@_pairs(METHODS)
def test_saved_tensors_bring_the_function_back(kind, family):
    model, anatomy, plan = _tuned(kind, family)
    tiny.trained_(model)
    saved = {name: tensor.detach().clone() for name, tensor in changed(model).items()}
    fresh = apply_(copy.deepcopy(_described(family)[0]), plan, anatomy.heads, seed=7).eval()
    x = tiny.images(model)
    with torch.no_grad():
        expected = model(x)
        assert not torch.equal(fresh(x), expected)
        assert_close(load_changed_(fresh, saved)(x), expected, rtol=0, atol=0)


@ALL
def test_the_same_seed_draws_the_same_modules(kind):
    model, anatomy, plan = _planned(kind, "vit")
    state = torch.random.get_rng_state()
    one, two = (apply_(copy.deepcopy(model), plan, anatomy.heads, seed=3) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@_pairs(WITH_KNOB)
@pytest.mark.parametrize("times", [1.0, 2.7, 9.99])
def test_a_budget_is_used_up_and_never_exceeded(kind, family, times):
    model, anatomy, _ = _planned(kind, family)
    method = _method(kind)
    step = next(n for n in (1, 2) if _with_knob(method, n))
    smallest = planner.plan(model, anatomy, _with_knob(method, step))
    budget = int(times * max(smallest.cost, 1))
    plan = planner.plan(model, anatomy, method, budget)
    assert plan.cost <= budget
    number = int(plan.method.rsplit("-", 1)[1])
    larger = _with_knob(method, number + step)
    try:
        assert planner.plan(model, anatomy, larger).cost > budget
    except PlanError:  # no block left to take
        assert kind == "partial" and number == len(anatomy.blocks)
    if smallest.cost:
        with pytest.raises(PlanError, match=f"too small for `{kind}`: its smallest setting has {smallest.cost:,}"):
            planner.plan(model, anatomy, method, smallest.cost - 1)


def _with_knob(method, number):
    try:
        return dataclasses.replace(method, **{method.knob: number})
    except PlanError:
        return None


@_pairs(MODULES)
def test_a_tuned_model_can_be_copied(kind, family):
    model, _, _ = _tuned(kind, family)
    x = tiny.images(model)
    with torch.no_grad():
        assert_close(copy.deepcopy(model)(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "family"), [*((kind, "vit") for kind in MODULES), ("vpt-deep", "swin"), ("convpass", "swin")]
)
def test_a_tuned_model_can_be_exported(kind, family):
    model, _, _ = _tuned(kind, family)
    tiny.trained_(model)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (tiny.images(model),), dynamic_shapes=({0: batch},))
    other = tiny.images(model, 3, seed=5)
    with torch.no_grad():
        assert_close(program.module()(other), model(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODULES)
def test_bfloat16_autocast_trains(kind):
    model, _, _ = _tuned(kind, "vit")
    tiny.trained_(model)
    x = tiny.images(model)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(x)
        loss = torch.nn.functional.cross_entropy(scores, tiny.labels())
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in trainable(model).values())
    with torch.no_grad():
        assert_close(scores.float(), model(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", [kind for kind, method in MODULES.items() if method.identity or method.merges])
@pytest.mark.parametrize("family", ["vit", "convnext_nchw"])
def test_a_wrapper_answers_for_its_layer_in_everything_that_a_backbone_asks(kind, family):
    if family in NOT_DEFINED.get(kind, ()):
        return
    model, _, plan = _tuned(kind, family)
    plain = dict(_described(family)[0].named_modules())
    names = ("weight", "bias", "kernel_size", "stride", "padding", "dilation", "in_channels", "in_features", "eps")
    for path in set(wrapped_paths(plan)):
        wrapper, layer = model.get_submodule(path), plain[path]
        for name in (n for n in names if hasattr(layer, n)):
            answer = getattr(copy.deepcopy(wrapper), name)
            same = torch.equal(answer, getattr(layer, name)) if isinstance(answer, torch.Tensor) else answer
            assert same is True or same == getattr(layer, name), (path, name)
        with pytest.raises(AttributeError, match=f"'{type(wrapper).__name__}' object has no attribute 'colour'"):
            wrapper.colour  # noqa: B018
        for name, _ in layer.named_children():
            assert not hasattr(wrapper, name) or name in wrapper._modules, "a submodule would have two paths"
