"""Per-sample squared gradients of a ViT against an ordinary backward, a loop over samples, and opacus: time and memory.

    python -m benchmarks.sensitivity [--models vit_small_patch16_224] [--images 16] [--batch 16] [--device cuda]

Every contender scores the same weights (those SPT ranks) of the same random-weight timm model on the same random images
at 224. They alternate within one process, `--rounds` times after one warm-up; ratios are taken within a round. Time is
the process's CPU time over its threads on a CPU, so that other work on the machine counts little (wall time is given
too), and wall time on a GPU. Peak memory: above the loaded model, each contender in a fresh process.
Not counted: loading the model and the images; opacus's wrapping of the model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rows import Rows
from tailor.criteria.squared_gradient import squared_gradients
from tailor.measure.machine import machine

MODELS = ("vit_small_patch16_224", "vit_base_patch16_224")
CLASSES = 10
Scores = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor]]


def candidates(model: nn.Module) -> list[str]:
    """The weights that SPT ranks in a ViT: blocks and final norm."""
    return [n for n, _ in model.named_parameters() if n.startswith(("blocks.", "norm."))]


def made(name: str, args: argparse.Namespace) -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES).eval().to(args.device)
    images = torch.randn(args.images, 3, 224, 224).to(args.device)
    labels = torch.randint(CLASSES, (args.images,)).to(args.device)
    return model, list(zip(images.split(args.batch), labels.split(args.batch), strict=True))


def ours(model: nn.Module, batches: Batches) -> Callable[[], Scores]:
    names = candidates(model)
    return lambda: squared_gradients(model, batches, parameters=names)


def plain(model: nn.Module, batches: Batches) -> Callable[[], Scores]:
    """Forward and backward of every batch, as in training: no scores."""

    def run() -> Scores:
        for images, labels in batches:
            model.zero_grad()
            F.cross_entropy(model(images), labels, reduction="sum").backward()
        model.zero_grad()
        return {}

    return run


def loop(model: nn.Module, batches: Batches) -> Callable[[], Scores]:
    """One backward for each sample, over the scored parameters only."""
    parameters = dict(model.named_parameters())
    names = candidates(model)

    def run() -> Scores:
        model.requires_grad_(False)
        sums = {n: torch.zeros_like(parameters[n]) for n in names}
        for n in names:
            parameters[n].requires_grad_(True)
        for images, labels in batches:
            for i in range(len(images)):
                value = F.cross_entropy(model(images[i : i + 1]), labels[i : i + 1])
                grads = torch.autograd.grad(value, [parameters[n] for n in names])
                for n, grad in zip(names, grads, strict=True):
                    sums[n] += grad.square()
        model.requires_grad_(True)
        return sums

    return run


def opacus(model: nn.Module, batches: Batches) -> Callable[[], Scores]:
    """Opacus keeps one gradient per sample; its batches are at most 8 here, to fit the memory."""
    from opacus import GradSampleModule

    names = candidates(model)
    for n, p in model.named_parameters():
        p.requires_grad_(n in names)
    model.train()  # opacus records nothing in evaluation mode; these ViTs have no dropout
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=False)
    parameters = dict(wrapped._module.named_parameters())

    def run() -> Scores:
        sums = {n: torch.zeros_like(parameters[n]) for n in names}
        for images, labels in batches:
            for x, y in zip(images.split(8), labels.split(8), strict=True):
                F.cross_entropy(wrapped(x), y, reduction="sum").backward()
                for n in names:
                    sums[n] += parameters[n].grad_sample.square_().sum(0)
                    parameters[n].grad_sample = None
                    parameters[n].grad = None
        return sums

    return run


CONTENDERS = {"ours": ours, "plain": plain, "loop": loop, "opacus": opacus}


def timed(run: Callable[[], Scores], device: str) -> tuple[float, float, Scores]:
    """Seconds that count on this device, wall seconds, and what came out."""
    began, wall = time.process_time(), time.perf_counter()
    scores = run()
    if device != "cpu":
        torch.cuda.synchronize()
    wall = time.perf_counter() - wall
    return (time.process_time() - began if device == "cpu" else wall), wall, scores


def memory(args: argparse.Namespace) -> int:
    """Bytes above the loaded model at the peak of one run, in this fresh process."""
    model, batches = made(args.models[0], args)
    run = CONTENDERS[args.memory](model, batches)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """A size of this process in bytes (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak(kind: str, name: str, args: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "benchmarks.sensitivity", "--memory", kind, "--models", name]
    command += [w for f in ("images", "batch", "threads", "device") for w in (f"--{f}", str(getattr(args, f)))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def error(scores: Scores, reference: Scores) -> float:
    """The largest relative difference of a parameter's scores, in the Euclidean norm."""
    return max(float((scores[n] - r).norm() / r.norm()) for n, r in reference.items())


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    # opacus hooks its model for good, so each contender has its own
    runs = {kind: make(*made(name, args)) for kind, make in CONTENDERS.items() if kind in args.contenders}
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    walls: dict[str, list[float]] = {kind: [] for kind in runs}
    errors: dict[str, float] = {}
    for i in range(args.rounds + 1):
        results: dict[str, Scores] = {}
        for kind, run in runs.items():
            taken, wall, scores = timed(run, args.device)
            if i > 0:  # the first round warms up, and compares
                seconds[kind].append(taken)
                walls[kind].append(wall)
            else:
                results[kind] = scores
            print(f"{name} round {i} {kind}: {taken:.2f} s ({wall:.2f} s wall)", file=sys.stderr, flush=True)
            del scores
        if "loop" in results:
            errors = {kind: error(s, results["loop"]) for kind, s in results.items() if s and kind != "loop"}
    del runs
    ratios = {k: [a / b for a, b in zip(seconds["ours"], seconds[k], strict=True)] for k in seconds if k != "ours"}
    return {
        "model": name,
        "seconds": {k: statistics.median(v) for k, v in seconds.items()},
        "seconds_low_high": {k: (min(v), max(v)) for k, v in seconds.items()},
        "wall_seconds": {k: statistics.median(v) for k, v in walls.items()},
        "ours_over": {k: statistics.median(v) for k, v in ratios.items()},
        "ours_over_low_high": {k: (min(v), max(v)) for k, v in ratios.items()},
        "peak_bytes": {kind: peak(kind, name, args) for kind in seconds},
        "error_against_loop": errors,
    }


LABELS = {"ours": "**tailor**", "plain": "forward + backward", "loop": "loop over samples", "opacus": "opacus"}


def table(rows: Rows) -> str:
    """Markdown, a line a model and contender."""
    lines = ["| model | contender | median s [low, high] | times ours | peak MB | off the loop |", "|---" * 6 + "|"]
    for row in rows.known.values():
        for kind, median in row["seconds"].items():
            low, high = row["seconds_low_high"][kind]
            factor = 1 / row["ours_over"][kind] if kind != "ours" else 1.0
            wrong = f"{row['error_against_loop'][kind]:.1e}" if kind in row["error_against_loop"] else ""
            lines.append(
                f"| {row['model']} | {LABELS[kind]} | {median:.2f} [{low:.2f}, {high:.2f}] | {factor:.2f} | "
                f"{row['peak_bytes'][kind] / 1e6:.0f} | {wrong} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print the table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/sensitivity.jsonl"))
    parser.add_argument("--memory", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # opacus on frozen inputs
    if args.memory:
        print(memory(args))
        return
    facts = {"images": args.images, "batch": args.batch, "rounds": args.rounds, "threads": args.threads}
    rows = Rows(args.store)
    for name in args.models:
        rows.get(f"{name} {args.device}", lambda name=name: {**compare(name, args), **facts, "machine": machine()})  # type: ignore[misc]
    print(table(rows))
    print(json.dumps({"benchmark": "sensitivity", "device": args.device, **facts, "rows": len(rows.known)}))


if __name__ == "__main__":
    main()
