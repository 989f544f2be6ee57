"""SLS: deciding which blocks stay, against one model run, t-SNE and silhouette a block, as the released code does.

    python -m benchmarks.sls [--images 1000] [--cases mini,planted] [--data ../shared/data/flowers]

`mini` takes real photos through the bundled ViT; `planted` a ViT-S (random weights, 96 pixels) whose class tokens are
replaced by drawn features that separate 20 classes in the upper six blocks only, so that the walk stops half way. The
other side is scikit-learn with its defaults; both see the same decoded images and the same cores, and give the same
index. Seconds are CPU time over all threads and processes: on a shared machine the wall clock measures the neighbours.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.rows import Rows
from tailor import backbones
from tailor.anatomy import Anatomy
from tailor.data.images import open_data
from tailor.data.loading import Batch
from tailor.measure.machine import machine
from tailor.preprocessing import Preprocessing
from tailor.pruning.layers import walk
from tailor.pruning.settings import Sls
from tailor.pruning.sls import collect, measure
from tailor.tasks.classification import Classification
from tailor.workflow.data import in_order

CLASSES, HALF = 20, 6


@dataclass(frozen=True)
class Case:
    """A model with its anatomy, and decoded images in batches."""

    model: nn.Module
    anatomy: Anatomy
    batches: list[Batch]


def mini(images: int, data: str) -> Case:
    """Photos of the training and validation splits through `tailor_mini_ti`."""
    model = backbones.create("tailor_mini_ti", "pretrained").eval()
    opened, config = open_data(data), backbones.config_of(model)
    pre = Preprocessing.of(config.inputs.image[1:], config.mean, config.std, "bicubic")
    head = Classification().head(opened, 0)
    batches = list(chain.from_iterable(in_order(opened.splits[name], pre, head) for name in ("train", "val")))
    whole = accumulate((len(batch.targets) for batch in batches), initial=0)
    return Case(model, backbones.describe(model), [batch for batch, before in zip(batches, whole) if before < images])


def planted(images: int, data: str) -> Case:
    """A ViT-S that runs as it is, but hands out drawn class tokens: separable from block 7 on."""
    model = backbones.create("vit_small_patch16_224", "random", 96).eval()
    anatomy = backbones.describe(model)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % CLASSES
    width = model.embed_dim
    for index, block in enumerate(anatomy.blocks):
        centres = torch.randn(CLASSES, width, generator=generator) * (0.6 if index >= HALF else 0.02)
        drawn = centres[labels] + torch.randn(images, width, generator=generator)
        model.get_submodule(block.path).register_forward_hook(_Plant(drawn))
    pixels = torch.randn(images, 3, 96, 96, generator=generator)
    starts = range(0, images, 64)
    return Case(model, anatomy, [_batch(pixels, labels, slice(start, start + 64)) for start in starts])


def _batch(pixels: Tensor, labels: Tensor, part: slice) -> Batch:
    places = torch.arange(len(labels))[part]
    return Batch(pixels[part], labels[part], places, tuple(map(str, places.tolist())))


class _Plant:
    """A hook that puts the next rows in the place of the class tokens, from the start again after the last."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.at = rows, 0

    def __call__(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 0] = self.rows[self.at : self.at + len(output)]
        self.at = (self.at + len(output)) % len(self.rows)
        return output


CASES: dict[str, Callable[[int, str], Case]] = {"mini": mini, "planted": planted}


def ours(case: Case) -> tuple[int, list[float | None]]:
    """One pass, then t-SNE from the top down until the walk ends."""
    curve = measure(collect(case.model, case.anatomy, case.batches), Sls()).scores
    stop = walk(curve, Sls())
    assert stop is not None, "a measured curve is decided"
    return stop.depth, list(curve)


def passes(case: Case) -> tuple[int, list[float | None]]:
    """For every block: the model once over all images, scikit-learn's t-SNE, min-max, silhouette."""
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    labels = torch.cat([batch.targets for batch in case.batches]).numpy()
    curve: list[float | None] = []
    for block in case.anatomy.blocks:
        found: list[Tensor] = []
        handle = case.model.get_submodule(block.path).register_forward_hook(lambda m, a, o, f=found: f.append(o[:, 0]))
        with torch.no_grad():
            for batch in case.batches:
                case.model(batch.images)
        handle.remove()
        plane = TSNE(n_components=2, init="pca", random_state=0).fit_transform(torch.cat(found).numpy())
        plane = (plane - plane.min(0)) / (plane.max(0) - plane.min(0))
        curve.append(float(silhouette_score(plane, labels)))
    stop = walk(curve, Sls())
    assert stop is not None, "a whole curve is decided"
    return stop.depth, curve


def cpu_seconds() -> float:
    """Processor time of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare(name: str, images: int, data: str) -> dict[str, Any]:
    """One case: both decide, in one run."""
    case = CASES[name](images, data)
    row: dict[str, Any] = {"case": name, "images": sum(len(batch.targets) for batch in case.batches)}
    curves = {}
    with torch.no_grad():
        case.model(case.batches[0].images)  # what only the first call pays for
    for plant in [h for m in case.model.modules() for h in m._forward_hooks.values() if isinstance(h, _Plant)]:
        plant.at = 0
    for side, decide in (("ours", ours), ("passes", passes)):
        began = cpu_seconds()
        row[f"{side}_depth"], curves[side] = decide(case)
        row[f"{side}_s"] = round(cpu_seconds() - began, 1)
    scored = [(a, b) for a, b in zip(curves["ours"], curves["passes"]) if a is not None and b is not None]
    row |= {"scored": len(scored), "blocks": len(curves["ours"]), "difference": max(abs(a - b) for a, b in scored)}
    row |= {"ratio": round(row["passes_s"] / row["ours_s"], 2), "curve": [round(c, 3) for c in curves["passes"] if c]}
    return row


def table(rows: Rows) -> str:
    """Markdown, a line a case."""
    lines = ["| case | images | blocks kept, ours / passes | t-SNE runs | difference of SC | CPU s | times faster |",
             "|---" * 7 + "|"]  # fmt: skip
    for r in rows.known.values():
        kept = f"{r['ours_depth']} / {r['passes_depth']} of {r['blocks']}"
        seconds = f"{r['ours_s']} / {r['passes_s']}"
        cells = [r["case"], r["images"], kept, f"{r['scored']} / {r['blocks']}", f"{r['difference']:.1e}", seconds]
        lines.append("| " + " | ".join(map(str, [*cells, r["ratio"]])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the cases and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--cases", default="mini,planted")
    parser.add_argument("--data", default="../shared/data/flowers")
    parser.add_argument("--store", type=Path, default=Path("runs/benchmarks/sls.jsonl"))
    args = parser.parse_args()
    np.random.seed(0)
    rows = Rows(args.store)
    for name in args.cases.split(","):
        rows.get(f"{name} {args.images}", lambda name=name: compare(name, args.images, args.data))  # type: ignore[misc]
    print(table(rows))
    print(json.dumps({"benchmark": "sls", "rows": len(rows.known), "machine": machine()}))


if __name__ == "__main__":
    main()
