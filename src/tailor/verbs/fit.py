"""`tailor fit runs/plan --data DATA`: train what a plan, read and perhaps edited, says."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailor import build as builder
from tailor import bundle
from tailor.bundle.plan_file import read_plan
from tailor.errors import UsageError
from tailor.events import Event, Report, silent
from tailor.spec import Spec
from tailor.training import processes_here
from tailor.tuning.apply import cost
from tailor.tuning.plan import TunePlan
from tailor.verbs import planning
from tailor.verbs.images import Corrupt, divided, open_checked
from tailor.verbs.task import Run
from tailor.verbs.teach import guide
from tailor.verbs.train import Trained, already, recipe_of, train


def fit(
    plan: str | Path,
    *,
    data: str | None = None,
    out: str | Path = "runs/fit",
    weights: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    teacher: str | None = None,
    corrupt: Corrupt = "skip",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    seed: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> Trained:
    """Train the plan in the folder `plan` on `data` and write a bundle, as `adapt` does after planning.

    `seed` is by default the one the plan was made with, so that validation is divided off as it was then. A bundle that
    stands beside the plan is replaced only with `overwrite`.
    """
    if not data:
        raise UsageError("no data was named", hint="add `--data DATA`, for instance a folder of class folders")
    folder = Path(out)
    if resume and (folder / bundle.MANIFEST).is_file():
        report(Event("done", text=f"`{folder}` is finished already"))
        return already(folder, bundle.read_manifest(folder))
    file = read_plan(Path(plan))
    spec, seed = file.spec, int(file.settings.get("seed") or 0) if seed is None else seed
    if weights is not None:
        spec = replace(spec, backbone=replace(spec.backbone, weights=weights))
    settings = recipe_of(recipe, seed, epochs=epochs, lr=lr, batch_size=batch_size)
    images = open_checked(data, seed=seed, corrupt=corrupt, report=report, classes=spec.head.classes)
    images = divided(images, seed, report)
    state = processes_here()
    if state.is_main_process:
        home = Path(plan) if Path(plan).is_dir() else Path(plan).parent
        bundle.prepare(folder, overwrite, resume, planned=folder.resolve() == home.resolve())
    state.wait_for_everyone()
    made = builder.base(spec.backbone, spec.head)
    spec = _recounted(spec, made)
    text = planning.text_map(spec, made)
    learnt = guide(teacher, images.classes)
    trained = train(made, spec, Run(images, data, settings, folder, report, learnt, workers, resume))
    return replace(trained, map=text)


def _recounted(spec: Spec, made: builder.Base) -> Spec:
    """The spec with the cost of its plan counted again: a person may have edited it."""
    plans = tuple(
        replace(p, cost=cost(made.model, p, made.anatomy.heads)) if isinstance(p, TunePlan) else p for p in spec.plans
    )
    return replace(spec, plans=plans)
