"""`tailor prune BUNDLE|NAME`: decide what the task does not need, remove it, retrain if asked, write a bundle."""

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from tailor import build as builder
from tailor import bundle
from tailor.bundle.plan_file import PLAN, read_plan, write_plan
from tailor.data.images import ImageData
from tailor.errors import UsageError, nearest
from tailor.measure import count
from tailor.measure.speed import throughput
from tailor.pruning.elements import DATA, KNOWN
from tailor.pruning.layers import LayerPlan, Sls
from tailor.spec import Spec
from tailor.training import Recipe, processes_here, retraining
from tailor.tuning.apply import merges
from tailor.verbs.dense import Dense, counted, from_bundle, from_name, smaller
from tailor.verbs.events import Event, Report, silent
from tailor.verbs.images import Corrupt, divided, open_checked, reported, score
from tailor.verbs.narrow import Goal, merged, narrower, settings_of
from tailor.verbs.shorten import shorter
from tailor.verbs.subject import is_bundle
from tailor.verbs.train import Planned, bundle_bytes, guide, provenance, ready, recipe_of, train_

WIDTHS = ("isomorphic", "depgraph", "uniform", "random")
METHODS = ("sls", *WIDTHS)
SECONDS = 10.0
"""Within which the dense and the pruned model are timed in turns."""

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
    criterion: str | None = None,
    macs: str | None = None,
    params: str | None = None,
    latency: str | None = None,
    emb: str | None = None,
    heads: str | None = None,
    dim: str | None = None,
    mlp: str | None = None,
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
    widths: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> Pruned:
    """Make an adapted bundle (or a backbone by name) smaller, and write an ordinary bundle.

    `sls` drops the blocks after which the classes of `data` separate no better than `alpha` times as well as at the
    end. `isomorphic`, `depgraph`, `uniform` and `random` cut widths of the merged model, those whose units score lowest
    by `criterion`: to a target that may remain (`macs`, `params`, `latency`), or by shares that go (`emb`, `heads`,
    `dim`, `mlp`), with the settings `widths`. Both decide on `samples` images, without training. `retrain` trains what
    trained before (after a cut of widths, everything): `1clr` the full schedule again, `ft` at a constant 1e-5, `tfs`
    from fresh ones.
    """
    started = time.monotonic()
    _check(method, criterion, data, retrain)
    goal = Goal(emb, heads, dim, mlp, macs, params, latency)
    if method in WIDTHS:
        goal.target()
        settings_of(method, widths)
    elif widths:
        raise UsageError(f"`widths:` says nothing to `--method {method}`", hint="add `--method isomorphic`")
    settings = Sls(alpha)
    training = recipe_of(recipe, seed, epochs=epochs, lr=lr, batch_size=batch_size)
    folder = Path(out)
    if resume and (folder / bundle.MANIFEST).is_file():
        report(Event("done", text=f"`{folder}` is finished already"))
        return _finished(folder)
    images, dense = _open(name, data, weights, image_size, training, corrupt, report)
    learnt = guide(teacher, dense.spec.head.classes)
    if method in WIDTHS:
        dense = merged(dense)
    ready(folder, overwrite, resume)
    if resume and (folder / PLAN).is_file():
        file = read_plan(folder)
        spec, found = file.spec, Pruned(**{**file.settings["found"], "bundle": str(folder)})
    else:
        if method in WIDTHS:
            spec, why = narrower(dense, images, method, criterion, goal, widths, samples, seed, report)
        else:
            assert images is not None
            spec = shorter(dense, images, settings, samples, folder, report, seed)
            why = str(spec.pruning[-1].facts["reason"])  # type: ignore[union-attr]  # it is a layer plan
        found = replace(_compare(dense, spec, images, folder, report), method=method, retrain=retrain, reason=why)
        found = replace(found, seconds=round(time.monotonic() - started, 2))
        if processes_here().is_main_process:
            write_plan(folder, spec, {"data": data, "method": method, "retrain": retrain, "found": asdict(found)})
    planned = smaller(dense, spec, fresh=retrain == "tfs")
    facts = {k: v for k, v in asdict(found).items() if k not in ("bundle", "bundle_bytes") and v != ""}
    if retrain == "none" or images is None:
        trained_with = ("epochs", "lr", "batch_size", "selected_on")  # nothing was trained
        kept = {k: v for k, v in provenance(data or "", training).items() if k not in trained_with}
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
            source=str(data),
            workers=workers,
            known=facts,
        )
        found = replace(found, accuracy_after=trained.accuracy)
    return replace(found, bundle_bytes=bundle_bytes(folder), seconds=round(time.monotonic() - started, 2))


