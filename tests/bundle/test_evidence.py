"""`evidence.json`: what was noted is read again, nothing else is, and the card says the same to model hubs."""

import json
from dataclasses import replace

import pytest
import yaml

from bundle.made import spec_and_model
from tailor import bundle
from tailor.bundle.card import card
from tailor.bundle.evidence import (
    EVIDENCE,
    GRID,
    CostRecord,
    Epoch,
    Evidence,
    ModelCost,
    Score,
    note,
    on_grid,
    read_evidence,
)
from tailor.errors import BundleError

SCORE = Score("accuracy", True, "test", 30, 0.9, 0.85, counted=True)


def test_sections_are_noted_one_by_one(tmp_path):
    assert read_evidence(tmp_path) is None
    note(tmp_path, score=SCORE)
    note(tmp_path, epochs=(Epoch(1, 2.5, 0.25), Epoch(2, None)))
    costs = CostRecord(ModelCost(10, 20, 3.5), ModelCost(40, 50), 2.0, 1.9, 2.1, 8)
    made = note(tmp_path, costs=costs)
    assert (
        made
        == read_evidence(tmp_path)
        == Evidence(score=SCORE, epochs=(Epoch(1, 2.5, 0.25), Epoch(2, None)), costs=costs)
    )
    assert json.loads((tmp_path / EVIDENCE).read_text())["format"] == 1


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": 2}, "format"),
        ({"html": "<p>"}, "html"),
        ({"seconds": "long"}, "seconds"),
        ({"score": {"metric": "accuracy"}}, "score"),
        ({"epochs": [{"epoch": 1.5, "loss": 1}]}, "epochs"),
        ({"epochs": [{"epoch": 1, "loss": 1e300}]}, "epochs"),
        ({"chosen": 10**400}, "chosen"),
        ({"confusion": [[1, -1], [0, 1]]}, "confusion"),
        ({"candidates": [{"name": "a", "scores": {"x": [1]}}]}, "candidates"),
    ],
)
def test_evidence_of_another_form_is_refused(tmp_path, change, where):
    note(tmp_path, score=SCORE)
    values = json.loads((tmp_path / EVIDENCE).read_text())
    (tmp_path / EVIDENCE).write_text(json.dumps(values | change))
    with pytest.raises(BundleError, match=rf"`{where}"):
        read_evidence(tmp_path)


@pytest.mark.parametrize("text", ['{"format": 1, "seconds": NaN}', '{"format": 1, "seconds": 1e999}', "{", "[]"])
def test_what_is_no_number_is_refused(tmp_path, text):
    (tmp_path / EVIDENCE).write_text(text)
    with pytest.raises(BundleError):
        read_evidence(tmp_path)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere.json").write_text('{"format": 1}')
    (tmp_path / EVIDENCE).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match="is a link"):
        read_evidence(tmp_path)


def test_a_map_keeps_its_order_on_the_grid():
    values = [0.3, -2.0, 7.5, 7.5, 1.0]
    found = on_grid(values)
    assert min(found) == 0 and max(found) == GRID
    assert sorted(range(5), key=found.__getitem__) == sorted(range(5), key=values.__getitem__)
    assert on_grid([]) == () and on_grid([4.0, 4.0]) == (0, 0)


def index(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_tells_a_hub_what_was_scored():
    spec, _ = spec_and_model()
    found = index(card(spec, {}, {"data": "/home/someone/flo: wers/"}, 3, Evidence(score=SCORE)))
    (result,) = found["model-index"][0]["results"]
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "flo: wers", "type": "flo: wers", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9}]
    assert found["library_name"] == "tailor" and "someone" not in str(found)


def test_a_card_without_evidence_claims_no_score():
    spec, _ = spec_and_model()
    assert "model-index" not in index(card(spec, {}, {}, 3))
    unscored = Evidence(score=replace(SCORE, after=None))
    assert "model-index" not in index(card(spec, {}, {}, 3, unscored))


def test_a_bundle_is_read_whatever_lies_beside_it(tmp_path):
    spec, model = spec_and_model()
    bundle.write(tmp_path, spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    (tmp_path / EVIDENCE).write_text("{")
    assert bundle.read(tmp_path).spec == spec
