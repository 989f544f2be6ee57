import pytest
import torch
import toys
from torch import nn

from tailor.errors import TrainingError
from tailor.tasks.classification import Classification, ClassifierHead
from tailor.tasks.regression import Regression, RegressorHead
from tailor.training import evaluate, evaluate_each


class Says(nn.Module):
    """Answers with the class that the first pixel names."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        assert not self.training and torch.is_inference_mode_enabled()
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), self.classes).float()


class Reads(nn.Module):
    """Answers with the number that the first pixel holds."""

    def forward(self, images):
        return images[:, 0, 0, :1]


def batch(answers, labels):
    images = torch.tensor(answers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return toys.Images(images, torch.tensor(labels), torch.arange(len(labels)), tuple(map(str, labels)))


def classified(model, batches):
    return evaluate(model, batches, Classification(), ClassifierHead(tuple("abcd"[: model.classes])))


def test_every_image_counts_once_whatever_its_batch():
    truth, said = [0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 0, 0]
    for size in (1, 2, 3, 7):
        batches = [batch(said[at : at + size], truth[at : at + size]) for at in range(0, 7, size)]
        found = classified(Says(4), [batch([], []), *batches])
        assert next(iter(found)) == "accuracy"
        assert found["n"] == 7 and found["accuracy"] == pytest.approx(4 / 7)
        assert found["per_class"] == pytest.approx({"a": 2 / 3, "b": 1, "c": 0})  # no image is of class d
        assert found["precision"] == pytest.approx({"a": 1 / 2, "b": 2 / 3, "c": 0})
        assert found["confusion"] == [[2, 1, 0, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]


def test_errors_of_numbers_are_those_of_all_images_whatever_their_batch():
    truth, said = [1.0, 2.0, -3.0, 0.5, 4.0], [1.5, 2.0, -1.0, 0.0, 7.0]
    errors = torch.tensor(said) - torch.tensor(truth)
    for size in (1, 2, 5):
        batches = [batch(said[at : at + size], truth[at : at + size]) for at in range(0, 5, size)]
        found = evaluate(Reads(), [batch([], []), *batches], Regression(), RegressorHead())
        assert list(found) == ["rmse", "mae", "n"] and found["n"] == 5
        assert found["rmse"] == pytest.approx(float(errors.square().mean().sqrt()))
        assert found["mae"] == pytest.approx(float(errors.abs().mean()))


def test_modules_keep_their_mode():
    model = nn.Sequential(Says(3), nn.Dropout()).train()
    model[1].eval()
    evaluate(model, [batch([0], [0])], toys.TASK, toys.HEAD)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_the_model_does_not_have_are_refused(labels):
    with pytest.raises(TrainingError, match="the model has 3 classes"):
        classified(Says(3), [batch([0, 0], labels)])


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(TrainingError, match="no images"):
        classified(Says(3), [])


class Switched(Says):
    """Answers as named, or one class further: a model of two routes."""

    def set_route_(self, further):
        self.further = further
        return self

    def forward(self, images):
        return super().forward((images + self.further) % self.classes)


def test_routes_scored_together_have_the_figures_that_each_has_alone():
    model = Switched(3)
    routes = [lambda: model.set_route_(0), lambda: model.set_route_(1), lambda: model.set_route_(2)]
    batches = [batch([0, 1, 2, 2], [0, 1, 1, 0]), batch([1], [2])]
    head = ClassifierHead(("a", "b", "c"))
    every = evaluate_each(model, routes, batches, Classification(), head)
    assert every == [evaluate(route(), batches, Classification(), head) for route in routes]
    assert [figures["accuracy"] for figures in every] == pytest.approx([2 / 5, 2 / 5, 1 / 5])
