"""`tailor prune BUNDLE|NAME`: decide what the task does not need, remove it, retrain if asked, write a bundle."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from tailor import build as builder
from tailor import bundle
from tailor.bundle.plan_file import PLAN, read_plan, write_plan
from tailor.data.images import ImageData, Split
from tailor.errors import UsageError, nearest
from tailor.evidence.plots import sc_curve, scatter_tsne
from tailor.measure.count import macs, parameters
from tailor.measure.speed import throughput
from tailor.pruning.layers import LayerPlan, Sls, choose
from tailor.pruning.sls import Curve, Features, again, collect, measure
from tailor.spec import Spec
from tailor.training import Recipe, processes_here, retraining
from tailor.tuning.apply import merges
from tailor.verbs.dense import Dense, counted, from_bundle, from_name, smaller, with_layers
from tailor.verbs.events import Event, Report, silent
from tailor.verbs.images import Corrupt, divided, in_order, open_checked, reported, score
from tailor.verbs.subject import is_bundle
from tailor.verbs.train import Planned, bundle_bytes, guide, provenance, ready, recipe_of, train_

METHODS = ("sls",)
CURVE, MAPS = "layers.png", "tsne.png"
SECONDS = 10.0
"""Within which the dense and the pruned model are timed in turns."""
NEAR = 0.05
"""A separation this near the threshold is measured again under two other seeds."""

Retrain = Literal["none", "1clr", "ft", "tfs"]


@dataclass(frozen=True)
class Pruned:
    """What pruning did. Accuracies on `split`: of the dense model, right after the cut, and of the written bundle.

    `throughput_ratio` is how many times faster the pruned model is, both merged, in turns within `throughput_seconds`.
    """

    bundle: str
    method: str
    kept_blocks: int
    blocks: int
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    accuracy_before: float
    accuracy_cut: float
    accuracy_after: float
    split: str
    retrain: str
    throughput_ratio: float
    throughput_seconds: float
    seconds: float
    bundle_bytes: int = 0
    reason: str = ""
    warning: str = ""


def prune(
    name: str,
    *,
    method: str = "sls",
    data: str | None = None,
    alpha: float = 0.3,
    samples: int = 1000,
    retrain: Retrain = "none",
    out: str | Path = "runs/pruned",
    weights: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    teacher: str | None = None,
    corrupt: Corrupt = "skip",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> Pruned:
    """Make an adapted bundle (or a backbone by name) smaller, by what its features say about the classes of `data`.

    `sls` drops the blocks after which the classes separate no better than `alpha` times as well as at the end, decided
    on `samples` images of train and val, without training. `retrain` trains what trained before (the tunes and the
    classifier): `1clr` the full schedule again, `ft` at a constant 1e-5, `tfs` from fresh ones.
    """
    started = time.monotonic()
    if method not in METHODS:
        raise UsageError(f"unknown method `{method}`", hint=nearest(method, METHODS))
    if not data:
        raise UsageError("no data was named", hint="add `--data DATA`, the labelled images the model was adapted to")
    settings = Sls(alpha)
    training = recipe_of(recipe, seed, epochs=epochs, lr=lr, batch_size=batch_size)
    folder = Path(out)
    if resume and (folder / bundle.MANIFEST).is_file():
        report(Event("done", text=f"`{folder}` is finished already"))
        return _finished(folder)
    images, dense = _open(name, data, weights, image_size, training, corrupt, report)
    learnt = guide(teacher, images.classes)
    ready(folder, overwrite, resume)
    if resume and (folder / PLAN).is_file():
        file = read_plan(folder)
        spec, found = file.spec, Pruned(**{**file.settings["found"], "bundle": str(folder)})
    else:
        spec = _decide(dense, images, settings, samples, folder, report, seed)
        found = _compare(dense, spec, images, folder, method, retrain, report)
        if processes_here().is_main_process:
            write_plan(folder, spec, {"data": data, "method": method, "retrain": retrain, "found": asdict(found)})
    planned = smaller(dense, spec, fresh=retrain == "tfs")
    facts = {k: v for k, v in asdict(found).items() if k != "bundle"}
    if retrain == "none":
        kept = provenance(data, training)
        _write(folder, spec, planned, {**facts, "accuracy": found.accuracy_after}, kept)
    else:
        trained = train_(
            planned,
            spec,
            images,
            retraining(training, retrain),
            folder,
            resume=resume,
            report=report,
            teacher=learnt,
            source=data,
            workers=workers,
            known=facts,
        )
        found = replace(found, accuracy_after=trained.accuracy)
    return replace(found, bundle_bytes=bundle_bytes(folder), seconds=round(time.monotonic() - started, 2))


def _open(
    name: str,
    data: str,
    weights: str | None,
    image_size: int | None,
    recipe: Recipe,
    corrupt: Corrupt,
    report: Report,
) -> tuple[ImageData, Dense]:
    """The images, divided, with the bundle's classes, and the model."""
    seed = recipe.seed
    if is_bundle(name) or Path(name).is_dir():
        dense = from_bundle(name, weights)
        classes = dense.spec.head.classes
        images = open_checked(data, seed=seed, corrupt=corrupt, report=report, classes=classes)
        return divided(images, seed, report), dense
    images = divided(open_checked(data, seed=seed, corrupt=corrupt, report=report), seed, report)
    return images, from_name(name, weights or "pretrained", image_size, images, recipe)


