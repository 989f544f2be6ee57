"""What `inspect --groups` says: the groups of a model as `prune` cuts them, and what cannot be cut, with the reason.

Groups depend on the architecture alone, so nothing is downloaded: a name or a bundle is built on random weights.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailor import backbones, bundle
from tailor import build as builder
from tailor.errors import UsageError
from tailor.events import Event, Report
from tailor.tracing import Groups, settle, trace
from tailor.tuning.apply import merges
from tailor.verbs.subject import Subject, is_bundle


def describe_groups(name: str, image_size: int | None, seed: int, report: Report) -> dict[str, Any]:
    """Groups with members, ties, pinned axes and recorded modules; ModelError for a model that does not trace."""
    started = time.monotonic()
    subject = _built(name, image_size)
    example = torch.randn(2, *subject.size, generator=torch.Generator().manual_seed(seed))
    report(Event("tracing", text="which widths shrink together"))
    traced = trace(subject.model, example)
    report(Event("tracing", text="a trial cut, compared with the masked model"))
    found = settle(subject.model, traced, example).groups
    return {
        "kind": "groups",
        "name": name,
        "input_size": list(subject.size),
        "params": sum(p.numel() for p in subject.model.parameters()),
        "pinned_percent": round(_pinned_percent(subject.model, found), 4),
        "groups": [asdict(group) for group in found.groups],
        "ties": [list(tie) for tie in found.ties],
        "pinned": [asdict(one) for one in found.pinned],
        "recorded": [
            {"module": replay.module, "class": type(subject.model.get_submodule(replay.module)).__name__}
            for replay in found.replays
        ],
        "unknown": list(found.unknown),
        "seconds": round(time.monotonic() - started, 2),
    }


def _built(name: str, image_size: int | None) -> Subject:
    """The architecture: a bundle's, its tunes merged where all of them fold, or a backbone's."""
    if is_bundle(name):
        if image_size is not None:
            raise UsageError("a bundle has its own image size", hint="leave out `--image-size`")
        loaded = bundle.read(Path(name))
        model = bundle.blank(loaded)
        if folded := all(merges(plan) for plan in loaded.spec.tuning):
            builder.merged_(model, loaded.spec)
        return Subject(name, model, (3, *loaded.spec.preprocessing.size), folded)
    model = backbones.create(name, "random", image_size)
    return Subject(name, model, backbones.config_of(model).input_size)


def _pinned_percent(model: nn.Module, found: Groups) -> float:
    """Percent of the parameters that lie in tensors of which nothing can be removed."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return 100 * sum(n for name, n in sizes.items() if name not in found.layouts) / max(1, sum(sizes.values()))
