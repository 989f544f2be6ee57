"""The smaller tables of SPT's thesis chapter, on a mini. Resumable like `quality`, whose rows it reuses.

cost         Table 2.7: latency, inference memory and tuning memory of every method (nothing is trained)
samples      Table 2.8: 240, 400, 560, 800 images for the sensitivity pass
budgets      Figure 2.3a: accuracy over five budgets
parts        Table 2.6: structured and unstructured tuning, each without the other
gap          Figure 2.3c: distance of the task from the pre-training images (MMD of features) against the gain over LoRA

python -m benchmarks.thesis cost samples ... --model tailor_mini_ti --store FILE
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.quality import TASKS, finished, run_one
from tailor import build as builder
from tailor.data.images import open_data
from tailor.data.loading import loader
from tailor.data.transforms import eval_transform
from tailor.inputs import Inputs
from tailor.measure.machine import machine
from tailor.measure.memory import peak_memory_bytes
from tailor.measure.speed import throughput
from tailor.preprocessing import Preprocessing
from tailor.spec import BackboneRef
from tailor.surgery import trainable
from tailor.tasks.classification import ClassifierHead
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merge_, merges

TABLES = ("cost", "samples", "budgets", "parts", "gap")
COSTED = (
    "full",
    "linear",
    "bias",
    "vpt-deep-10",
    "lora-8",
    "adapter-8",
    "adaptformer-64",
    "convpass-8",
    "repadapter-8",
    "ssf",
)
SAMPLES = (240, 400, 560, 800)
BUDGETS = ("0.5%", "1%", "2%", "4%", "8%")
USUAL: tuple[dict[str, Any], ...] = ({}, {"budget": "2%"}, {"spt": {"samples": 800}})
"""Settings of runs that stand in the quality table already: SPT scores on up to 800 images unless told."""


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Speed as deployed (merged where that is exact), interleaved; memory of a forward, and of a training step."""
    head = ClassifierHead(tuple(map(str, range(10))))
    models, rows = {}, {}
    inputs = Inputs.images(3, 64, 64)
    for name in COSTED:
        made = builder.base(BackboneRef(args.model), head, check=False)
        plan = planner.plan(made.model, made.anatomy, planner.parse(name))
        model = apply_(made.model, plan, made.anatomy.heads)
        rows[name] = {"trainable": plan.cost, "tuning_bytes": saved_bytes(model), "merged": merges(plan)}
        models[name] = merge_(model, plan).eval() if merges(plan) else model.eval()
    timed = throughput(models, inputs, protocol="quick", seconds=60.0)
    for name, model in models.items():
        timing = timed.timings[name]
        rows[name] |= {
            "ms_per_image": timing.median / timing.batch,
            "slower_than_first": 1 / timed.ratios[name].median,
            "inference_bytes": peak_memory_bytes(model, inputs, batch=timing.batch),
        }
    print(
        "| method | trains | ms an image | inference memory | kept for backward | merged |\n|---|---|---|---|---|---|"
    )
    for name, row in rows.items():
        print(
            f"| {name} | {row['trainable']:,} | {row['ms_per_image']:.3f} | {row['inference_bytes'] / 1e6:.1f} MB | "
            f"{row['tuning_bytes'] / 1e6:.1f} MB | {'yes' if row['merged'] else 'no'} |"
        )
    return {"table": "cost", "rows": rows}


def saved_bytes(model: torch.nn.Module, batch: int = 32) -> int:
    """Bytes that autograd keeps for a training step on `batch` images, each storage once, plus AdamW's two moments."""
    seen: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    held = []  # keeps every storage alive, so that no address is counted for two
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (held.append(t), pack(t))[1], lambda t: t):
        F.cross_entropy(model(torch.randn(batch, 3, 64, 64)), torch.zeros(batch, dtype=torch.int64))
    return sum(seen.values()) + 8 * sum(p.numel() for p in trainable(model).values())


