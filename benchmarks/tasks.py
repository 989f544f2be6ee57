"""The published protocol, whole: VTAB-1k, FGVC and CIFAR-100, select on val, train again on everything, report test.

For every task and method the candidates (budgets by numbers of epochs) train on the training list and are judged on the
validation list at their last epoch; the best trains again on both lists together, and its last epoch is scored on
test, once. Nothing is ever chosen on test. Resumable: a finished training is a row of the store, an interrupted one
goes on from its checkpoint. The table gives the mean over the tasks of a group, the mean of VTAB's three groups, and
the total parameters of all tasks together (backbone = 1).

    python -m benchmarks.tasks --model vit_base_patch16_224.augreg_in21k --vtab ROOT --fgvc ROOT --cifar100 ROOT \
        --methods spt-lora,lora,linear --budgets 0.2%,0.4%,0.8% --epochs 100 --store FILE
"""

import argparse
import csv
import itertools
import json
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import tailor
from benchmarks.quality import SIZED
from benchmarks.rows import Row, Rows
from tailor.data.images import ImageData, Split, ensure_validation, open_data
from tailor.data.sources.benchmarks import FGVC, VTAB
from tailor.errors import TailorError
from tailor.measure.machine import machine

AUGMENT = {"vtab": "none", "fgvc": "fgvc", "cifar100": "fgvc"}
"""VTAB is resized straight to the model's size; the others are resized, cropped at random and flipped."""
GROUPS = {
    "Natural": tuple(f"vtab/{name}" for name, task in VTAB.items() if task.group == "natural"),
    "Specialized": tuple(f"vtab/{name}" for name, task in VTAB.items() if task.group == "specialized"),
    "Structured": tuple(f"vtab/{name}" for name, task in VTAB.items() if task.group == "structured"),
    "FGVC": tuple(f"fgvc/{name}" for name in FGVC),
    "CIFAR-100": ("cifar100",),
}
VTAB_GROUPS = ("Natural", "Specialized", "Structured")
VAL_SEED = 0
"""Draws the validation images of a task that has no list of its own (CIFAR-100), the same for every run."""


@dataclass(frozen=True)
class Lists:
    """A task as two CSV files: `select` (train and val) and `final` (both as train, and test).

    `unseen` is the share of val and of test whose class no training image has; they count as wrong.
    """

    select: Path
    final: Path
    unseen: tuple[float, float]


@dataclass(frozen=True)
class Settings:
    """What all runs share."""

    model: str
    lr: float | None
    batch_size: int | None
    image_size: int | None
    runs: Path


@dataclass(frozen=True)
class Candidate:
    """What val decides about: how much is tuned, and for how long."""

    budget: str | None
    epochs: int


def lists(data: ImageData, folder: Path) -> Lists:
    """Write the two CSV files of a task into `folder`, and beside them the images that are no files of their own."""
    data = ensure_validation(data, VAL_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {name: list(_rows(split, data.classes, folder)) for name, split in data.splits.items()}
    both = rows["train"] + rows["val"]
    val, no_val = _seen(rows["val"], rows["train"])
    test, no_test = _seen(rows["test"], both)
    # `adapt` looks at val while it trains; with `select: last` it decides nothing there.
    select = _write(folder / "select.csv", {"train": rows["train"], "val": val})
    final = _write(folder / "final.csv", {"train": both, "val": val, "test": test})
    return Lists(select, final, (no_val, no_test))


def _rows(split: Split, classes: Sequence[str], folder: Path) -> Iterator[tuple[str, str]]:
    """(file, class) of every image; the class as a word, since a column of numbers is another kind of target."""
    for index, record in enumerate(split.records):
        file = Path(record.source)
        if not file.is_file():
            file = folder / "images" / split.name / f"{index:06}.png"
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                split.read(index).save(file)
        yield str(file.resolve()), f"class {classes[record.target]}"


def _seen(rows: list[tuple[str, str]], train: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], float]:
    known = {label for _, label in train}
    kept = [row for row in rows if row[1] in known]
    return kept, 1 - len(kept) / len(rows)


