"""Torch-Pruning used as its own timm example does: every attention's `qkv` declared with its heads, the classifier left
alone, attention not fused, half of every group by random scores. What its example does not do is not done here either.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn


def cut_by_torch_pruning_(model: nn.Module, example: Tensor, ratio: float = 0.5) -> dict[str, float]:
    """Cut the model in place; CPU seconds of the graph and of the cut. Raises whatever the package raises."""
    import torch_pruning

    attentions = [m for m in model.modules() if isinstance(getattr(m, "qkv", None), nn.Linear) and _heads(m)]
    for attention in attentions:
        attention.fused_attn = False  # type: ignore[assignment]
    classes = getattr(model, "num_classes", 0)
    kept = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    began = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model.requires_grad_(True),
        example,
        importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=ratio,
        ignored_layers=kept,
        num_heads={attention.qkv: attention.num_heads for attention in attentions},
        in_channel_groups={},
        out_channel_groups={},
    )
    built = time.process_time()
    for group in pruner.step(interactive=True):
        group.prune()
    done = time.process_time()
    for attention in attentions:
        _refresh_(attention, pruner)
    return {"graph": built - began, "cut": done - built}


def runs(model: nn.Module, example: Tensor, width: int) -> str:
    """Empty where the model still computes on the example and gives `width` numbers an image, else what went wrong."""
    try:
        with torch.no_grad():
            output = model.eval()(example)
    except Exception as error:  # whatever a wrongly cut model raises
        return f"forward fails: {type(error).__name__}"
    outputs = [output] if isinstance(output, Tensor) else list(output)
    narrow = [o.shape[-1] for o in outputs if isinstance(o, Tensor) and width and o.shape[-1] != width]
    return f"output is {narrow[0]} wide instead of {width}" if narrow else ""


def _heads(module: nn.Module) -> bool:
    return isinstance(getattr(module, "num_heads", None), int)


def _refresh_(attention: Any, pruner: Any) -> None:
    """The attributes that its example sets after the cut."""
    attention.num_heads = pruner.num_heads[attention.qkv]
    attention.head_dim = attention.qkv.out_features // (3 * attention.num_heads)
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = attention.qkv.out_features // 3


def cut_isomorphically_(
    model: nn.Module, images: Tensor, labels: Tensor, ratio: float, heads: bool = True
) -> nn.Module:
    """Isomorphic Pruning as its authors run it on that package: Taylor scores, ranked among isomorphic groups, once.

    Embedding, `heads` and hidden units lose the same share; heads are pruned whole, as in its ViT scripts.
    """
    import torch_pruning

    model.requires_grad_(True).eval()
    attentions = [m for m in model.modules() if isinstance(getattr(m, "qkv", None), nn.Linear) and _heads(m)]
    for attention in attentions:
        attention.fused_attn = False  # type: ignore[assignment]
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    classes = getattr(model, "num_classes", 0)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        images[:2],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        isomorphic=True,
        pruning_ratio=ratio,
        round_to=2,
        prune_num_heads=heads,
        prune_head_dims=False,
        head_pruning_ratio=ratio if heads else 0.0,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes],
        num_heads={attention.qkv: attention.num_heads for attention in attentions},
    )
    for group in pruner.step(interactive=True):
        group.prune()
    for attention in attentions:
        _refresh_(attention, pruner)
        attention.fused_attn = True  # type: ignore[assignment]
    model.zero_grad()
    return model
