"""What a run notes of itself: shares that add up, commands that ask the same."""

import pytest

from tailor import build as builder
from tailor.bundle.evidence import read_evidence
from tailor.spec import BackboneRef
from tailor.surgery import trainable
from tailor.tasks.classification import ClassifierHead
from tailor.training import Recipe
from tailor.tuning import planner
from tailor.workflow import evidence


def tuned(method, name="tailor_mini_ti"):
    made = builder.base(BackboneRef(name, "random"), ClassifierHead(("a", "b", "c")))
    return builder.apply_plans_(made, (planner.plan(made.model, made.anatomy, planner.parse(method)),))


@pytest.mark.parametrize("method", ["lora-2", "bias", "ssf", "adapter", "full", "vpt-deep", "linear"])
def test_the_shares_of_a_budget_are_those_of_what_trains(method):
    opened = tuned(method)
    names, shares = evidence.spent(opened)
    ours = {n: p.numel() for n, p in trainable(opened.model).items() if not n.startswith("head.")}
    for index, block in enumerate(opened.anatomy.blocks[: len(shares)]):
        inside = sum(count for name, count in ours.items() if name.startswith(f"{block.path}."))
        assert sum(shares[index]) * max(sum(ours.values()), 1) == pytest.approx(inside)
    assert len(set(names)) == len(names) and all(len(row) == len(names) for row in shares)
    assert bool(names) == any(name.startswith("blocks.") for name in ours)


def test_what_is_usual_is_left_out_of_a_command():
    given = {"model": "m", "weights": "pretrained", "teacher": None, "decoders": {}, "samples": 12}
    asked = evidence.asked("adapt", ["photos"], given, {"weights": "pretrained"}, Recipe(epochs=3, drop_path=0.0))
    assert asked.flags == {"model": "m", "samples": 12, "epochs": 3}
    assert asked.sections == {"recipe": {"drop_path": 0.0}}


def test_candidates_of_a_race_ask_for_their_own_speed(tmp_path):
    given = {"data": "photos", "method": "auto", "speed": "4x", "minutes": 5.0}
    evidence.begun(tmp_path, evidence.asked("prune", ["runs/a"], given, {}, Recipe()))
    row = {"name": "depth 9", "plans": "9 of 12 blocks", "ms": 1.5, "speed": 2.345, "macs": 5, "params": 6}
    rows = [{**row, "scores": {"cut": 0.5, "round 1": 0.6}, "chosen": True}, {**row, "scores": {"cut": float("nan")}}]
    evidence.raced(tmp_path, rows)
    one, other = read_evidence(tmp_path).candidates
    assert one.scores == {"cut": 0.5, "round 1": 0.6} and one.chosen and not other.chosen and other.scores == {}
    assert one.made_by.flags == {**given, "speed": "2.35x"} or one.made_by.flags == {**given, "speed": "2.34x"}
    assert one.made_by.words == ("runs/a",)
    assert read_evidence(tmp_path).judged.split == "val"
