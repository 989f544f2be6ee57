"""SLS against DepGraph at equal throughput, how to retrain, and the sweep over alpha, on the bundled mini. Resumable.

The questions of SLS's supplement (arXiv 2407.14330, Table 1): a tuned model is cut by SLS, and by DepGraph (Taylor, the
same share of every layer, as the supplement has it) with the adapters cut too or left alone; both are retrained, and
DepGraph's target is set so that both are measured to be as fast. Then 1clr, ft and tfs after SLS, and alpha 0.1 to 0.9.

    python -m benchmarks.layers --store FILE [--epochs 20] [--tasks flowers,digits]
"""

import argparse
import json
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks.quality import TASKS
from benchmarks.rows import Row, Rows
from tailor import bundle as bundles
from tailor.measure.machine import machine
from tailor.pruning.layers import LayerPlan, walk
from tailor.pruning.settings import Sls

MODEL, BUDGET, ALPHA, LEAST = "tailor_mini_ti", "2%", 0.3, 0.35
ADAPTERS = ("convpass", "repadapter")
RETRAININGS = ("none", "1clr", "ft", "tfs")
ALPHAS = tuple(round(0.1 * i, 1) for i in range(1, 10))
DEPGRAPH: dict[str, dict[str, Any]] = {
    "DepGraph, adapters cut, tunes retrained": {"adapters": "prune", "train": "tunes"},
    "DepGraph, adapters left, all retrained": {"adapters": "keep", "train": "full", "lr": 1e-4},
    "DepGraph, adapters left, tunes retrained": {"adapters": "keep", "train": "tunes"},
}


def tuned(task: str, adapter: str, args: argparse.Namespace) -> Row:
    """The model that all of them cut; its folder stays."""
    made = tailor.adapt(
        TASKS[task], model=MODEL, method=adapter, budget=BUDGET, out=args.work / f"{task}-{adapter}", overwrite=True,
        epochs=args.epochs, recipe={"evaluate_every": 5},
    )  # fmt: skip
    return {"accuracy": made.accuracy, "percent": made.trainable_percent}


def pruned(task: str, adapter: str, args: argparse.Namespace, **settings: Any) -> Row:
    """One cut of the tuned model, which is tuned again if its folder is lost, and its retraining where one is named."""
    out, bundle = args.work / "cut", args.work / f"{task}-{adapter}"
    if not bundle.is_dir():
        tuned(task, adapter, args)
    training = {"epochs": args.epochs, "recipe": {"evaluate_every": 5}} if settings.get("retrain") else {}
    made = tailor.prune(str(bundle), data=TASKS[task], out=out, overwrite=True, **training, **settings)
    plan = bundles.read(out).spec.plans[-1]
    curve = list(plan.curve) if isinstance(plan, LayerPlan) else []
    shutil.rmtree(out)
    return {
        "blocks": made.kept_blocks,
        "macs": made.macs_after / made.macs_before,
        "speed": made.throughput_ratio,
        "before": made.accuracy_before,
        "cut": made.accuracy_cut,
        "after": made.accuracy_after,
        "bytes": made.bundle_bytes,
        "curve": curve,
    }


def as_fast(task: str, wanted: Row, args: argparse.Namespace, settings: dict[str, Any]) -> Row:
    """DepGraph at the throughput that SLS reached: a first target from the MACs, a second from what it measured.

    With the adapters left alone the embedding stays whole, and less than `LEAST` of the MACs is out of reach.
    """
    common = {"method": "uniform", "criterion": "taylor", "adapters": settings["adapters"]}
    least = LEAST if settings["adapters"] == "keep" else 0.08
    share = min(0.95, max(least, wanted["macs"]))
    first = pruned(task, ADAPTERS[0], args, macs=f"{100 * share:.1f}%", **common)
    share = min(0.95, max(least, share * first["speed"] / wanted["speed"]))
    return pruned(task, ADAPTERS[0], args, macs=f"{100 * share:.1f}%", retrain="1clr", **{**common, **settings})


