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
from tailor.errors import UsageError
from tailor.preprocessing import Preprocessing
from tailor.spec import BackboneRef, ClassifierHead, Spec
from tailor.training import Recipe, processes_here
from tailor.verbs import planning
from tailor.verbs.events import Event, Report, silent
from tailor.verbs.images import Corrupt, divided, open_checked
from tailor.verbs.train import Trained, already, one_backbone, recipe_of, train


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
    report: Report = silent,
) -> Trained | list[Trained]:
    """Fit a pre-trained backbone to a folder of images, with a budget of trainable parameters; write a bundle.

    Several methods (`method="spt-lora,lora,linear"`) give a list, and one bundle each in `out`/METHOD.
    The epoch is chosen on val; accuracy is that of test where there is one, else of val. With `plan_only` nothing is
    trained: the plan is written for `fit`.
    """
    name = one_backbone(model)
    if task not in (None, "classification"):
        raise UsageError(f"task `{task}` is not supported: classification is", hint="leave `--task` out")
    methods = [part.strip() for part in method.split(",") if part.strip()]
    settings = recipe_of(recipe, seed, epochs=epochs, lr=lr, batch_size=batch_size)
    planning.check_names(methods)
    results = []
    known: dict[Any, Any] = {}
    reference = BackboneRef(name, weights, image_size=image_size, seed=seed)
    images = divided(open_checked(data, seed=seed, corrupt=corrupt, report=report), seed, report)
    for one in methods:
        folder = Path(out) / one if len(methods) > 1 else Path(out)
        if resume and (folder / bundle.MANIFEST).is_file():
            report(Event("done", text=f"`{folder}` is finished already"))
            results.append(already(folder, bundle.read_manifest(folder)))
            continue
        _ready(folder, overwrite, resume)
        head = ClassifierHead(images.classes, seed)
        made = builder.base(reference, head)
        if resume and (folder / PLAN).is_file():
            spec = read_plan(folder).spec
        else:
            preprocessing = _preprocessing(made, settings)
            work = planning.Task(made, images, preprocessing, folder, seed, report, scores, known)
            spec = _plan(work, head, one, budget)
        if plan_only:
            results.append(_planned(made, spec, folder))
            continue
        results.append(_train(made, spec, images, settings, folder, resume, report, teacher, data, workers))
    return results if len(methods) > 1 else results[0]


def _ready(folder: Path, overwrite: bool, resume: bool) -> None:
    """Make the output folder, on the main process only; the others wait for it."""
    state = processes_here()
    if state.is_main_process:
        bundle.prepare(folder, overwrite, resume)
    state.wait_for_everyone()


def _preprocessing(made: Base, settings: Recipe) -> Preprocessing:
    return Preprocessing(
        size=made.config.input_size[1:],
        mean=made.config.mean,  # type: ignore[arg-type]  # three channels, checked by pydantic
        std=made.config.std,  # type: ignore[arg-type]
        interpolation=settings.interpolation,
    )


def _plan(task: planning.Task, head: ClassifierHead, method: str, budget: str | None) -> Spec:
    """The spec with its plan, also written to the task's folder."""
    plan = planning.choose(task, method, budget)
    spec = Spec(task.base.reference, head, task.preprocessing, (plan,))
    if processes_here().is_main_process:
        settings = {"data": task.images.name, "method": method, "budget": budget or "", "seed": task.seed}
        write_plan(task.folder, spec, settings)
    return spec


def _planned(made: Base, spec: Spec, folder: Path) -> Trained:
    whole = planning.backbone_parameters(made)
    cost = spec.plans[-1].cost
    return Trained(
        bundle=str(folder),
        method=spec.plans[-1].method,
        accuracy=float("nan"),
        split="",
        trainable_params=cost,
        trainable_percent=100 * cost / whole,
        head_params=0,
        bundle_bytes=0,
        seconds=0.0,
        epoch=0,
        plan=str(folder / PLAN),
        map=planning.text_map(spec, made),
    )


def _train(
    made: Base,
    spec: Spec,
    images: ImageData,
    settings: Recipe,
    folder: Path,
    resume: bool,
    report: Report,
    teacher: str | None,
    source: str,
    workers: int,
) -> Trained:
    guide = bundle.load(teacher) if teacher else None
    text = planning.text_map(spec, made)
    trained = train(
        made,
        spec,
        images,
        settings,
        folder,
        resume=resume,
        report=report,
        teacher=guide,
        source=source,
        workers=workers,
    )
    return replace(trained, map=text)
