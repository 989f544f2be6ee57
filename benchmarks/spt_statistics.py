"""What SPT's plans look like on the minis, beside those of the plans shipped with the paper.

    python -m benchmarks.spt_statistics --store FILE [--models tailor_mini_s] [--images 800] [--method spt-lora]

Sensitivity of 800 training images (per sample, seeded random head) of flowers, cifar10 and digits; one plan for each of
four budgets, the shares of the backbone that 0.05, 0.2, 0.4 and 1.0 M are of ViT-B/16. Nothing is trained. Also the
density of the selected weights by operation (selected of 10,000), which says at every budget what comes least.
"""

import argparse
import dataclasses
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Rows
from tailor import backbones
from tailor.backbones import bundled
from tailor.data.images import for_training, open_data
from tailor.data.loading import loader
from tailor.data.transforms import eval_transform
from tailor.preprocessing import Preprocessing
from tailor.tuning.spt import settings as spt
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.curve import rank
from tailor.tuning.spt.report import summary
from tailor.tuning.spt.scores import Scores, sensitivity

SHARED = Path("../shared/data")
DATA = {"flowers": str(SHARED / "flowers"), "cifar10": str(SHARED / "cifar10"), "digits": "builtin/digits"}
SHARES = {"0.05 M": 0.00058, "0.2 M": 0.0023, "0.4 M": 0.0047, "1.0 M": 0.0117}
OPERATIONS = ("q", "k", "v", "proj", "fc1", "fc2")


def prepared(name: str, where: str, seed: int, batch: int) -> tuple[Any, Any, Any]:
    """The backbone with a random head for the data, its anatomy, and the training images in batches."""
    model = backbones.create(name)
    data = for_training(open_data(where), seed)
    backbones.attach_head_(model, len(data.classes), seed)
    anatomy = backbones.describe(model)
    config = backbones.config_of(model)
    transform = eval_transform(Preprocessing.of(config.inputs.image[1:], config.mean, config.std, "bicubic"))
    return model, anatomy, loader(data.splits["train"], transform, batch_size=batch, seed=seed, epoch=0, shuffle=True)


def scored(name: str, where: str, images: int) -> tuple[Any, Any, Scores]:
    """The backbone, its anatomy, and the sensitivity of its weights."""
    model, anatomy, batches = prepared(name, where, 0, 32)
    return model, anatomy, sensitivity(model, anatomy, batches, samples=images)


def densities(scores: Scores, anatomy: Any, tau: int) -> dict[str, float]:
    """Of 10,000 weights of each operation's matrices, how many are among the `tau` most sensitive of all."""
    everything = candidates(anatomy)
    counts = torch.bincount(rank([c.view(scores.tensors) for c in everything], tau).segment, minlength=len(everything))
    found = {}
    for operation in OPERATIONS:
        own = [(int(n), c.size) for n, c in zip(counts, everything, strict=True) if c.site and c.operation == operation]
        found[operation] = 1e4 * sum(n for n, _ in own) / sum(size for _, size in own)
    return found


def row(name: str, task: str, label: str, found: tuple[Any, Any, Scores], settings: spt.Spt) -> dict[str, Any]:
    """One plan in figures."""
    model, anatomy, scores = found
    heads = tuple(f"{head}." for head in anatomy.heads)
    whole = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(heads))
    budget = int(SHARES[label] * whole)
    plan = allocate(scores, anatomy, model, settings, budget)
    made = summary(plan, anatomy)
    density = densities(scores, anatomy, int(plan.facts["tau"]))
    filled = allocate(scores, anatomy, model, dataclasses.replace(settings, fill=True), budget)
    return {
        "model": name,
        "task": task,
        "like": label,
        "budget": budget,
        "cost": plan.cost,
        "structured": made.structured,
        "whole": made.whole,
        "single": made.scalars,
        "per_operation": {o: n for o, n, _ in made.per_operation},
        "density": density,
        "least": sorted(density, key=lambda o: density[o])[:2],
        "mask_rows": statistics.mean(m.rows for m in made.masks) if made.masks else 0.0,
        "mask_columns": statistics.mean(m.columns for m in made.masks) if made.masks else 0.0,
        "cost_filled": filled.cost,
        "structured_filled": summary(filled, anatomy).structured,
    }


def planned(
    name: str, task: str, label: str, found: tuple[Any, Any, Scores], settings: spt.Spt, facts: dict[str, str]
) -> dict[str, Any]:
    """One plan in figures, and of which weights it is."""
    return {**row(name, task, label, found, settings), **facts}


def line(rows: list[dict[str, Any]]) -> str:
    """One line of the table: the mean over the tasks."""

    def mean(key: str) -> float:
        return statistics.mean(r[key] for r in rows)

    costs = [r["cost"] for r in rows]
    structured = " ".join(f"{statistics.mean(r['per_operation'][o] for r in rows):.1f}" for o in OPERATIONS)
    density = " ".join(f"{statistics.mean(r['density'][o] for r in rows):.0f}" for o in OPERATIONS)
    least = sum(set(r["least"]) == {"q", "k"} for r in rows)
    cells = (
        rows[0]["model"],
        f"{rows[0]['like']} = {rows[0]['budget']:,}",
        f"{mean('cost'):,.0f} [{min(costs):,}, {max(costs):,}]",
        f"{mean('structured'):.1f}",
        f"{mean('whole'):.0f}",
        f"{mean('single'):,.0f}",
        structured,
        density,
        f"{least} of {len(rows)}",
        f"{mean('mask_rows'):.0f} x {mean('mask_columns'):.0f}",
        f"{mean('structured_filled'):.1f}",
    )
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "mini", "budget", "cost mean [min, max]", "structured", "vectors", "single weights",
    "structured per op q k v proj fc1 fc2", "selected of 10,000 per op", "q and k least", "mask rows x columns",
    "structured with fill",
)  # fmt: skip


def table(rows: Rows) -> str:
    """Markdown: a line a mini and budget, the mean over the tasks."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    for name in bundled.WIDTHS:
        for label in SHARES:
            own = [row for row in rows.known.values() if row.get("model") == name and row["like"] == label]
            lines += [line(own)] if own else []
    return "\n".join(lines)


def measure(name: str, rows: Rows, args: argparse.Namespace) -> None:
    """The rows of a mini that are not there yet; a task is scored once for all budgets."""
    settings = dataclasses.replace(spt.named(args.method), rule=args.rule)
    for task, where in DATA.items():
        keys = {label: f"{name} {task} {label} {args.method} {args.rule}" for label in SHARES}
        if all(key in rows.known for key in keys.values()):
            continue
        found = scored(name, where, args.images)
        facts = {"digest": backbones.digest(backbones.create(name)), "method": args.method, "rule": args.rule}
        for label, key in keys.items():
            rows.get(key, partial(planned, name, task, label, found, settings, facts))


def main() -> None:
    """Measure what is missing, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(bundled.WIDTHS))
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--method", default="spt-lora")
    parser.add_argument("--rule", default="released")
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/spt_statistics.jsonl"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = Rows(args.store)
    for name in args.models.split(","):
        measure(name, rows, args)
    print(table(rows))
    print(json.dumps({"benchmark": "spt_statistics", "images": args.images, "rows": len(rows.known)}))


if __name__ == "__main__":
    main()
