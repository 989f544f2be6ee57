"""One number in, one model out: `adapt DATA --speed 4x` against four other ways to a fast model, in the same minutes.

Test accuracy, speed (batches of 64, eager, in turns with the merged adapted `tailor_mini_s`; batch 1 beside it), bytes
and minutes, adapting included, of: ours; a smaller mini trained from its own weights; Torch-Pruning's isomorphic flow
with the same retraining; distilling into the smaller mini; and no pruning, but INT8 (ONNX Runtime, static, against
float32 in the same runtime). Every way has the same minutes, and the row says how many it took. Resumable.

    python -m benchmarks.north_star [--store FILE] [--tasks flowers,cifar10,digits] [--seeds 3] [--minutes 10]
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tailor
from benchmarks.peer_pruning import cut_isomorphically_
from benchmarks.quantised import quantised
from benchmarks.rows import Row, Rows
from tailor import bundle
from tailor.data.images import ImageData
from tailor.events import silent
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.measure.machine import machine
from tailor.measure.speed import throughput
from tailor.recipe import recipe_of
from tailor.tasks import task_of
from tailor.workflow import adapt as adapting
from tailor.workflow import planners
from tailor.workflow.batches import on_images, train_
from tailor.workflow.context import Run
from tailor.workflow.data import divided, in_order, open_checked, score
from tailor.workflow.destination import Destination
from tailor.workflow.foretell import seconds_an_epoch
from tailor.workflow.opened import merged, open_bundle
from tailor.workflow.teacher import guide

LARGE, SMALL = "tailor_mini_s", "tailor_mini_ti"
DATA = {"flowers": "../shared/data/flowers", "cifar10": "../shared/data/cifar10", "digits": "builtin/digits"}
SHORTER = {"cifar10": 0.5, "digits": 0.5}
"""Of the minutes, for tasks of one seed."""
LONG = {"evaluate_every": 3, "epochs": 200}
"""The smaller mini trains for as many epochs as its minutes hold, up to these."""
RATIOS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
ROUNDS = (0.3, 1.0)
"""Of Torch-Pruning's training: shares of the time that is left before each."""
SIZE = Inputs.images(3, 64, 64)
WAYS = ("ours", "smaller", "torch-pruning", "distilled", "int8")


def ours(task: str, seed: int, minutes: float, args: argparse.Namespace) -> Row:
    """The command of the first example."""
    out = folder(args, task, "ours", seed)
    made = tailor.adapt(
        DATA[task], model=LARGE, speed=args.speed, minutes=minutes, seed=seed, out=out, overwrite=True, progress=None
    )
    found = measured(tailor.load(out), adapted(args, task, seed))
    return {
        **found,
        "dense": made.accuracy_before,
        "accuracy": made.accuracy_after,
        "blocks": made.kept_blocks,
        "bytes": made.bundle_bytes,
        "minutes": made.seconds / 60,
        "diagram": made.diagram,
    }


def smaller(task: str, seed: int, minutes: float, args: argparse.Namespace, taught: bool = False) -> Row:
    """The smaller mini, trained in full from its own weights; `taught` by the adapted one, whose minutes count."""
    began, dense = time.monotonic(), adapted(args, task, seed)
    out = folder(args, task, "distilled" if taught else "smaller", seed)
    spent = adapted_seconds(dense) if taught else 0.0
    request = adapting.AdaptRequest(
        planners={"full": planners.named("adapt", "full", {})},
        data=DATA[task],
        task=None,
        decoders=(),
        settings={},
        model=SMALL,
        weights="pretrained",
        image_size=None,
        init=None,
        recipe=recipe_of(LONG, seed),
        further=LONG,
        given={},
        places={("", "full"): Destination(out, overwrite=True)},
        plan_only=False,
        teacher=str(dense) if taught else None,
        corrupt="skip",
        workers=0,
        resume=False,
        trackers=(),
        tell=silent,
        seconds=60 * minutes - spent,
    )
    made = adapting.adapt(request)[0]
    found = measured(tailor.load(out), dense)
    took = (time.monotonic() - began + spent) / 60
    return {**found, "accuracy": made.score, "bytes": made.bundle_bytes, "minutes": took}


def torch_pruning(task: str, seed: int, minutes: float, args: argparse.Namespace) -> Row:
    """The adapted large mini, cut by Torch-Pruning to the speed that ours came to, then taught as ours is.

    In two rounds, as ours trains in rounds: after the first, what an epoch takes is known, so the second ends in time.
    """
    began, source = time.monotonic(), adapted(args, task, seed)
    spent = adapted_seconds(source)
    dense, images = merged(open_bundle(source)), divided_data(task, seed)
    wanted = args.rows.known[f"{task} ours {seed}"]["speed"]
    model = to_speed(dense.model, images, dense, wanted)
    teacher = guide(str(source), dense.spec.head)
    assert teacher is not None
    recipe, spec = recipe_of({"evaluate_every": 3, "drop_path": 0.0}, seed), dense.spec
    student = replace(dense, model=model.requires_grad_(True))
    each, trained = seconds_an_epoch(student, images, recipe), 0
    for number, share in enumerate(ROUNDS):
        left, before = 60 * minutes - spent - (time.monotonic() - began), time.monotonic()
        recipe = replace(recipe, epochs=max(1, int(share * left / each)))
        place = folder(args, task, "torch-pruning", seed) / str(number)
        run = Run(images, DATA[task], recipe, place, silent, teacher)
        course = on_images(model, spec, run)
        train_(course, run, task_of(spec.head), validate=course.validate, teacher=teacher.towards(spec, "head", False))
        each, trained = (time.monotonic() - before) / recipe.epochs, trained + recipe.epochs
    took = (time.monotonic() - began + spent) / 60
    accuracy = score(model, spec.head, images.splits["test"], spec.preprocessing)["accuracy"]
    return {
        **measured(model, source),
        "accuracy": accuracy,
        "bytes": 4 * count.parameters(model),
        "minutes": took,
        "epochs": trained,
    }


