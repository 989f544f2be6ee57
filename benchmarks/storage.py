"""Bytes a task costs on ViT-B/16 by method, against a full checkpoint: tensors, index lists, plan, labels and card.

Sizes do not depend on values, so nothing is trained: SPT's plan is made from random scores (seeded) at 0.4 M.

    python -m benchmarks.storage --store docs/benchmarks/storage.jsonl
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.rows import Row, Rows
from tailor import build as builder
from tailor import bundle
from tailor.spec import BackboneRef
from tailor.tasks.classification import ClassifierHead
from tailor.tuning import planner
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt import settings as spt
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.scores import Scores

METHODS = ("linear", "bias", "vpt-shallow-50", "vpt-deep-50", "lora-8", "adapter-8", "adaptformer-64", "convpass-8",
           "repadapter-8", "ssf", "spt-lora", "spt-adapter", "spt-unstructured", "partial-1", "full")  # fmt: skip
MODEL = "vit_base_patch16_224"


def random_scores(made: builder.Opened) -> Scores:
    """Scores whose largest entries crowd into few rows and columns, as real ones do: products of two random factors."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for candidate in candidates(made.anatomy):
        parameter = made.model.get_parameter(candidate.tensor)
        if candidate.tensor not in tensors:
            rows = torch.randn(parameter.shape[0], 1, generator=generator).exp()
            columns = torch.randn(1, parameter[0].numel(), generator=generator).exp() if parameter.ndim > 1 else 1.0
            tensors[candidate.tensor] = (rows * columns).square().reshape(parameter.shape)
    return Scores(tensors, {"backbone": made.spec.backbone.digest})


def plan_of(method: str, made: builder.Opened, scores: Scores) -> TunePlan:
    """The method's plan; SPT's at 0.4 M."""
    if method.startswith("spt"):
        return allocate(scores, made.anatomy, made.model, spt.named(method), 400_000)
    return planner.plan(made.model, made.anatomy, planner.parse(method))


def measure(classes: int, rows: Rows) -> None:
    """One row a method: what trains, the bundle's bytes, their share of the checkpoint."""
    head = ClassifierHead(tuple(f"class number {i}" for i in range(classes)))
    made = builder.base(BackboneRef(MODEL, "random"), head)
    scores = random_scores(made)
    whole = sum(t.numel() * t.element_size() for t in made.model.state_dict().values())
    for method in METHODS:
        rows.get(f"{method} {classes}", partial(one, method, head, scores, whole))


def one(method: str, head: ClassifierHead, scores: Scores, whole: int) -> Row:
    """The bundle of a method, written and weighed."""
    made = builder.base(BackboneRef(MODEL, "random"), head, check=False)
    plan = plan_of(method, made, scores)
    tuned = builder.apply_plans_(made, (plan,))
    tensors = bundle.state(tuned.model, False)
    with tempfile.TemporaryDirectory() as folder:
        out = bundle.write(Path(folder), tuned.spec, tensors, complete=False, metrics={}, provenance={})
        size = sum(f.stat().st_size for f in out.iterdir())
    return {"method": method, "trainable": plan.cost, "bytes": size, "percent": 100 * size / whole}


def table(rows: list[Row]) -> str:
    """Markdown, the smallest first."""
    lines = ["| method | trainable without head | bytes a task | of the checkpoint |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row["bytes"]):
        name = f"**{row['method']}, 0.4 M**" if row["method"].startswith("spt") else row["method"]
        lines.append(f"| {name} | {row['trainable']:,} | {row['bytes']:,} | {row['percent']:.3f} % |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, then print a table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/storage.jsonl"))
    args = parser.parse_args()
    rows = Rows(args.store)
    measure(args.classes, rows)
    own = [row for key, row in rows.known.items() if key.endswith(f" {args.classes}")]
    print(table(own))
    print(json.dumps({"benchmark": "storage", "model": MODEL, "classes": args.classes, "rows": own}))


if __name__ == "__main__":
    main()
