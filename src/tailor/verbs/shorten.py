"""SLS for the verb `prune`: features of the images, their curve, the spec with its layer plan, and the figures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tailor.data.images import ImageData, Split
from tailor.events import Event, Report
from tailor.pruning.layers import LayerPlan, Sls, choose
from tailor.pruning.sls import Curve, Features, again, collect, measure
from tailor.spec import Spec
from tailor.training import processes_here
from tailor.verbs.configured import configured
from tailor.verbs.dense import Dense, with_layers
from tailor.verbs.images import in_order

CURVE, MAPS = "layers.png", "tsne.png"
NEAR = 0.05
"""A separation this near the threshold is measured again under two other seeds."""


def sls_of(alpha: float | None, given: Mapping[str, Any] | None) -> Sls:
    """How far down the walk goes, with what the `sls:` section of a file says."""
    default = Sls() if alpha is None else Sls(alpha)
    return configured(default, given or {}, "`sls:`", "docs/methods/sls.md", closed=("alpha",))


def shorter(
    dense: Dense, images: ImageData, settings: Sls, samples: int, folder: Path, report: Report, seed: int
) -> Spec:
    """The spec with its layer plan; draws the curve and the maps into the folder."""
    report(Event("features", text=f"of every block, one pass over {samples} images at most"))
    splits = [images.splits["train"], images.splits["val"]]
    batches = (in_order(part, dense.spec.preprocessing) for part in drawn(splits, samples, seed) if len(part))
    features = collect(dense.model, dense.anatomy, chain.from_iterable(batches))
    if features.warning:
        report(Event("warning", text=features.warning))
    curve = measure(
        features,
        settings,
        seed=seed,
        progress=lambda done, total: report(Event("scoring blocks", done, total, "t-SNE and silhouette")),
    )
    plan = choose(curve.scores, settings, features.blocks, features.fixed)
    plan = replace(plan, facts={**plan.facts, **_facts(features, plan, seed)})
    report(Event("layers", text=f"{len(plan.kept)} of {plan.blocks} blocks stay: {plan.facts['reason']}"))
    if processes_here().is_main_process:
        _draw(plan, curve, features, dense.spec.head.classes, folder)
    return with_layers(dense, plan)


def drawn(splits: Sequence[Split], samples: int, seed: int) -> list[Split]:
    """Of the splits together, `samples` images at most, the same share of every class, each split in its own order."""
    labels = np.concatenate([np.asarray(split.labels, dtype=np.int64) for split in splits])
    order = np.random.default_rng(seed).permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = set(np.argsort(share, kind="stable")[:samples].tolist())
    parts, start = [], 0
    for split in splits:
        records = tuple(r for i, r in enumerate(split.records, start) if i in chosen)
        parts.append(replace(split, records=records))
        start += len(split)
    return parts


def _facts(features: Features, plan: LayerPlan, seed: int) -> dict[str, str | int | float]:
    """What the plan says besides the walk: images, seed, and how far a value near the threshold can be trusted."""
    facts: dict[str, str | int | float] = {"samples": len(features.labels), "seed": seed}
    if features.warning:
        facts["warning"] = features.warning
    stopped = int(plan.facts["depth"]) - 2
    score = plan.curve[stopped] if stopped >= 0 else None
    if score is not None and abs(score - float(plan.facts["threshold"])) < NEAR and plan.dropped:
        others = again(features, stopped, (seed + 1, seed + 2))
        facts["near"] = f"block {stopped + 1} under two other seeds: SC " + ", ".join(f"{o:.3f}" for o in others)
    return facts


def _draw(plan: LayerPlan, curve: Curve, features: Features, classes: Sequence[str], folder: Path) -> None:
    from tailor.evidence.plots import sc_curve, scatter_tsne  # matplotlib only where something is drawn

    scores = [float("nan") if score is None else score for score in plan.curve]
    depth = int(plan.facts["depth"])
    sc_curve(range(1, len(scores) + 1), scores, float(plan.facts["threshold"]), depth, folder / CURVE)
    names = {f"block {i + 1}, SC {scores[i]:.2f}": curve.planes[i] for i in sorted(curve.planes)}
    scatter_tsne(names, features.labels.tolist(), classes, folder / MAPS)