def int8(task: str, seed: int, minutes: float, args: argparse.Namespace) -> Row:
    """The adapted large mini as `tailor export --int8` writes it, against its float32 file."""
    began, source = time.monotonic(), adapted(args, task, seed)
    dense, images = open_bundle(source), divided_data(task, seed)
    spec = dense.spec
    file, run, ratio, alone = quantised(source, DATA[task], folder(args, task, "int8", seed), SIZE)
    accuracy = score(run, spec.head, images.splits["test"], spec.preprocessing)["accuracy"]
    took = (time.monotonic() - began + adapted_seconds(source)) / 60
    found = {"speed": ratio, "speed_1": alone, "bytes": file.stat().st_size, "minutes": took}
    return {**found, "accuracy": accuracy}


def to_speed(model: nn.Module, images: ImageData, dense: Any, wanted: float) -> nn.Module:
    """Torch-Pruning's cut with the smallest of some ratios that is so many times faster here, found by halving.

    From some ratio on it takes all heads of a block, by which its own refresh cannot divide; then it is to leave heads
    alone. Where no ratio is fast enough, the fastest.
    """
    batch = next(iter(in_order(images.splits["train"], dense.spec.preprocessing, dense.spec.head)))
    low, high, best, met = 0, len(RATIOS) - 1, model, False
    while low <= high:
        middle = (low + high) // 2
        cut = copy.deepcopy(model)
        try:
            cut_isomorphically_(cut, batch.images, batch.targets, RATIOS[middle])
        except ZeroDivisionError:
            cut = cut_isomorphically_(copy.deepcopy(model), batch.images, batch.targets, RATIOS[middle], heads=False)
        found = throughput({"dense": model, "cut": cut}, SIZE, batch=64, seconds=6.0).ratios["cut"].median
        if found >= 0.97 * wanted:
            best, high, met = cut, middle - 1, True
        else:
            best, low = best if met else cut, middle + 1
    return best


def measured(model: nn.Module, dense: Path) -> Row:
    """Speed against the merged adapted model, batches of 64 and of 1; MACs and parameters."""
    models = {"dense": merged(open_bundle(dense)).model, "small": model}
    together, alone = (throughput(models, SIZE, batch=b, seconds=12.0) for b in (64, 1))
    return {
        "speed": together.ratios["small"].median,
        "low": together.ratios["small"].p10,
        "high": together.ratios["small"].p90,
        "speed_1": alone.ratios["small"].median,
        "macs": count.macs(model, SIZE),
        "params": count.parameters(model),
    }


def adapted(args: argparse.Namespace, task: str, seed: int) -> Path:
    """The adapted large mini that ours began with."""
    return folder(args, task, "ours", seed) / "adapted"


def adapted_seconds(folder: Path) -> float:
    """How long its training took."""
    return float(bundle.read_manifest(folder).metrics["seconds"])


def divided_data(task: str, seed: int) -> ImageData:
    """The task's images, as the verbs divide them."""
    return divided(open_checked(DATA[task], seed=seed, corrupt="skip", tell=silent), seed, silent)


def folder(args: argparse.Namespace, task: str, way: str, seed: int) -> Path:
    """Where a run's files lie."""
    return Path(args.work) / f"{task}-{way}-{seed}"


RUNS: Mapping[str, Callable[..., Row]] = {
    "ours": ours,
    "smaller": smaller,
    "torch-pruning": torch_pruning,
    "distilled": partial(smaller, taught=True),
    "int8": int8,
}


def table(rows: Rows, tasks: list[str]) -> str:
    """A line a way and task: means over seeds."""
    lines = [
        "| task | way | test accuracy | dense | times faster | batch 1 | MB | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        for way in WAYS:
            found = [r for k, r in rows.known.items() if k.startswith(f"{task} {way} ") and "accuracy" in r]
            if not found:
                continue
            dense = [r["dense"] for k, r in rows.known.items() if k.startswith(f"{task} ours ") and "dense" in r]
            cells = [_spread([100 * r["accuracy"] for r in found]), _spread([100 * d for d in dense])]
            cells += [f"{statistics.mean(r[key] for r in found):.2f}" for key in ("speed", "speed_1")]
            cells += [f"{statistics.mean(r['bytes'] for r in found) / 1e6:.1f}"]
            cells += [f"{statistics.mean(r['minutes'] for r in found):.1f}"]
            lines.append(f"| {task} | {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    more = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{more}"


def main() -> None:
    """Run what is missing, ours first, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--speed", default="4x")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(DATA))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--store", type=Path, default=Path("docs/benchmarks/north_star.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/north_star"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.rows = rows = Rows(args.store)
    tasks, ways = args.tasks.split(","), args.ways.split(",")
    for way in () if args.table else ways:
        for task in tasks:
            for seed in range(args.seeds if way == "ours" and task not in SHORTER else 1):
                minutes = args.minutes * SHORTER.get(task, 1.0)
                rows.get(f"{task} {way} {seed}", partial(RUNS[way], task, seed, minutes, args))
    print(table(rows, tasks))
    print(
        json.dumps({"benchmark": "north_star", "minutes": args.minutes, "rows": len(rows.known), "machine": machine()})
    )


if __name__ == "__main__":
    main()
