"""Blocks by themselves: whichever stay, the model computes as if the others were skipped; tunes stay beside them."""

import dataclasses

import pytest
import torch
from torch import nn

import tailor
from tailor import build as builder
from tailor import bundle
from tailor.errors import UsageError
from tailor.spec import BackboneRef
from tailor.surgery import set_module_, trainable
from tailor.tasks.classification import ClassifierHead
from tailor.tuning import planner
from tailor.tuning.plan import Entries

pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A bundle with shaken LoRA in every block, single weights in one."""
    head = ClassifierHead(("blue", "green", "red"))
    made = builder.base(BackboneRef("tailor_mini_ti"), head)
    plan = planner.plan(made.model, made.anatomy, planner.parse("lora-2"))
    plan = dataclasses.replace(plan, entries=(Entries("blocks.11.mlp.fc1.weight", (1, 70, 9000)),))
    opened = builder.apply_plans_(made, (plan,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(opened.model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    out = tmp_path_factory.mktemp("tuned") / "a"
    return bundle.write(out, opened.spec, bundle.state(opened.model, False), complete=False, metrics={}, provenance={})


@pytest.mark.parametrize("criterion", ["influence", "taylor", "magnitude", "random", "last"])
def test_what_stays_computes_as_if_the_others_were_skipped(criterion, tuned, photos, tmp_path):
    given = {"data": photos, "out": tmp_path / "b", "progress": None, "samples": 16}
    made = tailor.prune(str(tuned), method="blocks", keep=7, criterion=criterion, **given)
    plan = bundle.read(tmp_path / "b").spec.pruning[-1]
    assert (made.kept_blocks, len(plan.kept), plan.method) == (7, 7, f"blocks by {criterion}")
    assert (plan.kept == tuple(range(7))) == (criterion == "last")
    whole = tailor.load(tuned)
    for path in plan.dropped:
        set_module_(whole, path, nn.Identity())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(tailor.load(tmp_path / "b")(x), whole(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "not said how many blocks stay"),
        ({"keep": 12, "criterion": "last"}, "has 12 blocks, and 12 are to stay"),
        ({"keep": -1}, "blocks cannot stay"),
        ({"method": "blocks-0"}, "keeps no block"),
        ({"keep": 3, "samples": 0}, "no image would decide"),
    ],
)
def test_a_request_that_means_nothing_is_refused(given, says, tuned, tmp_path):
    with pytest.raises(UsageError, match=says):
        tailor.prune(str(tuned), **{"method": "blocks", "out": tmp_path / "b", "progress": None, **given})
