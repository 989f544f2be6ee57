"""The ladder of decoders, what freezing costs, FASeg's parts, and SLS in dense tasks, on street scenes and blood cells.

CamVid in crops of 128 x 160, decoders of width 64 with 20 queries, the same updates for all: a short schedule that
compares, not one that converges. Photos of 240 x 320 are looked at in 128 x 160; at that size HRCA reads one coarse
cell. Rows are stored and not run again; the two bundles of the figure stay in `--kept`.

    python -m benchmarks.dense_ladder [--only ladder/tailor_mini_s] [--figure docs/images/dense_masks.png]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import tailor
from benchmarks.dense import in_turns
from benchmarks.rows import Row, Rows
from tailor import build
from tailor.bundle import read
from tailor.data.images import open_data
from tailor.dense import DECODERS, drawing
from tailor.dense.high_resolution import HighResolution
from tailor.measure.count import macs
from tailor.measure.machine import machine
from tailor.spec import BackboneRef
from tailor.tasks.segmentation import SegmenterHead

STORE, KEPT = Path("docs/benchmarks/dense_ladder.jsonl"), Path("runs/benchmarks/dense_ladder")
SCENES, CELLS = "../shared/data/camvid", "../shared/data/bccd"
SIDE, EPOCHS, BATCH = 128, 3, 4
MINI, LITE = "tailor_mini_s", "tf_efficientnet_lite0"
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


def adapted(data: str, out: Path, settings: argparse.Namespace, **asked: Any) -> Any:
    """A run of the ladder's schedule."""
    epochs = settings.epochs
    recipe = {**RECIPE, "evaluate_every": epochs, "checkpoint_every": epochs}
    side = {"image_size": SIDE, "epochs": epochs, "batch_size": BATCH, "seed": settings.seed}
    return tailor.adapt(data, out=out, overwrite=True, recipe=recipe, progress=None, **side, **asked)


def described(made: Any) -> Row:
    """What a run came to: the metric, the bytes of its bundle, and the MACs of a picture."""
    model, loaded = tailor.load(made.bundle), read(Path(made.bundle))
    inputs = loaded.spec.inputs
    row = {name: getattr(made, name) for name in ("trainable_params", "head_params", "bundle_bytes", "seconds")}
    return {made.metric: made.score, **row, "macs": macs(model, inputs)}


def segmenter(model: str, decoder: str, sizes: Mapping[str, Any], method: str, settings: argparse.Namespace) -> Row:
    """One segmenter, trained and measured; its bundle is kept where the figure shows it."""
    began = time.monotonic()
    asked = {"model": model, "decoder": decoder, "decoders": {decoder: dict(sizes)}, "method": method}
    more = {"budget": "2%"} if method.startswith("spt") else {}
    kept = settings.kept / f"{model}-{decoder}-{method}"
    with tempfile.TemporaryDirectory() as folder:
        shown = settings.seed == 0 and sizes in LADDER.values()
        made = adapted(SCENES, kept if shown else Path(folder) / "run", settings, **asked, **more)
        row = described(made)
    return {**row, "seed": settings.seed, "epochs": settings.epochs, "wall": time.monotonic() - began}


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


def shortened(data: str, task: str, model: str, decoder: str, settings: argparse.Namespace) -> Row:
    """A tuned model whose depth SLS decides on regions, trained again as it was."""
    sizes = {"fcos": {"width": 64}}.get(decoder, LADDER.get(decoder, {}))
    with tempfile.TemporaryDirectory() as folder:
        out, epochs = Path(folder), settings.epochs
        asked = {"model": model, "decoder": decoder, "decoders": {decoder: dict(sizes)}, "method": "lora", "task": task}
        made = adapted(data, out / "a", settings, **asked)
        recipe = {**RECIPE, "evaluate_every": epochs, "checkpoint_every": epochs}
        again = {"retrain": "1clr", "epochs": epochs, "batch_size": BATCH, "recipe": recipe, "progress": None}
        rows = {}
        for alpha in (0.3, 0.6):
            cut = tailor.prune(made.bundle, data=data, method="sls", alpha=alpha, out=out / f"{alpha}", **again)
            rows[str(alpha)] = {
                "kept": cut.kept_blocks,
                "blocks": cut.blocks,
                "cut": cut.score_cut,
                "after": cut.score_after,
                "faster": cut.throughput_ratio,
            }
    return {"metric": made.metric, "before": made.score, "alphas": rows, "seed": settings.seed, "epochs": epochs}


