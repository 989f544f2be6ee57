"""What a run notes in its evidence, section by section, in the words of the code that measured it.

The main process calls these; what is not finite is left out, since JSON has no name for it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

import tailor
from tailor.build import Opened
from tailor.bundle.evidence import (
    HERE,
    IMPORTANCE,
    Asked,
    Budget,
    CandidateRecord,
    CostRecord,
    Epoch,
    Judged,
    Layers,
    Map,
    ModelCost,
    Network,
    Score,
    Width,
    note,
    on_grid,
    read_evidence,
)
from tailor.bundle.palette import RouteRecord
from tailor.errors import TailorError
from tailor.measure import count
from tailor.measure.machine import machine
from tailor.measure.speed import Comparison
from tailor.plans import AnyPlan
from tailor.surgery import trainable
from tailor.tasks import Task, task_of
from tailor.training import Recipe, Result
from tailor.workflow.opened import deployed
from tailor.workflow.records import Pruned

TARGETS = ("speed", "latency", "macs", "params", "bytes")
"""Flags that say how far a pruning goes."""
FLAGS = ("epochs", "lr", "batch_size", "seed")
"""Settings of a recipe that are flags as well."""


def begun(folder: Path, asked: Asked, parent: Path | None = None) -> None:
    """What was asked for, here; of the bundle that the run starts from (`parent`) where its budget went."""
    versions = {"tailor": tailor.__version__, "torch": torch.__version__}
    kept = None
    with suppress(TailorError):  # a stranger's evidence is no reason to fail
        found = read_evidence(parent) if parent is not None else None
        kept = found.budget if found else None
    here = {name: value for name, value in machine().items() if isinstance(value, str | int | float | None)}
    note(folder, asked=asked, versions=versions, machine=here, **({"budget": kept} if kept else {}))


def asked(verb: str, words: Sequence[str], given: Mapping[str, Any], usual: Mapping[str, Any], recipe: Recipe) -> Asked:
    """The command in as few words as make it: what is `usual`, empty or a recipe's default is left out.

    What only a file can hold stands in `sections`.
    """
    flags, sections = {}, {}
    for name, value in given.items():
        if value in (None, False, "", (), {}) or value == usual.get(name):
            continue
        if isinstance(value, str | int | float):
            flags[name] = value
        else:
            sections[name] = value
    inner: dict[str, Any] = {}
    for field in fields(Recipe):
        value, default = getattr(recipe, field.name), getattr(Recipe(), field.name)
        if value != default:
            (flags if field.name in FLAGS else inner)[field.name] = value
    if inner:
        sections["recipe"] = {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in inner.items()}
    return Asked(verb, tuple(words), flags, plain(sections))


def trained(
    folder: Path,
    opened: Opened,
    task: Task,
    result: Result,
    figures: Mapping[str, Any],
    split: str,
    known: Mapping[str, Any],
) -> None:
    """The score, the learning curve and the confusion of a training, and what the model costs."""
    metric = task.metric
    score = Score(
        metric,
        task.larger,
        split,
        int(figures["n"]),
        finite(figures[metric]),
        finite(known.get("score_before")),
        finite(known.get("score_cut")),
        getattr(task, "counted", False),
        finite(known.get("score_after")),
    )
    epochs = [Epoch(int(row["epoch"]), finite(row["loss"]), finite(row.get(metric))) for row in result.epochs]
    note(
        folder,
        score=score,
        epochs=tuple(epochs),
        chosen=result.chosen,
        confusion=tuple(tuple(row) for row in figures.get("confusion", ())),
        seconds=round(result.seconds, 1),
    )
    found = read_evidence(folder)
    if found is not None and found.budget is None and opened.spec.tuning and not opened.spec.pruning:
        operations, shares = spent(opened)
        placed(folder, opened.spec.tuning[-1], operations, shares)
    if found is not None and found.costs is None:
        with suppress(TailorError):  # counting may fail where training did not
            note(folder, costs=CostRecord(cost(opened)))


def spent(opened: Opened) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Names of layers in a block, and the share (blocks, layers) of what trains, the head left out, that lies there."""
    blocks = {f"{block.path}.": index for index, block in enumerate(opened.anatomy.blocks)}
    counts: dict[str, dict[int, int]] = {}
    total = 0
    for name, parameter in trainable(opened.model).items():
        if name.startswith(tuple(f"{head}." for head in opened.anatomy.heads)):
            continue
        total += parameter.numel()
        root = next((root for root in blocks if name.startswith(root)), None)
        if root is not None:
            plain = re.sub(r"\.parametrizations\.(\w+)\..*", r".\1", name.removeprefix(root))  # as it was called
            layer = ".".join(plain.split(".")[:-1][:2])
            row = counts.setdefault(layer, {})
            row[blocks[root]] = row.get(blocks[root], 0) + parameter.numel()
    names = tuple(counts)
    rows = tuple(tuple(counts[name].get(index, 0) / max(total, 1) for name in names) for index in blocks.values())
    return names, rows if names else ()


def cut(folder: Path, opened: Opened, found: Pruned, n: int) -> None:
    """The scores of a cut that nothing trained."""
    task = task_of(opened.spec.head)
    before, cut, after = (finite(value) for value in (found.score_before, found.score_cut, found.score_after))
    counted = getattr(task, "counted", False)
    if after is not None:
        note(folder, score=Score(task.metric, task.larger, found.split, n, after, before, cut, counted, after))


def cost(opened: Opened) -> ModelCost:
    """MACs and parameters of the model as it is deployed."""
    plain = deployed(opened)
    return ModelCost(count.macs(plain, opened.spec.inputs), count.parameters(plain))