def compare(rows: Rows, tasks: list[str], args: argparse.Namespace) -> None:
    """All runs, the cheap answers first."""
    first = ADAPTERS[0]
    for adapter in ADAPTERS:
        for task in tasks:
            rows.get(f"{task} {adapter} dense", partial(tuned, task, adapter, args))
            for how in RETRAININGS if adapter == first else RETRAININGS[:2]:
                given = {"retrain": how} if how != "none" else {}
                rows.get(f"{task} {adapter} sls {how}", partial(pruned, task, adapter, args, alpha=ALPHA, **given))
    for task in tasks:
        for label, settings in DEPGRAPH.items():
            wanted = rows.known[f"{task} {first} sls none"]
            rows.get(f"{task} {label}", partial(as_fast, task, wanted, args, settings))
    for task in tasks:
        curve = rows.get(f"{task} curve", partial(pruned, task, first, args, alpha=-1.0))["curve"]
        for alpha in ALPHAS:
            depth = kept(curve, alpha)
            if depth < len(curve) and not at_depth(rows, task, depth):
                rows.get(f"{task} depth {depth}", partial(pruned, task, first, args, alpha=alpha, retrain="1clr"))


def kept(curve: list[float | None], alpha: float) -> int:
    """How many blocks an alpha keeps, by a curve that reaches down to the first block."""
    stop = walk(curve, Sls(alpha))
    assert stop is not None
    return stop.depth


def at_depth(rows: Rows, task: str, depth: int) -> Row:
    """What retraining that many blocks gave, if it ran: the comparison's own run counts too."""
    own = rows.known.get(f"{task} {ADAPTERS[0]} sls 1clr", {})
    return own if own.get("blocks") == depth else rows.known.get(f"{task} depth {depth}", {})


def tables(rows: Rows, tasks: list[str]) -> str:
    """Markdown: the comparison, the retraining of both adapters, the sweep over alpha."""
    lines = ["| cut | " + " | ".join(tasks) + " | mean | faster |", "|---" * (len(tasks) + 3) + "|"]
    first = ADAPTERS[0]
    lines.append(_line("dense", [rows.known.get(f"{t} {first} dense", {}) for t in tasks], "accuracy"))
    lines.append(
        _line("SLS, adapters and head retrained", [rows.known.get(f"{t} {first} sls 1clr", {}) for t in tasks])
    )
    lines += [_line(label, [rows.known.get(f"{t} {label}", {}) for t in tasks]) for label in DEPGRAPH]
    lines += ["", "| after SLS | " + " | ".join(tasks) + " | mean | faster |", "|---" * (len(tasks) + 3) + "|"]
    for adapter in ADAPTERS:
        found = [rows.known.get(f"{t} {adapter} dense", {}) for t in tasks]
        lines.append(_line(f"{adapter}, dense", found, "accuracy"))
        for how in RETRAININGS:
            found = [rows.known.get(f"{t} {adapter} sls {how}", {}) for t in tasks]
            if any("after" in row for row in found):
                lines.append(_line(f"{adapter}, {how}", found))
    lines += ["", "| alpha | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for alpha in ALPHAS:
        cells = []
        for task in tasks:
            depth = kept(rows.known.get(f"{task} curve", {}).get("curve") or [None], alpha) if _swept(rows, task) else 0
            accuracy = at_depth(rows, task, depth) or rows.known.get(f"{task} {first} dense", {})
            cells.append(f"{depth}: {100 * accuracy.get('after', accuracy.get('accuracy', 0)):.1f}" if depth else "-")
        lines.append(f"| {alpha:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _swept(rows: Rows, task: str) -> bool:
    return "curve" in rows.known.get(f"{task} curve", {})


def _line(label: str, found: list[Row], key: str = "after") -> str:
    values = [100 * row[key] if key in row else None for row in found]
    cells = [f"{value:.1f}" if value is not None else "-" for value in values]
    mean = f"{statistics.mean(v for v in values if v is not None):.1f}" if None not in values else "-"
    speeds = [row["speed"] for row in found if "speed" in row]
    return (
        f"| {label} | " + " | ".join(cells) + f" | {mean} | " + (f"{statistics.mean(speeds):.2f}x |" if speeds else "|")
    )


def main() -> None:
    """Run what is missing, then print the tables and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tasks", default="flowers,cifar10,digits,count")
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/layers.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/layers"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, tasks = Rows(args.store), args.tasks.split(",")
    if not args.table:
        compare(rows, tasks, args)
    print(tables(rows, tasks))
    print(json.dumps({"benchmark": "layers", "epochs": args.epochs, "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
