"""A target holds after rounding and is used up: no group could take one more step."""

import copy

import pytest
import torch

import tiny
from tailor.errors import PlanError
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters
from tailor.pruning.settings import Shares, Widths
from tailor.pruning.target import coarsest, search, used_up
from tailor.pruning.width import kept, random_scores, widths
from tailor.tracing import Group, Groups, cut_, mac_cost, parameter_cost, plan_widths, settle, trace

FREE = ("embedding", "heads", "hidden")


@pytest.fixture(scope="module", params=["vit", "swin", "convnext", "resnet"])
def subject(request):
    model = tiny.MODELS[request.param]()
    x = tiny.images(model)
    return model, x, settle(model, trace(model, (x,)), (x,))


def met(subject, figure, share, settings):
    """The counts that meet a target in one figure, with what prices them and the target."""
    model, _, traced = subject
    cost = mac_cost(traced) if figure == "macs" else parameter_cost(model, traced)
    groups, target = traced.groups, share * cost.at(traced.groups.sizes)
    scores = random_scores(groups, 0)
    at = lambda s: widths(groups, scores, Shares(**dict.fromkeys(FREE, s)), settings)  # noqa: E731
    start = at(search(lambda s: cost.at(at(s)), target, steps=30))
    return scores, start, used_up(groups, scores, start, settings, FREE, cost.at, target), cost, target


@pytest.mark.parametrize("share", [0.3, 0.61, 0.9])
@pytest.mark.parametrize("figure", ["macs", "params"])
@pytest.mark.parametrize(
    "settings", [Widths(), Widths("uniform", 4, "down"), Widths("depgraph", 1)], ids=lambda s: s.ranking
)
def test_the_target_holds_and_one_more_step_of_any_group_would_break_it(subject, figure, share, settings):
    model, x, traced = subject
    scores, start, counts, cost, target = met(subject, figure, share, settings)
    cut = cut_(copy.deepcopy(model), plan_widths(traced.groups, kept(traced.groups, scores, counts)))
    assert (
        (macs(cut, Inputs.images(*x.shape[1:])) if figure == "macs" else parameters(cut)) == cost.at(counts) <= target
    )
    tied = {name: tie for tie in traced.groups.ties for name in tie}
    for group in traced.groups.groups:
        assert counts[group.id] >= start[group.id]
        if group.label == "head dim":
            assert counts[group.id] == group.size
        elif counts[group.id] < group.size:
            step = settings.step(group.label, group.size)
            wider = {name: min(counts[name] + step, group.size) for name in tied.get(group.id, (group.id,))}
            assert cost.at({**counts, **wider}) > target


def test_rounded_widths_stay_multiples(subject):
    traced = subject[2]
    _, _, counts, _, _ = met(subject, "macs", 0.6, Widths())
    rounded = [g for g in traced.groups.groups if g.label not in ("heads", "head dim") and g.size >= 16]
    assert rounded and all(counts[g.id] % 8 == 0 or counts[g.id] == g.size for g in rounded)


def test_the_best_of_the_removed_come_back_first():
    groups = Groups(tuple(Group(n, "hidden", 4, "linear", ()) for n in "ab"), {}, (), (), (), ())
    scores = {"a": torch.tensor([1.0, 2, 3, 10]), "b": torch.tensor([4.0, 5, 6, 11])}
    counts, size = {"a": 1, "b": 1}, lambda c: sum(c.values())
    found = lambda target: used_up(groups, scores, counts, Widths(round_to=1), ("hidden",), size, target)  # noqa: E731
    assert found(3) == {"a": 1, "b": 2} and found(5) == {"a": 1, "b": 4} and found(6) == {"a": 2, "b": 4}
    assert used_up(groups, scores, counts, Widths(round_to=1), ("heads",), size, 8) == counts


def test_parts_that_were_given_stay_as_given(subject):
    traced = subject[2]
    cost, groups = mac_cost(traced), traced.groups
    scores = random_scores(groups, 0)
    start = widths(groups, scores, Shares(embedding=0.5, hidden=0.5), Widths())
    counts = used_up(groups, scores, start, Widths(), ("hidden",), cost.at, 0.8 * cost.at(groups.sizes))
    assert all(counts[g.id] == start[g.id] for g in groups.groups if g.label != "hidden")
    assert counts != start


def test_the_search_meets_its_target_from_below():
    sizes = {}

    def size_at(share):
        sizes[share] = 1000 - 8 * int(share * 100)
        return sizes[share]

    share = search(size_at, 500)
    assert sizes[share] == 496
    with pytest.raises(PlanError, match="out of reach"):
        search(size_at, 100)
    with pytest.raises(PlanError, match="not below what the model has"):
        search(size_at, 1000)


def test_widths_too_coarse_for_a_target_are_named_with_what_their_smallest_step_adds():
    groups = Groups((Group("a", "hidden", 64, "one", ()), Group("b", "hidden", 64, "two", ())), {}, (), (), (), ())
    size = lambda counts: 10 * counts["a"] + 3 * counts["b"]  # noqa: E731
    counts, settings = {"a": 32, "b": 32}, Widths(round_to=32)
    said = coarsest(groups, counts, settings, ("hidden",), size, 500.0)
    assert said == "the smallest step left, of `b`, adds 96, and 84 are free"
    tied = Groups(groups.groups, {}, (), (), (), (), (("a", "b"),))
    assert "of `a` with 1 tied to it, adds 416" in coarsest(tied, counts, settings, ("hidden",), size, 500.0)
    assert coarsest(groups, groups.sizes, settings, ("hidden",), size, 1e6) == "every group is whole"
    assert coarsest(groups, counts, settings, ("heads",), size, 500.0) == "every group is whole"
