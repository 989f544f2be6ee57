"""The smaller tables of SPT's thesis chapter, on a mini, as the thesis measures them. Resumable, a row a run.

budgets      Figure 2.3a: accuracy over five budgets
sites        Figure 2.3b: prompts, adapters and LoRA at their usual places, and only where the sensitivity puts them
gap          Figure 2.3c: SPT-Adapter structured only minus unstructured only, over the distance of the task (MMD of
             features) from the pre-training images
parts        Table 2.6: SPT-Adapter, and without its unstructured or its structured part
samples      Table 2.8: 240, 400, 560, 800 images for the sensitivity pass, three runs each

    python -m benchmarks.thesis [budgets sites ...] --store FILE [--tasks digits,location,count] [--table]

What the methods cost (Table 2.7) is `benchmarks.tuning_cost`.
"""

import argparse
import io
import json
import statistics
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality import TASKS, run_one
from benchmarks.rows import Row, Rows
from tailor import build as builder
from tailor.data.images import open_data
from tailor.data.loading import loader
from tailor.data.transforms import eval_transform
from tailor.errors import ModelError
from tailor.measure.machine import machine
from tailor.preprocessing import Preprocessing
from tailor.spec import BackboneRef
from tailor.tasks.classification import ClassifierHead

BUDGET, USUAL, ALL_IMAGES = "2%", ("digits", "location", "count"), 800
BUDGETS = ("0.5%", "1%", "2%", "4%", "8%")
SAMPLES = (240, 400, 560, ALL_IMAGES)
SEEDS = (0, 1, 2)
SITES = {"prompts": ("vpt-deep", "spt-vpt"), "adapters": ("adapter", "spt-adapter-structured"),
         "LoRA": ("lora", "spt-lora-structured")}  # fmt: skip
PARTS = {"Adapter at every block": "adapter", "SPT-Adapter without single weights": "spt-adapter-structured",
         "SPT-Adapter without modules": "spt-unstructured", "SPT-Adapter": "spt-adapter"}  # fmt: skip


def key(task: str, method: str, budget: str = BUDGET, samples: int = ALL_IMAGES, seed: int = 0) -> str:
    """A run's name; tables that need the same run share it."""
    return f"{task} {method} {budget} {samples} images seed {seed}"


def trained(task: str, method: str, budget: str, samples: int, seed: int, args: argparse.Namespace) -> Row:
    """One run; ModelError (its sentence is the row) where the method is not defined there."""
    spt = {"samples": samples} if method.startswith("spt") else None
    row = run_one(task, method, seed, argparse.Namespace(**{**vars(args), "budget": budget, "spt": spt}))
    if "error" in row:
        raise ModelError(row["error"], hint="see the method's page")
    return row


def wanted(name: str, tasks: Iterable[str]) -> list[tuple[str, str, str, int, int]]:
    """The runs of a table: (task, method, budget, images of the sensitivity pass, seed)."""
    runs = {
        "budgets": [("digits", m, b, ALL_IMAGES, 0) for b in BUDGETS for m in ("spt-lora", "lora")],
        "sites": [(t, m, BUDGET, ALL_IMAGES, 0) for t in tasks for pair in SITES.values() for m in pair],
        "gap": [(t, m, BUDGET, ALL_IMAGES, 0) for t in TASKS for m in ("spt-adapter-structured", "spt-unstructured")],
        "parts": [(t, m, BUDGET, ALL_IMAGES, 0) for t in tasks for m in PARTS.values()],
        "samples": [("digits", "spt-lora", BUDGET, n, seed) for seed in SEEDS for n in SAMPLES],
    }
    return runs[name]


def percent(rows: Rows, *run: Any) -> float:
    """Test accuracy of a run in percent, NaN where it is not there."""
    return 100 * rows.known.get(key(*run), {}).get("accuracy", float("nan"))


def cells(values: Iterable[float]) -> str:
    """Cells of a table; a dash where there is no number."""
    return " | ".join(f"{value:.1f}" if value == value else "-" for value in values)


def budgets(rows: Rows, tasks: list[str]) -> str:
    """A line a method, a column a budget."""
    lines = ["| digits | " + " | ".join(BUDGETS) + " |", "|---" * (len(BUDGETS) + 1) + "|"]
    return "\n".join(lines + [f"| {m} | {cells(percent(rows, 'digits', m, b) for b in BUDGETS)} |"
                              for m in ("spt-lora", "lora")])  # fmt: skip


def sites(rows: Rows, tasks: list[str]) -> str:
    """A line a kind of module: everywhere and where it is sensitive, by task, and the mean gain."""
    head = " | ".join(f"{task}, usual → sensitive" for task in tasks)
    lines = [f"| module | {head} | mean gain |", "|---" * (len(tasks) + 2) + "|"]
    for label, pair in SITES.items():
        found = [[percent(rows, task, method) for method in pair] for task in tasks]
        shown = " | ".join(f"{a:.1f} → {b:.1f}" for a, b in found)
        lines.append(f"| {label} | {shown} | {statistics.mean(b - a for a, b in found):+.1f} |")
    return "\n".join(lines)


