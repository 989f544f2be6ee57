"""MLP-k: the classifier gets k - 1 hidden layers before it; the backbone is frozen.

Each hidden layer is Linear, ReLU, BatchNorm1d, Dropout 0.1, of the features' own width. What the method counts are the
hidden layers, norms included (1,184,256 on ViT-B/16 with k = 3: the tables' 1,181,184 and 3,072 of the norms); the last
linear layer is the classifier, which every method trains and none counts. Not an identity and not mergeable.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, innermost
from tailor.tuning.method import Geometry, Place, RowRanges, undefined


@dataclass(frozen=True, config=STRICT)
class Mlp:
    """A head of `layers` linear layers; one is linear probing."""

    kind: Literal["mlp"] = "mlp"
    layers: int = 3
    dropout: float = 0.1

    identity: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    knob: ClassVar[str] = "layers"

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """Every classifier layer (a distilled DeiT has two)."""
        if not anatomy.heads:
            raise undefined(self.kind, anatomy, "it has no classifier")
        return tuple(Place(path) for path in anatomy.heads)

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """(k - 1) (d (d + 1) + 2 d): the hidden layers and their norms."""
        width = _classifier(layer).in_features
        return (self.layers - 1) * (width * (width + 1) + 2 * width)

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The classifier with the hidden layers before it."""
        return MlpHead(layer, self.layers - 1, self.dropout)


@answers_for_base
class MlpHead(nn.Module):
    """Hidden layers, then the classifier. Shapes (B, d) -> (B, classes)."""

    def __init__(self, base: nn.Module, hidden: int, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.hidden = nn.Sequential(*(HiddenLayer(_classifier(base), dropout) for _ in range(hidden)))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.base(self.hidden(x))


class HiddenLayer(nn.Module):
    """Linear, ReLU, batch norm, dropout; (..., d) -> (..., d), statistics over all that stands before the last axis."""

    def __init__(self, classifier: nn.Linear, dropout: float) -> None:
        super().__init__()
        width, weight = classifier.in_features, classifier.weight
        self.linear = nn.Linear(width, width, device=weight.device, dtype=weight.dtype)
        self.norm = nn.BatchNorm1d(width, device=weight.device, dtype=weight.dtype)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """One row has no batch statistics: a last batch of one is normalised by the running ones."""
        x, norm = F.relu(self.linear(x)), self.norm
        rows = x if x.ndim == 2 else x.flatten(0, -2)  # a classifier that also sees tokens (B, N, d) has a row for each
        if self.training and len(rows) == 1:
            rows = F.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        else:
            rows = norm(rows)
        return self.dropout(rows if x.ndim == 2 else rows.view_as(x))


def _classifier(layer: nn.Module) -> nn.Linear:
    classifier = innermost(layer)
    if not isinstance(classifier, nn.Linear):
        raise PlanError(
            f"`mlp` replaces a linear classifier, found a `{type(classifier).__name__}`",
            hint="give the backbone a linear head, or use `--method linear`",
        )
    return classifier
