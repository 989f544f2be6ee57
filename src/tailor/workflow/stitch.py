"""A palette from data and anchors: join them, start the joints, train all routes at once, say which are deployed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor

from tailor.build import Opened
from tailor.bundle.evidence import Asked
from tailor.bundle.files import dumps, sha256, write_text
from tailor.bundle.palette import (
    BASE,
    BASE_JSON,
    BaseRef,
    RouteRecord,
    load_base_,
    read_base,
    read_palette,
    write_base,
    write_palette,
)
from tailor.errors import BundleError, UsageError
from tailor.events import Event, Tell
from tailor.measure.count import parameters
from tailor.palette import Palette
from tailor.run_folder import MANIFEST
from tailor.stitching.adapt import Adapt, adapt_, bias_plan, heads_of, tune_plan
from tailor.stitching.cost import costs
from tailor.stitching.picked import picked
from tailor.stitching.plan import RouteBiasPlan
from tailor.stitching.routed import Routed
from tailor.stitching.sampler import Sampler, Sampling
from tailor.stitching.space import Space, stitch_plan
from tailor.stitching.start import start_, sums_of
from tailor.stitching.step import RouteTraining as Steps
from tailor.strangers import read_json
from tailor.surgery import hold_, trainable
from tailor.tasks import Task, task_for
from tailor.training import Recipe, processes_here
from tailor.training.objective import Share, smoothed
from tailor.tuning.plan import TunePlan
from tailor.workflow import evidence
from tailor.workflow.anchors import open_anchors
from tailor.workflow.batches import on_images, train_
from tailor.workflow.budgets import head_parameters
from tailor.workflow.context import Run
from tailor.workflow.data import Corrupt, divided, drawn, in_order, open_checked, reported, tell_left_out
from tailor.workflow.records import Stitched
from tailor.workflow.report import leave_page
from tailor.workflow.routes import measured, scored
from tailor.workflow.train import check_palette, provenance

ASKED = "stitch.json"
"""What a run was asked for: a resumed one must ask the same."""


@dataclass(frozen=True)
class StitchRequest:
    """What `stitch` was asked for."""

    data: str
    models: tuple[str, ...]
    task: str | None
    weights: str
    image_size: int | None
    recipe: Recipe
    space: Space
    adapt: Adapt
    sampling: Sampling
    teacher: bool
    distil: float
    samples: int
    base: Path | None
    evaluate_routes: bool
    folder: Path
    corrupt: Corrupt
    workers: int
    resume: bool
    tell: Tell

    def asked(self) -> dict[str, Any]:
        """What decides the palette, as plain values."""
        parts = {"space": self.space, "adapt": self.adapt, "sampling": self.sampling}
        plain = {name: asdict(part) for name, part in parts.items()}  # type: ignore[call-overload]
        names = ("data", "models", "weights", "image_size", "teacher", "distil", "samples")
        return json.loads(json.dumps(plain | {name: getattr(self, name) for name in names}))  # type: ignore[no-any-return]

    def said(self) -> Asked:
        """The command that asks the same."""
        full, biases = self.adapt.full, ",".join(self.adapt.biases)
        given = {
            "models": ",".join(self.models),
            "mode": "sn-net" if full else "esta" if self.sampling.kind == "importance" else "uniform",
            "intervals": self.sampling.intervals,
            "window": self.space.window,
            "ranks": ",".join(map(str, self.adapt.ranks)),
            "ssb": biases or "none",
            "base": None if self.base is None else str(self.base),
            **{name: getattr(self, name) for name in ("samples", "evaluate_routes", "task", "weights", "image_size")},
        }
        usual = {"mode": "esta", "ssb": "qkv,proj", "samples": 100, "weights": "pretrained", "intervals": 15}
        return evidence.asked("stitch", [self.data], given, usual | {"window": Space().window}, self.recipe)


def stitch(request: StitchRequest) -> Stitched:
    """Train the palette and write it; go on where an earlier run stopped."""
    if request.recipe.precision == "fp16":
        raise UsageError("a palette's two losses cannot share a loss scale", hint="set `precision: bf16` in the recipe")
    finished = _begin(request)
    if finished is not None:
        return finished
    seed, tell = request.recipe.seed, request.tell
    kind = task_for("", request.task).targets if request.task else None
    images = divided(open_checked(request.data, seed=seed, corrupt=request.corrupt, tell=tell, kind=kind), seed, tell)
    task = task_for(images.kind, request.task)
    if getattr(task, "learn", None) is None:
        raise UsageError(f"a palette of {task.kind} is not supported: routes learn from the largest anchor's classes")
    run = Run(images, request.data, request.recipe, request.folder, tell, None, request.workers, request.resume)
    made = _make(request, run, task)
    sampler = _train(request, run, task, made)
    records = _records(made, sampler)
    name, split = reported(images)
    deployed = [number for number, record in enumerate(records) if record.deployed]
    if processes_here().is_main_process:
        which = range(len(records)) if request.evaluate_routes else deployed
        spec = made.palette.anchors[0]
        records = measured(lambda n: picked(made.model, made.palette.tune, n).float(), records, which, spec, tell)
        if request.evaluate_routes:
            records = scored(made.model, records, which, spec, split, task, tell)
        tell_left_out(images, tell)
        _write(request, made, records, {"split": name, "metric": task.metric, "n": len(split)})
    processes_here().wait_for_everyone()
    return told(request.folder)


@dataclass(frozen=True)
class _Made:
    """The routed model with what trains, its palette, what its routes cost, and the base."""

    model: Routed
    palette: Palette
    macs: tuple[int, ...]
    params: tuple[int, ...]
    whole: int
    base: BaseRef
    explained: float


def _begin(request: StitchRequest) -> Stitched | None:
    """Note what was asked, or hold it against what the interrupted run was asked; what a finished run says again."""
    file = request.folder / ASKED
    if request.resume and file.is_file():
        was, now = read_json(file), request.asked()
        for key, value in now.items():
            if was.get(key) != value:
                raise BundleError(
                    f"the run in `{request.folder}` was begun with another {key}: {was.get(key)}",
                    hint="resume it with the command that began it, or start anew with `--overwrite`",
                )
        if (request.folder / MANIFEST).is_file():
            check_palette(request.folder, request.recipe)
            request.tell(Event("done", text=f"`{request.folder}` is finished already"))
            return told(request.folder)
    elif processes_here().is_main_process:
        write_text(file, dumps(request.asked()))
        evidence.begun(request.folder, request.said())
    return None


def _make(request: StitchRequest, run: Run, task: Task) -> _Made:
    """Open the anchors, join them, start the joints, wrap what trains."""
    recipe = request.recipe
    head = task.head(run.images, recipe.seed)
    found = open_anchors(request.models, request.weights, request.image_size, head, recipe)
    anchors = [opened for opened, *_ in found]
    shapes = [shape for _, shape, _ in found]
    plan = stitch_plan(shapes, request.space)
    model = Routed([one.model for one in anchors], [one.anatomy for one in anchors], plan).eval()
    model.to(processes_here().device)
    specs, stored = tuple(one.spec for one in anchors), tuple(one.complete for one in anchors)
    palette = Palette(specs, stored, plan, TunePlan("pst"), RouteBiasPlan(()))
    base, explained = _start_(request, run, model, palette)
    params = tuple(parameters(model.view(number)) for number in range(len(plan.routes)))
    tune, biases = tune_plan(model, request.adapt), bias_plan(model, request.adapt)
    adapt_(model, tune, biases, recipe.seed)
    whole = sum(_whole(one) for one in anchors)
    macs = costs(plan, shapes, [pieces for *_, pieces in found])
    return _Made(model, replace(palette, tune=tune, biases=biases), macs, params, whole, base, explained)


def _whole(opened: Opened) -> int:
    heads = tuple(f"{head}." for head in opened.anatomy.heads)
    return sum(p.numel() for name, p in opened.model.named_parameters() if not name.startswith(heads))


def _start_(request: StitchRequest, run: Run, model: Routed, palette: Palette) -> tuple[BaseRef, float]:
    """Give the stitching layers their start: from the base, or from images, which then makes the base."""
    folder = request.base or request.folder / BASE
    place = str(request.base.resolve()) if request.base else BASE
    if not (folder / BASE_JSON).is_file():
        spec, tell = palette.anchors[0], request.tell
        (split,) = drawn([run.images.splits["train"]], request.samples, request.recipe.seed)
        device = next(model.parameters()).device
        batches = in_order(split, spec.preprocessing, spec.head, batch_size=16)
        tell(Event("joints", text=f"least squares over {len(split)} images"))
        fits = start_(model, sums_of(model, (batch.images.to(device) for batch in batches)))
        facts = {
            "data": request.data,
            "images": [record.source for record in split.records],
            "explained": [round(fit.explained, 4) for fit in fits.values()],
            "ridge": [fit.ridge for fit in fits.values()],
        }
        joints = list(zip(palette.plan.layers, model.layers, strict=True))
        if processes_here().is_main_process:
            write_base(folder, palette.anchors, palette.stored, list(model.anchors), joints, facts)
        processes_here().wait_for_everyone()
    base = read_base(folder, palette)
    load_base_(model, folder, base)  # also where it was made just now: a resumed run starts from the same numbers
    explained = [float(value) for value in base.facts.get("explained", ())]
    return BaseRef(place, sha256(folder / BASE_JSON)), sum(explained) / max(len(explained), 1)


def _train(request: StitchRequest, run: Run, task: Task, made: _Made) -> Sampler:
    """Train the palette; the sampler with the routes' scores."""
    recipe = request.recipe
    labelled = smoothed(task, recipe)
    learn = task.learn  # type: ignore[attr-defined]
    per_epoch = -(-len(run.images.splits["train"]) // recipe.batch_size)
    sampler = Sampler(made.macs, len(made.palette.anchors), per_epoch * recipe.epochs, request.sampling, recipe.seed)
    steps = Steps(
        made.model,
        sampler,
        lambda output, share: share.loss(labelled, output),
        teacher=request.teacher,
        distil=request.distil,
        learn=lambda output, taught, share: learn(output, taught, share.targets, True, 1.0).mean(),
        weigh=lambda share: task.weight(share.targets),
        reduce=summed_over_processes,
    )
    if recipe.frozen == "bf16":
        hold_(made.model, torch.bfloat16)
    course = on_images(made.model, made.palette.anchors[0], run)
    train_(course, run, task, step=_step(steps), companion=steps)
    return sampler


def _step(steps: Steps) -> Any:
    def step(model: Any, share: Share) -> Tensor:
        return steps.step(model, share)

    return step


def summed_over_processes(tensor: Tensor) -> Tensor:
    """The sum over the processes."""
    if processes_here().num_processes == 1:
        return tensor
    return reduce(tensor, "sum")  # type: ignore[no-any-return]


def _records(made: _Made, sampler: Sampler) -> tuple[RouteRecord, ...]:
    """What is known of the routes once they are trained."""
    deployed, scores = set(sampler.deployed()), sampler.scores
    interval = {route: at for at, members in enumerate(sampler.intervals) for route in members}
    return tuple(
        RouteRecord(
            route=route.name,
            macs=made.macs[number],
            params=made.params[number],
            interval=interval[number],
            deployed=number in deployed,
            score=float(scores[number]),
            visits=int(sampler.visited[number]),
        )
        for number, route in enumerate(made.palette.plan.routes)
    )


def _write(request: StitchRequest, made: _Made, records: Sequence[RouteRecord], facts: dict[str, Any]) -> None:
    """The bundle, and the picture of its routes."""
    from tailor.evidence.palette import palette_plot

    model, recipe = made.model, request.recipe
    head = head_parameters(model, heads_of(model))
    inside = sum(p.numel() for p in trainable(model).values()) - head
    rows = [json.loads(line) for line in (request.folder / "metrics.jsonl").read_text().splitlines()]
    metrics = {
        **facts,
        "trainable_params": inside,
        "head_params": head,
        "trainable_percent": 100 * inside / made.whole,
        "explained": made.explained,
        "epochs": len(rows),
        "seconds": round(seconds_of(request.folder), 1),
    }
    source = provenance(request.data, recipe) | {"selected_on": "scores of training"}
    palette_plot(records, request.folder / "palette.png", facts["metric"])
    evidence.routes(request.folder, records, metrics)
    write_palette(request.folder, made.palette, model, made.base, records, metrics, source)
    leave_page(request.folder)


def seconds_of(folder: Path) -> float:
    """How long the training took, resumed parts included: what its last checkpoint says."""
    from tailor.training import checkpoint

    found = checkpoint.read(folder / "checkpoints")
    return float(found.state["seconds"]) if found is not None else 0.0


def told(folder: Path) -> Stitched:
    """What a finished palette says."""
    found = read_palette(folder)
    metrics = found.manifest.metrics
    return Stitched(
        bundle=str(folder),
        routes=found.manifest.routes,
        deployed=sum(record.deployed for record in found.manifest.routes),
        trainable_params=int(metrics["trainable_params"]),
        trainable_percent=float(metrics["trainable_percent"]),
        head_params=int(metrics["head_params"]),
        bundle_bytes=sum(file.bytes for file in found.manifest.files.values()) + (folder / MANIFEST).stat().st_size,
        base_bytes=sum(file.bytes for file in found.base.files.values()),
        explained=float(metrics["explained"]),
        seconds=float(metrics["seconds"]),
        metric=str(metrics["metric"]),
        split=str(metrics["split"]),
    )
