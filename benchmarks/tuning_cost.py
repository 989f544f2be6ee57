"""What tuning costs (Table 2.7 of SPT's thesis): speed and memory as deployed, and the peak of a process that tunes.

Full tuning, Prompt-deep, LoRA-16, SPT-LoRA without single weights and SPT-LoRA, all but the first at about 0.70 % of
the backbone. Random weights and images; SPT's plans from scores that crowd as real ones do. A tuning process of its own
makes two steps of AdamW; its peak resident size is the row, interpreter and libraries included, as a card's is.

    python -m benchmarks.tuning_cost --store FILE [--model vit_small_patch16_224] [--batch 8]
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.rows import Row, Rows
from benchmarks.step import CLASSES, resident, stepper
from benchmarks.storage import random_scores
from tailor import build as builder
from tailor.inputs import Inputs
from tailor.measure.machine import machine
from tailor.measure.memory import peak_memory_bytes
from tailor.measure.speed import throughput
from tailor.spec import BackboneRef
from tailor.tasks.classification import ClassifierHead
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merge_, merges
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt import settings as spt
from tailor.tuning.spt.allocate import allocate
from tailor.workflow.budgets import allowed

SHARE = "0.70%"
METHODS = ("full", "vpt-deep", "lora-16", "spt-lora-structured", "spt-lora")
SIZE = Inputs.images(3, 224, 224)


def planned(method: str, model: str) -> tuple[builder.Opened, TunePlan]:
    """The backbone and the method's plan: at the share where it has a size of its own to choose."""
    made = builder.base(BackboneRef(model, "random"), ClassifierHead(tuple(map(str, range(CLASSES)))), check=False)
    if method in spt.SPT:
        limit = allowed(made, SHARE)
        assert limit is not None
        return made, allocate(random_scores(made), made.anatomy, made.model, spt.named(method), limit)
    budget = allowed(made, SHARE) if method == "vpt-deep" else None
    return made, planner.plan(made.model, made.anatomy, planner.parse(method), budget)


def tuned(method: str, model: str) -> tuple[nn.Module, TunePlan]:
    """The model with what the plan puts in."""
    made, plan = planned(method, model)
    return apply_(made.model, plan, made.anatomy.heads), plan


def measured(model: str, args: argparse.Namespace) -> Row:
    """All methods in one row, since their speeds are compared in turns."""
    models, found = {}, {}
    for method in METHODS:
        wrapped, plan = tuned(method, model)
        merged = merge_(wrapped, plan) if merges(plan) else wrapped
        models[method] = merged.eval()
        found[method] = {"trained": plan.cost, "merged": merges(plan), "tuning_peak": peak(method, model, args)}
    timed = throughput(models, SIZE, batch=args.batch, protocol="quick", seconds=args.seconds)
    for method, made in models.items():
        timing = timed.timings[method]
        found[method]["ms"] = timing.median / timing.batch
        found[method]["inference_bytes"] = peak_memory_bytes(made, SIZE, batch=timing.batch)
    return {"model": model, "batch": args.batch, "methods": found, "machine": machine()}


def peak(method: str, model: str, args: argparse.Namespace) -> int:
    """Bytes that a process which tunes holds at its peak."""
    command = [sys.executable, "-m", "benchmarks.tuning_cost", "--child", method, "--model", model, "--batch",
               str(args.batch), "--threads", str(args.threads)]  # fmt: skip
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def child(method: str, args: argparse.Namespace) -> None:
    """Two steps, then the peak."""
    step = stepper(tuned(method, args.model)[0], args.batch)
    Path("/proc/self/clear_refs").write_text("5")  # what making the plan took is not tuning
    step()
    step()
    print(resident("VmHWM"))


def table(rows: Rows) -> str:
    """Markdown, a line a method."""
    lines = ["| method | trains | ms an image | memory of inference | peak of tuning | merged |", "|---" * 6 + "|"]
    for row in rows.known.values():
        for method, own in row["methods"].items():
            lines.append(
                f"| {method} | {own['trained']:,} | {own['ms']:.1f} | {own['inference_bytes'] / 1e6:.0f} MB | "
                f"{own['tuning_peak'] / 1e6:,.0f} MB | {'yes' if own['merged'] else 'no'} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, then print the table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/tuning_cost.jsonl"))
    parser.add_argument("--child", default="")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args.child, args)
        return
    rows = Rows(args.store)
    rows.get(f"{args.model} batch {args.batch}", partial(measured, args.model, args))
    print(table(rows))
    print(json.dumps({"benchmark": "tuning_cost", "rows": len(rows.known)}))


if __name__ == "__main__":
    main()
