"""The criteria that place a budget: what each ranks by, against its definition written out, and what all share."""

import pytest
import spt_models
import torch

from tailor.errors import PlanError
from tailor.surgery import get_parameter
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.placement import PLACEMENTS, placed
from tailor.tuning.spt.settings import SPT, Spt
from tailor.workflow.planners import named

BUDGET = 900
CONTROLS = [name for name, spt in SPT.items() if spt.criterion != "sensitivity"]


def ranked(criterion: str, family: str = "vit", seed: int = 0):
    model, anatomy = spt_models.shaken(family)
    squares = spt_models.synthetic(model, anatomy) if PLACEMENTS[criterion].sees else None
    return model, anatomy, squares, placed(criterion, model, anatomy, squares, seed)


def test_sensitivity_is_the_squared_gradient_and_taylor_that_of_the_weight_times_it():
    model, _, squares, found = ranked("sensitivity")
    _, _, _, taylor = ranked("taylor")
    for name, squared in squares.tensors.items():
        weight = get_parameter(model, name).detach()
        assert torch.equal(found.tensors[name], squared)
        torch.testing.assert_close(taylor.tensors[name], (weight * squared.sqrt()) ** 2)


def test_magnitude_needs_no_images_and_picks_the_largest_weights():
    model, anatomy, _, found = ranked("magnitude")
    plan = allocate(found, anatomy, model, Spt(parts="unstructured", criterion="magnitude", rule="thesis"), BUDGET)
    weights = torch.cat([c.view(found.tensors) for c in candidates(anatomy)])
    chosen = {e.tensor: list(e.indices) for e in plan.entries}
    least = min(get_parameter(model, n).detach().flatten()[i].abs().min() for n, i in chosen.items())
    assert least >= weights.topk(plan.facts["tau"]).values[-1]
    assert plan.facts["criterion"] == "magnitude" and "samples" not in plan.facts


def test_random_scores_follow_the_seed():
    assert all(torch.equal(a, b) for a, b in zip(*(ranked("random")[3].tensors.values() for _ in range(2))))
    assert not torch.equal(*(next(iter(ranked("random", seed=seed)[3].tensors.values())) for seed in (0, 1)))


def test_random_sites_are_whole_matrices_in_an_order_drawn_by_the_seed():
    settings = Spt(parts="structured", criterion="random-sites", rank=2)
    plans = []
    for seed in range(4):
        model, anatomy, _, found = ranked("random-sites", seed=seed)
        plans.append(allocate(found, anatomy, model, settings, BUDGET))
        assert not plans[-1].entries and set(plans[-1].full) == set(anatomy.tokens)
    assert len({tuple(tune.site for tune in plan.tunes) for plan in plans}) > 1


@pytest.mark.parametrize("family", spt_models.FAMILIES)
@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_keeps_to_the_budget_and_says_what_it_was(family, name):
    model, anatomy, _, found = ranked(SPT[name].criterion, family)
    plan = allocate(found, anatomy, model, SPT[name], BUDGET)
    assert 0 < plan.cost <= BUDGET and plan.method == name and plan.facts["criterion"] == SPT[name].criterion


def test_the_controls_are_named_after_what_ranks():
    ways = ("taylor", "magnitude", "random")
    assert set(CONTROLS) == {f"{stem}-{way}" for stem in ("sparse", "spt-lora") for way in ways} | {"lora-random"}


def test_single_weights_on_random_sites_are_refused():
    with pytest.raises(PlanError, match="draws matrices for modules"):
        named("adapt", "spt-lora", {"criterion": "random-sites"})
