"""What a teacher is shown, and which of its features count."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tiny
from tailor import backbones
from tailor.build import Opened
from tailor.errors import UsageError
from tailor.preprocessing import Preprocessing
from tailor.spec import BackboneRef, Spec
from tailor.tasks.classification import ClassifierHead
from tailor.tracing import half, plan_widths, trace
from tailor.workflow.teacher import Guide

HEAD = ClassifierHead(("a", "b", "c"))
SEEN = Preprocessing((32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def spec(*plans, name="vit", seen=SEEN):
    return Spec(BackboneRef(name), HEAD, seen, plans)


def guide(model, *plans, seen=SEEN):
    return Guide(Opened(spec(*plans, seen=seen), model, backbones.describe(model)))


def test_the_teacher_sees_the_images_in_its_own_size_and_normalisation():
    model, raw = tiny.resnet().eval(), torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))

    def normal(pre):
        return (raw - torch.tensor(pre.mean).view(3, 1, 1)) / torch.tensor(pre.std).view(3, 1, 1)

    student = replace(SEEN, size=(48, 48))
    same = guide(model).towards(spec(seen=replace(SEEN, size=(48, 48))), "head", False)
    own = Preprocessing((48, 48), (0.1, 0.2, 0.3), (0.9, 0.5, 0.6))
    other = guide(model, seen=own).towards(spec(seen=student), "head", False)
    with torch.no_grad():
        smaller = F.interpolate(normal(SEEN), (32, 32), mode="bicubic", antialias=True)
        torch.testing.assert_close(same(normal(SEEN)), model(smaller))
        torch.testing.assert_close(other(normal(SEEN)), model(normal(own)), atol=1e-5, rtol=1e-5)


def test_channels_are_followed_through_the_cuts_of_both():
    model = tiny.vit().eval()
    traced = trace(model, (tiny.images(model),))

    def cut(seed):
        return plan_widths(traced.groups, half(traced.groups, seed=seed))

    first, second = cut(1), cut(2)
    kept = {seed: next(c.keep for c in plan.cuts if c.size == 32) for seed, plan in ((1, first), (2, second))}
    assert kept[1] != kept[2]
    whole, teacher = guide(model), guide(model, first)
    assert whole.towards(spec(first), "head", True).channels.tolist() == list(kept[1])
    assert whole.towards(spec(first), "head", False).channels is None
    assert teacher.towards(spec(first), "head", True).channels.tolist() == list(range(16))
    for student in (spec(), spec(second)):
        with pytest.raises(UsageError, match="it lacks features"):
            teacher.towards(student, "head", True)
    assert teacher.towards(spec(second, name="other"), "head", True).channels is None
