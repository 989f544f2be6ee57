"""Isomorphic pruning against one global ranking, uniform and random widths, on four small nets. Resumable.

Each net is tuned in full on one task, cut to 75, 50 and 25 % of its MACs by each method with the same criterion, and
retrained equally: the accuracy before and after retraining, and the measured speed beside the MACs. Three seeds at
50 %, one elsewhere. The ViT is bundled, the other three come from `benchmarks.small_nets`.

    python -m benchmarks.widths --store FILE [--epochs 20] [--nets vit,small_swin] [--seeds 3]
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
from benchmarks import small_nets
from benchmarks.rows import Row, Rows
from tailor.measure.machine import machine

NETS = ("vit", *small_nets.NETS)
METHODS = ("isomorphic", "depgraph", "uniform", "random")
SHARES = (75, 50, 25)
DATA = "../shared/data/cifar10"
RATE = 5e-4
"""Peak rate of full tuning and of retraining: 1e-3 is too much for 800 images when everything trains."""


def dense(net: str, args: argparse.Namespace) -> Row:
    """The net tuned on the task: what all methods start from; the folder stays."""
    name = "tailor_mini_ti" if net == "vit" else net
    source = "pretrained" if net == "vit" else str(small_nets.weights(net))
    made = tailor.adapt(
        DATA, model=name, weights=source, method="full", out=args.work / net, overwrite=True,
        epochs=args.epochs, lr=RATE, recipe={"evaluate_every": 5},
    )  # fmt: skip
    return {"accuracy": made.accuracy, "params": made.trainable_params}


def cut(net: str, method: str, share: int, seed: int, args: argparse.Namespace) -> Row:
    """One method at one share, retrained with the schedule that tuned the dense net, which is tuned again if lost."""
    if not (args.work / net).is_dir():
        dense(net, args)
    out = args.work / f"{net}-{method}-{share}-{seed}"
    made = tailor.prune(
        str(args.work / net), method=method, data=DATA, macs=f"{share}%", retrain="1clr", epochs=args.epochs,
        lr=RATE, out=out, overwrite=True, seed=seed, recipe={"evaluate_every": 5},
    )  # fmt: skip
    shutil.rmtree(out)
    return {
        "macs": made.macs_after / made.macs_before,
        "params": made.params_after / made.params_before,
        "before": made.accuracy_before,
        "cut": made.accuracy_cut,
        "after": made.accuracy_after,
        "speed": made.throughput_ratio,
        "seconds": made.seconds,
    }


def table(rows: Rows, nets: list[str]) -> str:
    """Markdown: a line a net, share and method; accuracies in percent, mean ± spread where there are several seeds."""
    lines = [
        "| net | MACs kept | method | accuracy after the cut | after retraining | MACs fewer | measured faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for net in nets:
        whole = rows.known.get(f"{net} dense", {})
        if "accuracy" in whole:
            lines.append(f"| {net} | 100 % | dense | | {100 * whole['accuracy']:.1f} | 1.00x | 1.00x |")
        for share in SHARES:
            for method in METHODS:
                found = [r for k, r in rows.known.items() if k.startswith(f"{net} {method} {share} ") and "after" in r]
                if found:
                    shown = " | ".join(_spread([100 * r[key] for r in found]) for key in ("cut", "after"))
                    fewer, faster = (statistics.median(column) for column in _speeds(found))
                    lines.append(f"| {net} | {share} % | {method} | {shown} | {fewer:.2f}x | {faster:.2f}x |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    more = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{more}"


def _speeds(found: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [1 / r["macs"] for r in found], [r["speed"] for r in found]


def main() -> None:
    """Run what is missing, 50 % first, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/widths.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/widths"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, nets = Rows(args.store), args.nets.split(",")
    wanted = [(50, 0), (25, 0), (75, 0), *((50, seed) for seed in range(1, args.seeds))]
    for share, seed in [] if args.table else wanted:
        for net in nets:
            rows.get(f"{net} dense", partial(dense, net, args))
            for method in METHODS:
                rows.get(f"{net} {method} {share} {seed}", partial(cut, net, method, share, seed, args))
    print(table(rows, nets))
    print(json.dumps({"benchmark": "widths", "epochs": args.epochs, "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
