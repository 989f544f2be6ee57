import pytest
import torch
import toys
from torch import nn

from tailor.errors import TrainingError
from tailor.training import accuracy


class Says(nn.Module):
    """Answers with the class that the first pixel names."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        assert not self.training and torch.is_inference_mode_enabled()
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), self.classes).float()


def batch(answers, labels):
    images = torch.tensor(answers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return toys.Images(images, torch.tensor(labels), torch.arange(len(labels)), tuple(map(str, labels)))


def test_every_image_counts_once_whatever_its_batch():
    truth, said = [0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 0, 0]
    for size in (1, 2, 3, 7):
        batches = [batch(said[at : at + size], truth[at : at + size]) for at in range(0, 7, size)]
        scores = accuracy(Says(4), [batch([], []), *batches])
        assert scores.n == 7 and scores.accuracy == pytest.approx(4 / 7)
        assert scores.per_class == pytest.approx((2 / 3, 1, 0, 0))
        assert scores.confusion == ((2, 1, 0, 0), (0, 2, 0, 0), (2, 0, 0, 0), (0, 0, 0, 0))


def test_modules_keep_their_mode():
    model = nn.Sequential(Says(3), nn.Dropout()).train()
    model[1].eval()
    accuracy(model, [batch([0], [0])])
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_the_model_does_not_have_are_refused(labels):
    with pytest.raises(TrainingError, match="the model has 3 classes"):
        accuracy(Says(3), [batch([0, 0], labels)])


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(TrainingError, match="no images"):
        accuracy(Says(3), [])
