"""What `inspect --groups` says: the groups of a model as `prune` cuts them, and what cannot be cut, with the reason.

Groups depend on the architecture alone, so nothing is downloaded: a name or a bundle is built on random weights.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from tailor import backbones, bundle
from tailor import build as builder
from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.inputs import Inputs
from tailor.tracing import Groups, operators, settle, trace
from tailor.tuning.apply import merges
from tailor.workflow.names import is_bundle


def describe_groups(name: str, image_size: int | None, seed: int, tell: Tell) -> dict[str, Any]:
    """Groups with members, ties, pinned axes and recorded modules; ModelError for a model that does not trace."""
    started = time.monotonic()
    model, inputs = _built(name, image_size)
    example = inputs.example(seed=seed)
    tell(Event("tracing", text="which widths shrink together"))
    traced = trace(model, example)
    tell(Event("tracing", text="a trial cut, compared with the masked model"))
    found = settle(model, traced, example, record_modules=not hasattr(model, "generate")).groups
    return {
        "kind": "groups",
        "name": name,
        "input_size": list(inputs.image),
        "params": sum(p.numel() for p in model.parameters()),
        "pinned_percent": round(_pinned_percent(model, found), 4),
        "groups": [{**asdict(group), "operators": operators(group)} for group in found.groups],
        "ties": [list(tie) for tie in found.ties],
        "pinned": [asdict(one) for one in found.pinned],
        "recorded": [
            {"module": replay.module, "class": type(model.get_submodule(replay.module)).__name__}
            for replay in found.replays
        ],
        "unknown": list(found.unknown),
        "seconds": round(time.monotonic() - started, 2),
    }


def _built(name: str, image_size: int | None) -> tuple[nn.Module, Inputs]:
    """The architecture and its inputs: a bundle's, its tunes merged where all of them fold, or a backbone's."""
    if is_bundle(name):
        if image_size is not None:
            raise UsageError("a bundle has its own image size", hint="leave out `--image-size`")
        loaded = bundle.read(Path(name))
        model = bundle.blank(loaded)
        if all(merges(plan) for plan in loaded.spec.tuning):
            builder.merged_(model, loaded.spec)
        return model, loaded.spec.inputs
    model = backbones.create(name, "random", image_size)
    return model, backbones.config_of(model).inputs


def _pinned_percent(model: nn.Module, found: Groups) -> float:
    """Percent of the parameters that lie in tensors of which nothing can be removed."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return 100 * sum(n for name, n in sizes.items() if name not in found.layouts) / max(1, sum(sizes.values()))
