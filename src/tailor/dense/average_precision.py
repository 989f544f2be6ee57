"""Average precision of boxes and masks by COCO's rules, reckoned by faster-coco-eval through torchmetrics."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torchmetrics import Metric

from tailor.errors import TailorError


def metric(kind: Literal["bbox", "segm"]) -> Metric:
    """Counts predictions and targets of images; TailorError where the package is missing."""
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise TailorError(
            "average precision needs a package that is not installed: `faster-coco-eval`",
            hint="pip install 'tailor-models[detect]'",
        )
    from torchmetrics.detection import MeanAveragePrecision

    return MeanAveragePrecision(iou_type=kind, class_metrics=True, backend="faster_coco_eval")


def figures(found: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """mAP, at IoU 0.5 and 0.75, and AP of each class that there is; 0 where there is nothing to find."""
    each, seen = found["map_per_class"].reshape(-1).tolist(), found["classes"].reshape(-1).tolist()
    per_class = {classes[int(label)]: float(value) for label, value in zip(seen, each) if value >= 0}
    plain = {name: max(float(found[name]), 0.0) for name in ("map", "map_50", "map_75")}
    return {**plain, "per_class": per_class}