def _decide(
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
        parts.append(Split(split.name, records, split.opener))
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
    scores = [float("nan") if score is None else score for score in plan.curve]
    depth = int(plan.facts["depth"])
    sc_curve(range(1, len(scores) + 1), scores, float(plan.facts["threshold"]), depth, folder / CURVE)
    names = {f"block {i + 1}, SC {scores[i]:.2f}": curve.planes[i] for i in sorted(curve.planes)}
    scatter_tsne(names, features.labels.tolist(), classes, folder / MAPS)


def _compare(
    dense: Dense, spec: Spec, images: ImageData, folder: Path, method: str, retrain: str, report: Report
) -> Pruned:
    """Dense and cut model side by side, before any retraining: counts, accuracy, and speed in turns."""
    started = time.monotonic()
    cut = smaller(dense, spec)
    split, chosen = reported(images)
    pre = dense.spec.preprocessing
    before = score(dense.model, chosen, pre, report, f"scoring the dense model on {split}").accuracy
    after = score(cut.model, chosen, pre, report, f"scoring the pruned model on {split}").accuracy
    size = (3, *pre.size)
    models = {"dense": _deployed(dense.model, dense.spec), "pruned": _deployed(cut.model, spec)}
    report(Event("measuring", text=f"dense and pruned in turns, within {SECONDS:g} s"))
    timed = throughput(models, size, protocol="quick", seconds=SECONDS)
    plan = spec.plans[-1]
    assert isinstance(plan, LayerPlan)
    return Pruned(
        bundle=str(folder),
        method=method,
        kept_blocks=len(plan.kept),
        blocks=plan.blocks,
        macs_before=macs(models["dense"], size),
        macs_after=macs(models["pruned"], size),
        params_before=parameters(models["dense"]),
        params_after=parameters(models["pruned"]),
        accuracy_before=before,
        accuracy_cut=after,
        accuracy_after=after,
        split=split,
        retrain=retrain,
        throughput_ratio=round(timed.ratios["pruned"].median, 3),
        throughput_seconds=round(timed.seconds, 1),
        seconds=round(time.monotonic() - started, 2),
        reason=str(plan.facts["reason"]),
        warning=_slower(models, size, timed.ratios["pruned"].median),
    )


def _deployed(model: nn.Module, spec: Spec) -> nn.Module:
    """A copy as it would be deployed: tunes folded in where all of them fold exactly."""
    plain = copy.deepcopy(model)
    return builder.merged_(plain, spec) if all(merges(plan) for plan in spec.tuning) else plain


def _slower(models: Mapping[str, nn.Module], size: tuple[int, int, int], ratio: float) -> str:
    fewer = 1 - macs(models["pruned"], size) / macs(models["dense"], size)
    return f"{fewer:.0%} fewer MACs, but not faster here" if fewer > 0.02 and ratio <= 1.02 else ""


def _write(folder: Path, spec: Spec, planned: Planned, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the bundle of a model that was not retrained."""
    spec = counted(spec, planned)
    if processes_here().is_main_process:
        tensors = bundle.state(planned.model, planned.complete)
        bundle.write(folder, spec, tensors, complete=planned.complete, metrics=metrics, provenance=facts)
    processes_here().wait_for_everyone()


def _finished(folder: Path) -> Pruned:
    """What a finished run says again when it is resumed."""
    metrics = bundle.read_manifest(folder).metrics
    known = {field.name: metrics[field.name] for field in fields(Pruned) if field.name in metrics}
    known |= {"bundle": str(folder), "bundle_bytes": bundle_bytes(folder), "accuracy_after": metrics["accuracy"]}
    return Pruned(**known)
