"""A nested palette from data and one backbone: tune it, rank its units once, train all sizes at once, write it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tailor.budget import Amount
from tailor.build import Opened
from tailor.bundle.evidence import Asked
from tailor.bundle.files import dumps, sha256, write_text
from tailor.bundle.palette import BASE, BASE_JSON, BaseRef, RouteRecord, write_base, write_palette
from tailor.bundle.verify import validated
from tailor.data.images import ImageData
from tailor.errors import BundleError, UsageError
from tailor.events import Event, Tell, silent
from tailor.measure.count import macs, parameters
from tailor.palette import NestedPalette
from tailor.pruning.settings import Widths
from tailor.pruning.width import kept
from tailor.run_folder import MANIFEST
from tailor.spec import Spec
from tailor.stitching.adapt import shared_sites
from tailor.stitching.nested import Nested, NestedPlan, NestedSize, Sandwich, cut_out
from tailor.strangers import read_json
from tailor.surgery import trainable
from tailor.tasks import Task, task_for
from tailor.tracing import plan_widths, settle, trace
from tailor.training import Recipe, processes_here
from tailor.training.objective import smoothed
from tailor.tuning.apply import apply_, cost
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Tune, TunePlan
from tailor.workflow import evidence
from tailor.workflow.anchors import open_anchor
from tailor.workflow.batches import on_images, train_
from tailor.workflow.budgets import head_parameters
from tailor.workflow.context import Context, Run
from tailor.workflow.counts import ScoredUnits, counts_for
from tailor.workflow.data import Corrupt, divided, open_checked, reported, tell_left_out
from tailor.workflow.opened import merged
from tailor.workflow.records import Stitched
from tailor.workflow.report import leave_page
from tailor.workflow.routes import measured, scored
from tailor.workflow.stitch import seconds_of, told
from tailor.workflow.train import check_palette, provenance
from tailor.workflow.unit_scores import score_units

ASKED, SIZES = "stitch.json", "sizes.json"
SMALLEST = 0.3
"""The smallest size's share of the MACs."""
FIRST = 0.25
"""The share of the epochs that tunes the whole before its units are ranked."""
_PLAN: TypeAdapter[NestedPlan] = TypeAdapter(NestedPlan)


@dataclass(frozen=True)
class NestedRequest:
    """What `stitch --kind nested` was asked for."""

    data: str
    model: str
    task: str | None
    weights: str
    image_size: int | None
    recipe: Recipe
    sizes: int
    rank: int
    samples: int
    evaluate_routes: bool
    folder: Path
    corrupt: Corrupt
    workers: int
    resume: bool
    tell: Tell

    def asked(self) -> dict[str, Any]:
        """What decides the palette, as plain values."""
        names = ("data", "model", "weights", "image_size", "sizes", "rank", "samples")
        return {"kind": "nested", **{name: getattr(self, name) for name in names}}

    def said(self) -> Asked:
        """The command that asks the same."""
        given = {"models": self.model, "kind": "nested", "intervals": self.sizes, "ranks": str(self.rank)}
        names = ("samples", "evaluate_routes", "task", "weights", "image_size")
        given |= {name: getattr(self, name) for name in names}
        usual = {"intervals": 15, "ranks": "8", "samples": 100, "weights": "pretrained"}
        return evidence.asked("stitch", [self.data], given, usual, self.recipe)


def nested(request: NestedRequest) -> Stitched:
    """Train the palette and write it; go on where an earlier run stopped."""
    finished = _begin(request)
    if finished is not None:
        return finished
    recipe, tell = request.recipe, request.tell
    kind = task_for("", request.task).targets if request.task else None
    checked = open_checked(request.data, seed=recipe.seed, corrupt=request.corrupt, tell=tell, kind=kind)
    images = divided(checked, recipe.seed, tell)
    task = task_for(images.kind, request.task)
    if getattr(task, "learn", None) is None:
        raise UsageError(f"a palette of {task.kind} is not supported: sizes learn from the whole's classes")
    opened = open_anchor(request.model, request.weights, request.image_size, task.head(images, recipe.seed), recipe)
    base = _base(request, opened)
    opened, tune = _tuned(request, opened)
    first = max(1, round(FIRST * recipe.epochs))
    run = Run(images, request.data, recipe, request.folder, tell, None, request.workers, request.resume)
    one = replace(run, folder=request.folder / "steps" / "adapt", recipe=replace(recipe, epochs=first))
    train_(on_images(opened.model, opened.spec, one), one, task, stage="tuning the whole")
    plan = _sizes(request, opened, images)
    model = Nested(opened.model, plan)
    two = replace(run, recipe=replace(recipe, epochs=max(1, recipe.epochs - first)))
    sandwich = _train(two, model, opened, task)
    palette = NestedPalette((replace(opened.spec, plans=opened.spec.pruning),), (opened.complete,), plan, tune)
    if processes_here().is_main_process:
        _write(request, opened, palette, model, sandwich, base, images, task)
    processes_here().wait_for_everyone()
    return told(request.folder)


def _begin(request: NestedRequest) -> Stitched | None:
    """Note what was asked, or hold it against what the interrupted run was asked; what a finished run says again."""
    file = request.folder / ASKED
    if not (request.resume and file.is_file()):
        if processes_here().is_main_process:
            write_text(file, dumps(request.asked()))
            evidence.begun(request.folder, request.said())
        return None
    was = read_json(file)
    for key, value in request.asked().items():
        if was.get(key) != value:
            raise BundleError(
                f"the run in `{request.folder}` was begun with another {key}: {was.get(key)}",
                hint="resume it with the command that began it, or start anew with `--overwrite`",
            )
    if not (request.folder / MANIFEST).is_file():
        return None
    check_palette(request.folder, request.recipe)
    request.tell(Event("done", text=f"`{request.folder}` is finished already"))
    return told(request.folder)


