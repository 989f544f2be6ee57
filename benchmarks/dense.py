"""Decoders side by side: what high-resolution attention costs, our Mask2Former against transformers', FASeg's parts.

`high_resolution`: a training step of FASeg at 512 x 512, on the maps of a ResNet-50 (given, so that only the
decoder counts), with each way to read the finest level: peak memory of the step (by torch's allocator), time, and the
decoder's MACs at 512 x 512 and 1024 x 2048. `transformers`: the same weights in both, forward and training step with
each one's own loss, in turns. Rows are stored and not run again.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rows import Row, Rows
from tailor.anatomy import Feature
from tailor.dense import losses
from tailor.dense.faseg import FaSeg
from tailor.dense.high_resolution import HighResolution
from tailor.dense.mask2former import Mask2Former
from tailor.dense.predictions import objects
from tailor.dense.weights import from_transformers
from tailor.inputs import Inputs
from tailor.measure.count import macs
from tailor.measure.machine import machine
from tailor.measure.memory import growth

STORE = Path("docs/benchmarks/dense.jsonl")
R50 = [Feature(f"layer{i + 1}", width, 4 * 2**i) for i, width in enumerate((256, 512, 1024, 2048))]
CLASSES, CLASSES_SHOWN = 150, 8
NAMES = {
    "none": "nothing (9 blocks)",
    "hrca": "HRCA, one pixel in 32 (13 blocks)",
    "vanilla": "all pixels",
    "random": "as many random pixels",
    "rcda": "rows, then columns",
}
FINE = {"none": 9, "hrca": 13, "vanilla": 13, "random": 13, "rcda": 13}


def maps(batch: int, height: int, width: int) -> list[Tensor]:
    """Random maps of a ResNet-50."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(f.width, height // f.reduction, width // f.reduction) for f in R50]
    return [torch.randn(batch, *size, generator=generator) for size in sizes]


