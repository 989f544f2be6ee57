"""A step of palette training against one written out: its gradient, its loss, the saliency of the drawn route."""

from dataclasses import dataclass

import family
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tiny
from tailor.stitching.adapt import Adapt, heads_of
from tailor.stitching.sampler import Sampler, Sampling
from tailor.stitching.step import RouteTraining
from tailor.surgery import trainable


@dataclass
class Share:
    images: torch.Tensor
    targets: torch.Tensor


def loss(output, share):
    return F.cross_entropy(output, share.targets)


def made(teacher=True, settings=None, **given):
    model, _ = family.adapted(family.vits(), settings)
    model.double()
    costs = [10, 20, 30, *range(11, 8 + len(model.plan.routes))]
    sampler = Sampler(costs, 3, 100, Sampling(intervals=3))
    course = RouteTraining(model, sampler, loss, teacher=teacher, **given)
    return course, Share(family.images(model, 4, torch.float64), tiny.labels(4))


def drawn_(course, name):
    """Let the next update be of that route."""
    route = course.model.plan.find(name)
    course.sampler.draw = lambda step: route
    course.before(0)
    return route


def gradients(model):
    return {n: p.grad.clone() for n, p in trainable(model).items() if p.grad is not None}


@pytest.mark.parametrize("name", ["0.0-1.1", "1.1-2.1", "1", "2"])
def test_the_gradient_is_that_of_both_losses(name):
    course, share = made()
    model = course.model
    route = drawn_(course, name)
    value = course.step(model, share)
    value.backward()
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    taught = model.set_route_(2)(share.images)
    whole = F.cross_entropy(taught, share.targets)
    if route != 2:
        output = model.set_route_(route)(share.images)
        whole = whole + 0.5 * F.cross_entropy(output, share.targets) + 0.5 * F.cross_entropy(output, taught.argmax(-1))
    whole.backward()
    expected = gradients(model)
    assert_close(value, whole.detach())
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        assert_close(found[key], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("teacher", [True, False])
@pytest.mark.parametrize("name", ["0.0-1.1", "1.1-2.1", "0"])
def test_saliency_is_the_routes_own_without_heads_and_over_pieces(name, teacher):
    course, share = made(teacher)
    model = course.model
    route = drawn_(course, name)
    for start, stop in ((0, 3), (3, 4)):  # pieces of an update
        course.step(model, Share(share.images[start:stop], share.targets[start:stop]))
    course.after(0)
    output = model.set_route_(route)(share.images)
    own = F.cross_entropy(output, share.targets)
    if teacher:
        taught = model.set_route_(2)(share.images).argmax(-1)
        own = 0.5 * own + 0.5 * F.cross_entropy(output, taught)
    own.backward()
    judged = [p for n, p in trainable(model).items() if p.grad is not None and not n.startswith(heads_of(model))]
    expected = sum(float((p.detach() * p.grad).abs().sum()) for p in judged)
    assert float(course.sampler.scores[route]) == pytest.approx(expected, rel=1e-9)
    assert course.sampler.visited.tolist() == [int(n == route) for n in range(len(model.plan.routes))]


def test_saliency_is_taken_at_the_weights_before_the_update():
    course, share = made()
    drawn_(course, "0.0-1.1")
    course.step(course.model, share)
    tiny.trained_(course.model, seed=8)
    moved = made()[0]
    drawn_(moved, "0.0-1.1")
    moved.step(moved.model, share)
    course.after(0)
    moved.after(0)
    assert torch.equal(course.sampler.averages, moved.sampler.averages)


def test_shares_of_two_processes_are_one():
    parts = []
    for start, stop in ((0, 1), (1, 4)):
        course, share = made()
        drawn_(course, "1.1-2.1")
        course.step(course.model, Share(share.images[start:stop], share.targets[start:stop]))
        course.reduce = lambda tensor: parts.append(tensor) or tensor
        course.after(0)
    both, _ = made()
    drawn_(both, "1.1-2.1")
    both.reduce = lambda tensor: parts[0] + parts[1]
    both.after(0)
    whole, share = made()
    drawn_(whole, "1.1-2.1")
    whole.step(whole.model, share)
    whole.after(0)
    assert_close(both.sampler.averages, whole.sampler.averages, rtol=1e-9, atol=0)


def test_without_a_teacher_a_route_trains_alone():
    course, share = made(teacher=False, settings=Adapt(full=True))
    drawn_(course, "0.0-1.1")
    course.step(course.model, share).backward()
    assert not any(p.grad is not None for p in course.model.anchors[2].parameters())
    assert any(p.grad is not None for p in course.model.anchors[1].parameters())
