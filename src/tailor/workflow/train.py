"""Training an opened model and writing its bundle: what `adapt`, `fit` and the retraining of a pruner share."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import tailor
from tailor import backbones, bundle
from tailor.build import Opened
from tailor.bundle.evidence import read_evidence
from tailor.bundle.files import write_text
from tailor.data.transforms import VIEWS
from tailor.dense import DECODERS
from tailor.errors import BundleError
from tailor.run_folder import MANIFEST
from tailor.spec import Spec
from tailor.strangers import read_json
from tailor.surgery import hold_, trainable
from tailor.tasks import task_of, task_of_kind
from tailor.training import Recipe, Result, Teacher, decayed, processes_here, remembered, slowed
from tailor.tuning.beside import names_of
from tailor.workflow import evidence
from tailor.workflow.batches import course, leading, unmixed
from tailor.workflow.batches import train_ as engine_
from tailor.workflow.budgets import head_parameters
from tailor.workflow.context import Run
from tailor.workflow.data import in_order, reported, score, tell_left_out
from tailor.workflow.names import is_bundle
from tailor.workflow.place import started
from tailor.workflow.records import Trained
from tailor.workflow.teacher import Guide

CONFIG = "config.yaml"
"""Every setting of a training, resolved."""
REMEMBERED = 100_000
"""Images of a split for which a teacher's answers are kept in memory."""

_NOTHING: Mapping[str, Any] = {}


def usual_of(name: str) -> Mapping[str, Any]:
    """What the decoder of a bundle is trained with where nothing else is asked for; nothing where there is none."""
    head = bundle.read_manifest(Path(name)).spec.get("head", {}) if is_bundle(name) else {}
    return getattr(DECODERS.get(str((head.get("decoder") or {}).get("kind"))), "recipe", _NOTHING)


def train_(opened: Opened, run: Run, known: Mapping[str, Any] | None = None) -> Trained:
    """Train what trains, choose the epoch on val, score on test (else val), write the bundle.

    `known` metrics, those of a pruner, stand in the bundle beside the measured ones.
    """
    model, spec, main = opened.model, opened.spec, processes_here().is_main_process
    task = task_of(spec.head)
    if main:
        write_text(run.folder / CONFIG, yaml.safe_dump(_config(spec, run.recipe, run.source), sort_keys=False))
    if run.recipe.frozen == "bf16":
        hold_(model, torch.bfloat16)
    result = fit_(opened, run)
    name, split = reported(run.images)
    figures = score(model, spec.head, split, spec.preprocessing, run.tell, f"scoring {name}")
    tell_left_out(run.images, run.tell)
    head = head_parameters(model, opened.anatomy.heads)
    inside = sum(p.numel() for p in trainable(model).values()) - head
    metrics = {
        **(known or {}),
        **leading(task, figures),
        "split": name,
        "n": figures["n"],
        f"val_{task.metric}": float(result.metrics.get(task.metric, float("nan"))),
        "epoch": result.chosen,
        "trainable_params": inside,
        "head_params": head,
        "trainable_percent": 100 * inside / opened.whole,
        "seconds": round(result.seconds, 1),
    }
    if main:
        _draw(result, task.metric, run)
        evidence.trained(run.folder, opened, task, result, figures, name, known or {})
        write_bundle(run.folder, opened, metrics, provenance(run.source, run.recipe))
    processes_here().wait_for_everyone()
    return _told(run.folder, spec.tuning[-1].method if spec.tuning else "", task.metric, metrics)


