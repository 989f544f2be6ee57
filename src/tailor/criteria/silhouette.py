"""How well one layer's features separate the classes: t-SNE to a plane, silhouette with the true labels.

SLS (ECCV 2024, arXiv 2407.14330). Deviations from the released code: the perplexity
follows small sets, a constant feature scores -1 instead of crashing, and t-SNE runs in one thread (faster, repeatable).
"""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits
from torch import Tensor

from tailor.errors import PlanError

_FEWEST = 12


@dataclass(frozen=True)
class Separation:
    """How well the classes separate: the mean silhouette, -1 to 1, and the map (N, 2) it was taken on, in 0..1."""

    score: float
    plane: np.ndarray


def separation(features: Tensor | np.ndarray, labels: Tensor | np.ndarray, *, layer: str, seed: int = 0) -> Separation:
    """The separation of `features` (N, C) under `labels` (N,), after t-SNE and scaling to the unit square.

    `layer` names the features in errors. -1 where they are the same for every sample. PlanError for fewer than 12
    samples, for one class or no two samples of any class, and for values that are not finite.
    """
    from sklearn.manifold import TSNE  # a second of imports that nothing else needs
    from sklearn.metrics import silhouette_score

    values, classes = _array(features).astype(np.float32), _array(labels)
    _check(values, classes, layer)
    spread = np.ptp(values, axis=0).max(initial=0)
    if spread <= np.finfo(np.float32).eps * np.abs(values).max(initial=0):
        return Separation(-1.0, np.zeros((len(values), 2), np.float32))  # scikit-learn's PCA start segfaults on it
    if values.shape[1] == 1:
        values = np.concatenate([values, np.zeros_like(values)], axis=1)  # the PCA start needs two axes
    with threadpool_limits(limits=1):
        plane = TSNE(init="pca", random_state=seed, perplexity=min(30.0, (len(values) - 1) / 3)).fit_transform(values)
    low, high = plane.min(axis=0), plane.max(axis=0)
    plane = (plane - low) / np.where(high > low, high - low, 1)
    return Separation(float(silhouette_score(plane, classes)), plane)


def silhouette(features: Tensor, labels: Tensor, *, layer: str, seed: int = 0) -> float:
    """The score of `separation` alone."""
    return separation(features, labels, layer=layer, seed=seed).score


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return values


def _check(values: np.ndarray, classes: np.ndarray, layer: str) -> None:
    samples, distinct = len(values), len(np.unique(classes))
    if len(classes) != samples:
        raise PlanError(f"layer `{layer}` has {samples} features for {len(classes)} labels", hint="give one label each")
    if samples < _FEWEST:
        raise PlanError(f"{samples} samples are too few for t-SNE, it needs {_FEWEST}", hint="score on more images")
    if not 2 <= distinct <= samples - 1:
        raise PlanError(
            f"{distinct} classes over {samples} samples have no silhouette, it takes 2 to {samples - 1}",
            hint="score on images of more classes, or on more images of each",
        )
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise PlanError(
            f"the feature of layer `{layer}` for image {broken[0]} is not finite",
            hint="look at that image and the weights",
        )
