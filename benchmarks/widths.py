"""Isomorphic pruning against one global ranking, uniform and random widths, on four small nets. Resumable.

Each net is tuned in full on one task, cut to 75, 50 and 25 % of its MACs by each method with the same criterion, and
retrained equally, without the closed-form repair between: the accuracy before and after retraining, and the measured
speed beside the MACs. Three seeds at 50 %, one elsewhere. The ViT is bundled, the other three come from
`benchmarks.small_nets`.

    python -m benchmarks.widths --store FILE [--epochs 20] [--nets vit,small_swin] [--seeds 3]
"""

import argparse
import json
import shutil
import statistics
from functools import partial
from pathlib import Path

import torch

import tailor
from benchmarks import small_nets
from benchmarks.rows import Row, Rows
from tailor.evidence.canvas import COLOURS, FAINT, INK, head, save, sheet
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
        lr=RATE, out=out, overwrite=True, seed=seed, recipe={"evaluate_every": 5}, repair="none",
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
    """Markdown, a line a net and method: percent after the cut -> after retraining (± over seeds), times faster."""
    lines = ["| net | method | " + " | ".join(f"{share} % of the MACs" for share in SHARES) + " |", "|---" * 5 + "|"]
    for net in nets:
        whole = rows.known.get(f"{net} dense", {})
        if "accuracy" in whole:
            lines.append(f"| {net}, {100 * whole['accuracy']:.1f} dense" + " |" * 5)
        lines += [
            f"| | {method} | " + " | ".join(_cell(rows, net, method, s) for s in SHARES) + " |" for method in METHODS
        ]
    return "\n".join(lines)


def _cell(rows: Rows, net: str, method: str, share: int) -> str:
    found = [r for k, r in rows.known.items() if k.startswith(f"{net} {method} {share} ") and "after" in r]
    if not found:
        return "-"
    cut, after = (_spread([100 * r[key] for r in found]) for key in ("cut", "after"))
    return f"{cut} → {after}, {statistics.median(r['speed'] for r in found):.2f}x"


def plot(rows: Rows, nets: list[str], out: Path) -> None:
    """One panel a net: accuracy after retraining against the measured speed, at each share, one line a method."""
    figure, axes = sheet(3.4 * len(nets), 3.6, columns=len(nets))
    for ax, net in zip(axes, nets, strict=True):
        whole = 100 * rows.known[f"{net} dense"]["accuracy"]
        for colour, method in zip(COLOURS, METHODS):
            points = [(1.0, whole, 0.0)]
            for share in SHARES:
                found = [r for k, r in rows.known.items() if k.startswith(f"{net} {method} {share} ") and "after" in r]
                after = [100 * r["after"] for r in found]
                spread = statistics.stdev(after) if len(after) > 1 else 0.0
                points.append((statistics.median(r["speed"] for r in found), statistics.mean(after), spread))
            x, y, spreads = zip(*points, strict=True)
            ax.errorbar(x, y, spreads, color=colour, marker="o", markersize=5, linewidth=1.6, capsize=3, label=method)
        ax.grid(color=FAINT)
        ax.set_xlabel("times faster, measured", fontsize=10, color=INK)
        head(ax, net, f"dense {whole:.1f} %; 75, 50, 25 % of the MACs")
    axes[0].set_ylabel("test accuracy after retraining (%)", fontsize=10, color=INK)
    axes[0].legend(frameon=False, fontsize=9, loc="lower left")
    save(figure, out)


def _spread(values: list[float]) -> str:
    more = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{more}"


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
    parser.add_argument("--plot", type=Path)
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
    if args.plot:
        plot(rows, nets, args.plot)
    print(json.dumps({"benchmark": "widths", "epochs": args.epochs, "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
