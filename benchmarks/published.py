"""The published configurations of Isomorphic Pruning: what each leaves with random scores, beside what was printed.

Sizes depend on widths alone, so models live on the meta device and units are drawn. Published MACs are by another
counter, which adds norms, activations and the softmax (0.2 % of a ViT, 6 % of MobileNet-v2).
"""

import copy
import json

import timm
import torch

from tailor import backbones, recipes
from tailor.events import silent
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters
from tailor.pruning.blocks import keep_blocks
from tailor.pruning.layers import apply_layers_
from tailor.pruning.width import kept, random_scores
from tailor.tracing import as_published, cut_, plan_widths, trace
from tailor.workflow import planners
from tailor.workflow.counts import ScoredUnits, counts_for
from tailor.workflow.goal import Goal

IMAGES = Inputs.images(3, 224, 224)
PUBLISHED = {
    "deit-4.2g": "4.16 / 20.69",
    "deit-2.6g": "2.61 / 13.07",
    "deit-1.2g": "1.21 / 5.74",
    "deit-0.6g": "0.62 / 3.08",
    "swin-4.5g": "4.47 / 24.66",
    "convnext-8.5g": "8.48 / 47.36",
    "convnext-4.2g": "4.19 / 25.32",
    "resnet50-2.0g": "2.06 / 15.05",
    "resnet101-4.5g": "4.48 / 29.14",
    "resnet101-3.8g": "3.85 / 24.87",
    "resnet152-4.0g": "4.0 / -",
    "mobilenetv2-0.15g": "0.15 / -",
}


def left(name: str) -> torch.nn.Module:
    """The model that a configuration leaves with random scores, without values."""
    settings = recipes.read(name)
    with torch.device("meta"):
        model = timm.create_model(settings["name"].split(".")[0]).eval()
    traced = trace(model, (torch.empty(2, *IMAGES.image, device="meta"),))
    groups, options = (
        as_published(traced),
        planners.named("prune", "isomorphic", {"widths": settings["widths"]}).settings,
    )
    scores = random_scores(groups, 0)
    goal = Goal(**{flag: settings.get(flag) for flag in ("emb", "heads", "dim", "mlp", "macs")})
    scored = ScoredUnits(model, traced, scores, options, IMAGES)
    counts = counts_for(scored, goal.given(), goal.target(), silent)
    cut = cut_(copy.deepcopy(model), plan_widths(groups, kept(groups, scores, counts)))
    if options.blocks:
        blocks = [block.path for block in backbones.describe(model).blocks]
        apply_layers_(cut, keep_blocks(blocks, dict.fromkeys(blocks, 0.0), options.blocks))
    return cut


def main() -> None:
    """Print a table and one JSON line."""
    rows = []
    print(f"{'configuration':32}{'here, G / M':>16}{'published':>16}")
    for name in recipes.names():
        if not name.startswith("isomorphic/"):
            continue
        cut = left(name)
        giga, millions = macs(cut, IMAGES) / 1e9, parameters(cut) / 1e6
        published = PUBLISHED.get(name.removeprefix("isomorphic/"), "-")
        rows.append({"name": name, "macs": giga, "params": millions, "published": published})
        print(f"{name:32}{f'{giga:.3f} / {millions:.2f}':>16}{published:>16}", flush=True)
    print(json.dumps({"published": rows}))


if __name__ == "__main__":
    main()
