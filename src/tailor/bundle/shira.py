"""Single weights as peft's SHiRA stores them: per layer the values and their places as (row, column).

SHiRA gives every layer r (in + out) weights with one r for all, so the lists are filled up with zeros at the first
place, which change nothing: places that repeat are added.
"""

from typing import Any

import torch
from torch import Tensor

from tailor.errors import PlanError
from tailor.tuning.sparse import SparseWeight


def sparse_tensors(sparse: dict[str, SparseWeight], prefix: str) -> tuple[int, dict[str, Tensor]]:
    """r, and every layer's `shira_weight` (N,) and `shira_indices` (2, N) with N = r (in + out)."""
    sizes = {path: sum(module.base.weight.shape) for path, module in sparse.items()}
    rank = max(-(-len(module.delta) // sizes[path]) for path, module in sparse.items())
    found = {}
    for path, module in sparse.items():
        width, count = module.base.weight.shape[1], rank * sizes[path]
        if count > module.base.weight.numel():
            raise PlanError(
                f"SHiRA wants equally many weights for each layer's size, which `{path}` has not",
                hint="lower `--budget`, or export to `.onnx` or `.pt2`",
            )
        values, places = module.delta.new_zeros(count), torch.zeros(2, count, dtype=torch.int32)
        values[: len(module.delta)] = module.delta.detach()
        flat = module.indices.cpu()
        places[:, : len(flat)] = torch.stack([flat // width, flat % width]).int()
        found[f"{prefix}{path}.shira_weight"], found[f"{prefix}{path}.shira_indices"] = values, places
    return rank, found


def sparse_config(rank: int, paths: list[str]) -> dict[str, Any]:
    """The settings; the mask's type is no name that peft draws by, since the places are stored."""
    return {
        "peft_type": "SHIRA",
        "r": rank,
        "mask_type": "stored",
        "random_seed": None,
        "init_weights": True,
        "target_modules": paths,
    }
