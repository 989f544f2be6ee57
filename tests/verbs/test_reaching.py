"""Widths for a target: priced from the graph or, where that does not say what counting says, by cutting copies."""

import importlib

import tiny
from tailor.budget import parse
from tailor.events import silent
from tailor.inputs import Inputs
from tailor.pruning.settings import Widths
from tailor.pruning.width import random_scores
from tailor.tracing import Cost, trace
from tailor.workflow.counts import ScoredUnits, counts_for

REACHING = importlib.import_module("tailor.workflow.counts")


def test_a_model_that_cannot_be_priced_is_cut_and_counted_instead(monkeypatch):
    model = tiny.vit(depth=1)
    x = tiny.images(model)
    traced = trace(model, (x,))
    scored = ScoredUnits(
        model, traced, random_scores(traced.groups, 0), Widths(round_to=1), Inputs.images(*x.shape[1:])
    )
    found = lambda: counts_for(scored, {"heads": 0.0}, ("macs", parse("60%", "--macs")), silent)  # noqa: E731
    priced = found()
    wrong = Cost(((1, ("embedding",)),))
    monkeypatch.setattr(REACHING, "mac_cost", lambda *given: wrong)
    assert found() == priced
    assert priced["embedding"] < 32
