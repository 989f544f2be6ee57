"""What SPViT's search costs and what its hybrids save: single path beside multi path, speed beside MACs. Resumable.

Search: updates of both supernets on the same random batch in turns, of the mini and of DeiT-Ti at 224 pixels (median
seconds of processor time, all threads, so that other work on the machine does not count), peak resident memory above
the loaded dense model in a process of its own. Hybrids: random weights, batch norms folded, dense and hybrids in turns,
plain and channels_last; the share is measured speed-up over MAC ratio, by the faster of the two layouts. The Swin-like
net is that of `benchmarks.small_nets`, its grid fixed at 64 or 224 pixels.

    python -m benchmarks.spvit_cost [--store FILE] [--updates 20] [--seconds 40] [--only "speed small_swin"]
"""

import argparse
import copy
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import small_nets  # noqa: F401  # registers the Swin-like net
from benchmarks.rows import Row, Rows
from tailor import backbones
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.measure.machine import machine
from tailor.measure.speed import throughput
from tailor.pruning.convolve.places import find_places
from tailor.pruning.convolve.search import Supernet, apart, supernet
from tailor.pruning.convolve.settings import Search, Written
from tailor.pruning.convolve.table import counted
from tailor.pruning.convolve.written import as_written, made

NET, BATCH = "tailor_mini_s", 32
HOW = {"order": "bn-relu", "skip": "zero", "scope": "map", "folded": True}
BIG, BIG_BATCH = "deit_tiny_patch16_224", 4
TWELVE = ("111111AAAAAA", "333333AAAAAA", "SSSSSSAAAAAA", "333333333333")
SIX = ("111AAA", "333AAA", "SSSAAA", "333333")
HYBRIDS = {
    "tailor_mini_s": (NET, 64, TWELVE),
    "deit_tiny_patch16_224": (BIG, 224, TWELVE),
    "small_swin 64 px": ("small_swin", 64, SIX),
    "small_swin 224 px": ("small_swin", 224, SIX),
}
"""Net and pixels, and the operations; half of the hidden units of every block go."""


def searched(paths: str, net: str = NET) -> Supernet:
    """A supernet at half the MACs of its net."""
    model = backbones.create(net, "random")
    anatomy = backbones.describe(model)
    places = find_places(model, anatomy)
    table = counted(places, count.macs(model, anatomy.inputs))
    return supernet(model, places, table, table.dense / 2, Search(paths=paths)).train()


def updater(net: nn.Module, batch: int = BATCH, pixels: int = 64):
    """One update on a fixed random batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels, generator=generator)
    labels = torch.randint(200, (batch,), generator=generator)
    groups = apart(net) if isinstance(net, Supernet) else []
    own = {id(p) for group in groups for p in group["params"]}
    rest = [p for p in net.parameters() if id(p) not in own and p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 1e-4}, *groups])

    def update() -> None:
        loss = F.cross_entropy(net(images), labels)
        if isinstance(net, Supernet):
            loss = loss + net.penalty().float()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def contender(kind: str, net: str = NET) -> nn.Module:
    return backbones.create(net, "random").train() if kind == "dense" else searched(kind, net)


def times(updates: int, net: str = NET, batch: int = BATCH, pixels: int = 64) -> Row:
    """Processor seconds of an update, dense training and both searches in turns."""
    updaters = {kind: updater(contender(kind, net), batch, pixels) for kind in ("dense", "single", "multi")}
    seen: dict[str, list[float]] = {kind: [] for kind in updaters}
    for round_ in range(updates + 2):
        for kind, update in updaters.items():
            start = time.process_time()
            update()
            if round_ > 1:
                seen[kind].append(time.process_time() - start)
    found = {kind: statistics.median(values) for kind, values in seen.items()}
    ratios = [a / b for a, b in zip(seen["single"], seen["multi"], strict=True)]
    return {**found, "single_over_multi": statistics.median(ratios), "updates": updates}


def peak(kind: str) -> None:
    """Print the peak memory in MB of three updates above that of the dense model, loaded."""
    base = contender("dense")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading torch
    before = high_water()
    del base
    update = updater(contender(kind))
    for _ in range(3):
        update()
    print((high_water() - before) / 1024)


def high_water() -> int:
    """Peak resident memory in KiB since it was last forgotten (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def memory() -> Row:
    """Peak of each, in a process of its own."""
    found = {}
    for kind in ("dense", "single", "multi"):
        out = subprocess.run(
            [sys.executable, "-m", "benchmarks.spvit_cost", "--peak", kind], capture_output=True, text=True, check=True
        )
        found[kind] = float(out.stdout.split()[-1])
    return found


def speeds(name: str, batch: int, seconds: float) -> Row:
    """For each hybrid: MAC ratio, speed-up of both layouts."""
    net, pixels, written = HYBRIDS[name]
    model = backbones.create(net, "random", image_size=pixels)
    inputs = Inputs.images(3, pixels, pixels)
    places = find_places(model, backbones.describe(model))
    half = tuple(place.hidden.units // 2 for place in places if place.hidden)
    table = counted(places, count.macs(model, inputs))
    example = inputs.example()
    models = {"dense": model}
    for operations in written:
        architecture = as_written(model, places, Written(operations, half))
        plain = made(model, places, architecture, table, example, HOW, "swap").model
        models[operations] = plain
        models[f"{operations} channels_last"] = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    found = throughput(models, inputs, batch=batch, seconds=seconds)
    row: Row = {"rounds": found.timings["dense"].runs, "dense_ms": found.timings["dense"].median}
    for operations in written:
        ratio = table.dense / count.macs(models[operations], inputs)
        plain, last = (found.ratios[f"{operations}{layout}"].median for layout in ("", " channels_last"))
        row[operations] = {"macs": ratio, "plain": plain, "channels_last": last, "share": max(plain, last) / ratio}
    return row


def table(rows: Rows) -> str:
    """Markdown."""
    lines = ["| net, batch | hybrid | MACs | speed | channels_last | share of the MAC ratio |", "|---" * 6 + "|"]
    for key, row in rows.known.items():
        if key.startswith("speed"):
            lines += [
                f"| {key[6:]} | {name} | {r['macs']:.2f}x | {r['plain']:.2f}x | {r['channels_last']:.2f}x | "
                f"{r['share']:.2f} |"
                for name, r in row.items()
                if isinstance(r, dict)
            ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("docs/benchmarks/spvit_cost.jsonl"))
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--only", default="", help="rows whose key begins so, several with commas")
    parser.add_argument("--peak", default="")
    args = parser.parse_args()
    if args.peak:
        peak(args.peak)
        return
    rows = Rows(args.store)
    rows.get("machine", machine)
    made = {
        f"speed {name} {batch}": lambda n=name, b=batch: speeds(n, b, args.seconds)
        for name in HYBRIDS
        for batch in (1, 64)
    }
    made |= {
        "peaks": memory,
        "steps": lambda: times(args.updates),
        f"steps {BIG}": lambda: times(args.updates, BIG, BIG_BATCH, 224),
    }
    for key, make in made.items():
        if key.startswith(tuple(args.only.split(","))):
            rows.get(key, make)
    print(table(rows))


if __name__ == "__main__":
    main()