def parts(rows: Rows, tasks: list[str]) -> str:
    """A line a variant, a column a task, the mean last."""
    lines = ["| | " + " | ".join(tasks) + " | mean |", "|---" * (len(tasks) + 2) + "|"]
    for label, method in PARTS.items():
        found = [percent(rows, task, method) for task in tasks]
        lines.append(f"| {label} | {cells([*found, statistics.mean(found)])} |")
    return "\n".join(lines)


def samples(rows: Rows, tasks: list[str]) -> str:
    """Mean and standard deviation of three runs, a column a number of images."""
    lines = ["| images | " + " | ".join(map(str, SAMPLES)) + " |", "|---" * (len(SAMPLES) + 1) + "|"]
    found = [[percent(rows, "digits", "spt-lora", BUDGET, n, seed) for seed in SEEDS] for n in SAMPLES]
    shown = [f"{statistics.mean(own):.1f} ±{statistics.stdev(own):.1f}" for own in found]
    return "\n".join([*lines, "| digits, SPT-LoRA | " + " | ".join(shown) + " |"])


def gap(rows: Rows, tasks: list[str]) -> str:
    """A line a task, the nearest to the pre-training images first."""
    lines = ["| task | MMD | structured only | unstructured only | difference |", "|---|---|---|---|---|"]
    found = sorted((row["mmd"], row["task"]) for row in rows.known.values() if "mmd" in row)
    for distance, task in found:
        a, b = (percent(rows, task, method) for method in ("spt-adapter-structured", "spt-unstructured"))
        lines.append(f"| {task} | {distance:.3f} | {cells([a, b])} | {a - b:+.1f} |")
    return "\n".join(lines)


TABLES = {"gap": gap, "parts": parts, "sites": sites, "samples": samples, "budgets": budgets}


def shown(name: str, rows: Rows) -> str:
    """A table on the tasks that its runs are of; nothing where a run is missing."""
    tasks = list(USUAL)
    missing = [run for run in wanted(name, tasks) if "accuracy" not in rows.known.get(key(*run), {})]
    lacks = name == "gap" and any(f"mmd {task}" not in rows.known for task in TASKS)
    return "" if missing or lacks else TABLES[name](rows, tasks)


def distances(rows: Rows, model: str) -> None:
    """MMD between features of each task's training images and of Tiny ImageNet's validation images."""
    made = builder.base(BackboneRef(model), ClassifierHead(("a", "b")), check=False)
    source = features(made.model, pretraining_images())
    for task in TASKS:
        rows.get(f"mmd {task}", partial(distance, task, made, source))


def distance(task: str, made: builder.Opened, source: torch.Tensor) -> Row:
    """One row."""
    split = open_data(TASKS[task]).splits["train"]
    images = next(iter(loader(split, eval_transform(Preprocessing((64, 64))), batch_size=400, seed=0, epoch=0,
                              shuffle=True)))  # fmt: skip
    return {"task": task, "mmd": mmd(source, features(made.model, images.images)), "digest": made.spec.backbone.digest}


def pretraining_images() -> torch.Tensor:
    """400 validation images of Tiny ImageNet, normalised."""
    import pyarrow.parquet as pq
    from PIL import Image

    column = pq.read_table(Path("../shared/data/tiny-imagenet/val-00000-of-00001.parquet"), columns=["image"])["image"]
    transform = eval_transform(Preprocessing((64, 64)))
    chosen = torch.randperm(len(column), generator=torch.Generator().manual_seed(0))[:400].tolist()
    return torch.stack([transform(Image.open(io.BytesIO(column[i].as_py()["bytes"])).convert("RGB")) for i in chosen])


@torch.inference_mode()
def features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(images), pre_logits=True)


def mmd(a: torch.Tensor, b: torch.Tensor) -> float:
    """Squared maximum mean discrepancy with a Gaussian kernel at the median distance."""
    both = torch.cat([a, b])
    distance = torch.cdist(both, both).square()
    kernel = torch.exp(-distance / distance[distance > 0].median())
    n = len(a)
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


def main() -> None:
    """Run what is missing of the named tables, print them and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--model", default="tailor_mini_ti")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tasks", default=",".join(USUAL))
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/thesis.jsonl"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, tasks = Rows(args.store), args.tasks.split(",")
    for name in args.tables:
        if not args.table:
            if name == "gap":
                distances(rows, args.model)
            for run in wanted(name, tasks):
                rows.get(key(*run), partial(trained, *run, args))
        print(f"\n{name}\n{TABLES[name](rows, tasks)}")
    print(json.dumps({"benchmark": "thesis", "epochs": args.epochs, "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
