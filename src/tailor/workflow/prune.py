"""One pruning: open, decide, build what is left, compare it with what it was, retrain, write."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tailor import bundle
from tailor.build import Opened
from tailor.bundle.evidence import Asked, ModelCost
from tailor.bundle.plan_file import PLAN
from tailor.data.images import ImageData
from tailor.deploy.runtimes import Runtime, ready
from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.measure.speed import Comparison, no_gain, throughput
from tailor.pruning.target import NothingToGo
from tailor.spec import Spec
from tailor.tasks import task_for, task_of, task_of_kind
from tailor.training import Recipe, processes_here, retraining
from tailor.workflow import evidence, planners
from tailor.workflow.context import Context, CutStep, Decision, Run
from tailor.workflow.data import Corrupt, divided, open_checked, reported, score
from tailor.workflow.decision import Decided, forget, note, noted
from tailor.workflow.names import is_bundle
from tailor.workflow.opened import deployed, headed, merged, open_bundle, own_head, thawed, with_head
from tailor.workflow.records import Pruned, Retrain, Trains, pruned
from tailor.workflow.report import leave_page
from tailor.workflow.smaller import counted, extended, smaller
from tailor.workflow.teacher import guide
from tailor.workflow.train import bundle_bytes, provenance, train_, write_bundle

SECONDS = 10.0
"""Within which the dense and the pruned model are timed in turns."""


@dataclass(frozen=True)
class PruneRequest:
    """One pruning, complete: of what, by which planner, and what trains afterwards. The seed is the recipe's.

    `spent` are seconds of the run's time that went before; `said` is the command, where it was another verb's.
    """

    name: str
    folder: Path
    planner: Any
    data: str | None
    task: str | None
    classifier: str
    retrain: Retrain
    train: Trains
    recipe: Recipe
    weights: str | None
    download: bool
    image_size: int | None
    teacher: str | None
    corrupt: Corrupt
    workers: int
    resume: bool
    tell: Tell
    step: CutStep
    spent: float = 0.0
    said: Asked | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the outcome, as plain values: it stands in the plan file, and a resumed run must ask the same.

        What training is told besides stands in its checkpoints.
        """
        return {
            "name": self.name.rstrip("/"),
            "data": self.data and self.data.rstrip("/"),
            **planners.asked(self.planner),
            "classifier": self.classifier,
            "seed": self.recipe.seed,
            "retrain": self.retrain,
            "train": self.train,
            "teacher": self.teacher and self.teacher.rstrip("/"),
            "weights": self.weights,
            "image_size": self.image_size,
        }


def once(request: PruneRequest, against: Opened | None = None, asked: Mapping[str, Any] | None = None) -> Pruned:
    """One pruning: decide, cut, compare with what it was (or with `against`), retrain, write."""
    started = time.monotonic()
    folder = request.folder
    if request.resume and (folder / bundle.MANIFEST).is_file():
        return finished(folder)
    images, opened = open_(request)
    learnt = guide(request.teacher, opened.spec.head) if request.retrain != "none" else None
    dense = ready_to_cut(opened, request)
    decided = _decided(dense, images, request, against, asked or request.asked, started)
    left = counted(smaller(dense, decided.spec, decided.decision, fresh=request.retrain == "tfs"))
    found = decided.found
    facts = {name: value for name, value in found.known().items() if name not in ("bundle", "bundle_bytes", "diagram")}
    passed_over = not decided.decision.plans and request.step.number < request.step.of
    if request.retrain == "none" or images is None or passed_over:
        if processes_here().is_main_process:
            metrics = facts if math.isnan(found.score_after) else {**facts, found.metric: found.score_after}
            evidence.cut(folder, left, found, 0 if images is None else len(reported(images)[1]))
            write_bundle(folder, left, metrics, provenance(request.data or "", request.recipe, trained=False))
        processes_here().wait_for_everyone()
    else:
        recipe = retraining(request.recipe, request.retrain)
        run = Run(images, str(request.data), recipe, folder, request.tell, learnt, request.workers, request.resume)
        found = replace(found, score_after=train_(left, run, facts).score)
    found = replace(found, bundle_bytes=bundle_bytes(folder), seconds=round(time.monotonic() - started, 2))
    if processes_here().is_main_process:
        forget(folder)
        leave_page(folder, found.seconds + request.spent)
    return found