def targets(batch: int, height: int, width: int) -> Tensor:
    """Label maps of some square fields."""
    generator = torch.Generator().manual_seed(1)
    fields = torch.randint(0, CLASSES_SHOWN, (batch, 4, 4), generator=generator)
    return fields.repeat_interleave(height // 4, 1).repeat_interleave(width // 4, 2)


class OnMaps(nn.Module):
    """A decoder whose input is the image's size alone: for counting its MACs on the meta device."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Mask logits; the maps are what a ResNet-50 would give."""
        found = self.head([_map(f, images) for f in R50])
        return found.masks()


def _map(feature: Feature, images: Tensor) -> Tensor:
    height, width = (side // feature.reduction for side in images.shape[-2:])
    return images.new_zeros(images.shape[0], feature.width, height, width)


def faseg(kind: str) -> nn.Module:
    """FASeg's decoder with one way to read the finest level."""
    settings = FaSeg(norm=False, blocks=FINE[kind], fine=HighResolution(kind=kind))
    torch.manual_seed(0)
    return settings.build(R50, CLASSES)


def step(head: nn.Module, given: list[Tensor], wanted: Tensor) -> None:
    """A training step of the decoder, without the optimiser."""
    for p in head.parameters():
        p.grad = None
    losses.loss(head(given), wanted).mean().backward()


def seconds(run: Callable[[], Any], times: int) -> list[float]:
    """Wall-clock seconds of each call."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, measured in turns, so that what else the machine does meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name] += seconds(run, 1)
    return found


def high_resolution(rows: Rows, side: int, batch: int, rounds: int, kinds: Sequence[str]) -> None:
    """Table 5.6's costs, on this machine."""
    for kind in kinds:
        rows.get(f"high_resolution/{kind}/macs", lambda kind=kind: _macs(kind))
    size = f"{side}" if batch == 1 else f"{side}x{batch}"
    for kind in kinds:
        rows.get(f"high_resolution/{kind}/memory/{size}", lambda kind=kind: _memory(kind, side, batch))
    if rounds:
        rows.get(f"high_resolution/time/{size}", lambda: _times(side, batch, rounds))


def memory_table(rows: Rows) -> str:
    """Markdown: the peak of a training step at each side and batch, and its ratio to attention to all pixels."""
    lines = ["| FASeg's decoder, finest level read by | side x batch | peak MB of a training step | of all pixels' |"]
    lines.append("|---|---|---|---|")
    sizes = sorted({key.rpartition("/")[2] for key in rows.known if "/memory/" in key and "x" in key})
    for size in reversed(sizes):
        found = {kind: rows.known.get(f"high_resolution/{kind}/memory/{size}", {}).get("peak_bytes") for kind in FINE}
        for kind, peak in found.items():
            if peak:
                ratio = f"{peak / found['vanilla']:.2f}" if found["vanilla"] else "-"
                lines.append(f"| {NAMES[kind]} | {size} | {peak / 1e6:,.0f} | {ratio} |")
    return "\n".join(lines)


def _macs(kind: str) -> Row:
    model = OnMaps(faseg(kind)).eval()
    return {
        "kind": kind,
        "macs_512": macs(model, Inputs.images(3, 512, 512)),
        "macs_1024x2048": macs(model, Inputs.images(3, 1024, 2048)),
    }


def _memory(kind: str, side: int, batch: int) -> Row:
    head, given, wanted = faseg(kind), maps(batch, side, side), targets(batch, side, side)
    size = growth(lambda: step(head, given, wanted))
    return {"kind": kind, "side": side, "batch": batch, "peak_bytes": size}


def _times(side: int, batch: int, rounds: int) -> Row:
    given, wanted = maps(batch, side, side), targets(batch, side, side)
    heads = {kind: faseg(kind) for kind in FINE}
    found = in_turns({kind: lambda h=head: step(h, given, wanted) for kind, head in heads.items()}, rounds)
    return {
        "side": side,
        "batch": batch,
        "rounds": rounds,
        "seconds": {kind: statistics.median(values) for kind, values in found.items()},
        "spread": {kind: max(values) - min(values) for kind, values in found.items()},
        "machine": machine(),
    }


def transformers_side(side: int, batch: int, rounds: int) -> Row:
    """Our Mask2Former and transformers', the same decoder weights on the same maps."""
    import transformers

    backbone = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=CLASSES, num_queries=100)
    torch.manual_seed(0)
    theirs = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    ours = Mask2Former(norm=False).build(R50, CLASSES).eval()
    ours.load_state_dict(from_transformers(theirs.state_dict()))
    given, wanted = maps(batch, side, side), targets(batch, side, side)
    decoder = _Theirs(theirs, given)
    found = objects(wanted)
    marks = [one.masks.float() for one in found], [one.labels for one in found]
    with torch.inference_mode():
        apart = (ours(given).masks() - decoder(None, None)).abs().max()
        forward = in_turns({"ours": lambda: ours(given).masks(), "theirs": lambda: decoder(None, None)}, rounds)
        memory = {"ours": growth(lambda: ours(given).masks()), "theirs": growth(lambda: decoder(None, None))}
    train = {"ours": lambda: step(ours, given, wanted), "theirs": lambda: decoder.step(*marks)}
    trained = in_turns(train, rounds)
    peak = {name: growth(run) for name, run in train.items()}
    row: Row = {"side": side, "batch": batch, "rounds": rounds, "largest_difference": float(apart)}
    for what, values in (("forward_seconds", forward), ("step_seconds", trained)):
        row[what] = {name: statistics.median(v) for name, v in values.items()}
    row |= {"forward_bytes": memory, "step_bytes": peak}
    for what in ("forward_seconds", "step_seconds", "forward_bytes", "step_bytes"):
        row[f"{what}_ratio"] = row[what]["ours"] / row[what]["theirs"]
    return {**row, "machine": machine()}


class _Theirs:
    """transformers' decoder on maps that are given, with its own loss."""

    def __init__(self, model: Any, given: list[Tensor]) -> None:
        self.model, self.given = model, given
        model.model.pixel_level_module.encoder = _Given(given)
        self.pixels = torch.zeros(given[0].shape[0], 3, given[0].shape[-2] * 4, given[0].shape[-1] * 4)

    def __call__(self, masks: Any, classes: Any) -> Tensor:
        found = self.model(self.pixels, mask_labels=masks, class_labels=classes, output_auxiliary_logits=True)
        return found.masks_queries_logits if masks is None else found.loss

    def step(self, masks: Any, classes: Any) -> None:
        for p in self.model.parameters():
            p.grad = None
        self(masks, classes).sum().backward()


class _Given(nn.Module):
    """A backbone that gives what it was made with."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.given = tuple(given)

    def forward(self, images: Tensor, *more: Any, **settings: Any) -> Any:
        """The maps, as transformers' backbones name them."""
        from types import SimpleNamespace

        return SimpleNamespace(feature_maps=self.given)


def main() -> None:
    """Run what is not stored yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="of what is timed; 0: memory and MACs alone")
    parser.add_argument("--kinds", default=",".join(FINE))
    arguments = parser.parse_args()
    rows = Rows(arguments.store)
    high_resolution(rows, arguments.side, arguments.batch, arguments.rounds, arguments.kinds.split(","))
    if arguments.rounds:
        rows.get(f"transformers/{arguments.side}", lambda: transformers_side(arguments.side, 1, arguments.rounds))


if __name__ == "__main__":
    main()
