"""A training step of SPT-LoRA against peft's LoRA with the same number of trainable parameters: time and peak memory.

Both train the same backbone (timm, random weights) on the same random images with AdamW in fp32. For memory each
contender runs in a process of its own (peak resident size above that of the loaded model); for time they alternate.
peft's LoRA sits on qkv with the rank whose parameter count is nearest to SPT's plan, which is made from sensitivities
that are measured on random images: what lies where decides what a step costs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rows import Rows
from tailor import backbones
from tailor import build as builder
from tailor.measure.machine import machine
from tailor.spec import BackboneRef
from tailor.surgery import trainable
from tailor.tasks.classification import ClassifierHead
from tailor.tuning.apply import apply_
from tailor.tuning.spt import settings as spt
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.scores import sensitivity

MODELS = ("vit_small_patch16_224", "vit_base_patch16_224")
CLASSES, SCORED = 10, 16


def ours(name: str, share: float) -> nn.Module:
    """The backbone with an SPT-LoRA plan at `share` of its parameters."""
    head = ClassifierHead(tuple(map(str, range(CLASSES))))
    made = builder.base(BackboneRef(name, "random"), head, check=False)
    whole = sum(p.numel() for p in made.model.parameters())
    scores = sensitivity(made.model, made.anatomy, [drawn(SCORED, seed=1)])
    plan = allocate(scores, made.anatomy, made.model, spt.named("spt-lora"), int(share * whole))
    return apply_(made.model, plan, made.anatomy.heads)


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random images and classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 224, 224, generator=generator), torch.randint(CLASSES, (count,), generator=generator)


def peers(name: str, budget: int) -> nn.Module:
    """The backbone with peft's LoRA on qkv, of the rank whose size is nearest to `budget`."""
    from peft import LoraConfig, get_peft_model

    model = backbones.create(name, "random")
    backbones.attach_head_(model, CLASSES)
    width, depth = model.embed_dim, len(model.blocks)
    rank = max(1, round(budget / (4 * width * depth)))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"], lora_dropout=0.1, modules_to_save=["head"])
    return get_peft_model(model, config)


def stepper(model: nn.Module, batch: int) -> Callable[[], None]:
    """One optimiser step on fixed random images."""
    images, labels = drawn(batch, seed=0)
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-3)
    model.train()
    sparse = [m for m in model.modules() if hasattr(m, "write_through_")]

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        for module in sparse:
            module.write_through_()

    return step


def made(kind: str, name: str, share: float, budget: int) -> nn.Module:
    return ours(name, share) if kind == "spt-lora" else peers(name, budget)


def peak(kind: str, name: str, args: argparse.Namespace, budget: int) -> int:
    """Bytes above the loaded model at the peak of two steps, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory", kind, "--model", name, "--batch", str(args.batch),
               "--share", str(args.share), "--budget", str(budget), "--threads", str(args.threads)]  # fmt: skip
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def memory(args: argparse.Namespace) -> None:
    model = made(args.memory, args.model, args.share, args.budget)
    step = stepper(model, args.batch)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    step()
    print(resident("VmHWM") - before)


def resident(field: str) -> int:
    """A size of this process in bytes (Linux), else the largest so far."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def compare(name: str, args: argparse.Namespace) -> dict[str, object]:
    own = ours(name, args.share)
    budget = sum(p.numel() for n, p in trainable(own).items() if not n.startswith("head"))
    peer = peers(name, budget)
    theirs = sum(p.numel() for n, p in trainable(peer).items() if "head" not in n)
    steps = {"spt-lora": stepper(own, args.batch), "peft": stepper(peer, args.batch)}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(args.runs):
        for kind, step in steps.items():
            began = time.perf_counter()
            step()
            times[kind].append(time.perf_counter() - began)
    ratios = sorted(a / b for a, b in zip(times["spt-lora"], times["peft"], strict=True))
    peaks = {kind: peak(kind, name, args, budget) for kind in steps}
    return {
        "model": name,
        "trainable": {"spt-lora": budget, "peft": theirs},
        "trains": trains(own),
        "seconds": {kind: statistics.median(values) for kind, values in times.items()},
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
        "peak_bytes": peaks,
        "memory_ratio": peaks["spt-lora"] / peaks["peft"],
    }


def trains(model: nn.Module) -> dict[str, int]:
    """Trainable parameters of modules, of vectors, and of single weights."""
    found = {"modules": 0, "vectors": 0, "single": 0}
    for name, parameter in trainable(model).items():
        if not name.startswith("head"):
            leaf = name.rpartition(".")[2]
            kind = "single" if "delta" in name else "vectors" if leaf in ("weight", "bias") else "modules"
            found[kind] += parameter.numel()
    return found


def table(rows: Rows) -> str:
    """Markdown, a line a model."""
    lines = ["| model | trains, tailor / peft | s a step, tailor / peft | time ratio [min, max] | peak memory ratio |",
             "|---" * 5 + "|"]  # fmt: skip
    for r in rows.known.values():
        t, s = r["trainable"], r["seconds"]
        lines.append(
            f"| {r['model']} | {t['spt-lora']:,} / {t['peft']:,} | {s['spt-lora']:.2f} / {s['peft']:.2f} | "
            f"{r['ratio']:.3f} [{r['ratio_low']:.3f}, {r['ratio_high']:.3f}] | {r['memory_ratio']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.0047)
    parser.add_argument("--budget", type=int, default=0)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/step.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        memory(args)
        return
    rows = Rows(args.store)
    facts = {"batch": args.batch, "runs": args.runs, "threads": args.threads}
    for name in [args.model] if args.model else MODELS:
        rows.get(f"{name} batch {args.batch}", lambda name=name: {**compare(name, args), **facts, "machine": machine()})  # type: ignore[misc]
    print(table(rows))
    print(json.dumps({"benchmark": "step", **facts, "rows": len(rows.known)}))


if __name__ == "__main__":
    main()