def _said(asked: Mapping[str, Any], recipe: Recipe) -> Asked:
    """The command that asks the same; `recipe` is the retraining's."""
    given = {name: value for name, value in asked.items() if name != "name"}
    usual = planners.asked(planners.named("prune", str(asked["method"]), {}))
    train = "full" if given.get("adapters") == "merge" else "tunes"
    usual |= {"method": "sls", "classifier": "fresh", "retrain": "none", "train": train, "seed": 0}
    return evidence.asked("prune", [str(asked["name"])], given, usual, recipe)


def _decided(
    dense: Opened,
    images: ImageData | None,
    request: PruneRequest,
    against: Opened | None,
    asked: Mapping[str, Any],
    began: float,
) -> Decided:
    """What is cut, decided now or by the run that is resumed, and what came of it before any retraining.

    Every process takes what the main one wrote: a device may add up scores in another order and choose otherwise.
    """
    folder, state = request.folder, processes_here()
    begun = request.resume and (folder / PLAN).is_file()  # looked up before any process may write it
    if not begun:
        decision = _choose(dense, images, request)
        spec = extended(dense, decision.plans)
        found = _compare(dense, spec, decision, images, request, against)
        if state.is_main_process:
            blocks = [block.path for block in dense.anatomy.blocks]
            evidence.begun(folder, request.said or _said(asked, request.recipe), Path(request.name))
            evidence.taken(folder, blocks, decision.plans, request.step.whole)
            evidence.raced(folder, decision.candidates)
            seconds = round(time.monotonic() - began, 2)
            note(folder, Decided(spec, decision, replace(found, seconds=seconds)), asked)
        state.wait_for_everyone()
    return noted(folder)


def ready_to_cut(opened: Opened, request: PruneRequest) -> Opened:
    """The model with what is to train afterwards, its tunes folded in where they are not to stay."""
    if request.planner.adapters == "merge":
        return merged(opened, request.train)
    opened = headed(opened)
    return thawed(opened) if request.train == "full" else opened


def _choose(dense: Opened, images: ImageData | None, request: PruneRequest) -> Decision:
    """What the planner decides; nothing where a step finds nothing to take and may."""
    context = Context(
        dense,
        request.recipe,
        request.folder,
        request.tell,
        images,
        workers=request.workers,
        resume=request.resume,
        step=request.step,
        teacher=guide(request.teacher, dense.spec.head) if getattr(request.planner, "learns", False) else None,
        spent=request.spent,
    )
    if "classes" in request.planner.needs and not context.task.groups and not hasattr(context.task, "regions"):
        raise UsageError(
            f"this method compares classes, and {context.task.kind} has none",
            hint="use `--method isomorphic --macs 50%`",
        )
    try:
        return request.planner.plan(context)  # type: ignore[no-any-return]
    except NothingToGo as nothing:
        if not request.step.may_be_empty:
            raise
        request.tell(Event("widths", text=nothing.message))
        return Decision((), nothing.message)


def open_(request: PruneRequest) -> tuple[ImageData | None, Opened]:
    """The images, divided, with the bundle's classes, and the model."""
    name, data, seed, tell = request.name, request.data, request.recipe.seed, request.tell
    if is_bundle(name) or Path(name).is_dir():
        opened = open_bundle(name, request.weights, request.download)
        if not data:
            return None, opened
        task = task_of(opened.spec.head)
        images = open_checked(
            data,
            seed=seed,
            corrupt=request.corrupt,
            tell=tell,
            kind=task.targets,
            classes=opened.spec.head.classes or None,
        )
        return divided(images, seed, tell), opened
    if not data:
        return None, own_head(name, request.weights or "pretrained", request.image_size, seed)
    kind = task_for("", request.task).targets if request.task else None
    images = divided(open_checked(data, seed=seed, corrupt=request.corrupt, tell=tell, kind=kind), seed, tell)
    task = task_for(images.kind, request.task)
    own = request.classifier == "own"
    weights = request.weights or "pretrained"
    return images, with_head(name, weights, request.image_size, images, task, request.recipe, own)


