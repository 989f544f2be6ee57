"""The ladder of decoders, what freezing costs, FASeg's parts, and SLS in dense tasks, on street scenes and blood cells.

CamVid in crops of 128 x 160, decoders of width 64 with 20 queries, the same updates for all: a short schedule that
compares, not one that converges. Photos of 240 x 320 are looked at in 128 x 160; at that size HRCA reads one coarse
cell. The Swin-like net was trained on images of 32 pixels. Rows are stored and not run again; the bundles that
`benchmarks.dense_figures` draws from stay in `--kept`.

    python -m benchmarks.dense_ladder [--only ladder/tailor_mini_s] [--seeds 3]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks import small_nets
from benchmarks.dense import in_turns
from benchmarks.rows import Row, Rows
from tailor import build
from tailor.bundle import read
from tailor.dense import DECODERS
from tailor.dense.high_resolution import HighResolution
from tailor.measure.count import macs
from tailor.measure.machine import machine
from tailor.spec import BackboneRef
from tailor.tasks.segmentation import SegmenterHead

STORE, KEPT = Path("docs/benchmarks/dense_ladder.jsonl"), Path("runs/benchmarks/dense_ladder")
SCENES, CELLS = "../shared/data/camvid", "../shared/data/bccd"
SIDE, EPOCHS, BATCH = 128, 3, 4
MINI, LITE, SWIN = "tailor_mini_s", "tf_efficientnet_lite0", "small_swin"
TITLES = {MINI: "mini-S", LITE: "Lite0", SWIN: "Swin-like"}
RECIPE = {
    "lr": 1e-3,
    "weight_decay": 0.05,
    "backbone_lr": 0.1,
    "clip_norm": 1.0,
    "schedule": "poly",
    "decay_rate": 0.9,
    "min_lr": 0.0,
    "warmup_epochs": 0.5,
    "augment": "crop",
    "select": "last",
}
"""Mask2Former's schedule at ten times its rate, since a run has 222 updates instead of 160,000."""

QUERIES = {"width": 64, "queries": 20}
DEEP = {**QUERIES, "hidden": 256, "encoder_layers": 3, "encoder_hidden": 256}
NONE = {"kind": "none"}
LADDER: Mapping[str, Mapping[str, Any]] = {
    "linear": {},
    "mlp": {"width": 64},
    "masks": {**QUERIES, "hidden": 256},
    "mask2former": DEEP,
    "faseg": DEEP,
}
LEARNED, ANCHORS = "+ HRCA", "5.5 dynamic anchors"
"""Rows whose bundles are kept for the figure of what queries look at."""
METHODS = ("lora", "spt-lora", "full", "adapter", "vpt-deep", "spt-adapter")
"""Those beside `linear` in the default decoder."""
PARTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Mask2Former": ("mask2former", DEEP),
    "+ DFPQ": ("faseg", {**DEEP, "fine": NONE, "blocks": 9}),
    "+ HRCA": ("faseg", {**DEEP, "focus": "learned"}),
    "FASeg: both": ("faseg", DEEP),
}
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "5.3 sinusoidal positions": ("faseg", {**DEEP, "positions": "sine"}),
    "5.3 learned positions": ("faseg", {**DEEP, "positions": "learned"}),
    "5.5 grid anchors": ("faseg", {**DEEP, "focus": "grid-anchors"}),
    "5.5 dynamic anchors": ("faseg", {**DEEP, "focus": "dynamic-anchors"}),
    "5.5 dynamic foreground": ("faseg", {**DEEP, "focus": "dynamic-foreground"}),
    "5.6 all pixels": ("faseg", {**DEEP, "fine": {"kind": "vanilla"}}),
    "5.6 random pixels": ("faseg", {**DEEP, "fine": {"kind": "random"}}),
    "5.6 rows, then columns": ("faseg", {**DEEP, "fine": {"kind": "rcda"}}),
    "5.7 one pixel in 16": ("faseg", {**DEEP, "fine": {"kind": "hrca", "ratio": 1 / 16}}),
    "5.7 one pixel in 4": ("faseg", {**DEEP, "fine": {"kind": "hrca", "ratio": 1 / 4}}),
}


