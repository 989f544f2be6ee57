"""SLS against DepGraph and against other layer importances, how to retrain, and the sweep over alpha. Resumable.

The questions of SLS's supplement (arXiv 2407.14330, Table 1), on the bundled mini: a tuned model is cut by SLS, and by
DepGraph (Taylor, the same share of every layer, as the supplement has it) with the adapters cut too or left alone; both
are retrained, and DepGraph's target is set so that both are measured to be as fast, within 5 %. As many blocks as SLS
drops are dropped by Taylor, magnitude, ShortGPT's influence and chance, retrained alike. Then 1clr, ft and
tfs after SLS, both adapters' curves, and alpha 0.1 to 0.9.

    python -m benchmarks.layers --store FILE [--epochs 20] [--tasks flowers,digits] [--only importances] [--plot FILE]
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks.quality import TASKS
from benchmarks.rows import Row, Rows
from tailor import bundle as bundles
from tailor.evidence.canvas import COLOURS, FAINT, INK, head, save, sheet
from tailor.measure.machine import machine
from tailor.pruning.layers import LayerPlan, walk
from tailor.pruning.settings import Sls

MODEL, BUDGET, ALPHA, LEAST = "tailor_mini_ti", "2%", 0.3, 0.35
ADAPTERS = ("convpass", "repadapter")
FOUR = ("flowers", "cifar10", "digits", "count")
RETRAININGS = ("none", "1clr", "ft", "tfs")
IMPORTANCES = ("influence", "taylor", "magnitude", "random")
"""Depth alone (`last`) drops what SLS drops: at the same number of blocks it is the same model."""
EQUAL, TRIES = 0.05, 4
"""Two models are as fast within this, and a target is corrected so often to get there."""
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
    common = {"method": "uniform", "criterion": "taylor", "repair": "none", "adapters": settings["adapters"]}
    least = LEAST if settings["adapters"] == "keep" else 0.08
    share = min(0.95, max(least, wanted["macs"]))
    for _ in range(TRIES):
        found = pruned(task, ADAPTERS[0], args, macs=f"{100 * share:.1f}%", **common)
        off = found["speed"] / wanted["speed"]
        if abs(off - 1) <= EQUAL:
            break
        share = min(0.95, max(least, share * off))
    made = pruned(task, ADAPTERS[0], args, macs=f"{100 * share:.1f}%", retrain="1clr", **{**common, **settings})
    return {**made, "as_fast": abs(made["speed"] / wanted["speed"] - 1) <= EQUAL}


def by_importance(task: str, criterion: str, args: argparse.Namespace, depth: int) -> Row:
    """As many blocks as SLS keeps, by another importance, and the same retraining."""
    return pruned(task, ADAPTERS[0], args, method="blocks", keep=depth, criterion=criterion, retrain="1clr")


def importances(rows: Rows, tasks: list[str], args: argparse.Namespace) -> None:
    """Every criterion on every task on which SLS drops anything."""
    first = ADAPTERS[0]
    for task in tasks:
        rows.get(f"{task} {first} dense", partial(tuned, task, first, args))
        found = rows.get(f"{task} {first} sls 1clr", partial(pruned, task, first, args, alpha=ALPHA, retrain="1clr"))
        for criterion in IMPORTANCES if found["blocks"] < len(found["curve"]) else ():
            make = partial(by_importance, task, criterion, args, found["blocks"])
            rows.get(f"{task} blocks by {criterion}", make)


def curves(rows: Rows, tasks: list[str], args: argparse.Namespace) -> None:
    """The whole curve of both adapters on every task."""
    for task in tasks:
        for adapter in ADAPTERS:
            rows.get(f"{task} {adapter} dense", partial(tuned, task, adapter, args))
            rows.get(f"{task} {adapter} curve", partial(pruned, task, adapter, args, alpha=-1.0))


def plot(rows: Rows, tasks: list[str], out: Path) -> None:
    """One panel a task: the separation after every block for both adapters, each with its threshold."""
    drawn = [task for task in tasks if all(f"{task} {adapter} curve" in rows.known for adapter in ADAPTERS)]
    figure, axes = sheet(3.4 * len(drawn), 3.2, columns=len(drawn))
    for ax, task in zip(axes, drawn, strict=True):
        for colour, adapter in zip(COLOURS, ADAPTERS, strict=False):
            curve = [
                float("nan") if score is None else score for score in rows.known[f"{task} {adapter} curve"]["curve"]
            ]
            ax.plot(range(1, len(curve) + 1), curve, color=colour, marker="o", markersize=4, label=adapter)
            if curve[-1] > 0:
                ax.axhline(ALPHA * curve[-1], color=colour, linestyle="--", linewidth=1)
        ax.grid(color=FAINT)
        ax.set_xlabel("block", fontsize=10, color=INK)
        head(ax, task, f"dashed: {ALPHA:g} of the last block's")
    axes[0].set_ylabel("silhouette of the classes", fontsize=10, color=INK)
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, out)


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
        curve = rows.get(f"{task} {first} curve", partial(pruned, task, first, args, alpha=-1.0))["curve"]
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


def tables(rows: Rows, tasks: Sequence[str] = FOUR) -> str:
    """Markdown: the comparison, the retraining of both adapters, the sweep over alpha; of what is there."""
    first = ADAPTERS[0]
    keys = {"dense": f"{first} dense", "SLS, adapters and head retrained": f"{first} sls 1clr"}
    keys |= {label: label for label in (*(f"blocks by {one}" for one in IMPORTANCES), *DEPGRAPH)}
    parts = [_compared(rows, "cut", keys, tasks)]
    after = {
        f"{a}, {how}": f"{a} {'' if how == 'dense' else 'sls '}{how}"
        for a in ADAPTERS
        for how in ("dense", *RETRAININGS)
    }
    parts.append(_compared(rows, "after SLS", after, tasks))
    swept = [task for task in tasks if _swept(rows, task)]
    lines = ["| alpha | " + " | ".join(swept) + " |", "|---" * (len(swept) + 1) + "|"]
    for alpha in ALPHAS:
        cells = []
        for task in swept:
            curve = rows.known[f"{task} {first} curve"]["curve"]
            depth = kept(curve, alpha)
            found = at_depth(rows, task, depth)
            whole = rows.known.get(f"{task} {first} dense", {}) if depth == len(curve) else {}
            accuracy = found.get("after", whole.get("accuracy"))
            cells.append(f"{depth}" + (f": {100 * accuracy:.1f}" if accuracy is not None else ""))
        lines.append(f"| {alpha:.1f} | " + " | ".join(cells) + " |")
    return "\n\n".join([*(part for part in parts if part), *(["\n".join(lines)] if swept else [])])


def _compared(rows: Rows, title: str, keys: dict[str, str], tasks: Sequence[str]) -> str:
    """A line a cut that ran on any task: accuracy by task, the mean over all, the measured speed."""
    lines = [f"| {title} | " + " | ".join(tasks) + " | mean | faster |", "|---" * (len(tasks) + 3) + "|"]
    for label, key in keys.items():
        found = [rows.known.get(f"{task} {key}", {}) for task in tasks]
        if any(found):
            lines.append(_line(label, found, "accuracy" if key.endswith("dense") else "after"))
    return "\n".join(lines) if len(lines) > 2 else ""


def _swept(rows: Rows, task: str) -> bool:
    return "curve" in rows.known.get(f"{task} {ADAPTERS[0]} curve", {})


def _line(label: str, found: list[Row], key: str = "after") -> str:
    values = [100 * row[key] if key in row else None for row in found]
    cells = [f"{value:.1f}" if value is not None else "-" for value in values]
    mean = f"{statistics.mean(v for v in values if v is not None):.1f}" if None not in values else "-"
    speeds = [row["speed"] for row in found if "speed" in row]
    return (
        f"| {label} | " + " | ".join(cells) + f" | {mean} | " + (f"{statistics.mean(speeds):.2f}x |" if speeds else "|")
    )


PARTS = {"importances": importances, "curves": curves}


def main() -> None:
    """Run what is missing, then print the tables and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tasks", default=",".join(FOUR))
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/layers.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/layers"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(PARTS), help="a part of it: the importances, or both adapters' curves")
    parser.add_argument("--plot", type=Path, help="draw both adapters' curves")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, tasks = Rows(args.store), args.tasks.split(",")
    if not args.table:
        for part in [PARTS[args.only]] if args.only else [*PARTS.values(), compare]:
            part(rows, tasks, args)
    print(tables(rows, tasks))
    if args.plot:
        plot(rows, tasks, args.plot)
    print(json.dumps({"benchmark": "layers", "epochs": args.epochs, "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