def wanted(seeds: int) -> Iterator[tuple[str, Any]]:
    """Every row's key and how it is made, the most telling first."""
    for model in (MINI, LITE):
        yield f"ms/{model}", (times, model, 0)
    yield from _decoders(MINI)
    for method in METHODS[:3]:
        yield f"ladder/{MINI}/masks/{method}", (segmenter, MINI, "masks", LADDER["masks"], method, 0)
    yield "sls/detection", (shortened, CELLS, "detection", MINI, "fcos", 0)
    for name, (decoder, sizes) in list(PARTS.items())[1:3]:
        yield f"parts/{MINI}/{name}/0", (segmenter, MINI, decoder, sizes, "linear", 0)
    yield from _decoders(LITE)
    yield "sls/segmentation", (shortened, SCENES, "segmentation", MINI, "masks", 0)
    for method in METHODS[:3]:
        yield f"ladder/{LITE}/masks/{method}", (segmenter, LITE, "masks", LADDER["masks"], method, 0)
    for method in METHODS[3:]:
        yield f"ladder/{MINI}/masks/{method}", (segmenter, MINI, "masks", LADDER["masks"], method, 0)
    for seed in range(1, seeds):
        for name, (decoder, sizes) in PARTS.items():
            yield f"parts/{MINI}/{name}/{seed}", (segmenter, MINI, decoder, sizes, "linear", seed)
    for name, (decoder, sizes) in VARIANTS.items():
        yield f"variants/{MINI}/{name}", (segmenter, MINI, decoder, sizes, "linear", 0)


def _decoders(model: str) -> Iterator[tuple[str, Any]]:
    for decoder, sizes in LADDER.items():
        yield f"ladder/{model}/{decoder}/linear", (segmenter, model, decoder, sizes, "linear", 0)


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
    lines = ["| mini-S, frozen | mIoU | parameters of the decoder | GMACs |", "|---|---|---|---|"]
    for name in PARTS:
        same = {"Mask2Former": "mask2former", "FASeg: both": "faseg"}.get(name)
        first = rows.get(f"ladder/{MINI}/{same}/linear") if same else rows.get(f"parts/{MINI}/{name}/0")
        more = [rows[f"parts/{MINI}/{name}/{seed}"] for seed in range(1, 9) if f"parts/{MINI}/{name}/{seed}" in rows]
        found = [row for row in (first, *more) if row and "miou" in row]
        if found:
            scores = ", ".join(f"{100 * row['miou']:.1f}" for row in found)
            lines.append(f"| {name} | {scores} | {_sizes(found[0])} |")
    for name in VARIANTS:
        row = rows.get(f"variants/{MINI}/{name}", {})
        if "miou" in row:
            lines.append(f"| Table {name} | {100 * row['miou']:.1f} | {_sizes(row)} |")
    return "\n".join(lines)


def sls_table(stored: Rows) -> str:
    """Markdown: depth kept, accuracy before, after the cut and after training again, and speed."""
    rows = stored.known
    lines = ["| SLS on regions | alpha | blocks | before | cut | trained again | times as fast |"]
    lines.append("|---|---|---|---|---|---|---|")
    for task in ("detection", "segmentation"):
        row = rows.get(f"sls/{task}", {})
        for alpha, one in row.get("alphas", {}).items():
            scores = " | ".join(f"{100 * value:.1f}" for value in (row["before"], one["cut"], one["after"]))
            blocks = f"{one['kept']} of {one['blocks']}"
            lines.append(f"| {task}, {row['metric']} | {alpha} | {blocks} | {scores} | {one['faster']:.2f} |")
    return "\n".join(lines)


SHOWN = {"masks": "masks (the default)", "mask2former": "Mask2Former", "faseg": "FASeg"}
"""Decoders of the figure, and what stands above their pictures."""
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


def figure(out: Path, kept: Path, count: int = 3) -> None:
    """Image, truth, and what the decoders that are kept found side by side, for scenes of the split reported on."""
    data = open_data(SCENES)
    split = data.splits["test"]
    places = {title: kept / f"{MINI}-{name}-linear" for name, title in SHOWN.items()}
    models = {title: tailor.Predictor(place) for title, place in places.items() if (place / "bundle.json").is_file()}
    rows = []
    for index in _spread(len(split), count):
        image, truth = split.sample(index)
        shown = [image, drawing.overlay(image, _known(truth, len(data.classes)), (*data.classes, "void"))]
        for predictor in models.values():
            given = predictor.transform(image)[None]
            with torch.inference_mode():
                drawn = predictor.task.draw(predictor.model(given), predictor.spec.head, [image])[0]
            shown.append(drawn["overlay"])
        rows.append(shown)
    _sheet(rows, ("image", "truth", *models)).quantize(256).save(out, optimize=True)


def _spread(length: int, count: int) -> list[int]:
    return [length * (2 * i + 1) // (2 * count) for i in range(count)]


def _known(truth: Any, void: int) -> Any:
    labels = truth.numpy().copy()
    labels[labels == 255] = void
    return labels


def _sheet(rows: list[list[Image.Image]], names: tuple[str, ...]) -> Image.Image:
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (width * len(names), height * len(rows) + 18), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((column * width + 4, 2), name, fill="black")
        for row, shown in enumerate(rows):
            sheet.paste(shown[column], (column * width, 18 + row * height))
    return sheet


def main() -> None:
    """Run what is not stored yet, most telling rows first, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose key begins so, several with commas")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    rows, begun = Rows(arguments.store), tuple(arguments.only.split(","))
    for key, (make, *given, seed) in wanted(arguments.seeds):
        if key.startswith(begun):
            settings = argparse.Namespace(**{**vars(arguments), "seed": seed})
            rows.get(key, lambda make=make, given=given, settings=settings: make(*given, settings))
    for table in TABLES.values():
        print(f"\n{table(rows)}")
    if arguments.figure is not None:
        figure(arguments.figure, arguments.kept)


if __name__ == "__main__":
    main()