def adapted(data: str, model: str, out: Path, settings: argparse.Namespace, **asked: Any) -> Any:
    """A run of the ladder's schedule."""
    weights = {"weights": str(small_nets.weights(model))} if model in small_nets.NETS else {}
    side = {"image_size": SIDE, "batch_size": BATCH, "seed": settings.seed, "overwrite": True, "progress": None}
    return tailor.adapt(data, model=model, out=out, **schedule(settings), **side, **weights, **asked)


def schedule(settings: argparse.Namespace) -> dict[str, Any]:
    """Epochs, of which only the last is validated and kept."""
    epochs = settings.epochs
    return {"epochs": epochs, "recipe": {**RECIPE, "evaluate_every": epochs, "checkpoint_every": epochs}}


def described(made: Any, settings: argparse.Namespace) -> Row:
    """What a run came to: the metric, updates, the bytes of its bundle, and the MACs of a picture."""
    place = Path(made.bundle)
    model, loaded = tailor.load(place), read(place)
    row = {name: getattr(made, name) for name in ("trainable_params", "head_params", "bundle_bytes", "seconds")}
    updates = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])["update"]
    run = {"updates": updates, "epochs": settings.epochs, "seed": settings.seed}
    return {made.metric: made.score, **row, "macs": macs(model, loaded.spec.inputs), **run}


def segmenter(
    name: str, model: str, decoder: str, sizes: Mapping[str, Any], method: str, settings: argparse.Namespace
) -> Row:
    """One segmenter, trained and measured; its bundle is kept as `name` where a figure shows it."""
    began = time.monotonic()
    asked = {"decoder": decoder, "decoders": {decoder: dict(sizes)}, "method": method}
    more = {"budget": "2%"} if method.startswith("spt") else {}
    with tempfile.TemporaryDirectory() as folder:
        out = settings.kept / name if name else Path(folder) / "run"
        row = described(adapted(settings.scenes, model, out, settings, **asked, **more), settings)
    return {**row, "wall": time.monotonic() - began}


def times(model: str, settings: argparse.Namespace) -> Row:
    """Milliseconds of one image through each decoder: the fastest of 15 turns, as the machine does other things too."""
    heads = {}
    for decoder, sizes in LADDER.items():
        head = SegmenterHead(tuple(map(str, range(11))), DECODERS[decoder](**_plain(sizes)), (240, 320))
        opened = build.base(BackboneRef(model, "random", image_size=SIDE), head, check=False)
        heads[decoder] = opened.model.eval()
    image = torch.randn(1, *opened.spec.inputs.image)
    with torch.inference_mode():
        found = in_turns({name: lambda m=made: m(image) for name, made in heads.items()}, 15)
    return {"ms": {name: 1e3 * min(values) for name, values in found.items()}, "machine": machine()}


def _plain(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: HighResolution(**value) if isinstance(value, dict) else value for name, value in sizes.items()}


def shortened(task: str, model: str, decoder: str, alpha: float, settings: argparse.Namespace) -> Row:
    """A tuned model whose depth SLS decides on regions, trained again as it was."""
    data = {"detection": settings.cells, "segmentation": settings.scenes}[task]
    sizes = {"fcos": {"width": 64}}.get(decoder, LADDER.get(decoder, {}))
    tuned, scores = settings.kept / f"{model}-{task}-lora", settings.kept / f"{model}-{task}-lora.json"
    if not scores.is_file():
        asked = {"decoder": decoder, "decoders": {decoder: dict(sizes)}, "method": "lora", "task": task}
        made = adapted(data, model, tuned, settings, **asked)
        scores.write_text(json.dumps({"metric": made.metric, "before": made.score}))
    with tempfile.TemporaryDirectory() as folder:
        again = {"retrain": "1clr", "batch_size": BATCH, "progress": None, **schedule(settings)}
        cut = tailor.prune(tuned, data=data, method="sls", alpha=alpha, out=Path(folder) / "cut", **again)
    found = {"kept": cut.kept_blocks, "blocks": cut.blocks, "cut": cut.score_cut, "after": cut.score_after}
    more = {"faster": cut.throughput_ratio, "alpha": alpha, "seed": settings.seed, "epochs": settings.epochs}
    return {**json.loads(scores.read_text()), **found, **more}


