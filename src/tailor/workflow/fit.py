"""Training a plan that was written before, and perhaps edited since."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailor import build as builder
from tailor import bundle
from tailor.bundle.plan_file import read_plan
from tailor.events import Tell
from tailor.plans import retuned
from tailor.recipe import recipe_of
from tailor.tasks import task_of, usual_recipe
from tailor.training import processes_here
from tailor.tuning.apply import cost
from tailor.workflow import evidence, planners
from tailor.workflow.context import Run
from tailor.workflow.data import Corrupt, divided, open_checked
from tailor.workflow.records import Trained
from tailor.workflow.report import leave_page
from tailor.workflow.start import begun_
from tailor.workflow.teacher import guide
from tailor.workflow.train import train_


@dataclass(frozen=True)
class FitRequest:
    """What `fit` was asked for."""

    plan: Path
    data: str
    folder: Path
    weights: str | None
    seed: int | None
    recipe: Mapping[str, Any]
    given: Mapping[str, Any]
    teacher: str | None
    corrupt: Corrupt
    workers: int
    resume: bool
    trackers: tuple[str, ...]
    tell: Tell


def fit(request: FitRequest) -> Trained:
    """Train the plan; its cost is counted again, since a person may have edited it."""
    file = read_plan(request.plan)
    spec, tell = file.spec, request.tell
    seed = int(file.settings.get("seed") or 0) if request.seed is None else request.seed
    if request.weights is not None:
        spec = replace(spec, backbone=replace(spec.backbone, weights=request.weights))
    recipe = recipe_of(request.recipe, seed, usual_recipe(spec.head), **request.given)
    images = open_checked(
        request.data,
        seed=seed,
        corrupt=request.corrupt,
        tell=tell,
        kind=task_of(spec.head).targets,
        classes=spec.head.classes or None,
    )
    images = divided(images, seed, tell)
    opened = bundle.base(spec.backbone, spec.head)
    plans = retuned(spec.plans, lambda plan: replace(plan, cost=cost(opened.model, plan, opened.anatomy.heads)))
    spec = replace(spec, plans=plans)
    planner = planners.PLANNERS["adapt"].get(str(file.settings.get("method")))
    diagram = planner.explain(spec.tuning[-1], opened) if planner and spec.tuning else ()
    learnt = guide(request.teacher, spec.head)
    run = Run(
        images,
        request.data,
        recipe,
        request.folder,
        tell,
        learnt,
        request.workers,
        request.resume,
        request.trackers,
    )
    made = begun_(replace(builder.apply_plans_(opened, spec.plans[len(opened.spec.plans) :]), spec=spec), run)
    main = processes_here().is_main_process
    if main:
        given = {"data": request.data, "weights": request.weights, "teacher": request.teacher}
        evidence.begun(request.folder, evidence.asked("fit", [str(request.plan)], given, {}, recipe))
    found = replace(train_(made, run), diagram=diagram)
    if main:
        leave_page(request.folder)
    return found
