"""Closed-form recovery: accuracy after a cut, with batch norms estimated anew, repaired, and retrained. Resumable.

Each net is tuned on one task, cut to 75, 50 and 25 % of its MACs by isomorphic ranking with the Taylor criterion, and
repaired on 512 training images without labels: what the cut costs, and what share of it each way gives back. With
`--epochs` the repaired and the bare cut are retrained as well, equally long. The goal is of the cuts to 75 % that cost
3 points or more: the median share given back, and the longest repair.

    python -m benchmarks.recovery [--nets "mini_ti digits"] [--seeds 3] [--epochs 5] [--shares 75,50,25] [--table]
"""

import argparse
import json
import shutil
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks import small_nets
from benchmarks.rows import Row, Rows
from tailor.measure.machine import machine

DATA = {"digits": "builtin/digits", "flowers": "../shared/data/flowers", "cifar10": "../shared/data/cifar10"}
SHARES = (75, 50, 25)
COSTS, SECONDS = 0.03, 60.0
"""A cut counts for the goal where it costs so much accuracy; a repair should take no longer."""


@dataclass(frozen=True)
class Net:
    """What is tuned, on what, and how."""

    model: str
    data: str
    method: str
    epochs: int = 10
    lr: float = 1e-3
    size: int | None = None
    trained: bool = False
    norms: bool = False


NETS = {
    "mini_ti digits": Net("tailor_mini_ti", "digits", "lora"),
    "mini_s digits": Net("tailor_mini_s", "digits", "lora"),
    "mini_ti flowers": Net("tailor_mini_ti", "flowers", "lora"),
    "mini_s flowers": Net("tailor_mini_s", "flowers", "lora"),
    "small_resnet cifar10": Net("small_resnet", "cifar10", "full", 10, 5e-4, trained=True, norms=True),
    "small_convnext cifar10": Net("small_convnext", "cifar10", "full", 10, 5e-4, trained=True),
    "lite0 flowers": Net("tf_efficientnet_lite0", "flowers", "linear", 20, size=128, norms=True),
}


def tuned(name: str, seed: int, args: argparse.Namespace) -> Path:
    """The folder of the tuned net, made where it is not there yet."""
    net, folder = NETS[name], args.work / f"{name.replace(' ', '-')}-{seed}"
    if not (folder / "bundle.json").is_file():
        weights = {"weights": str(small_nets.weights(net.model))} if net.trained else {}
        tailor.adapt(
            DATA[net.data], model=net.model, method=net.method, image_size=net.size, epochs=net.epochs, lr=net.lr,
            seed=seed, out=folder, overwrite=True, progress=None, recipe={"evaluate_every": 5}, **weights,
        )  # fmt: skip
    return folder


def measured(name: str, share: int, seed: int, args: argparse.Namespace) -> Row:
    """One cut: accuracies dense, cut, repaired (and retrained), the repair's seconds and its layers' errors."""
    net = NETS[name]

    def cut(repair: str, epochs: int = 0) -> Any:
        out = args.work / "cut"
        more = {"retrain": "1clr", "epochs": epochs, "lr": net.lr, "recipe": {"evaluate_every": 5}} if epochs else {}
        made = tailor.prune(
            str(tuned(name, seed, args)), method="isomorphic", data=DATA[net.data], macs=f"{share}%", seed=seed,
            samples=256, repair=repair, out=out, overwrite=True, progress=None, **more,
        )  # fmt: skip
        shutil.rmtree(out)
        return made

    made = cut("ridge", args.epochs)
    row: Row = {
        "macs": made.macs_after / made.macs_before,
        "dense": made.accuracy_before,
        "cut": made.accuracy_cut,
        "repaired": made.accuracy_repaired,
        "seconds": made.repair_seconds,
        "threads": torch.get_num_threads(),
    }
    if net.norms:
        row["norms"] = cut("norms").accuracy_repaired
    if args.epochs:
        row |= {"epochs": args.epochs, "retrained": made.accuracy_after}
        row["retrained_unrepaired"] = cut("none", args.epochs).accuracy_after
    return row


def given_back(row: Row) -> float | None:
    """The share of what the cut cost that the repair gives back; None where it cost too little to say."""
    cost = row["dense"] - row["cut"]
    return (row["repaired"] - row["cut"]) / cost if cost >= COSTS else None


def table(rows: Rows, nets: list[str]) -> str:
    """Markdown, a line a net and share: percent (mean over seeds), the share given back, seconds."""
    lines = [
        "| net | MACs | dense | cut | norms | repaired | given back | seconds | retrained, repaired first | not |",
        "|---" * 10 + "|",
    ]
    for name in nets:
        for share in SHARES:
            found = [r for k, r in rows.known.items() if k.startswith(f"{name} {share} ") and "cut" in r]
            if found:
                lines.append(f"| {name} ({len(found)}) | {share} % | " + " | ".join(_cells(found)) + " |")
    return "\n".join(lines)


def _cells(found: list[Row]) -> list[str]:
    def mean(key: str) -> str:
        values = [100 * row[key] for row in found if key in row]
        return f"{statistics.mean(values):.1f}" if values else "-"

    back = [share for row in found if (share := given_back(row)) is not None]
    shown = f"{100 * statistics.median(back):.0f} %" if back else "-"
    seconds = f"{statistics.median(row['seconds'] for row in found):.0f}"
    return [
        *map(mean, ("dense", "cut", "norms", "repaired")),
        shown,
        seconds,
        mean("retrained"),
        mean("retrained_unrepaired"),
    ]


def goal(rows: Rows) -> Row:
    """Of the cuts to 75 % that cost enough: the median share given back, and the longest repair of all."""
    found = [row for key, row in rows.known.items() if " 75 " in key and "cut" in row]
    back = [share for row in found if (share := given_back(row)) is not None]
    return {
        "cuts": len(back),
        "given_back": round(statistics.median(back), 3) if back else None,
        "longest": max((row["seconds"] for row in found), default=None),
    }


def main() -> None:
    """Run what is missing, the first seed of all nets first, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--shares", default=",".join(map(str, SHARES)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="of retraining, 0 for none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("docs/benchmarks/recovery.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/recovery"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, nets = Rows(args.store), args.nets.split(",")
    for seed in () if args.table else range(args.seeds):
        for name in nets:
            for share in map(int, args.shares.split(",")):
                key = f"{name} {share} {seed}" + (f" {args.epochs} epochs" if args.epochs else "")
                rows.get(key, partial(measured, name, share, seed, args))
    print(table(rows, nets))
    print(json.dumps({"benchmark": "recovery", **goal(rows), "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