def wanted(seeds: int) -> Iterator[tuple[str, Any]]:
    """Every row's key and how it is made, the most telling first."""
    yield f"ms/{MINI}", (times, MINI, 0)
    yield from _decoders(MINI)
    yield from _parts(MINI, ("Mask2Former", "FASeg: both"), range(1, seeds))
    yield from _methods(MINI, METHODS[:3])
    yield from _depths(MINI)
    yield from _parts(MINI, ("+ DFPQ", "+ HRCA"), range(seeds))
    yield from _depths(SWIN)
    yield f"ms/{LITE}", (times, LITE, 0)
    yield from _decoders(LITE)
    yield from _methods(MINI, METHODS[3:])
    for name, (decoder, sizes) in VARIANTS.items():
        kept = name if name == ANCHORS else ""
        yield f"variants/{MINI}/{name}", (segmenter, kept, MINI, decoder, sizes, "linear", 0)
    yield from _methods(LITE, METHODS[:3])
    yield from _parts(LITE, ("+ DFPQ", "+ HRCA"), range(1))
    yield from _parts(LITE, tuple(PARTS), range(1, seeds))


def _decoders(model: str) -> Iterator[tuple[str, Any]]:
    for decoder, sizes in LADDER.items():
        kept = f"{model}-{decoder}-linear"
        yield f"ladder/{model}/{decoder}/linear", (segmenter, kept, model, decoder, sizes, "linear", 0)


def _parts(model: str, names: tuple[str, ...], seeds: range) -> Iterator[tuple[str, Any]]:
    """Of the whole nets the first seed is a row of the ladder."""
    for seed in seeds:
        for name in names:
            decoder, sizes = PARTS[name]
            kept = name if (model, name, seed) == (MINI, LEARNED, 0) else ""
            yield f"parts/{model}/{name}/{seed}", (segmenter, kept, model, decoder, sizes, "linear", seed)


