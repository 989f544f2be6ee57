"""A sensitivity pass that ends by itself (`samples: auto`) against one over 800 images: agreement and seconds.

    python -m benchmarks.samples --store FILE [--tasks flowers,digits] [--models tailor_mini_s,tailor_mini_ti]

Agreement is the share of the trainable weights of SPT-LoRA's plan that both plans have. Both passes see the same images
in the same order; seconds are CPU time of the pass with the plans it looked at. Nothing is trained.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.rows import Row, Rows
from benchmarks.spt_statistics import DATA, prepared
from tailor.measure.machine import machine
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt import settings as spt
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.scores import Scores, sensitivity
from tailor.tuning.spt.stability import EVERY, MOST, Stable, agreement

BUDGETS = (0.0047, 0.02)
SETTINGS = spt.named("spt-lora")


def compare(name: str, task: str, share: float, seed: int) -> Row:
    """Both passes, one after the other."""
    model, anatomy, batches = prepared(name, DATA[task], seed, 16)
    heads = tuple(f"{head}." for head in anatomy.heads)
    limit = int(share * sum(p.numel() for n, p in model.named_parameters() if not n.startswith(heads)))

    def plan(scores: Scores) -> TunePlan:
        return allocate(scores, anatomy, model, SETTINGS, limit)

    common = agreement(model, anatomy, SETTINGS)
    found: dict[str, tuple[TunePlan, float, int]] = {}
    for kind, enough in {"auto": Stable(plan, common), "whole": None}.items():
        began = time.process_time()
        scores = sensitivity(model, anatomy, batches, samples=MOST, enough=enough, every=EVERY)
        found[kind] = plan(scores), time.process_time() - began, int(scores.facts["samples"])
    own, whole = found["auto"], found["whole"]
    facts = {"model": name, "task": task, "budget": share, "trains": whole[0].cost, "modules": len(whole[0].tunes)}
    seconds = {"auto_s": round(own[1], 1), "whole_s": round(whole[1], 1)}
    return {**facts, "images": own[2], "whole": whole[2], "agreement": round(common(own[0], whole[0]), 4), **seconds}


def table(rows: Rows) -> str:
    """A line a model, task and budget."""
    lines = [
        "| model | task | budget | modules | images, auto / all | agreement | CPU s, auto / all |",
        "|---" * 7 + "|",
    ]
    for r in rows.known.values():
        cells = [f"`{r['model']}`", r["task"], f"{r['budget']:.2%}", r["modules"], f"{r['images']} / {r['whole']}"]
        cells += [f"{r['agreement']:.1%}", f"{r['auto_s']} / {r['whole_s']}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/samples.jsonl"))
    parser.add_argument("--tasks", default="flowers,digits")
    parser.add_argument("--models", default="tailor_mini_s,tailor_mini_ti")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = Rows(args.store)
    for name in args.models.split(","):
        for task in args.tasks.split(","):
            for share in BUDGETS:
                rows.get(f"{name} {task} {share}", partial(compare, name, task, share, 0))
    print(table(rows))
    print(json.dumps({"benchmark": "samples", "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
