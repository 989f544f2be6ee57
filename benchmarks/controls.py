"""Is it the sensitivity? One budget, placed by sensitivity, |w g|, magnitude and chance, and by peft's own methods.

Single weights and SPT-LoRA under four criteria, LoRA at its usual and at random sites, peft's EVA and AdaLoRA, a linear
probe: on four tasks with a bundled mini, at the same number of trained weights (2 %, to the last one: `fill`), the
epoch chosen on val. Three seeds, the first of all methods before the second. Resumable.

    python -m benchmarks.controls --store FILE [--seeds 3] [--methods a,b] [--table]
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks.peft_peers import PEERS, by_peft
from benchmarks.quality import TASKS
from benchmarks.rows import Row, Rows
from tailor.measure.machine import machine

MODEL = "tailor_mini_ti"
FOUR = ("digits", "cifar10", "count", "flowers")
OWN = {
    "linear": "linear probe",
    "lora": "LoRA on every qkv",
    "eva": "LoRA on every qkv, begun in its inputs",
    "lora-random": "LoRA on random sites",
    "spt-unstructured": "single weights, sensitivity",
    "sparse-taylor": "single weights, \\|w g\\|",
    "sparse-magnitude": "single weights, magnitude",
    "sparse-random": "single weights, random",
    "spt-lora": "SPT-LoRA, sensitivity",
    "spt-eva": "SPT-LoRA begun in its inputs",
    "spt-lora-taylor": "SPT-LoRA, \\|w g\\|",
    "spt-lora-magnitude": "SPT-LoRA, magnitude",
    "spt-lora-random": "SPT-LoRA, random",
}
"""Methods of `adapt`, and what the table calls them."""
METHODS = {**OWN, **{name: peer.label for name, peer in PEERS.items()}}
FILLED = ("spt-", "sparse-")


def by_tailor(task: str, method: str, seed: int, args: argparse.Namespace) -> Row:
    """One run through the verb."""
    budget = None if method == "linear" else args.budget
    spt = {"fill": True} if method.startswith(FILLED) else None
    with tempfile.TemporaryDirectory() as folder:
        made = tailor.adapt(
            TASKS[task], model=MODEL, method=method, budget=budget, out=Path(folder) / "run", epochs=args.epochs,
            seed=seed, spt=spt, recipe=recipe(args.epochs),
        )  # fmt: skip
        manifest = json.loads((Path(folder) / "run" / "bundle.json").read_text())
    return {
        "val": manifest["metrics"]["val_accuracy"],
        "test": made.accuracy,
        "trained": made.trainable_params,
        "percent": made.trainable_percent,
        "seconds": made.seconds,
        "digest": manifest["spec"]["backbone"]["digest"],
    }


def recipe(epochs: int) -> dict[str, Any]:
    """Validated four times, and no checkpoint before the end."""
    return {"evaluate_every": max(1, epochs // 4), "checkpoint_every": epochs}


def run(task: str, method: str, seed: int, args: argparse.Namespace) -> Row:
    """One row: which run it was, and what it came to."""
    how = by_peft if method in PEERS else by_tailor
    found = how(task, method, seed, args)
    return {"task": task, "method": method, "seed": seed, "model": MODEL, "epochs": args.epochs, **found}


def key(task: str, method: str, seed: int, epochs: int) -> str:
    """The run's name in the store."""
    return f"{task} {method} seed {seed} epochs {epochs}"


def table(rows: Rows, tasks: Sequence[str], epochs: int) -> str:
    """Markdown: test accuracy by task in percent (spread where there are several seeds), the best mean on val first.

    Means are over the tasks on which there are runs; a method that lacks one of them has none and stands last.
    """
    tasks = [task for task in tasks if any(of(rows, task, method, epochs) for method in METHODS)]
    names = [*tasks, "test mean", "val mean", "seeds"]
    lines = ["| placed by | trains | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    scored = []
    for method, label in METHODS.items():
        runs = {task: of(rows, task, method, epochs) for task in tasks}
        every = [row for own in runs.values() for row in own]
        if not every:
            continue
        cells = [spread([100 * row["test"] for row in runs[task]]) for task in tasks]
        test, val = (over_tasks(runs, split) for split in ("test", "val"))
        trains, seeds = sorted({row["trained"] for row in every}), sorted({len(own) for own in runs.values()})
        size = f"{trains[0]:,}" if len(trains) == 1 else f"{trains[0]:,} to {trains[-1]:,}"
        means = " | ".join("-" if mean is None else f"{mean:.1f}" for mean in (test, val))
        counted = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        scored.append((val or 0.0, f"| {label} | {size} | {' | '.join(cells)} | {means} | {counted} |"))
    return "\n".join([*lines, *(line for _, line in sorted(scored, key=lambda item: -item[0]))])


def of(rows: Rows, task: str, method: str, epochs: int) -> list[Row]:
    """The runs of a method on a task, a row a seed."""
    found = (rows.known.get(key(task, method, seed, epochs), {}) for seed in range(9))
    return [row for row in found if "test" in row]


def over_tasks(runs: dict[str, list[Row]], split: str) -> float | None:
    """The mean over tasks of the mean over seeds, in percent; None where a task has no run."""
    if not all(runs.values()):
        return None
    return statistics.mean(100 * statistics.mean(row[split] for row in own) for own in runs.values())


def spread(values: list[float]) -> str:
    """The mean, and the standard deviation where there are several; a dash where there is none."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f}" + (f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Run what is missing, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--budget", default="2%")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--tasks", default=",".join(FOUR))
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/controls.jsonl"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, tasks = Rows(args.store), args.tasks.split(",")
    if not args.table:
        for seed in range(args.seeds):
            for task in tasks:
                for method in args.methods.split(","):
                    rows.get(key(task, method, seed, args.epochs), partial(run, task, method, seed, args))
    print(table(rows, tasks, args.epochs))
    print(json.dumps({"benchmark": "controls", "epochs": args.epochs, "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