def _compare(
    start: Opened,
    spec: Spec,
    decision: Decision,
    images: ImageData | None,
    request: PruneRequest,
    against: Opened | None,
) -> Pruned:
    """Dense and cut model side by side, before any retraining: counts, score, and speed in turns."""
    tell, metric = request.tell, task_of(spec.head).metric
    cut = smaller(start, spec, decision)
    dense = against or start
    pre, inputs = dense.spec.preprocessing, dense.spec.inputs
    split, before, bare, after, repair = "", math.nan, math.nan, math.nan, decision.recovered
    if images is not None and _was_trained(dense, request):
        split, chosen = reported(images)
        before = score(dense.model, spec.head, chosen, pre, tell, f"scoring the dense model on {split}")[metric]
        after = score(cut.model, spec.head, chosen, pre, tell, f"scoring the pruned model on {split}")[metric]
        bare = after
        if repair:
            plain = smaller(start, spec, replace(decision, tensors=None)).model
            bare = score(plain, spec.head, chosen, pre, tell, f"scoring the cut alone on {split}")[metric]
    models = {"dense": deployed(dense), "pruned": deployed(cut)}
    seconds, batch = getattr(request.planner, "seconds", SECONDS), getattr(request.planner, "batch", None)
    macs = {name: count.macs(model, inputs) for name, model in models.items()}
    params = {name: count.parameters(model) for name, model in models.items()}
    same = macs["dense"] == macs["pruned"] and params["dense"] == params["pruned"]
    runtime = decision.runtime
    models = models if same else {name: ready(model, inputs, runtime) for name, model in models.items()}
    timed = None if same else _timed(models, inputs, batch, seconds, runtime, tell)
    ratio = timed.ratios["pruned"].median if timed is not None else 1.0
    waited = dict.fromkeys(models, math.nan)
    if batch or getattr(request.planner, "latency", None):
        alone = throughput(models, inputs, batch=1, seconds=seconds).timings
        waited = {name: one.median for name, one in alone.items()}
    blocks = len(dense.anatomy.blocks)
    dropped = sum(len(getattr(plan, "dropped", ())) for plan in decision.plans)
    if timed is not None and processes_here().is_main_process:
        costs = {name: ModelCost(macs[name], params[name]) for name in models}
        evidence.compared(request.folder, costs, timed, waited, str(runtime))
    return Pruned(
        bundle=str(request.folder),
        method=request.planner.method,
        kept_blocks=len(start.anatomy.blocks) - dropped,
        blocks=blocks,
        macs_before=macs["dense"],
        macs_after=macs["pruned"],
        params_before=params["dense"],
        params_after=params["pruned"],
        score_before=before,
        score_cut=bare,
        score_after=after,
        split=split,
        retrain=request.retrain,
        throughput_ratio=round(ratio, 3),
        throughput_seconds=round(timed.seconds, 1) if timed is not None else 0.0,
        seconds=0.0,
        metric=metric,
        reason=decision.why,
        warning="nothing was dropped: it is the same model" if same else no_gain(macs["dense"], macs["pruned"], ratio),
        adapters=request.planner.adapters,
        train=request.train,
        steps=request.step.number,
        latency_ms_before=waited["dense"],
        latency_ms_after=waited["pruned"],
        repair=repair.how if repair else "",
        repair_seconds=repair.seconds if repair else math.nan,
        score_repaired=after if repair else math.nan,
        diagram=decision.diagram,
        runtime=str(runtime),
    )


def _timed(
    models: dict[str, nn.Module], inputs: Inputs, batch: int | None, seconds: float, runtime: Runtime, tell: Tell
) -> Comparison:
    """The dense and the pruned model, in turns."""
    tell(Event("measuring", text=f"dense and pruned in turns, within {seconds:g} s: {runtime}"))
    return throughput(models, inputs, batch=batch, seconds=seconds)


def _was_trained(dense: Opened, request: PruneRequest) -> bool:
    """Whether a score says anything: not of a fresh head that nothing has trained."""
    return is_bundle(request.name) or request.classifier == "own" or not dense.anatomy.heads


def finished(folder: Path) -> Pruned:
    """What a finished run says again when it is resumed."""
    made = bundle.read_manifest(folder)
    metric = task_of_kind(str(made.spec.get("head", {}).get("kind"))).metric
    after = made.metrics.get(metric, made.metrics.get("score_after"))
    return pruned({**made.metrics, "score_after": after, "bundle_bytes": bundle_bytes(folder)}, folder)
