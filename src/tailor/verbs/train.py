"""Training a planned model and writing its bundle: what `adapt` and `fit` (and the retraining of a pruner) share."""

import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import tailor
from tailor import backbones, bundle
from tailor import build as builder
from tailor.build import Base
from tailor.bundle.files import write_text
from tailor.data.images import ImageData
from tailor.errors import BundleError, UsageError
from tailor.spec import Spec
from tailor.surgery import trainable
from tailor.training import Recipe, fit, processes_here, read_recipe
from tailor.verbs.course import course, training_report
from tailor.verbs.events import Report
from tailor.verbs.images import reported, score, tell_left_out
from tailor.verbs.planning import backbone_parameters, head_parameters
from tailor.verbs.teach import Guide


@dataclass(frozen=True)
class Trained:
    """What a training verb returns; the command line prints it, `--json` as it is."""

    bundle: str
    method: str
    accuracy: float
    split: str
    trainable_params: int
    trainable_percent: float
    head_params: int
    bundle_bytes: int
    seconds: float
    epoch: int
    plan: str = ""
    map: tuple[str, ...] = ()


def recipe_of(settings: Mapping[str, Any] | None, seed: int, **flags: Any) -> Recipe:
    """The recipe: defaults, then the recipe file's settings, then the flags that were given."""
    return read_recipe({**(settings or {}), "seed": seed, **{k: v for k, v in flags.items() if v is not None}})


def train(
    made: Base,
    spec: Spec,
    data: ImageData,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool,
    report: Report,
    teacher: Guide | None = None,
    source: str = "",
    workers: int = 0,
) -> Trained:
    """Apply the plans to what was made, then train it as `train_` does."""
    whole = backbone_parameters(made)
    model = builder.apply_plans_(made, spec.plans, spec.head.seed)
    return train_(
        Planned(model, made.anatomy.heads, whole, spec.backbone.weights == "random"),
        spec,
        data,
        recipe,
        out,
        resume=resume,
        report=report,
        teacher=teacher,
        source=source,
        workers=workers,
    )


@dataclass(frozen=True)
class Planned:
    """A model with its plans applied: the classifier's paths, the parameters of the backbone as it was, and whether its
    bundle has to hold every tensor."""

    model: nn.Module
    heads: tuple[str, ...]
    whole: int
    complete: bool


def train_(
    planned: Planned,
    spec: Spec,
    data: ImageData,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool,
    report: Report,
    teacher: Guide | None = None,
    source: str = "",
    workers: int = 0,
    known: Mapping[str, Any] | None = None,
) -> Trained:
    """Train what trains, choose the epoch on val, score on test (else val), write the bundle.

    `known` metrics, those of a pruner, stand in the bundle beside the measured ones.
    """
    started = time.monotonic()
    model, whole = planned.model, planned.whole
    head = head_parameters(model, planned.heads)
    inside = sum(p.numel() for p in trainable(model).values()) - head
    main = processes_here().is_main_process
    if main:
        write_text(out / "config.yaml", yaml.safe_dump(_config(spec, recipe, source), sort_keys=False))
    roots = tuple(head + "." for head in planned.heads)
    adapted = any(not name.startswith(roots) for name in trainable(model))
    backbones.set_drop_path_(model, recipe.drop_path if adapted else 0.0)
    plan = course(
        model,
        planned.heads[0],
        spec,
        data,
        recipe,
        taught=teacher is not None,
        workers=workers,
        report=report,
    )
    result = fit(
        plan.module,
        recipe,
        batches=plan.batches,
        steps_per_epoch=math.ceil(len(data.splits["train"]) / recipe.batch_size),
        run=out,
        validate=plan.validate,
        resume=resume,
        report=training_report(report),
        teacher=teacher.towards(spec, planned.heads[0], recipe.distil.features > 0) if teacher else None,
    )
    backbones.set_drop_path_(model, 0.0)
    name, split = reported(data)
    scores = score(model, split, spec.preprocessing, report, f"scoring {name}")
    tell_left_out(data, report)
    seconds = time.monotonic() - started
    metrics = {
        **(known or {}),
        "accuracy": scores.accuracy,
        "split": name,
        "n": scores.n,
        "val_accuracy": float(result.metrics.get("accuracy", float("nan"))),
        "epoch": result.chosen,
        "trainable_params": inside,
        "head_params": head,
        "trainable_percent": 100 * inside / whole,
        "seconds": round(result.seconds, 1),
    }
    if main:
        tensors = bundle.state(model, planned.complete)
        facts = provenance(source, recipe)
        bundle.write(out, spec, tensors, complete=planned.complete, metrics=metrics, provenance=facts)
    processes_here().wait_for_everyone()
    return Trained(
        bundle=str(out),
        method=spec.tuning[-1].method if spec.tuning else "",
        accuracy=scores.accuracy,
        split=name,
        trainable_params=inside,
        trainable_percent=100 * inside / whole,
        head_params=head,
        bundle_bytes=bundle_bytes(out),
        seconds=round(seconds, 2),
        epoch=result.chosen,
    )


def ready(folder: Path, overwrite: bool, resume: bool) -> None:
    """Make the output folder, on the main process only; the others wait for it."""
    state = processes_here()
    if state.is_main_process:
        bundle.prepare(folder, overwrite, resume)
    state.wait_for_everyone()


def bundle_bytes(folder: Path) -> int:
    """Bytes of the files that make the bundle (manifest, tensors, card), not of what a run leaves beside them."""
    return sum((folder / name).stat().st_size for name in ("bundle.json", "tensors.safetensors", "README.md"))


def provenance(source: str, recipe: Recipe) -> dict[str, Any]:
    """Where a bundle comes from: versions, data, seed; no path beyond the data's own name."""
    return {
        "tailor": tailor.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data": source,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "lr": recipe.lr,
        "batch_size": recipe.batch_size,
        "selected_on": "val",
    }


def already(out: Path, made: bundle.Manifest) -> Trained:
    """What a finished run says again when it is resumed."""
    metrics = made.metrics
    plans = made.spec.get("plans") or [{}]
    told = ("accuracy", "split", "trainable_params", "trainable_percent", "head_params", "seconds", "epoch")
    lost = [name for name in told if name not in metrics]
    if lost:
        raise BundleError(
            f"`{out}` is a bundle that does not say its `{lost[0]}`: no training wrote it", hint="start anew elsewhere"
        )
    return Trained(
        bundle=str(out),
        method=str(plans[-1].get("method", "")),
        accuracy=metrics["accuracy"],
        split=metrics["split"],
        trainable_params=metrics["trainable_params"],
        trainable_percent=metrics["trainable_percent"],
        head_params=metrics["head_params"],
        bundle_bytes=bundle_bytes(out),
        seconds=metrics["seconds"],
        epoch=metrics["epoch"],
    )


def _config(spec: Spec, recipe: Recipe, source: str) -> dict[str, Any]:
    settings = asdict(recipe)
    settings["betas"] = list(recipe.betas) if recipe.betas else None
    return {
        "data": source,
        "model": spec.backbone.name,
        "weights": spec.backbone.weights,
        "method": spec.tuning[-1].method if spec.tuning else None,
        "recipe": settings,
    }


def one_backbone(name: str | None) -> str:
    """The model's name, which a verb cannot do without."""
    if not name:
        raise UsageError("no model was named", hint="add `--model NAME`, for instance `--model tailor_mini_s`")
    return name
