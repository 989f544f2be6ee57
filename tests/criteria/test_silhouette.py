"""The silhouette of features: what it must order, and every degenerate case."""

import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

from tailor.criteria.silhouette import separation, silhouette
from tailor.errors import PlanError


def clusters(distance: float, n: int = 60, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, 16, generator=generator) * distance
    return centres[labels] + torch.randn(n, 16, generator=generator), labels


def test_classes_further_apart_score_higher():
    far, near, none = (silhouette(*clusters(d), layer="x") for d in (20.0, 0.7, 0.0))
    assert 1 >= far > 0.7 > near > none >= -1


def test_the_same_seed_gives_the_same_value():
    x, y = clusters(0.7)
    assert silhouette(x, y, layer="x", seed=1) == silhouette(x, y, layer="x", seed=1)


@pytest.mark.parametrize("distance", [0.0, 1.0, 5.0])
def test_few_samples_and_one_feature_still_score(distance):
    x, y = clusters(distance, n=12, classes=2)
    assert -1 <= silhouette(x, y, layer="x") <= 1
    assert -1 <= silhouette(x[:, :1], y, layer="x") <= 1


@pytest.mark.parametrize("value", [0.0, 3.7, 1e6])
def test_a_constant_feature_scores_minus_one(value):
    assert silhouette(torch.full((20, 8), value), torch.arange(20) % 2, layer="x") == -1


def test_a_feature_that_is_constant_to_rounding_scores_minus_one():
    x = torch.full((20, 8), 3.7)
    x[3, 2] += 2e-7
    assert silhouette(x, torch.arange(20) % 2, layer="x") == -1


def test_half_precision_features_score():
    x, y = clusters(5.0)
    assert silhouette(x.bfloat16(), y, layer="x") > 0.5


@pytest.mark.parametrize(
    ("n", "classes", "message"),
    [(11, 2, "11 samples are too few"), (20, 1, "1 classes over 20"), (20, 20, "20 classes over 20 samples")],
)
def test_counts_that_have_no_silhouette_are_named(n, classes, message):
    with pytest.raises(PlanError, match=message):
        silhouette(*clusters(1.0, n=n, classes=classes), layer="x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_names_layer_and_image(value):
    x, y = clusters(1.0)
    x[17, 3] = value
    with pytest.raises(PlanError, match=r"layer `blocks\.3` for image 17"):
        silhouette(x, y, layer="blocks.3")


def test_labels_of_another_number_are_refused():
    x, y = clusters(1.0)
    with pytest.raises(PlanError, match="60 features for 59 labels"):
        silhouette(x, y[:-1], layer="x")


def test_the_map_lies_in_the_unit_square_and_gives_the_score():
    x, y = clusters(2.0)
    found = separation(x, y, layer="x")
    assert found.plane.min(axis=0).tolist() == [0, 0] and found.plane.max(axis=0).tolist() == [1, 1]
    assert found.score == silhouette_score(found.plane, y.numpy()) == silhouette(x, y, layer="x")
