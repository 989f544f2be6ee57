"""Time limits: around every step that runs or exports the whole model, one inside the other, and in any thread."""

import copy
import threading
import time

import pytest
import torch
from torch import nn

from tailor.errors import ModelError
from tailor.tracing import cut_, plan_widths, settle, trace, verify
from tailor.tracing.graph.export import time_limit
from tailor.tracing.trial.settle import half


def work(seconds: float) -> None:
    """Python code for that long, as an export is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)


class Slow(nn.Module):
    """Two layers whose code takes `pause` seconds."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.pause = nn.Linear(6, 8), nn.Linear(8, 3), 0.0

    def forward(self, x):
        work(self.pause)
        return self.second(self.first(x))


@pytest.fixture
def slow():
    model, x = Slow(), torch.randn(2, 6)
    traced = trace(model, (x,))
    model.pause = 20.0
    return model, x, traced


def test_the_trial_cut_ends_in_time(slow):
    model, x, traced = slow
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"the trial cut took more than 0.1 seconds") as raised:
        settle(model, traced, (x,), limit=0.1)
    assert time.monotonic() - started < 10
    assert "--method sls" in raised.value.hint


def test_a_comparison_ends_in_time(slow):
    model, x, traced = slow
    plan = plan_widths(traced.groups, half(traced.groups))
    with pytest.raises(ModelError, match=r"comparing the cut model with the dense one took more than 0.1 seconds"):
        verify(model, cut_(copy.deepcopy(model), plan), traced, plan, (x,), limit=0.1)


def test_the_outer_limit_holds_where_it_ends_sooner():
    with pytest.raises(ModelError, match="the outer took"), time_limit(0.1, "the outer"), time_limit(20, "the inner"):
        work(20)


def test_the_outer_limit_goes_on_after_the_inner():
    with pytest.raises(ModelError, match="the outer took"), time_limit(0.4, "the outer"):
        with pytest.raises(ModelError, match="the inner took"), time_limit(0.1, "the inner"):
            work(20)
        work(20)


def test_nothing_of_a_limit_stays():
    before = threading.active_count()
    with time_limit(0.3, "all"), time_limit(0.2, "a part"):
        pass
    work(0.4)
    assert threading.active_count() == before


def test_a_limit_holds_in_another_thread_and_only_there():
    found = []

    def run() -> None:
        try:
            with time_limit(0.1, "the other"):
                work(20)
        except ModelError as error:
            found.append(error.message)

    other = threading.Thread(target=run)
    other.start()
    work(0.3)
    other.join(10)
    assert found == ["the other took more than 0.1 seconds"]


def test_an_export_in_another_thread_ends_in_time(slow):
    model, x, _ = slow
    found = []

    def run() -> None:
        try:
            trace(model, (x,), limit=0.2)
        except ModelError as error:
            found.append(error.message)

    other = threading.Thread(target=run)
    other.start()
    other.join(10)
    assert found == ["exporting the model took more than 0.2 seconds"]


def test_code_that_answers_errors_does_not_swallow_the_alarm():
    with pytest.raises(ModelError, match="all took"), time_limit(0.1, "all"):
        try:
            work(20)
        except Exception:
            pytest.fail("the alarm was taken for an error of the code")
