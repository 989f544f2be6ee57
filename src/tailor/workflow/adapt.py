"""Adapting: one planned and trained bundle for each method that was asked for."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tailor import build as builder
from tailor import bundle
from tailor.build import Opened
from tailor.bundle.evidence import Asked
from tailor.bundle.plan_file import PLAN, read_plan, write_plan
from tailor.data.images import ImageData
from tailor.errors import BundleError, UsageError
from tailor.events import Event, Tell
from tailor.recipe import recipe_of
from tailor.spec import BUNDLE, Spec
from tailor.tasks import Task, task_for, usual_recipe, with_decoder
from tailor.training import Recipe, processes_here
from tailor.workflow import evidence, planners
from tailor.workflow.budgets import backbone_parameters
from tailor.workflow.context import Context, Run
from tailor.workflow.data import Corrupt, divided, open_checked
from tailor.workflow.decision import ADAPTED, BEGAN
from tailor.workflow.destination import Destination
from tailor.workflow.foretell import seconds_an_epoch
from tailor.workflow.names import is_bundle
from tailor.workflow.opened import headed, open_bundle, with_head
from tailor.workflow.output import output
from tailor.workflow.records import Trained, with_freezing
from tailor.workflow.report import leave_page
from tailor.workflow.start import begun_
from tailor.workflow.teacher import guide
from tailor.workflow.train import CONFIG, finished, train_


@dataclass(frozen=True)
class AdaptRequest:
    """What `adapt` was asked for: which planners (by the method's name), of what, on what, and how to train.

    `places` are the destinations by decoder (the task's own under no name) and method. Where `seconds` are given and no
    epochs were asked for, there are as many as fit.
    """

    planners: Mapping[str, Any]
    data: str
    task: str | None
    decoders: tuple[str, ...]
    settings: Mapping[str, Any]
    model: str
    weights: str
    image_size: int | None
    init: str | None
    recipe: Recipe
    further: Mapping[str, Any]
    given: Mapping[str, Any]
    places: Mapping[tuple[str, str], Destination]
    plan_only: bool
    teacher: str | None
    corrupt: Corrupt
    workers: int
    resume: bool
    trackers: tuple[str, ...]
    tell: Tell
    seconds: float | None = None

    def tasks(self, kind: str) -> dict[str, Task]:
        """The task with each decoder that was asked for; with its own, under no name, where none was."""
        plain = task_for(kind, self.task)
        if not self.decoders and not self.settings:
            return {"": plain}
        return {name: with_decoder(plain, name, self.settings) for name in self.decoders or ("",)}

    def trained(self, task: Task) -> Recipe:
        """The recipe for a task: what is usual for its decoder, then what was asked for."""
        return recipe_of(self.further, self.recipe.seed, usual_recipe(task), **self.given)

    def asked(self, images: ImageData, method: str) -> dict[str, Any]:
        """What decides a plan, besides the backbone: it stands in the plan file; a resumed run must ask the same."""
        planner = {k: v for k, v in planners.asked(self.planners[method]).items() if k != "scores"}
        return {**planner, "data": images.name, "method": method, "seed": self.recipe.seed}

    def said(self, method: str, decoder: str) -> Asked:
        """The command that makes this one bundle."""
        own = {} if self.init else planners.given("adapt", method, self.planners[method])
        words = {"model": None if self.init else self.model, "method": None if self.init else method, "init": self.init}
        more = {name: getattr(self, name) for name in ("task", "weights", "image_size", "teacher")}
        given = {**words, **own, **more, "decoder": decoder, "decoders": dict(self.settings)}
        return evidence.asked("adapt", [self.data], given, {"weights": "pretrained"}, self.recipe)


def adapt(request: AdaptRequest) -> list[Trained]:
    """The bundles, one for each of `places`."""
    seed, tell = request.recipe.seed, request.tell
    with ExitStack() as stack:
        places = {key: stack.enter_context(output(wanted, tell)) for key, wanted in request.places.items()}
        kind = task_for("", request.task).targets if request.task else None
        checked = open_checked(request.data, seed=seed, corrupt=request.corrupt, tell=tell, kind=kind)
        images = divided(checked, seed, tell)
        tasks = request.tasks(images.kind)
        learnt = guide(request.teacher, next(iter(tasks.values())).head(images, seed))
        known: dict[str, dict[Any, Any]] = {decoder: {} for decoder in tasks}
        results = []
        for (decoder, method), place in places.items():
            run = Run(
                images,
                request.data,
                request.trained(tasks[decoder]),
                place.folder,
                tell,
                learnt,
                request.workers,
                request.resume,
                request.trackers,
            )
            asked = request.said(method, decoder)
            made = _one(request, method, run, tasks[decoder], known[decoder], asked)
            if processes_here().is_main_process and not request.plan_only:
                leave_page(place.folder)
            results.append(replace(place.settled(made), decoder=decoder))
    return with_freezing(results)


def _one(request: AdaptRequest, method: str, run: Run, task: Task, known: dict[Any, Any], said: Asked) -> Trained:
    """One method: go on where an earlier run stopped, else plan; then train, or stop at the plan."""
    folder, planner = run.folder, request.planners[method]
    asked = request.asked(run.images, method)
    begun = None
    if run.resume and (folder / ADAPTED).exists():
        raise BundleError(f"the run in `{folder}` was begun with a target, such as `--speed`", hint=BEGAN)
    if run.resume and (folder / PLAN).is_file():
        begun = _begun(folder, request, run, task, asked)
    if run.resume and (folder / bundle.MANIFEST).is_file():
        made = finished(folder, given=request.given)
        run.tell(Event("done", text=f"`{folder}` is finished already"))
        return made
    if request.init is not None:
        return _train(_going_on(request.init, run, task), run, said)
    if begun is None:
        opened = with_head(request.model, request.weights, request.image_size, run.images, task, run.recipe)
        context = Context(
            opened, run.recipe, folder, run.tell, run.images, run.workers, run.resume, teacher=run.teacher, known=known
        )
        spec = _plan(context, planner, asked)
    else:
        opened, spec = bundle.base(begun.backbone, begun.head), begun
    diagram = planner.explain(spec.tuning[-1], opened)
    if request.plan_only:
        return replace(_planned(opened, spec, folder, task), diagram=diagram)
    added = spec.plans[len(opened.spec.plans) :]
    opened = begun_(replace(builder.apply_plans_(opened, added), spec=spec), run)
    if request.seconds is not None and request.given.get("epochs") is None:
        run = replace(run, recipe=replace(run.recipe, epochs=_fitting(opened, run, request.seconds)))
    return replace(_train(opened, run, said), diagram=diagram)


def _train(opened: Opened, run: Run, said: Asked) -> Trained:
    """Train; what was asked is noted only now, since what is refused leaves nothing."""
    if processes_here().is_main_process:
        evidence.begun(run.folder, said)
    return train_(opened, run)


def _fitting(opened: Opened, run: Run, seconds: float) -> int:
    """How many epochs fit in the time; of a run that goes on, those it was begun with."""
    begun = run.folder / CONFIG
    if run.resume and begun.is_file():
        return int(yaml.safe_load(begun.read_text(encoding="utf-8"))["recipe"]["epochs"])
    found = max(1, int(seconds / seconds_an_epoch(opened, run.images, run.recipe)))
    run.tell(Event("training", text=f"{found} epochs fit in {seconds:.0f} s"))
    return min(found, run.recipe.epochs)


def _going_on(path: str, run: Run, task: Task) -> Opened:
    """The bundle's model, with what trained in it; UsageError where it is for other classes or another task."""
    opened = headed(open_bundle(path))
    head = task.head(run.images, run.recipe.seed)
    if (opened.spec.head.kind, opened.spec.head.classes) != (head.kind, head.classes):
        raise UsageError(
            f"`{path}` tells {len(opened.spec.head.classes)} classes apart that are not the data's {len(head.classes)}",
            hint=f"start from it as a backbone: `--model {path}`",
        )
    return replace(opened, whole=backbone_parameters(opened))


def _begun(folder: Path, request: AdaptRequest, run: Run, task: Task, asked: Mapping[str, Any]) -> Spec:
    """The spec of an interrupted run; BundleError where something else was asked for when it was begun."""
    file = read_plan(folder)
    spec, hint = file.spec, BEGAN
    backbone, head = spec.backbone, task.head(run.images, request.recipe.seed)
    source = BUNDLE + request.model if is_bundle(request.model) else request.weights
    same = source == backbone.weights and (is_bundle(request.model) or request.model == backbone.name)
    if (
        not same
        or request.image_size != backbone.image_size
        or backbone.seed != request.recipe.seed
        or spec.head != head
    ):
        what = "other classes" if spec.head != head else f"`{backbone.name}`, weights `{backbone.weights}`"
        raise BundleError(f"the run in `{folder}` was begun with {what}, or another seed or image size", hint=hint)
    for key, value in json.loads(json.dumps(asked)).items():
        if (was := file.settings.get(key, value)) != value:
            raise BundleError(f"the run in `{folder}` was begun with {key} `{was}`", hint=hint)
    return spec


def _plan(context: Context, planner: Any, asked: Mapping[str, Any]) -> Spec:
    """The spec with its plan, also written to the run's folder.

    Every process takes what the main one wrote: a device may add up scores in another order and choose otherwise.
    """
    decision = planner.plan(context)
    spec = replace(context.opened.spec, plans=(*context.opened.spec.plans, *decision.plans))
    state = processes_here()
    if state.is_main_process:
        write_plan(context.folder, spec, asked)
    state.wait_for_everyone()
    return spec if state.is_main_process else read_plan(context.folder).spec


def _planned(opened: Opened, spec: Spec, folder: Path, task: Task) -> Trained:
    whole = backbone_parameters(opened)
    plan = spec.tuning[-1]
    return Trained(
        bundle=str(folder),
        method=plan.method,
        score=float("nan"),
        split="",
        trainable_params=plan.cost,
        trainable_percent=100 * plan.cost / whole,
        head_params=0,
        bundle_bytes=0,
        seconds=0.0,
        epoch=0,
        metric=task.metric,
        plan=str(folder / PLAN),
    )