def _base(request: NestedRequest, opened: Opened) -> BaseRef:
    """Store the anchor's own tensors, where no name gives them, before anything is wrapped."""
    folder = request.folder / BASE
    if processes_here().is_main_process and not (request.resume and (folder / BASE_JSON).is_file()):
        write_base(folder, (opened.spec,), (opened.complete,), [opened.model], (), {})
    processes_here().wait_for_everyone()
    return BaseRef(BASE, sha256(folder / BASE_JSON))


def _tuned(request: NestedRequest, opened: Opened) -> tuple[Opened, TunePlan]:
    """The anchor with LoRA on the layers that a stitched palette tunes as well."""
    sites = shared_sites(opened.anatomy)
    plan = TunePlan("lora", tunes=tuple(Tune(site.path, Lora(rank=request.rank, dropout=0.0)) for site in sites))
    plan = replace(plan, cost=cost(opened.model, plan, opened.anatomy.heads))
    apply_(opened.model, plan, opened.anatomy.heads, request.recipe.seed)
    return replace(opened, spec=replace(opened.spec, plans=(*opened.spec.plans, plan))), plan


def _sizes(request: NestedRequest, opened: Opened, images: ImageData) -> NestedPlan:
    """The sizes: units ranked once, on the tuned and merged model, cut at shares of its MACs equally far apart."""
    file = request.folder / SIZES
    if request.resume and file.is_file():
        return validated(_PLAN, read_json(file), file)
    plain = merged(opened)
    context = Context(plain, request.recipe, request.folder, request.tell, images)
    request.tell(Event("tracing", text="which widths shrink together"))
    traced = settle(plain.model, trace(plain.model, context.example), context.example)
    settings = Widths(parts=("heads", "hidden"))
    scores = score_units(context, traced.groups, "taylor", request.samples, settings, "merge")
    scored_ = ScoredUnits(plain.model, traced, scores.units, settings, plain.spec.inputs)
    sizes = [NestedSize("100%")]
    for number in range(request.sizes - 1):
        share = SMALLEST + (1 - SMALLEST) * number / max(request.sizes - 1, 1)
        counts = counts_for(scored_, {}, ("macs", Amount(share, "share")), silent)
        sizes.append(NestedSize(f"{share:.0%}", plan_widths(traced.groups, kept(traced.groups, scores.units, counts))))
    plan = NestedPlan(tuple(sizes))
    if processes_here().is_main_process:
        write_text(file, dumps(_PLAN.dump_python(plan, mode="json")))
    return plan


def _train(run: Run, model: Nested, opened: Opened, task: Task) -> Sandwich:
    """Train all sizes; what was drawn."""
    labelled, learn = smoothed(task, run.recipe), task.learn  # type: ignore[attr-defined]
    sandwich = Sandwich(
        model,
        lambda output, share: share.loss(labelled, output),
        run.recipe.seed,
        learn=lambda output, taught, share: learn(output, taught, share.targets, True, 1.0).mean(),
    )
    train_(on_images(model, opened.spec, run), run, task, step=sandwich.step, companion=sandwich)
    return sandwich


def _write(
    request: NestedRequest,
    opened: Opened,
    palette: NestedPalette,
    model: Nested,
    sandwich: Sandwich,
    base: BaseRef,
    images: ImageData,
    task: Task,
) -> None:
    """Measure what was asked for, draw it, write the bundle."""
    from tailor.evidence.palette import palette_plot

    name, split = reported(images)
    spec, tell = palette.anchors[0], request.tell
    records: Sequence[RouteRecord] = _records(palette, model, sandwich, spec)
    every = range(len(records))
    records = measured(lambda n: cut_out(model, palette.tune, n), records, every, spec, tell)
    if request.evaluate_routes:
        records = scored(model, records, every, spec, split, task, tell)
    tell_left_out(images, tell)
    head = head_parameters(model.model, opened.anatomy.heads)
    inside = sum(p.numel() for p in trainable(model).values()) - head
    metrics = {
        "split": name,
        "metric": task.metric,
        "n": len(split),
        "trainable_params": inside,
        "head_params": head,
        "trainable_percent": 100 * inside / max(opened.whole, 1),
        "explained": 1.0,
        "epochs": request.recipe.epochs,
        "seconds": round(seconds_of(request.folder) + seconds_of(request.folder / "steps" / "adapt"), 1),
    }
    facts = provenance(request.data, request.recipe) | {"selected_on": "nothing: every size is deployed"}
    palette_plot(records, request.folder / "palette.png", task.metric)
    evidence.routes(request.folder, records, metrics)
    write_palette(request.folder, palette, model, base, records, metrics, facts)
    leave_page(request.folder)


def _records(palette: NestedPalette, model: Nested, sandwich: Sandwich, spec: Spec) -> list[RouteRecord]:
    """What is known of the sizes once they are trained."""
    found = []
    for number, one in enumerate(palette.plan.routes):
        plain = cut_out(model, palette.tune, number)
        visits = int(sandwich.visited[number])
        found.append(RouteRecord(one.name, macs(plain, spec.inputs), parameters(plain), number, True, visits=visits))
    return found
