"""How long finding the groups and cutting them takes, stage by stage, with Torch-Pruning in the same run.

    python -m benchmarks.cut_time [--models deit_base_patch16_224,...] [--rounds 3]

Half of every group goes, by random scores, at the model's own image size, fp32, one thread, in turns; medians of CPU
seconds. *export* is torch's graph; *analysis* the dimension algebra, groups and attributes; *cut* plan and surgery in
place; *trial* what `settle` adds: a cut of a copy compared with the masked model, which Torch-Pruning has no twin of.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
from torch import Tensor

from benchmarks.peer_pruning import cut_by_torch_pruning_, runs
from tailor.measure.machine import machine
from tailor.tracing import cut_, half, plan_widths, settle
from tailor.tracing.graph import traced
from tailor.tracing.graph.analyse import analyse
from tailor.tracing.graph.export import export_graph
from tailor.tracing.graph.labels import tag_attention

MODELS = (
    "vit_base_patch16_224",
    "swin_base_patch4_window7_224",
    "convnext_base",
    "resnet50",
    "deit_base_distilled_patch16_224",
)
STAGES = ("export", "analysis", "cut", "trial")


class Clock:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body."""
        began = time.process_time()
        yield
        self.seconds[name] = time.process_time() - began


def ours(name: str, example: Tensor) -> dict[str, float]:
    """Every stage on a fresh model; the trial comes before the cut, as in `prune`, but is not part of it."""
    model, clock = timm.create_model(name).eval(), Clock()
    with clock.stage("export"):
        program = export_graph(model, (example,))
    with clock.stage("analysis"):
        analysis = analyse(program)
        tag_attention(analysis)
        found = traced.read_groups(model, analysis)
    with clock.stage("trial"):
        found = settle(model, found, (example,))
    with clock.stage("cut"):
        cut_(model, plan_widths(found.groups, half(found.groups)))
    assert not runs(model, example, 1000), "a cut model runs"
    return clock.seconds


def theirs(name: str, example: Tensor) -> tuple[dict[str, float], str]:
    """The same cut by Torch-Pruning, and whether the result runs."""
    model = timm.create_model(name).eval()
    try:
        seconds = cut_by_torch_pruning_(model, example)
    except Exception as error:  # whatever the package raises is its row
        return {}, f"{type(error).__name__}: {str(error)[:80]}"
    return seconds, runs(model, example, 1000) or "runs"


def row(name: str, rounds: int) -> dict[str, object]:
    """Medians over the rounds, both sides in turns."""
    example = torch.randn(2, *timm.create_model(name).default_cfg["input_size"])
    mine: list[dict[str, float]] = []
    peers: list[dict[str, float]] = []
    verdict = ""
    for _ in range(rounds):
        mine.append(ours(name, example))
        seconds, verdict = theirs(name, example)
        peers.append(seconds)
    middle = {stage: round(statistics.median(m[stage] for m in mine), 2) for stage in STAGES}
    other = {
        s: round(statistics.median(p[s] for p in peers), 2) for s in ("graph", "cut") if all(s in p for p in peers)
    }
    return {"model": name, "ours": middle, "peer": other, "peer_result": verdict}


def main() -> None:
    """Run and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("| model | export | analysis | cut | analysis + cut | trial | Torch-Pruning graph | cut | sum | its result |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in args.models.split(","):
        rows.append(one := row(name, args.rounds))
        o, p = one["ours"], one["peer"]
        both = round(o["analysis"] + o["cut"], 2)
        theirs_ = [p.get("graph", "-"), p.get("cut", "-"), round(sum(p.values()), 2) if p else "-"]
        cells = [name, o["export"], o["analysis"], o["cut"], f"**{both}**", o["trial"], *theirs_, one["peer_result"]]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(json.dumps({"cut_time": rows, "rounds": args.rounds, "machine": machine()}))


if __name__ == "__main__":
    main()
