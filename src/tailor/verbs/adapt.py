"""`tailor adapt DATA --model NAME`: plan what to tune, train it, write a bundle."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailor import build as builder
from tailor import bundle
from tailor.build import Base
from tailor.bundle.plan_file import PLAN, read_plan, write_plan
from tailor.data.images import ImageData
from tailor.errors import BundleError, UsageError
from tailor.events import Event, Report, silent
from tailor.spec import BackboneRef, ClassifierHead, Spec
from tailor.training import processes_here
from tailor.verbs import planning
from tailor.verbs.images import Corrupt, divided, open_checked, preprocessing_of
from tailor.verbs.task import Run, Task
from tailor.verbs.teach import guide
from tailor.verbs.train import Trained, already, one_backbone, ready, recipe_of, train


def adapt(
    data: str,
    *,
    model: str | None = None,
    method: str = "spt-lora",
    budget: str | None = None,
    out: str | Path = "runs/adapt",
    plan_only: bool = False,
    weights: str = "pretrained",
    image_size: int | None = None,
    task: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    teacher: str | None = None,
    scores: str | None = None,
    corrupt: Corrupt = "skip",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    spt: Mapping[str, Any] | None = None,
    noah: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> Trained | list[Trained]:
    """Fit a pre-trained backbone to a folder of images, with a budget of trainable parameters; write a bundle.

    Several methods (`method="spt-lora,lora,linear"`) give a list, and one bundle each in `out`/METHOD.
    The epoch is chosen on val; accuracy is that of test where there is one, else of val. With `plan_only` nothing is
    trained: the plan is written for `fit`.
    """
    reference = BackboneRef(one_backbone(model), weights, image_size=image_size, seed=seed)
    if task not in (None, "classification"):
        raise UsageError(f"task `{task}` is not supported: classification is", hint="leave `--task` out")
    methods = [part.strip() for part in method.split(",") if part.strip()]
    planning.check_names(methods)
    if scores and not any(one.startswith("spt") for one in methods):
        raise UsageError(f"`--scores {scores}` is for SPT, `{method}` scores nothing", hint="leave it out")
    settings = recipe_of(recipe, seed, epochs=epochs, lr=lr, batch_size=batch_size)
    images = divided(open_checked(data, seed=seed, corrupt=corrupt, report=report), seed, report)
    learnt = guide(teacher, images.classes)
    known: dict[Any, Any] = {}
    results = []
    for one in methods:
        folder = Path(out) / one if len(methods) > 1 else Path(out)
        asked = _asked(images, one, budget, seed)
        begun = _begun(folder, reference, images, asked) if resume and (folder / PLAN).is_file() else None
        if resume and (folder / bundle.MANIFEST).is_file():
            report(Event("done", text=f"`{folder}` is finished already"))
            results.append(already(folder, bundle.read_manifest(folder)))
            continue
        ready(folder, overwrite, resume)
        run = Run(images, data, settings, folder, report, learnt, workers, resume)
        if begun is None:
            made = builder.base(reference, ClassifierHead(images.classes, seed))
            pre = preprocessing_of(made.config, settings.interpolation)
            spec = _plan(Task(made, run, pre, spt or {}, noah or {}, scores, known), one, budget, asked)
        else:
            made, spec = builder.base(begun.backbone, begun.head), begun
        trained = _planned(made, spec, folder) if plan_only else train(made, spec, run)
        results.append(replace(trained, map=planning.text_map(spec, made)))
    return results if len(methods) > 1 else results[0]


def _asked(images: ImageData, method: str, budget: str | None, seed: int) -> dict[str, Any]:
    """What decides a plan, besides the backbone: it stands in the plan file, and a resumed run must ask the same."""
    return {"data": images.name, "method": method, "budget": budget or "", "seed": seed}


def _begun(folder: Path, reference: BackboneRef, images: ImageData, asked: Mapping[str, Any]) -> Spec:
    """The spec of an interrupted run; BundleError where something else was asked for when it was begun."""
    file = read_plan(folder)
    spec, hint = file.spec, "resume it with the command that began it, or start anew with `--overwrite`"
    head = ClassifierHead(images.classes, reference.seed)
    if replace(spec.backbone, digest="") != reference or spec.head != head:
        what = "other classes" if spec.head != head else f"`{spec.backbone.name}`, weights `{spec.backbone.weights}`"
        raise BundleError(f"the run in `{folder}` was begun with {what}, or another seed or image size", hint=hint)
    for key, value in asked.items():
        if file.settings.get(key, value) != value:
            raise BundleError(f"the run in `{folder}` was begun with {key} `{file.settings[key]}`", hint=hint)
    return spec


def _plan(task: Task, method: str, budget: str | None, asked: Mapping[str, Any]) -> Spec:
    """The spec with its plan, also written to the run's folder.

    Every process takes what the main one wrote: a device may add up scores in another order and choose otherwise.
    """
    plan = planning.choose(task, method, budget)
    head = ClassifierHead(task.run.images.classes, task.run.recipe.seed)
    spec = Spec(task.base.reference, head, task.preprocessing, (plan,))
    state = processes_here()
    if state.is_main_process:
        write_plan(task.run.folder, spec, asked)
    state.wait_for_everyone()
    return spec if state.is_main_process else read_plan(task.run.folder).spec


def _planned(made: Base, spec: Spec, folder: Path) -> Trained:
    whole = planning.backbone_parameters(made)
    plan = spec.tuning[-1]
    return Trained(
        bundle=str(folder),
        method=plan.method,
        accuracy=float("nan"),
        split="",
        trainable_params=plan.cost,
        trainable_percent=100 * plan.cost / whole,
        head_params=0,
        bundle_bytes=0,
        seconds=0.0,
        epoch=0,
        plan=str(folder / PLAN),
    )
