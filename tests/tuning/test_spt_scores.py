"""The sensitivity pass: what is scored, how many images, which head; and the file that saves a second pass."""

import copy
from pathlib import Path

import pytest
import spt_models
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from tailor.errors import PlanError
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.scores import Scores, class_means, load, sensitivity
from tailor.tuning.spt.settings import Spt


def by_loop(model, names, images, labels):
    """One backward for each sample."""
    parameters = [model.get_parameter(name) for name in names]
    sums = {name: torch.zeros_like(p) for name, p in zip(names, parameters, strict=True)}
    for image, label in zip(images, labels, strict=True):
        loss = cross_entropy(model(image[None]), label[None])
        for name, grad in zip(names, torch.autograd.grad(loss, parameters), strict=True):
            sums[name] += grad**2
    return sums


@pytest.mark.parametrize("family", spt_models.FAMILIES)
def test_scores_are_the_squared_gradients_of_the_first_samples(family):
    model, anatomy = spt_models.shaken(family)
    batches = spt_models.batches()
    scores = sensitivity(model, anatomy, batches, samples=5, head_seed=7)
    images, labels = (torch.cat(part)[:5] for part in zip(*batches, strict=True))
    expected = by_loop(model, list(scores.tensors), images, labels)
    largest = max(float(t.max()) for t in expected.values())
    for name, score in scores.tensors.items():
        assert score.dtype == torch.float32
        assert_close(score, expected[name].detach(), rtol=1e-3, atol=1e-6 * largest)
    assert scores.tensors.keys() == {c.tensor for c in candidates(anatomy)}
    assert scores.facts == {"unit": "sample", "samples": 5, "batch": 2, "head": "own", "head_seed": 7}


def test_fewer_images_than_asked_for_are_counted_as_they_are_and_none_means_all():
    model, anatomy = spt_models.shaken("vit")
    some = sensitivity(model, anatomy, spt_models.batches(), samples=800)
    every = sensitivity(model, anatomy, spt_models.batches(), samples=None)
    assert some.facts["samples"] == every.facts["samples"] == 6
    assert all(torch.equal(some.tensors[n], every.tensors[n]) for n in some.tensors)


def test_progress_knows_how_many_batches_the_samples_take():
    model, anatomy = spt_models.shaken("vit")
    heard = []
    sensitivity(
        model, anatomy, spt_models.batches(), samples=3, progress=lambda done, total: heard.append((done, total))
    )
    assert [done for done, _ in heard] == [1, 2]
    assert heard[-1] == (2, 2)


def test_batches_of_more_than_two_parts_will_do():
    model, anatomy = spt_models.shaken("vit")
    longer = [(*batch, torch.arange(2), ("a", "b")) for batch in spt_models.batches()]
    expected = sensitivity(model, anatomy, spt_models.batches())
    found = sensitivity(model, anatomy, longer)
    assert all(torch.equal(found.tensors[n], expected.tensors[n]) for n in found.tensors)


def test_another_unit_gives_other_scores():
    model, anatomy = spt_models.shaken("vit")
    each = sensitivity(model, anatomy, spt_models.batches(), unit="sample")
    mean = sensitivity(model, anatomy, spt_models.batches(), unit="batch")
    alone = sensitivity(model, anatomy, spt_models.batches(size=1), unit="batch")
    assert not torch.allclose(each.tensors["norm.weight"], mean.tensors["norm.weight"])
    for name, score in each.tensors.items():
        assert_close(alone.tensors[name], score, rtol=1e-3, atol=1e-6 * float(score.max()))


@pytest.mark.parametrize("family", spt_models.FAMILIES)
def test_another_budget_from_saved_scores_is_that_of_a_fresh_pass(family, tmp_path: Path):
    model, anatomy = spt_models.shaken(family)
    sensitivity(model, anatomy, spt_models.batches()).save(tmp_path / "scores.safetensors")
    saved, fresh = load(tmp_path / "scores.safetensors"), sensitivity(model, anatomy, spt_models.batches())
    assert saved.facts == fresh.facts
    for budget in (200, 900):
        for settings in (Spt(rank=2), Spt(rank=2, rule="thesis", structured="site-adapter")):
            plan = allocate(saved, anatomy, model, settings, budget)
            assert plan == allocate(fresh, anatomy, model, settings, budget)
            assert plan.facts["unit"] == "sample" and plan.facts["samples"] == 6


def test_files_that_hold_no_scores_are_refused(tmp_path: Path):
    path = tmp_path / "scores.safetensors"
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(PlanError, match="holds no scores"):
        load(path)
    path.write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(PlanError, match="cannot be read"):
        load(path)
    with pytest.raises(PlanError, match="cannot be read"):
        load(tmp_path / "absent.safetensors")
    Scores({"a": torch.ones(100)}, {}).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(PlanError, match="cannot be read"):
        load(path)


def test_a_zero_head_is_refused_and_class_means_make_up_for_it():
    model, anatomy = spt_models.shaken("vit")
    model = copy.deepcopy(model)
    torch.nn.init.zeros_(model.head.weight)
    with pytest.raises(PlanError, match="every score is zero") as caught:
        sensitivity(model, anatomy, spt_models.batches())
    assert "class means" in caught.value.hint
    scores = sensitivity(model, anatomy, spt_models.batches(), head="ncm")
    assert any(bool(t.any()) for t in scores.tensors.values())
    assert scores.facts["head"] == "ncm" and "head_seed" not in scores.facts


@pytest.mark.parametrize("family", spt_models.FAMILIES)
def test_class_means_are_a_nearest_mean_classifier_and_leave_no_trace(family):
    model, anatomy = spt_models.shaken(family)
    model = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    images, labels = (torch.cat(part) for part in zip(*spt_models.batches(20), strict=True))
    labels = labels % 4  # class 4 has no image
    head = model.get_submodule(anatomy.heads[0])
    inputs = []
    hook = head.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach()))
    with torch.no_grad():
        model(images)
        hook.remove()
        means = torch.stack([inputs[0][labels == c].mean(0) for c in range(4)])
        directions = means - means.mean(0)
        expected = (inputs[0] - means.mean(0)) @ (directions / directions.norm(dim=1, keepdim=True)).T
        with class_means(model, anatomy, list(zip(images.split(3), labels.split(3), strict=True))):
            logits = model(images)
    assert_close(logits[:, :4], expected, rtol=1e-4, atol=1e-5)
    assert not logits[:, 4].any()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not model.training


def test_class_means_need_batches_that_can_be_read_twice():
    model, anatomy = spt_models.shaken("vit")
    with pytest.raises(PlanError, match="second pass"):
        sensitivity(model, anatomy, iter(spt_models.batches()), head="ncm")
