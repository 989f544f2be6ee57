"""Images whose brightness is a number, listed in a CSV; and a task that the library does not know, by one class."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic.dataclasses import dataclass
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

from tailor import backbones
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class SideHead:
    """One unit: on which side of zero a number lies."""

    seed: int = 0
    classes: tuple[str, ...] = ()
    kind: Literal["side-head"] = "side-head"


@dataclass(frozen=True, config=STRICT)
class Side:
    """Whether an image's number is above zero."""

    kind: Literal["side"] = "side"

    head_type: ClassVar[type] = SideHead
    targets: ClassVar[str] = "numbers"
    groups: ClassVar[bool] = False
    metric: ClassVar[str] = "right"
    larger: ClassVar[bool] = True

    def head(self, data: Any, seed: int) -> SideHead:
        return SideHead(seed)

    def attach_(self, model, head: SideHead, anatomy=None):
        return backbones.attach_head_(model, 1, head.seed)

    def size(self, head: SideHead, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        return own

    def collate(self, images: Sequence[Tensor], targets: Sequence[float]) -> tuple[Tensor, Tensor]:
        return torch.stack(list(images)), torch.tensor([float(target > 0) for target in targets])

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.squeeze(-1), targets.to(output.dtype), reduction="none")

    def weight(self, targets: Tensor) -> int:
        return len(targets)

    def metrics(self, head: SideHead) -> MetricCollection:
        return MetricCollection({"right": BinaryAccuracy()})

    def update_(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        metrics.update((output.squeeze(-1) > 0).int(), targets.int())

    def figures(self, found: Mapping[str, Tensor], head: SideHead) -> dict[str, Any]:
        return {"right": float(found["right"])}

    def decode(self, output: Tensor, head: SideHead, top: int) -> list[dict[str, Any]]:
        return [{"above": bool(one > 0)} for one in output.squeeze(-1)]


@plain(frozen=True)
class Listed:
    """The CSV, and an image of it."""

    csv: str
    image: str


def listed(root: Path) -> Listed:
    """Noise about a brightness, whose distance from grey is the number: 16 to train, 6 of val, 6 of test."""
    root.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for split, count in (("train", 16), ("val", 6), ("test", 6)):
        for number in range(count):
            value = 2 * (number + 0.5) / count - 1
            noise = torch.randint(-20, 20, (20, 20, 3), generator=generator)
            pixels = (128 + 90 * value + noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / f"{split}{number}.png")
            rows.append({"path": f"{split}{number}.png", "label": f"{value:.4f}", "split": split})
    with (root / "numbers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("path", "label", "split"))
        writer.writeheader()
        writer.writerows(rows)
    return Listed(str(root / "numbers.csv"), str(root / "test0.png"))