def _methods(model: str, methods: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for method in methods:
        yield f"ladder/{model}/masks/{method}", (segmenter, "", model, "masks", LADDER["masks"], method, 0)


def _depths(model: str) -> Iterator[tuple[str, Any]]:
    for alpha in (0.3, 0.6):
        for task, decoder in (("detection", "fcos"), ("segmentation", "masks")):
            yield f"sls/{model}/{task}/{alpha}", (shortened, task, model, decoder, alpha, 0)


def ladder_table(stored: Rows) -> str:
    """Markdown: decoders on frozen backbones."""
    rows, each = stored.known, "mIoU, {0} | GMACs | ms | KB a task"
    lines = [f"| decoder, frozen backbone | {each.format('mini-S')} | {each.format('Lite0')} |", "|---" * 9 + "|"]
    for decoder in LADDER:
        if any(f"ladder/{model}/{decoder}/linear" in rows for model in (MINI, LITE)):
            cells = [_cells(rows, model, decoder) for model in (MINI, LITE)]
            lines.append(f"| {decoder} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def freezing_table(stored: Rows) -> str:
    """Markdown: methods in the default decoder, and by how much each is better than the frozen backbone."""
    rows = stored.known
    lines = ["| `masks`, tuned by | mIoU, mini-S | over frozen | KB a task | mIoU, Lite0 | over frozen | KB a task |"]
    lines.append("|---|---|---|---|---|---|---|")
    for method in ("linear", *METHODS):
        cells = []
        for model in (MINI, LITE):
            row, base = (rows.get(f"ladder/{model}/masks/{m}", {}) for m in (method, "linear"))
            there = "miou" in row and "miou" in base
            gain = f"{100 * (row['miou'] - base['miou']):+.1f}" if there else "-"
            shown = [f"{100 * row['miou']:.1f}", gain, f"{row['bundle_bytes'] / 1e3:,.0f}"] if there else ["-"] * 3
            cells += shown
        if any(cell != "-" for cell in cells):
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts_table(stored: Rows) -> str:
    """Markdown: FASeg's parts, and each variant of them."""
    rows = stored.known
    lines = ["| frozen backbone, decoder | mIoU by seed | mean | parameters of the decoder | GMACs |", "|---" * 5 + "|"]
    for model in (MINI, LITE):
        for name in PARTS:
            same = {"Mask2Former": "mask2former", "FASeg: both": "faseg"}.get(name)
            first = rows.get(f"ladder/{model}/{same}/linear") if same else rows.get(f"parts/{model}/{name}/0")
            more = [rows.get(f"parts/{model}/{name}/{seed}") for seed in range(1, 9)]
            lines += _seeds(f"{TITLES[model]}, {name}", [row for row in (first, *more) if row and "miou" in row])
    for name in VARIANTS:
        row = rows.get(f"variants/{MINI}/{name}", {})
        lines += _seeds(f"{TITLES[MINI]}, Table {name}", [row] if "miou" in row else [])
    return "\n".join(lines)


def _seeds(name: str, found: list[Row]) -> list[str]:
    """A line of the table, none where there is no row."""
    if not found:
        return []
    scores = [100 * row["miou"] for row in found]
    spread = f" ±{statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    each = ", ".join(f"{score:.1f}" for score in scores)
    return [f"| {name} | {each} | {statistics.mean(scores):.1f}{spread} | {_sizes(found[0])} |"]


def sls_table(stored: Rows) -> str:
    """Markdown: depth kept, accuracy before, after the cut and after training again, and speed."""
    lines = ["| SLS on regions | alpha | blocks | before | cut | trained again | times as fast |", "|---" * 7 + "|"]
    for key, row in stored.known.items():
        if key.startswith("sls/") and "after" in row:
            _, model, task, alpha = key.split("/")
            scores = " | ".join(f"{100 * row[name]:.1f}" for name in ("before", "cut", "after"))
            what = f"{TITLES[model]}, {task}, {row['metric']}"
            lines.append(f"| {what} | {alpha} | {row['kept']} of {row['blocks']} | {scores} | {row['faster']:.2f} |")
    return "\n".join(lines)


TABLES = {"decoders": ladder_table, "freezing": freezing_table, "focus": parts_table, "regions": sls_table}
"""By the name that marks its place in the docs."""


def _cells(rows: Mapping[str, Row], model: str, decoder: str) -> str:
    row = rows.get(f"ladder/{model}/{decoder}/linear", {})
    if "miou" not in row:
        return "- | - | - | -"
    ms = rows.get(f"ms/{model}", {}).get("ms", {}).get(decoder)
    cells = [f"{100 * row['miou']:.1f}", f"{row['macs'] / 1e9:.2f}", f"{ms:.0f}" if ms else "-"]
    return " | ".join([*cells, f"{row['bundle_bytes'] / 1e3:,.0f}"])


def _sizes(row: Row) -> str:
    return f"{row['head_params']:,} | {row['macs'] / 1e9:.2f}"


def main() -> None:
    """Run what is not stored yet, most telling rows first, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose key begins so, several with commas")
    parser.add_argument("--scenes", default=SCENES)
    parser.add_argument("--cells", default=CELLS)
    arguments = parser.parse_args()
    arguments.kept.mkdir(parents=True, exist_ok=True)
    rows, begun = Rows(arguments.store), tuple(arguments.only.split(","))
    for key, (make, *given, seed) in wanted(arguments.seeds):
        if key.startswith(begun):
            settings = argparse.Namespace(**{**vars(arguments), "seed": seed})
            rows.get(key, lambda make=make, given=given, settings=settings: make(*given, settings))
    for table in TABLES.values():
        print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
