import math

import pytest
import torch
from torch import nn

from tailor.errors import TrainingError
from tailor.recipe import SCHEDULES
from tailor.training import Recipe
from tailor.training.optimizer import Average, decayed, make_optimizer, make_schedule


def rates(recipe, steps=4):
    optimizer = make_optimizer(recipe, [{"params": [nn.Parameter(torch.ones(2))]}])
    schedule = make_schedule(recipe, optimizer, steps)
    found = []
    for update in range(recipe.epochs * steps):
        schedule.step_update(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_is_the_notes_formula_at_every_update():
    # SLS's per-update schedule, with SPT's warm-up from 1e-6
    recipe, steps = Recipe(), 16
    found = rates(recipe, steps)
    for update, rate in enumerate(found):
        epoch = update / steps
        if epoch < 10:
            expected = 1e-6 + (1e-3 - 1e-6) * epoch / 10
        else:
            expected = 1e-5 + 9.9e-4 * 0.5 * (1 + math.cos(math.pi * (epoch - 10) / 90))
        assert rate == pytest.approx(expected, rel=1e-9)
    assert max(found) == 1e-3  # which the released code never reaches


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_every_schedule_warms_up_to_the_peak_and_does_not_rise_again(schedule, epochs):
    found = rates(Recipe(epochs=epochs, schedule=schedule, decay_epochs=1.0), steps=5)
    peak = found.index(max(found))
    assert max(found) == pytest.approx(1e-3)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    if epochs > 1 and schedule != "constant":
        assert found[-1] < max(found)


def test_steps_and_milestones_fall_where_they_are_said_to():
    steps = rates(Recipe(epochs=10, schedule="step", decay_epochs=3.0, decay_rate=0.5, warmup_epochs=0.0), steps=4)
    assert [steps[i] for i in (0, 11, 12, 24)] == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])
    falls = rates(Recipe(epochs=10, schedule="multistep", milestones=(0.5, 0.8), warmup_epochs=1.0), steps=10)
    assert [falls[i] for i in (48, 50, 78, 80)] == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5])


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.token, self.delta = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(5))
        self.table = nn.Parameter(torch.ones(2, 2))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def no_weight_decay(self):
        return {"table"}


def test_only_matrices_that_train_decay():
    model = nn.ModuleDict({"part": Parts()})
    with_decay, without = decayed(model)
    part = model["part"]
    assert [id(p) for p in with_decay["params"]] == [id(part.linear.weight)]
    free = [part.linear.bias, part.norm.weight, part.norm.bias, part.token, part.delta, part.table]
    assert {id(p) for p in without["params"]} == {id(p) for p in free}
    assert without["weight_decay"] == 0


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "lamb", "adan"])
def test_timms_optimisers_by_name(name):
    parameter = nn.Parameter(torch.ones(3, 3))
    optimizer = make_optimizer(Recipe(optimizer=name, lr=0.01), [{"params": [parameter]}])
    (parameter**2).sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


def test_an_optimiser_that_cannot_be_made_is_a_sentence():
    with pytest.raises(TrainingError, match="`adamw` cannot be made"):
        make_optimizer(Recipe(betas=(0.9, 2.0)), [{"params": [nn.Parameter(torch.ones(2))]}])


def test_the_average_is_one_and_swaps_back():
    parameter = nn.Parameter(torch.zeros(3))
    average = Average({"p": parameter}, decay=0.5)
    slow, updates = 0.0, 30
    for update in range(updates):
        parameter.data.fill_(update + 1)
        average.update({"p": parameter}, update)
        decay = min(0.5, (1 + update) / (10 + update))
        slow = decay * slow + (1 - decay) * (update + 1)
    torch.testing.assert_close(average.tensors["p"], torch.full((3,), slow))
    average.swap_({"p": parameter})
    torch.testing.assert_close(parameter.data, torch.full((3,), slow))
    average.swap_({"p": parameter})
    assert parameter.tolist() == [updates] * 3
