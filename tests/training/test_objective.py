import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from torch import nn

from tailor.errors import ModelError, TrainingError
from tailor.tasks.regression import Regression
from tailor.training import Distil, Recipe, Share, Teacher, supervised
from tailor.training.objective import mix, place, smoothed
from tiny import MODELS, images


def share(count=7, size=(8, 10)):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 3, *size, generator=generator)
    batch = toys.Images(images, torch.arange(count) % toys.CLASSES, torch.arange(count), tuple(map(str, range(count))))
    return place(batch, torch.device("cpu"), torch.float32)


def soft(logits, given, smoothing=0.0):
    """Cross-entropy with the mixed one-hot labels, written out."""
    classes = logits.shape[1]
    hot = given.keep * F.one_hot(given.targets, classes) + (1 - given.keep) * F.one_hot(given.partners, classes)
    hot = hot * (1 - smoothing) + smoothing / classes
    return -(hot * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


LABELS = torch.zeros(5, dtype=torch.int64)
"""Of no matter to what is learnt from a teacher."""


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}], ids=str)
def test_the_loss_is_that_of_the_mixed_labels(mixing, smoothing):
    recipe = Recipe(label_smoothing=smoothing, **mixing)
    for seed in range(6):
        given = mix(share(), recipe, np.random.default_rng(seed))
        logits = torch.randn(len(given), toys.CLASSES, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(given.loss(smoothed(toys.TASK, recipe), logits), soft(logits, given, smoothing))


def test_mixup_mixes_each_image_with_its_mirror():
    given = share()
    mixed = mix(given, Recipe(mixup=0.5), np.random.default_rng(1))
    assert 0 < mixed.keep < 1
    torch.testing.assert_close(mixed.images, mixed.keep * given.images + (1 - mixed.keep) * given.images.flip(0))
    assert mixed.partners.tolist() == given.targets.flip(0).tolist()


def test_cutmix_takes_a_box_whose_area_is_the_ratio():
    given, clipped = share(), 0
    for seed in range(20):
        mixed = mix(given, Recipe(cutmix=1.0), np.random.default_rng(seed))
        foreign = (mixed.images != given.images).any(dim=1)[0]  # an image with another mirror
        assert mixed.keep == pytest.approx(1 - foreign.float().mean().item())
        assert torch.equal(mixed.images[0][:, foreign], given.images[-1][:, foreign])
        rows, columns = foreign.any(dim=1).sum(), foreign.any(dim=0).sum()
        assert foreign.sum() == rows * columns  # a box
        clipped += 0 < int(rows) != int(columns)
    assert clipped


def test_mixing_leaves_the_given_images_and_is_a_function_of_the_generator():
    given = share()
    before = given.images.clone()
    recipe = Recipe(mixup=0.5, cutmix=1.0)
    first, second = (mix(given, recipe, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(given.images, before)
    assert torch.equal(first.images, second.images) and first.keep == second.keep
    assert mix(given, Recipe(), np.random.default_rng(5)) is given


def test_labels_that_are_no_classes_are_not_mixed():
    given = share()
    masks = type(given)(given.images, ("a",) * 7, given.indices, given.sources, ("a",) * 7)
    with pytest.raises(TrainingError, match="mixup"):
        mix(masks, Recipe(mixup=0.5), np.random.default_rng(1))


def test_soft_distillation_is_zero_at_the_teacher_and_scales_with_the_temperature():
    target = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert toys.TASK.learn(target.clone(), target, LABELS, False, 3.0).max().item() == pytest.approx(0, abs=1e-6)
    # With the temperature's square the gradient keeps its size (Hinton et al.): at high temperature, (z - v) / K.
    logits = torch.zeros(5, 4, requires_grad=True)
    toys.TASK.learn(logits, target, LABELS, False, 1000.0).mean().backward()
    centred = (logits - target + target.mean(dim=1, keepdim=True)).detach()
    torch.testing.assert_close(logits.grad, centred / 4 / 5, atol=1e-3, rtol=1e-2)


def test_hard_distillation_learns_the_teachers_answer():
    logits, target = torch.randn(5, 4), torch.randn(5, 4)
    expected = F.cross_entropy(logits, target.argmax(dim=1))
    torch.testing.assert_close(toys.TASK.learn(logits, target, LABELS, True, 1.0).mean(), expected)


def test_a_step_weighs_the_teacher_and_shows_it_the_same_images():
    student, teacher = toys.model(dropout=0.0, seed=1).eval(), toys.model(dropout=0.0, seed=2).eval()
    recipe = Recipe(distil=Distil(weight=0.3, temperature=2.0), mixup=0.5)
    given = mix(share(size=(toys.SIZE, toys.SIZE)), recipe, np.random.default_rng(1))
    loss = supervised(toys.TASK, recipe, Teacher(teacher))(student, given)
    logits = student(given.images)
    learnt = toys.TASK.learn(logits, teacher(given.images), given.targets, False, 2.0).mean()
    expected = 0.7 * soft(logits, given) + 0.3 * learnt
    torch.testing.assert_close(loss, expected)


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(TrainingError, match="the teacher has 5 classes, the model 3"):
        supervised(toys.TASK, Recipe(), Teacher(nn.Sequential(nn.Flatten(), nn.Linear(3 * toys.SIZE**2, 5))))(
            toys.model(), share(size=(toys.SIZE, toys.SIZE))
        )


class TwoHeads(nn.Module):
    """A model with DeiT's second classifier: both logits while it trains so, else their mean."""

    def __init__(self):
        super().__init__()
        self.head, self.head_dist = (nn.Linear(3 * toys.SIZE**2, toys.CLASSES) for _ in range(2))
        self.distilled_training = False

    def forward(self, images):
        x = images.flatten(1)
        if self.distilled_training and self.training:
            return self.head(x), self.head_dist(x)
        return (self.head(x) + self.head_dist(x)) / 2


def test_two_heads_learn_the_labels_and_the_teachers_predictions():
    torch.manual_seed(0)
    student, teacher = TwoHeads(), toys.model().eval()
    recipe = Recipe(mixup=0.5, label_smoothing=0.1, distil=Distil(kind="two-heads"))
    given = mix(share(size=(toys.SIZE, toys.SIZE)), recipe, np.random.default_rng(1))
    loss = supervised(toys.TASK, recipe, Teacher(teacher))(student, given)
    assert student.distilled_training is False
    x, classes = given.images.flatten(1), toys.CLASSES
    said = F.one_hot(teacher(given.images).argmax(1), classes) * 0.9 + 0.1 / classes
    hard = -(said * F.log_softmax(student.head_dist(x), dim=1)).sum(1).mean()
    torch.testing.assert_close(loss, 0.5 * soft(student.head(x), given, 0.1) + 0.5 * hard)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())


def test_one_head_cannot_learn_as_two():
    recipe = Recipe(distil=Distil(kind="two-heads"))
    with pytest.raises(ModelError, match="has no distillation classifier"):
        supervised(toys.TASK, recipe, Teacher(toys.model()))(toys.model(), share(size=(toys.SIZE, toys.SIZE)))


def pooled(features, model):
    """What the (first) classifier gets; DeiT's own pooling would give the mean of its two tokens."""
    return features[:, 0] if hasattr(model, "head_dist") else model.forward_head(features, pre_logits=True)


@pytest.mark.parametrize("family", ["vit", "distilled", "swin", "convnext", "resnet"])
def test_features_count_in_the_channels_that_are_left(family):
    student, teacher = (MODELS[family](seed=seed).eval() for seed in (1, 2))
    recipe = Recipe(distil=Distil(weight=0.0, features=3.0))
    shown, labels = images(student, batch=4), torch.tensor([0, 1, 2, 0])
    given = Share(shown, labels, torch.arange(4), ("a",) * 4, labels)
    ours, theirs = (pooled(m.forward_features(shown), m) for m in (student, teacher))
    expected = ((ours - theirs).square().sum(1) / theirs.square().sum(1)).mean()
    loss = supervised(toys.TASK, recipe, Teacher(teacher))(student, given)
    torch.testing.assert_close(loss, given.loss(toys.TASK, student(shown)) + 3 * expected)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    # A batch divided counts as the whole one, and a teacher's channels may be fewer or in another place.
    parts = [supervised(toys.TASK, recipe, Teacher(teacher))(student, given.part(i, i + 2)) for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, loss)
    some = torch.tensor([5, 0, 3])
    assert torch.equal(Teacher(teacher, some).wanted(theirs), theirs[:, some])
    with pytest.raises(TrainingError, match=f"the teacher's features have 3 channels, the model's {ours.shape[1]}"):
        supervised(toys.TASK, recipe, Teacher(teacher, some))(student, given)


def test_a_model_that_hides_its_classifier_has_no_features_to_learn():
    recipe = Recipe(distil=Distil(features=1.0))
    with pytest.raises(TrainingError, match="does not say which of its modules is the classifier"):
        supervised(toys.TASK, recipe, Teacher(toys.model()))(toys.model(), share(size=(toys.SIZE, toys.SIZE)))


def test_smoothing_and_teachers_are_refused_where_a_task_knows_neither():
    with pytest.raises(TrainingError, match="regression has no label smoothing"):
        supervised(Regression(), Recipe(label_smoothing=0.1))
    with pytest.raises(TrainingError, match="regression has no way to learn from a teacher"):
        supervised(Regression(), Recipe(), Teacher(toys.model()))
    assert smoothed(toys.TASK, Recipe(label_smoothing=0.1)).label_smoothing == 0.1