def compared(
    folder: Path, costs: Mapping[str, ModelCost], timed: Comparison, waited: Mapping[str, float], runtime: str
) -> None:
    """A `dense` and a `pruned` model, timed in turns in a runtime."""
    before, after = (
        replace(
            costs[name],
            images_per_second=finite(round(timed.timings[name].images_per_second, 2)),
            latency_ms=finite(waited.get(name)),
        )
        for name in ("dense", "pruned")
    )
    ratio = timed.ratios["pruned"]
    middle, low, high = (finite(round(value, 3)) for value in (ratio.median, ratio.p10, ratio.p90))
    note(folder, costs=CostRecord(after, before, middle, low, high, timed.timings["pruned"].batch, runtime))


def taken(folder: Path, blocks: Sequence[str], plans: Iterable[AnyPlan], whole: Mapping[str, int]) -> None:
    """What the plans of a pruning take from a model of these blocks; `whole` are sizes before earlier steps of it."""
    dropped: list[str] = []
    swapped: dict[str, str] = {}
    widths: dict[str, Width] = {}
    for plan in plans:
        dropped += getattr(plan, "dropped", ())
        swapped |= {swap.block: swap.operation for swap in getattr(plan, "swaps", ())}
        for cut in getattr(plan, "cuts", ()):
            widths[cut.group] = Width(cut.group, whole.get(cut.group, cut.size), len(cut.keep))
    operations = tuple(swapped.get(path, "attention") for path in blocks) if swapped else ()
    note(folder, network=Network(tuple(blocks), tuple(dropped), tuple(widths.values()), operations))


def placed(
    folder: Path,
    plan: Any,
    operations: Sequence[str],
    shares: Sequence[Sequence[float]],
    whole: Sequence[Sequence[bool]] = (),
    sensitivity: Sequence[Sequence[float]] = (),
) -> None:
    """Where a tuning plan spends its budget, and how sensitive each place was."""
    total = sum(map(sum, sensitivity)) or 1.0
    note(
        folder,
        budget=Budget(
            plan.method,
            plan.cost,
            tuple(operations),
            tuple(tuple(round(float(share), 6) for share in row) for row in shares),
            tuple(tuple(round(float(score) / total, 6) for score in row) for row in sensitivity),
            tuple(tuple(bool(one) for one in row) for row in whole),
        ),
    )


def separated(folder: Path, plan: Any, maps: Mapping[int, ArrayLike], labels: Sequence[int]) -> None:
    """The curve that decided how many blocks stay, and the maps behind it by block, counted from 0."""
    drawn = []
    for index in sorted(maps):
        points = np.asarray(maps[index], dtype=float)
        drawn.append(Map(index + 1, on_grid(points[:, 0].tolist()), on_grid(points[:, 1].tolist())))
    facts = plan.facts
    note(
        folder,
        layers=Layers(
            tuple(finite(score) for score in plan.curve),
            float(facts["threshold"]),
            int(facts["depth"]),
            str(facts.get("reason", "")),
            tuple(int(label) for label in labels),
            tuple(drawn),
        ),
    )


def raced(folder: Path, candidates: Sequence[Mapping[str, Any]]) -> None:
    """The candidates that a planner chose from; of those with a `speed`, the command asks for that speed."""
    run = read_evidence(folder)
    found = []
    for one in candidates:
        by = None
        if run is not None and run.asked is not None and one.get("speed"):
            flags = {name: value for name, value in run.asked.flags.items() if name not in TARGETS}
            by = replace(run.asked, flags={**flags, "speed": f"{one['speed']:.2f}x"})
        scores = {str(stage): float(score) for stage, score in one["scores"].items() if finite(score) is not None}
        sizes = {name: one.get(name) for name in ("macs", "params")}
        found.append(
            CandidateRecord(
                str(one["name"]),
                str(one.get("plans", "")),
                finite(one.get("ms")),
                **sizes,
                scores=scores,
                chosen=bool(one.get("chosen")),
                made_by=by,
            )
        )
    if found and run is not None:
        alone = run.asked is not None and "latency" in run.asked.flags
        batch = 1 if alone else run.costs.batch if run.costs else None
        note(folder, candidates=tuple(found), judged=Judged("val", batch))


def routes(folder: Path, records: Sequence[RouteRecord], metrics: Mapping[str, Any]) -> None:
    """The routes of a palette as candidates: by accuracy where any was measured, else by what the sampler gave them.

    `metrics` are those of the palette.
    """
    metric, measured = str(metrics["metric"]), any(one.accuracy is not None for one in records)
    found = []
    for one in records:
        scores = {} if one.accuracy is None else {metric: one.accuracy}
        if not measured:
            scores = {IMPORTANCE: one.score}
        pick = Asked("pick", (HERE,), {"route": one.route, "out": "runs/picked"})
        what = ("stitched" if "." in one.route else "whole") + (", deployed" if one.deployed else "")
        ms = finite(one.latency_ms)
        found.append(CandidateRecord(one.route, what, ms, one.macs, one.params, scores, one.deployed, pick))
    best = max((one.accuracy for one in records if one.accuracy is not None), default=None)
    score = Score(metric, True, str(metrics["split"]), int(metrics["n"]), best, counted=True)
    judged = Judged(score.split, 1)
    note(folder, candidates=tuple(found), judged=judged, score=score, seconds=metrics["seconds"])


def finite(value: Any) -> float | None:
    """The number, or None where there is none to write down."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """As JSON has it: lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple | list) else value