def write_bundle(folder: Path, opened: Opened, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
    """Write the opened model as a bundle: every tensor, or what differs from its backbone."""
    tensors, found = bundle.state(opened.model, opened.complete), read_evidence(folder)
    return bundle.write(
        folder, opened.spec, tensors, complete=opened.complete, metrics=metrics, provenance=facts, evidence=found
    )


def fit_(opened: Opened, run: Run) -> Result:
    """The training itself; without any adapted backbone there are no paths to drop."""
    model, recipe, spec = opened.model, run.recipe, opened.spec
    roots = tuple(f"{path}." for path in opened.anatomy.heads)
    adapted = any(not name.startswith(roots) for name in trainable(model))
    backbones.set_drop_path_(model, recipe.drop_path if adapted else 0.0)
    plan = course(model, _head(opened), spec, run)
    teacher = _taught(opened, run, run.teacher) if run.teacher else None
    settings = _config(spec, recipe, run.source)
    heard = started(run.trackers, run.folder, {**settings, **settings["recipe"]})
    own = _own_weights(plan.module, spec, roots) if adapted and recipe.backbone_lr != 1 else ()
    groups = slowed(decayed(plan.module), own, recipe.backbone_lr) if own else None
    task = task_of(spec.head)
    result = engine_(plan, run, task, heard=heard, validate=plan.validate, teacher=teacher, groups=groups)
    for tracker in heard:
        tracker.finish()
    backbones.set_drop_path_(model, 0.0)
    return result


def _head(opened: Opened) -> str:
    """The path of the classifier; nothing of a language model, which has none beside itself."""
    return next(iter(opened.anatomy.heads), "")


def _own_weights(model: nn.Module, spec: Spec, heads: tuple[str, ...]) -> list[nn.Parameter]:
    """What trains of the backbone as it came: neither the head nor what a tune put in."""
    names = names_of(spec.tuning)
    return [p for n, p in trainable(model).items() if not n.startswith(heads) and names.place(n).stock is not None]


def _taught(opened: Opened, run: Run, guide: Guide) -> Teacher:
    """The teacher of the model; it looks at images only once where they have one look in training, or two."""
    spec, recipe, features = opened.spec, run.recipe, run.recipe.distil.features > 0
    teacher, train = guide.towards(spec, _head(opened), features), run.images.splits["train"]
    images = spec.preprocessing.reads == "images"  # of a text there is an answer a token, for every word
    if images and recipe.augment in VIEWS and unmixed(recipe) and len(train) <= REMEMBERED:
        known = (spec.preprocessing, features, recipe.augment)
        if known not in guide.known:
            teacher.to(processes_here().device).eval()
            seen = in_order(train, spec.preprocessing, spec.head)
            guide.known[known] = remembered(teacher, seen, len(train), features, VIEWS[recipe.augment])
        teacher.memory = guide.known[known]
    return teacher


def _draw(result: Result, metric: str, run: Run) -> None:
    """The learning curve; of one epoch it is a point."""
    from tailor.evidence.history import history

    history(result.epochs, metric, result.chosen, run.folder / "history.png")


def bundle_bytes(folder: Path) -> int:
    """Bytes of the files that make the bundle (manifest, tensors, card), not of what a run leaves beside them."""
    return sum((folder / name).stat().st_size for name in ("bundle.json", "tensors.safetensors", "README.md"))


def provenance(source: str, recipe: Recipe, trained: bool = True) -> dict[str, Any]:
    """Where a bundle comes from: versions, data, seed; no path beyond the data's own name."""
    facts = {
        "tailor": tailor.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data": source,
        "seed": recipe.seed,
    }
    if not trained:
        return facts
    names = ("epochs", "lr", "batch_size")
    return {**facts, **{name: getattr(recipe, name) for name in names}, "selected_on": "val"}


def finished(out: Path, recipe: Recipe | None = None, given: Mapping[str, Any] | None = None) -> Trained:
    """What a finished run says again when it is resumed.

    BundleError where no training wrote it, or where it was trained with other settings than those now `given`.
    """
    made = bundle.read_manifest(out)
    metric = task_of_kind(str(made.spec.get("head", {}).get("kind"))).metric
    told = (metric, *_TOLD)
    lost = [name for name in told if name not in made.metrics]
    if lost:
        raise BundleError(
            f"`{out}` is a bundle that does not say its `{lost[0]}`: no training wrote it", hint="start anew elsewhere"
        )
    check_finished(out, made.provenance, given or {})
    plans = made.spec.get("plans") or [{}]
    return _told(out, str(plans[-1].get("method", "")), metric, made.metrics)


def check_finished(out: Path, was: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """BundleError where the finished run in `out` was made with another value of a setting that is given now."""
    for name, value in given.items():
        if value is not None and was.get(name, value) != value:
            raise BundleError(
                f"the run in `{out}` is finished, with {name} {was[name]}, not {value}",
                hint="write to another `-o` folder, or start anew with `--overwrite`",
            )


def check_palette(out: Path, recipe: Recipe) -> None:
    """BundleError where the finished palette in `out` was trained by another recipe."""
    was = read_json(out / MANIFEST).get("provenance", {})
    check_finished(out, was, {name: getattr(recipe, name) for name in ("epochs", "lr", "batch_size", "seed")})


_TOLD = ("split", "trainable_params", "trainable_percent", "head_params", "seconds", "epoch")


def _told(folder: Path, method: str, metric: str, metrics: Mapping[str, Any]) -> Trained:
    told = {name: metrics[name] for name in _TOLD}
    size = bundle_bytes(folder)
    return Trained(bundle=str(folder), method=method, score=metrics[metric], metric=metric, bundle_bytes=size, **told)


def _config(spec: Spec, recipe: Recipe, source: str) -> dict[str, Any]:
    settings = asdict(recipe)
    settings["betas"] = list(recipe.betas) if recipe.betas else None
    settings["milestones"] = list(recipe.milestones)
    return {
        "data": source,
        "model": spec.backbone.name,
        "weights": spec.backbone.weights,
        "method": spec.tuning[-1].method if spec.tuning else None,
        "recipe": settings,
    }
