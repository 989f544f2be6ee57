"""The mini-VTAB: every tuning method on six small tasks with a bundled mini. Resumable: no finished run is repeated.

Tasks: flowers and cifar10 (photos), builtin digits, and the three drawn shapes (location, orientation, count). 800
images to train on, 200 to choose the epoch, the test set to report. Seeds: one for every method, three for full,
linear, lora and spt-lora. Methods with a size, and SPT, get the same `--budget`.

    python -m benchmarks.quality --model tailor_mini_ti --epochs 20 --store FILE [--seeds 3] [--methods a,b]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import tailor
from tailor.errors import TailorError
from tailor.evidence.plots import Point, accuracy_vs_params
from tailor.measure.machine import machine

SHARED = Path("../shared/data")
TASKS = {
    "flowers": str(SHARED / "flowers"),
    "cifar10": str(SHARED / "cifar10"),
    "digits": "builtin/digits",
    "location": "builtin/shapes-location",
    "orientation": "builtin/shapes-orientation",
    "count": "builtin/shapes-count",
}
REPEATED = ("full", "linear", "lora", "spt-lora")
METHODS = (
    *REPEATED,
    "bias", "partial", "mlp-3", "vpt-shallow", "vpt-deep", "adapter", "adaptformer", "convpass", "repadapter", "ssf",
    "spt-adapter", "spt-vpt", "spt-lora-structured", "spt-unstructured", "noah",
)  # fmt: skip
SIZED = ("lora", "vpt-shallow", "vpt-deep", "adapter", "adaptformer", "convpass", "repadapter", "noah")
NOAH = {"generations": 5, "population": 20, "mutations": 10, "crossovers": 10, "top": 5}
"""A search of 100 sub-nets instead of the paper's 750."""
HEAD = 650
"""A classifier of ten classes on 64 channels, counted so that the linear probe has a place on a logarithmic axis."""
LR = {"full": 5e-4}
"""Full tuning peaks lower than the recipe's 1e-3; at 1e-4 it learns too little in 20 epochs (location 22 %)."""


def run_one(task: str, method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run as a flat row; a method that is not defined there gives its sentence instead of an accuracy."""
    budget = args.budget if method in SIZED or method.startswith("spt") else None
    row: dict[str, Any] = {"task": task, "method": method, "seed": seed, "model": args.model, "epochs": args.epochs}
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = tailor.adapt(
                TASKS[task],
                model=args.model,
                method=method,
                budget=budget,
                out=Path(folder) / "run",
                epochs=args.epochs,
                lr=LR.get(method),
                seed=seed,
                spt=getattr(args, "spt", None),
                noah=NOAH if method == "noah" else None,
                recipe={"evaluate_every": max(1, args.epochs // 4), "checkpoint_every": args.epochs},
            )
        except TailorError as error:
            return {**row, "error": error.message}
        plan = json.loads((Path(folder) / "run" / "bundle.json").read_text())
    return {
        **row,
        "name": made.method,
        "accuracy": made.accuracy,
        "trainable": made.trainable_params,
        "percent": made.trainable_percent,
        "bytes": made.bundle_bytes,
        "seconds": made.seconds,
        "digest": plan["spec"]["backbone"]["digest"],
    }


def finished(store: Path) -> list[dict[str, Any]]:
    """Rows of earlier runs."""
    return [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: methods by tasks, mean over seeds (and spread where there are several), mean over tasks last."""
    tasks = [t for t in TASKS if any(r["task"] == t for r in rows)]
    lines = ["| method | trains | " + " | ".join(tasks) + " | mean |", "|---" * (len(tasks) + 3) + "|"]
    scored = []
    for method in METHODS:
        own = [r for r in rows if r["method"] == method and "accuracy" in r]
        if not own:
            continue
        cells, means = [], []
        for task in tasks:
            values = [100 * r["accuracy"] for r in own if r["task"] == task]
            means += [statistics.mean(values)] if values else []
            spread = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        mean = statistics.mean(means) if len(means) == len(tasks) else float("nan")
        size = f"{own[0]['trainable']:,} ({own[0]['percent']:.2f} %)"
        scored.append((mean, f"| {own[0]['name']} | {size} | " + " | ".join(cells) + f" | {mean:.1f} |"))
    scored.sort(key=lambda item: -item[0] if item[0] == item[0] else 1e9)
    return "\n".join([*lines, *(line for _, line in scored)])


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Mean accuracy over tasks and seeds against what is trained, for the methods that ran on every task."""
    tasks = {r["task"] for r in rows}
    points = []
    for method in METHODS:
        own = [r for r in rows if r["method"] == method and "accuracy" in r]
        if {r["task"] for r in own} == tasks:
            means = [statistics.mean(r["accuracy"] for r in own if r["task"] == task) for task in tasks]
            cost = statistics.mean(r["trainable"] + HEAD for r in own)
            points.append(Point(own[0]["name"], cost, 100 * statistics.mean(means), method.startswith("spt")))
    note = f"mean of {len(tasks)} tasks, {'one or three seeds' if any(r['seed'] for r in rows) else 'one seed'}"
    accuracy_vs_params(points, out, note=note)


def main() -> None:
    """Run what is missing, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tailor_mini_ti")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--budget", default="2%")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/quality.jsonl"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.store.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    known = {(r["task"], r["method"], r["seed"], r["model"], r["epochs"]) for r in finished(args.store)}
    wanted = [
        (task, method, seed)
        for seed in range(max(args.seeds, 1))
        for method in args.methods.split(",")
        for task in args.tasks.split(",")
        if seed == 0 or method in REPEATED
    ]
    todo = [w for w in wanted if (*w[:2], w[2], args.model, args.epochs) not in known]
    for index, (task, method, seed) in enumerate(todo):
        if time.monotonic() - began > 60 * args.minutes:
            break
        row = run_one(task, method, seed, args)
        with args.store.open("a") as file:
            file.write(json.dumps(row) + "\n")
        told = f"{row['accuracy']:.1%}  {row['trainable']:,}" if "accuracy" in row else row["error"]
        print(f"[{index + 1}/{len(todo)}] {task} {method} seed {seed}: {told}", flush=True)
    rows = [r for r in finished(args.store) if r["model"] == args.model and r["epochs"] == args.epochs]
    print(table(rows))
    if args.plot:
        plot(rows, args.plot)
    print(
        json.dumps(
            {
                "benchmark": "quality",
                "model": args.model,
                "epochs": args.epochs,
                "runs": len(rows),
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