def _check(method: str, criterion: str | None, data: str | None, retrain: str) -> None:
    """UsageError for names that nobody knows, and for what cannot be done without data."""
    if method not in METHODS:
        raise UsageError(f"unknown method `{method}`", hint=nearest(method, METHODS))
    if criterion not in (None, *KNOWN):
        raise UsageError(f"unknown criterion `{criterion}`", hint=nearest(str(criterion), KNOWN))
    if not data and (method == "sls" or criterion in DATA or retrain != "none"):
        what = f"`--retrain {retrain}`" if retrain != "none" else f"`{'sls' if method == 'sls' else criterion}`"
        raise UsageError(
            f"no data was named, and {what} needs labelled images",
            hint="add `--data DATA`, the images the model was adapted to",
        )


def _open(
    name: str,
    data: str | None,
    weights: str | None,
    image_size: int | None,
    recipe: Recipe,
    corrupt: Corrupt,
    report: Report,
) -> tuple[ImageData | None, Dense]:
    """The images, divided, with the bundle's classes, and the model."""
    seed = recipe.seed
    if is_bundle(name) or Path(name).is_dir():
        dense = from_bundle(name, weights)
        if not data:
            return None, dense
        classes = dense.spec.head.classes
        images = open_checked(data, seed=seed, corrupt=corrupt, report=report, classes=classes)
        return divided(images, seed, report), dense
    if not data:
        raise UsageError(f"`{name}` has no classes yet", hint="add `--data DATA`, or adapt it first")
    images = divided(open_checked(data, seed=seed, corrupt=corrupt, report=report), seed, report)
    return images, from_name(name, weights or "pretrained", image_size, images, recipe)


def _compare(dense: Dense, spec: Spec, images: ImageData | None, folder: Path, report: Report) -> Pruned:
    """Dense and cut model side by side, before any retraining: counts, accuracy, and speed in turns."""
    cut = smaller(dense, spec)
    pre = dense.spec.preprocessing
    split, before, after = "", float("nan"), float("nan")
    if images is not None:
        split, chosen = reported(images)
        before = score(dense.model, chosen, pre, report, f"scoring the dense model on {split}").accuracy
        after = score(cut.model, chosen, pre, report, f"scoring the pruned model on {split}").accuracy
    size = (3, *pre.size)
    models = {"dense": _deployed(dense.model, dense.spec), "pruned": _deployed(cut.model, spec)}
    report(Event("measuring", text=f"dense and pruned in turns, within {SECONDS:g} s"))
    timed = throughput(models, size, protocol="quick", seconds=SECONDS)
    blocks = len(dense.anatomy.blocks)
    plan = spec.plans[-1]
    return Pruned(
        bundle=str(folder),
        method="",
        kept_blocks=len(plan.kept) if isinstance(plan, LayerPlan) else blocks,
        blocks=blocks,
        macs_before=count.macs(models["dense"], size),
        macs_after=count.macs(models["pruned"], size),
        params_before=count.parameters(models["dense"]),
        params_after=count.parameters(models["pruned"]),
        accuracy_before=before,
        accuracy_cut=after,
        accuracy_after=after,
        split=split,
        retrain="none",
        throughput_ratio=round(timed.ratios["pruned"].median, 3),
        throughput_seconds=round(timed.seconds, 1),
        seconds=0.0,
        warning=_slower(models, size, timed.ratios["pruned"].median),
    )


def _deployed(model: nn.Module, spec: Spec) -> nn.Module:
    """A copy as it would be deployed: tunes folded in where all of them fold exactly."""
    plain = copy.deepcopy(model)
    return builder.merged_(plain, spec) if all(merges(plan) for plan in spec.tuning) else plain


def _slower(models: Mapping[str, nn.Module], size: tuple[int, int, int], ratio: float) -> str:
    fewer = 1 - count.macs(models["pruned"], size) / count.macs(models["dense"], size)
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
