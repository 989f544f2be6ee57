"""What is usual where language models are stitched; read before torch is loaded."""

from typing import Any

INTERVALS = 6
"""Of cost, each of which deploys one route."""
RECIPE: dict[str, Any] = {
    "optimizer": "adam",
    "lr": 3e-4,
    "batch_size": 128,
    "epochs": 10,
    "weight_decay": 0.0,
    "drop_path": 0.0,
}
"""The recipe where nothing else is said."""
