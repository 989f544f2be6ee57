"""SPT and SLS on nets with stages: a Swin-like and a ConvNeXt-like one, on small data. Resumable.

Tables 2.3 and 2.4 of the thesis in small: full, linear, LoRA, adapters, SPT-LoRA and SPT-Adapter, those with a size at
2 % of the backbone; then the SPT-LoRA model cut by SLS at alpha 0.3 and retrained. The nets come from
`benchmarks.small_nets`; test accuracy, the epoch chosen on val, one seed.

    python -m benchmarks.hierarchical --store FILE [--epochs 20] [--nets small_swin] [--tasks digits,cifar10]
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
from benchmarks.controls import recipe
from benchmarks.quality import LR, TASKS
from benchmarks.rows import Row, Rows
from tailor.measure.machine import machine

NETS = ("small_swin", "small_convnext")
BUDGET, ALPHA = "2%", 0.3
SIZED = ("lora", "adapter", "spt-lora", "spt-adapter")
METHODS = ("full", "linear", *SIZED)
CUT = "spt-lora"


def place(net: str, task: str, method: str, args: argparse.Namespace) -> Path:
    """Where the tuned net lies."""
    return Path(args.work / f"{net}-{task}-{method}")


def tuned(net: str, task: str, method: str, args: argparse.Namespace) -> Row:
    """One net tuned on one task; its folder stays."""
    made = tailor.adapt(
        TASKS[task], model=net, weights=str(small_nets.weights(net)), method=method, lr=LR.get(method),
        budget=BUDGET if method in SIZED else None, out=place(net, task, method, args), overwrite=True,
        epochs=args.epochs, recipe=recipe(args.epochs),
    )  # fmt: skip
    return {"test": made.accuracy, "trained": made.trainable_params, "percent": made.trainable_percent}


def cut(net: str, task: str, args: argparse.Namespace) -> Row:
    """The tuned net, tuned again if it is lost, cut by SLS and retrained."""
    source, out = place(net, task, CUT, args), args.work / "cut"
    if not source.is_dir():
        tuned(net, task, CUT, args)
    made = tailor.prune(
        str(source), data=TASKS[task], alpha=ALPHA, retrain="1clr", out=out, overwrite=True, epochs=args.epochs,
        recipe=recipe(args.epochs),
    )  # fmt: skip
    shutil.rmtree(out)
    return {
        "blocks": made.kept_blocks, "of": made.blocks, "macs": made.macs_after / made.macs_before,
        "speed": made.throughput_ratio, "test": made.accuracy_after,
    }  # fmt: skip


def table(rows: Rows) -> str:
    """Markdown: a line a net and method with the accuracy on every task, then what SLS left."""
    tasks = list(dict.fromkeys(key.split()[1] for key in rows.known))
    lines = ["| net | method | trains | " + " | ".join(tasks) + " | mean |", "|---" * (len(tasks) + 4) + "|"]
    for net in NETS:
        for method in METHODS:
            own = [rows.known.get(f"{net} {task} {method}", {}) for task in tasks]
            if all("test" in row for row in own):
                values = [100 * row["test"] for row in own]
                size = f"{own[0]['trained']:,} ({own[0]['percent']:.2f} %)"
                shown = " | ".join(f"{value:.1f}" for value in values)
                lines.append(f"| {net} | {method} | {size} | {shown} | {statistics.mean(values):.1f} |")
        own = [rows.known.get(f"{net} {task} sls", {}) for task in tasks]
        if all("test" in row for row in own):
            cells = [f"{100 * r['test']:.1f}, {r['blocks']} of {r['of']} blocks, {r['speed']:.2f}x" for r in own]
            mean = statistics.mean(100 * row["test"] for row in own)
            lines.append(f"| {net} | {CUT}, cut by SLS | | {' | '.join(cells)} | {mean:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--tasks", default="digits,cifar10")
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/hierarchical.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/hierarchical"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = Rows(args.store)
    for task in [] if args.table else args.tasks.split(","):
        for net in args.nets.split(","):
            for method in METHODS:
                rows.get(f"{net} {task} {method}", partial(tuned, net, task, method, args))
            rows.get(f"{net} {task} sls", partial(cut, net, task, args))
    print(table(rows))
    print(
        json.dumps({"benchmark": "hierarchical", "epochs": args.epochs, "rows": len(rows.known), "machine": machine()})
    )


if __name__ == "__main__":
    main()
