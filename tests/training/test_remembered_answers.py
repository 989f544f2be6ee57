"""A teacher that remembers teaches what it would say if it looked again, at mirrored images too."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from tailor.data.transforms import VIEWS
from tailor.tasks.classification import Classification
from tailor.training import Distil, Recipe, Teacher, remembered, supervised
from tailor.training.objective import place

COUNT = 7


@dataclass
class Batch:
    images: Tensor
    targets: Any
    indices: Tensor
    sources: tuple[str, ...] = ()


@pytest.mark.parametrize("features", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_loss_is_that_of_looking_again(kind, features):
    student, model = tiny.vit(seed=1).eval(), tiny.vit(seed=2).eval()
    pixels, labels = tiny.images(model, COUNT), torch.arange(COUNT) % tiny.CLASSES
    ordered = [Batch(pixels[i : i + 3], labels[i : i + 3], torch.arange(i, min(i + 3, COUNT))) for i in (0, 3, 6)]
    shuffled = torch.tensor([5, 0, 6, 2])
    seen = torch.cat([pixels[shuffled][:2], pixels[shuffled][2:].flip(-1)])
    share = place(Batch(seen, labels[shuffled], shuffled), torch.device("cpu"), torch.float32)
    recipe = Recipe(distil=Distil(kind=kind, features=features))
    looks, knows = Teacher(model), Teacher(model)
    knows.memory = remembered(knows, ordered, COUNT, features > 0, VIEWS["flip"])
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    losses = [supervised(Classification(), recipe, one)(student, share) for one in (looks, knows)]
    torch.testing.assert_close(*losses)
    assert len(calls) == 1, "who remembers does not look"
