"""Training a planned model and writing its bundle: what `adapt` and `fit` (and the retraining of a pruner) share."""

import math
import platform
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
from tailor.errors import BundleError, UsageError
from tailor.spec import Spec
from tailor.surgery import trainable
from tailor.training import Recipe, Result, fit, processes_here, read_recipe
from tailor.verbs.course import course, training_report
from tailor.verbs.images import reported, score, tell_left_out
from tailor.verbs.planning import backbone_parameters, head_parameters
from tailor.verbs.task import Run


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


def train(made: Base, spec: Spec, run: Run) -> Trained:
    """Apply the plans to what was made, then train it as `train_` does."""
    whole = backbone_parameters(made)
    model = builder.apply_plans_(made, spec.plans, spec.head.seed)
    return train_(Planned(model, made.anatomy.heads, whole, spec.backbone.weights == "random"), spec, run)


@dataclass(frozen=True)
class Planned:
    """A model with its plans applied: the classifier's paths, the parameters of the backbone as it was, and whether its
    bundle has to hold every tensor."""

    model: nn.Module
    heads: tuple[str, ...]
    whole: int
    complete: bool


def train_(planned: Planned, spec: Spec, run: Run, known: Mapping[str, Any] | None = None) -> Trained:
    """Train what trains, choose the epoch on val, score on test (else val), write the bundle.

    `known` metrics, those of a pruner, stand in the bundle beside the measured ones.
    """
    model, main = planned.model, processes_here().is_main_process
    if main:
        write_text(run.folder / "config.yaml", yaml.safe_dump(_config(spec, run.recipe, run.source), sort_keys=False))
    result = _fit_(planned, spec, run)
    name, split = reported(run.images)
    scores = score(model, split, spec.preprocessing, run.report, f"scoring {name}")
    tell_left_out(run.images, run.report)
    head = head_parameters(model, planned.heads)
    inside = sum(p.numel() for p in trainable(model).values()) - head
    metrics = {
        **(known or {}),
        "accuracy": scores.accuracy,
        "split": name,
        "n": scores.n,
        "val_accuracy": float(result.metrics.get("accuracy", float("nan"))),
        "epoch": result.chosen,
        "trainable_params": inside,
        "head_params": head,
        "trainable_percent": 100 * inside / planned.whole,
        "seconds": round(result.seconds, 1),
    }
    if main:
        tensors = bundle.state(model, planned.complete)
        facts = provenance(run.source, run.recipe)
        bundle.write(run.folder, spec, tensors, complete=planned.complete, metrics=metrics, provenance=facts)
    processes_here().wait_for_everyone()
    return _told(run.folder, spec.tuning[-1].method if spec.tuning else "", metrics)


def _fit_(planned: Planned, spec: Spec, run: Run) -> Result:
    """The training itself; without any adapted backbone there are no paths to drop."""
    model, recipe, classifier = planned.model, run.recipe, planned.heads[0]
    roots = tuple(head + "." for head in planned.heads)
    adapted = any(not name.startswith(roots) for name in trainable(model))
    backbones.set_drop_path_(model, recipe.drop_path if adapted else 0.0)
    plan = course(
        model,
        classifier,
        spec,
        run.images,
        recipe,
        taught=run.teacher is not None,
        workers=run.workers,
        report=run.report,
    )
    result = fit(
        plan.module,
        recipe,
        batches=plan.batches,
        steps_per_epoch=math.ceil(len(run.images.splits["train"]) / recipe.batch_size),
        run=run.folder,
        validate=plan.validate,
        resume=run.resume,
        report=training_report(run.report),
        teacher=run.teacher.towards(spec, classifier, recipe.distil.features > 0) if run.teacher else None,
    )
    backbones.set_drop_path_(model, 0.0)
    return result


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
    lost = [name for name in _TOLD if name not in made.metrics]
    if lost:
        raise BundleError(
            f"`{out}` is a bundle that does not say its `{lost[0]}`: no training wrote it", hint="start anew elsewhere"
        )
    plans = made.spec.get("plans") or [{}]
    return _told(out, str(plans[-1].get("method", "")), made.metrics)


_TOLD = ("accuracy", "split", "trainable_params", "trainable_percent", "head_params", "seconds", "epoch")


def _told(folder: Path, method: str, metrics: Mapping[str, Any]) -> Trained:
    told = {name: metrics[name] for name in _TOLD}
    return Trained(bundle=str(folder), method=method, bundle_bytes=bundle_bytes(folder), **told)


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
