"""How decoders are trained where nothing else is asked for: what differs from the usual recipe, as plain settings."""

from collections.abc import Mapping
from typing import Any

MASK2FORMER: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 0.05,
    "backbone_lr": 0.1,
    "clip_norm": 0.01,
    "schedule": "poly",
    "decay_rate": 0.9,
    "min_lr": 0.0,
    "warmup_epochs": 0.0,
    "batch_size": 16,
    "augment": "crop",
}
"""As the published models were; crops are of 35 to 100 % of an image instead of fixed ones of a scaled one."""

LIGHT: Mapping[str, Any] = {"batch_size": 8, "weight_decay": 0.05, "clip_norm": 1.0, "augment": "crop"}
"""A picture with a label a pixel teaches more than one with a single label, and takes more memory: small batches."""

BOXES: Mapping[str, Any] = {"batch_size": 8, "clip_norm": 1.0, "augment": "flip"}
