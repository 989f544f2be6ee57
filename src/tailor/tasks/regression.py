"""Regression: one number an image; the head is one linear unit. Only by `--task regression`: no data look like it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from tailor import backbones
from tailor.anatomy import Anatomy
from tailor.settings import STRICT
from tailor.tasks.task import Labelled


@dataclass(frozen=True, config=STRICT)
class RegressorHead:
    """One linear unit, its start drawn from `seed`."""

    seed: int = 0
    classes: tuple[str, ...] = ()
    kind: Literal["regressor"] = "regressor"


@dataclass(frozen=True, config=STRICT)
class Regression:
    """Squared error."""

    kind: Literal["regression"] = "regression"

    head_type: ClassVar[type] = RegressorHead
    targets: ClassVar[str] = "numbers"
    groups: ClassVar[bool] = False
    metric: ClassVar[str] = "rmse"
    larger: ClassVar[bool] = False

    def head(self, data: Labelled, seed: int) -> RegressorHead:
        """One unit, whatever the data."""
        return RegressorHead(seed)

    def attach_(self, model: nn.Module, head: RegressorHead, anatomy: Anatomy | None = None) -> nn.Module:
        """Replace the backbone's classifier by one unit."""
        return backbones.attach_head_(model, 1, head.seed)

    def size(self, head: Any, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        """The backbone's own."""
        return own

    def collate(self, images: Sequence[Tensor], targets: Sequence[float]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), and (B,) float32."""
        return torch.stack(list(images)), torch.tensor(targets, dtype=torch.float32)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Squared error (B,) of outputs (B, 1)."""
        return (output.squeeze(-1) - targets.to(output.dtype)).square()

    def weight(self, targets: Tensor) -> int:
        """Images."""
        return len(targets)

    def metrics(self, head: RegressorHead) -> MetricCollection:
        """Root mean square and mean absolute error."""
        return MetricCollection({"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError()})

    def update_(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        metrics.update(output.squeeze(-1).float(), targets.float())

    def figures(self, found: Mapping[str, Tensor], head: RegressorHead) -> dict[str, Any]:
        """Both errors."""
        return {name: float(found[name]) for name in ("rmse", "mae")}

    def decode(self, output: Tensor, head: RegressorHead, top: int) -> list[dict[str, Any]]:
        """The number."""
        return [{"value": float(one)} for one in output.squeeze(-1).float().cpu()]