def _write(path: Path, splits: dict[str, list[tuple[str, str]]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("path", "label", "split"))
        out.writerows((*row, split) for split, rows in splits.items() for row in rows)
    return path


def train(task: str, file: Path, method: str, candidate: Candidate, seed: int, settings: Settings) -> Row:
    """One training to its last epoch, as a row; `accuracy` is that of test where the list has one, else of val."""
    name = f"{task.replace('/', '-')}-{file.stem}-{method}-{candidate.budget or 'own'}-{candidate.epochs}-{seed}"
    out = settings.runs / name
    made = tailor.adapt(
        str(file),
        model=settings.model,
        method=method,
        budget=candidate.budget,
        out=out,
        epochs=candidate.epochs,
        lr=settings.lr,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        seed=seed,
        resume=True,
        recipe={"select": "last", "evaluate_every": candidate.epochs, "augment": AUGMENT[task.partition("/")[0]]},
    )
    if made.trainable_params:
        whole = 100 * made.trainable_params / made.trainable_percent
    else:
        whole = sum(p.numel() for p in tailor.load(made.bundle).parameters()) - made.head_params
    if made.split == "val":
        shutil.rmtree(out)  # it was only a candidate
    return {
        "accuracy": made.accuracy,
        "split": made.split,
        "name": made.method,
        "budget": candidate.budget,
        "epochs": candidate.epochs,
        "trainable": made.trainable_params,
        "head": made.head_params,
        "share": (made.trainable_params + made.head_params) / whole,
        "seconds": made.seconds,
    }


def candidates(method: str, budgets: Sequence[str], epochs: Sequence[int]) -> list[Candidate]:
    """Every budget with every number of epochs; a method without a size has one budget, its own."""
    sized = method.startswith("spt") or method in SIZED
    return [Candidate(budget, count) for budget, count in itertools.product(budgets if sized else (None,), epochs)]


def run_task(task: str, found: Lists, method: str, seed: int, grid: list[Candidate], rows: Rows, own: Settings) -> None:
    """Select and report for one task, method and seed; a single candidate needs no selection."""
    base = {"task": task, "method": method, "seed": seed, "model": own.model}
    key = f"{task} {method} {seed} {own.model} {own.image_size or ''} {own.lr or ''}".strip()
    judged: list[tuple[float, Candidate]] = []
    for one in grid if len(grid) > 1 else ():
        row = rows.get(
            f"{key} select {one.budget} {one.epochs}",
            lambda one=one: {**base, "phase": "select", **train(task, found.select, method, one, seed, own)},
        )
        if "accuracy" in row:
            judged.append((row["accuracy"] * (1 - found.unseen[0]), one))
    if len(grid) > 1 and not judged:
        return
    best = max(judged, key=lambda pair: pair[0])[1] if judged else grid[0]

    def final() -> Row:
        row = train(task, found.final, method, best, seed, own)
        val = max(judged, key=lambda pair: pair[0])[0] if judged else None
        accuracy = row["accuracy"] * (1 - found.unseen[1])
        return {**base, "phase": "final", **row, "accuracy": accuracy, "val": val, "candidates": len(grid)}

    chosen = f"{best.budget} {best.epochs}" if len(grid) == 1 else f"of {[(c.budget, c.epochs) for c in grid]}"
    rows.get(f"{key} final {chosen}", final)


def table(rows: list[Row]) -> str:
    """Markdown: a line a method, its groups in percent; `(3 of 7)` where tasks are missing, and then no mean of groups.

    Of several seeds the mean of each task is taken first.
    """
    head = ["method", "total params", *VTAB_GROUPS, "VTAB mean", "FGVC", "CIFAR-100"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [r for r in rows if r["method"] == method and "accuracy" in r]
        tasks = {task: [r for r in own if r["task"] == task] for task in {r["task"] for r in own}}
        means = {task: statistics.mean(100 * r["accuracy"] for r in found) for task, found in tasks.items()}
        cells = {group: _cell(members, means) for group, members in GROUPS.items()}
        whole = [statistics.mean(means[t] for t in GROUPS[g]) for g in VTAB_GROUPS if set(GROUPS[g]) <= means.keys()]
        mean = f"{statistics.mean(whole):.1f}" if len(whole) == len(VTAB_GROUPS) else "-"
        total = 1 + sum(statistics.mean(r["share"] for r in found) for found in tasks.values())
        shown = [method, f"{total:.2f}x ({len(tasks)} tasks)", *(cells[g] for g in VTAB_GROUPS), mean]
        lines.append("| " + " | ".join([*shown, cells["FGVC"], cells["CIFAR-100"]]) + " |")
    return "\n".join(lines)


def _cell(members: Sequence[str], means: dict[str, float]) -> str:
    there = [means[task] for task in members if task in means]
    if not there:
        return "-"
    return f"{statistics.mean(there):.1f}" + (f" ({len(there)} of {len(members)})" if len(there) < len(members) else "")


def places(args: argparse.Namespace) -> dict[str, str]:
    """Task -> DATA, for the roots that were given."""
    found = {f"vtab/{name}": f"vtab/{name}@{args.vtab}" for name in VTAB if args.vtab}
    found |= {f"fgvc/{name}": f"fgvc/{name}@{args.fgvc}" for name in FGVC if args.fgvc}
    found |= {"cifar100": f"cifar100@{args.cifar100}"} if args.cifar100 else {}
    return {task: where for task, where in found.items() if not args.tasks or task in args.tasks.split(",")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table and one JSON line. A task that is not there is named and left out."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    settings = Settings(args.model, args.lr, args.batch_size, args.image_size, args.work / "runs")
    rows = Rows(args.store)
    methods, budgets = args.methods.split(","), args.budgets.split(",")
    epochs = [int(count) for count in args.epochs.split(",")]
    wanted = places(args)
    for task, where in wanted.items():
        try:
            found = lists(open_data(where), args.work / task)
        except TailorError as error:
            print(f"{task} is left out: {error.message}", flush=True)
            continue
        for method, seed in itertools.product(methods, range(args.seeds)):
            run_task(task, found, method, seed, candidates(method, budgets, epochs), rows, settings)
    own = [r for r in rows.known.values() if r.get("phase") == "final" and r["model"] == args.model]
    own = [r for r in own if r["method"] in methods and r["task"] in wanted]
    print(table(own))
    print(json.dumps({"benchmark": "tasks", "model": args.model, "rows": len(own), "machine": machine()}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The published protocol over VTAB-1k, FGVC and CIFAR-100.")
    parser.add_argument("--vtab", type=Path, help="folder of the 19 task folders")
    parser.add_argument("--fgvc", type=Path, help="folder of the 5 task folders")
    parser.add_argument("--cifar100", type=Path, help="folder of the binary version, or of class folders")
    parser.add_argument("--tasks", help="only these, for instance `vtab/dtd,fgvc/cub`")
    parser.add_argument("--model", default="vit_base_patch16_224.augreg_in21k")
    parser.add_argument("--methods", default="full,linear,lora,adapter,spt-lora,spt-adapter")
    parser.add_argument("--budgets", default="0.2%,0.4%,0.6%,0.8%,1%", help="candidates of methods that have a size")
    parser.add_argument("--epochs", default="100", help="candidates, for instance `50,100`")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/tasks"), help="lists and unfinished runs")
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/tasks.jsonl"))
    return parser


if __name__ == "__main__":
    main()
