"""`tailor merge BUNDLE -o OUT`: fold the tunes back into the plain layers, or write PEFT's layout beside them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailor import build as builder
from tailor import bundle
from tailor.events import Report, silent


@dataclass(frozen=True)
class Merged:
    """The written bundle, its size, and the tensors in it."""

    bundle: str
    bundle_bytes: int
    tensors: int


def merge(
    path: str | Path,
    *,
    out: str | Path = "runs/merged",
    weights: str | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Merged:
    """Write a bundle of the same function with every tensor and no tunes; PlanError where they do not fold."""
    loaded = bundle.read(Path(path))
    model = bundle.restore(loaded, weights)
    builder.merged_(model, loaded.spec)
    folder = bundle.prepare(Path(out), overwrite)
    spec = replace(loaded.spec, plans=loaded.spec.pruning)
    manifest = loaded.manifest
    facts: dict[str, Any] = {**manifest.provenance, "merged_from": Path(path).name}
    tensors = bundle.state(model, complete=True)
    bundle.write(folder, spec, tensors, complete=True, metrics=manifest.metrics, provenance=facts)
    size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    return Merged(str(folder), size, len(tensors))
