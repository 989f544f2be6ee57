"""A sensitivity pass that ends by itself: the same pass, only shorter, and always at the same image."""

from dataclasses import replace
from pathlib import Path

import pytest
import spt_models
import torch
from PIL import Image

import tailor
from tailor.bundle.plan_file import read_plan
from tailor.errors import PlanError, TailorError
from tailor.training import Interrupted
from tailor.tuning.spt import stability
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.scores import sensitivity
from tailor.tuning.spt.settings import Spt, named
from tailor.tuning.spt.stability import Stable, agreement

SETTINGS = named("spt-lora")


def plans(seeds, settings=SETTINGS, budget=900):
    model, anatomy = spt_models.shaken("vit")
    return [allocate(spt_models.synthetic(model, anatomy, s), anatomy, model, settings, budget) for s in seeds]


@pytest.mark.parametrize("settings", [SETTINGS, named("spt-vpt"), named("spt-unstructured")], ids=lambda s: s.name)
def test_agreement_is_whole_with_itself_and_less_with_another(settings):
    model, anatomy = spt_models.shaken("vit")
    one, other = plans((0, 1), settings)
    common = agreement(model, anatomy, settings)
    assert common(one, one) == pytest.approx(1) and common(one, other) == pytest.approx(common(other, one))
    if settings.structured == "lora":
        assert 0 < common(one, other) < 1


def test_agreement_counts_the_weights_that_both_train():
    model, anatomy = spt_models.shaken("vit")
    (plan,) = plans([0])
    gone = plan.entries[0]
    fewer = replace(plan, entries=plan.entries[1:], cost=plan.cost - len(gone.indices))
    found = agreement(model, anatomy, SETTINGS)(plan, fewer)
    assert found == pytest.approx(1 - len(gone.indices) / plan.cost)


def test_it_is_enough_once_the_plan_has_stayed_so_often_in_a_row():
    near = {("a", "a"): 1.0, ("a", "b"): 0.5, ("b", "b"): 1.0, ("b", "a"): 0.94}
    seen = iter("aaabaaaa")
    stable = Stable(lambda scores: next(seen), lambda one, other: near[one, other])
    assert [stable(None) for _ in range(8)] == [False] * 7 + [True]
    refused = Stable(lambda scores: (_ for _ in ()).throw(PlanError("nothing fits", hint="")), near.get)
    assert not any(refused(None) for _ in range(5))


@pytest.mark.parametrize("stop", [1, 2])
def test_a_pass_that_ends_early_is_the_pass_over_so_many_images(stop):
    model, anatomy = spt_models.shaken("vit")
    heard, asked = [], []

    def enough(scores):
        asked.append({name: t.clone() for name, t in scores.tensors.items()})
        return len(asked) == stop

    batches = spt_models.batches(count=16)
    found = sensitivity(
        model, anatomy, batches, enough=enough, every=4, progress=lambda done, total: heard.append((done, total))
    )
    whole = sensitivity(model, anatomy, batches, samples=4 * stop)
    assert found.facts == whole.facts and found.facts["samples"] == 4 * stop
    assert all(torch.equal(found.tensors[n], t) and torch.equal(asked[-1][n], t) for n, t in whole.tensors.items())
    assert heard[-1] == (2 * stop, 2 * stop)


def test_what_is_no_number_of_images_is_refused():
    for samples in (0, -3):
        with pytest.raises(PlanError, match="samples above zero"):
            Spt(samples=samples)
    assert Spt(samples="auto").samples == "auto"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 48), ("val", 2)):
        for index, name in enumerate(("red", "green")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(0, 60, (24, 24, 3), generator=generator, dtype=torch.uint8)
                noise[..., index] += 180
                Image.fromarray(noise.numpy()).save(root / split / name / f"{i}.png")
    return str(root)


def test_planning_stops_by_itself_and_a_resumed_run_where_the_uninterrupted_one_did(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(stability, "EVERY", 8)
    monkeypatch.setattr(stability, "AGREED", 0.2)
    small = {"weights": "random", "image_size": 32, "method": "spt-lora", "budget": "2%", "plan_only": True}
    small |= {"model": "tailor_mini_ti", "spt": {"samples": "auto"}}

    def planned(out, **more):
        tailor.adapt(photos, out=out, **{**small, "progress": None, **more})
        return read_plan(Path(out)).spec.plans[0]

    whole = planned(tmp_path / "a")
    assert whole.facts["samples"] == 64  # of 96: a first plan, and three like the one before

    def stops(event):
        if event.stage == "sensitivity" and event.done == 2:
            raise Interrupted("stopped by a test", hint="")

    with pytest.raises(TailorError, match="stopped by a test"):
        planned(tmp_path / "b", progress=stops)
    assert planned(tmp_path / "b", resume=True) == whole