def sweep(table: str, cells: list[tuple[str, str, dict[str, Any]]], args: argparse.Namespace) -> dict[str, Any]:
    """Run (label, method, settings) on every task; a markdown table of accuracies."""
    known = {(r["table"], r["label"], r["task"]): r for r in finished(args.store) if r.get("table")}
    usual = {(r["task"], r["method"]): r for r in finished(args.quality) if r["model"] == args.model and r["seed"] == 0}
    for label, method, settings in cells:
        for task in args.tasks.split(","):
            if settings in USUAL and (task, method) in usual:
                known[table, label, task] = {**usual[task, method], "table": table, "label": label}
            if (table, label, task) in known or time.monotonic() - args.began > 60 * args.minutes:
                continue
            own = argparse.Namespace(**{**vars(args), **settings})
            row = {**run_one(task, method, 0, own), "table": table, "label": label}
            known[table, label, task] = row
            with args.store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{table} {label} {task}: {row.get('accuracy', row.get('error'))}", flush=True)
    tasks = args.tasks.split(",")
    print("| " + table + " | " + " | ".join(tasks) + " | mean |\n" + "|---" * (len(tasks) + 2) + "|")
    for label, _, _ in cells:
        values = [known.get((table, label, t), {}).get("accuracy") for t in tasks]
        shown = [f"{100 * v:.1f}" if v is not None else "-" for v in values]
        mean = f"{100 * statistics.mean(values):.1f}" if None not in values else "-"
        print(f"| {label} | " + " | ".join(shown) + f" | {mean} |")
    return {"table": table, "rows": [r for r in known.values() if r["table"] == table]}


def samples(args: argparse.Namespace) -> dict[str, Any]:
    return sweep("samples", [(str(n), "spt-lora", {"spt": {"samples": n}}) for n in SAMPLES], args)


def budgets(args: argparse.Namespace) -> dict[str, Any]:
    return sweep("budgets", [(f"{m} {b}", m, {"budget": b}) for m in ("spt-lora", "lora") for b in BUDGETS], args)


def parts(args: argparse.Namespace) -> dict[str, Any]:
    kinds = ("spt-lora", "spt-lora-structured", "spt-unstructured", "spt-adapter", "spt-adapter-structured", "adapter")
    return sweep("parts", [(kind, kind, {}) for kind in kinds], args)


def gap(args: argparse.Namespace) -> dict[str, Any]:
    """MMD between features of the task's training images and of Tiny ImageNet's validation images, and SPT's gain."""
    rows = [r for r in finished(args.quality) if r["model"] == args.model and r["seed"] == 0 and "accuracy" in r]
    known = {(r["task"], r["method"]): r["accuracy"] for r in rows}
    made = builder.base(BackboneRef(args.model), ClassifierHead(("a", "b")), check=False)
    source = features(made.model, pretraining_images())
    found = {}
    for task, where in TASKS.items():
        images = next(iter(loader(open_data(where).splits["train"], eval_transform(Preprocessing((64, 64))),
                                  batch_size=400, seed=0, epoch=0, shuffle=True)))  # fmt: skip
        gain = known.get((task, "spt-lora"), float("nan")) - known.get((task, "lora"), float("nan"))
        found[task] = {"mmd": mmd(source, features(made.model, images.images)), "gain": gain}
    print("| task | MMD to the pre-training images | gain of spt-lora over lora, points |\n|---|---|---|")
    for task, row in sorted(found.items(), key=lambda item: item[1]["mmd"]):
        print(f"| {task} | {row['mmd']:.4f} | {100 * row['gain']:+.1f} |")
    return {"table": "gap", "rows": found}


def pretraining_images() -> torch.Tensor:
    """400 validation images of Tiny ImageNet, normalised."""
    import io

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
    """Print the tables and one JSON line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=list(TABLES))
    parser.add_argument("--model", default="tailor_mini_ti")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--budget", default="2%")
    parser.add_argument("--tasks", default="digits,location,count")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/thesis.jsonl"))
    parser.add_argument("--quality", type=Path, default=Path("runs/benchmarks/quality.jsonl"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.began = time.monotonic()
    torch.set_num_threads(args.threads)
    args.store.parent.mkdir(parents=True, exist_ok=True)
    for name in args.tables:
        print(f"\n{name}")
        print(json.dumps({"benchmark": "thesis", **globals()[name](args), "machine": machine()}, default=str))


if __name__ == "__main__":
    main()
