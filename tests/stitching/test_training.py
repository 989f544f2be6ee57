"""A palette in the engine: stopped and resumed it ends bit for bit as never stopped, scores and draws included."""

from dataclasses import dataclass, replace

import family
import pytest
import torch

import tiny
from tailor.stitching.sampler import Sampler, Sampling
from tailor.stitching.step import RouteTraining
from tailor.surgery import changed
from tailor.tasks.classification import Classification
from tailor.training import Recipe, fit

STEPS, EPOCHS = 5, 4


@dataclass(frozen=True)
class Batch:
    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    sources: tuple[str, ...]


def batches(epoch, start, process, processes):
    for step in range(start, STEPS):
        generator = torch.Generator().manual_seed(100 * epoch + step)
        images = torch.randn(4, 3, 32, 32, generator=generator)
        yield Batch(images, torch.randint(0, tiny.CLASSES, (4,), generator=generator), torch.arange(4), ("a",) * 4)


def made():
    model, _ = family.adapted(family.vits(), trained=False)
    task = Classification()
    costs = [10, 20, 30, *range(11, 8 + len(model.plan.routes))]
    sampler = Sampler(costs, 3, STEPS * EPOCHS, Sampling(intervals=3))
    course = RouteTraining(
        model, sampler, lambda output, share: share.loss(task, output), weigh=lambda share: len(share)
    )
    return model, course


def run(folder, course, before=None, **more):
    recipe = Recipe(epochs=EPOCHS, batch_size=4, select="last", checkpoint_steps=1)
    return fit(
        course.model,
        replace(recipe, **more.pop("recipe", {})),
        Classification(),
        batches=batches,
        steps_per_epoch=STEPS,
        run=folder,
        step=course.step,
        companion=course,
        before=before,
        **more,
    )


@pytest.mark.parametrize("stop", [3, 9, 16])  # in the warm-up, after it, and late
def test_a_stopped_run_ends_as_if_never_stopped(tmp_path, stop):
    whole, course = made()
    drawn = []
    run(tmp_path / "whole", course, lambda update: drawn.append(course.sampler.draw(update)))

    class Killed(Exception):
        pass

    def kill(update):
        if update == stop:
            raise Killed

    _first, interrupted = made()
    with pytest.raises(Killed):
        run(tmp_path / "parts", interrupted, kill)
    again, resumed = made()
    more = []
    run(tmp_path / "parts", resumed, lambda update: more.append(resumed.sampler.draw(update)), resume=True)
    assert more == drawn[stop:]
    for name, tensor in course.state().items():
        assert torch.equal(resumed.state()[name], tensor)
    assert int(course.sampler.visited.sum()) == STEPS * EPOCHS
    for name, tensor in changed(whole).items():
        assert torch.equal(changed(again)[name], tensor), name


def test_pieces_of_a_batch_train_what_it_does(tmp_path):
    _one, course = made()
    run(tmp_path / "one", course)
    _two, pieces = made()
    run(tmp_path / "two", pieces, recipe={"accumulate": 2})
    assert course.sampler.visited.tolist() == pieces.sampler.visited.tolist()
    torch.testing.assert_close(course.sampler.averages, pieces.sampler.averages, rtol=1e-3, atol=1e-6)
