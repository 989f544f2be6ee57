"""A palette of language models from instructions: anchors by name, responses learnt, routes scored by exact match."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tailor import backbones
from tailor.backbones import causal, prompts
from tailor.backbones.prompts import Instruction
from tailor.bundle.evidence import Asked
from tailor.bundle.files import dumps, sha256, write_text
from tailor.bundle.palette import (
    BASE,
    BASE_JSON,
    BaseRef,
    RouteRecord,
    load_base_,
    read_base,
    write_base,
    write_palette,
)
from tailor.data.images import open_data
from tailor.data.loading import Batch
from tailor.errors import BundleError, PlanError, UsageError
from tailor.events import Event, Tell
from tailor.palette import LanguageAnchor, LanguagePalette
from tailor.run_folder import MANIFEST
from tailor.spec import BackboneRef
from tailor.stitching.adapt import Adapt
from tailor.stitching.language import palette as languages
from tailor.stitching.language.settings import INTERVALS
from tailor.stitching.picked import picked
from tailor.stitching.plan import RouteBiasPlan
from tailor.stitching.routed import Routed
from tailor.stitching.sampler import Sampler, Sampling
from tailor.stitching.step import RouteTraining
from tailor.strangers import read_json
from tailor.surgery import hold_, trainable
from tailor.tasks.language import Language
from tailor.training import Recipe, fit, processes_here
from tailor.tuning.plan import TunePlan
from tailor.workflow import evidence
from tailor.workflow.batches import training_report
from tailor.workflow.records import Stitched
from tailor.workflow.report import leave_page
from tailor.workflow.stitch import seconds_of, summed_over_processes, told
from tailor.workflow.train import check_palette, provenance

ASKED, ANSWERS = "stitch.json", "answers.jsonl"
HELD_OUT, MOST_HELD_OUT = 10, 40
"""Every so manieth example is kept for scoring, at most so many."""


@dataclass(frozen=True)
class LanguageRequest:
    """What `stitch` was asked for, of language models."""

    data: Path
    models: tuple[str, ...]
    recipe: Recipe
    adapt: Adapt
    sampling: Sampling
    longest: int
    packing: bool
    samples: int
    evaluate_routes: bool
    folder: Path
    resume: bool
    tell: Tell

    def asked(self) -> dict[str, Any]:
        """What decides the palette, as plain values."""
        plain = {"kind": "language", "data": str(self.data), "models": list(self.models)}
        return plain | {name: getattr(self, name) for name in ("longest", "packing", "samples")}

    def said(self) -> Asked:
        """The command that asks the same."""
        given: dict[str, Any] = {"models": ",".join(self.models), "ranks": ",".join(map(str, self.adapt.ranks))}
        given |= {"ssb": ",".join(self.adapt.biases) or "none", "intervals": self.sampling.intervals}
        given |= {name: getattr(self, name) for name in ("longest", "packing", "samples", "evaluate_routes")}
        usual: dict[str, Any] = {"intervals": INTERVALS, "samples": 100, "longest": 256, "ssb": "qkv,proj"}
        usual["ranks"] = ",".join("16" for _ in self.models)
        return evidence.asked("stitch", [str(self.data)], given, usual, self.recipe)


@dataclass(frozen=True)
class _Made:
    model: Routed
    tokeniser: Any
    palette: LanguagePalette
    base: BaseRef
    params: tuple[int, ...]
    products: tuple[int, ...]
    whole: int
    explained: float


def stitch_language(request: LanguageRequest) -> Stitched:
    """Train the palette and write it; go on where an earlier run stopped."""
    file = request.folder / ASKED
    if request.resume and file.is_file():
        if read_json(file) != request.asked():
            raise BundleError(f"the run in `{request.folder}` was begun with another request", hint="use `--overwrite`")
        if (request.folder / MANIFEST).is_file():
            check_palette(request.folder, request.recipe)
            request.tell(Event("done", text=f"`{request.folder}` is finished already"))
            return told(request.folder)
    learnt, held = _examples(request)
    if processes_here().is_main_process:
        write_text(file, dumps(request.asked()))
        evidence.begun(request.folder, request.said())
    models = [(causal.create(name), name) for name in request.models]
    models.sort(key=lambda one: one[0].num_parameters())  # type: ignore[operator]
    tokeniser = _tokeniser([name for _, name in models])
    rows = [prompts.encode(example, tokeniser, request.longest) for example in learnt]
    rows = prompts.packed(rows, request.longest) if request.packing else rows
    made = _make(request, models, rows)
    sampler = _train(request, made, rows)
    if processes_here().is_main_process:
        _write(request, made, sampler, held)
    processes_here().wait_for_everyone()
    return told(request.folder)


def _examples(request: LanguageRequest) -> tuple[list[Instruction], list[Instruction]]:
    """What is learnt, and what is kept for scoring: a split for it where there is one, else some of all."""
    found = {n: [r.target for r in split.records] for n, split in open_data(request.data, kind="texts").splits.items()}
    for name in ("test", "val"):
        if name in found and "train" in found:
            return found["train"], found[name][:MOST_HELD_OUT]
    examples = next(iter(found.values()))
    every = max(HELD_OUT, -(-len(examples) // MOST_HELD_OUT))
    return [one for i, one in enumerate(examples) if i % every or len(examples) == 1], examples[::every]


def _tokeniser(names: Sequence[str]) -> Any:
    """The anchors' tokeniser; PlanError where two of them number other words, which as many tokens may hide."""
    found = [causal.tokeniser(name) for name in names]
    words = [one.get_vocab() for one in found]
    for name, own in zip(names, words, strict=True):
        if own != words[0]:
            raise PlanError(
                f"`{names[0]}` and `{name}` have other tokenisers: their tokens are not the same words",
                hint="take sizes of one family",
            )
    return found[0]


def _batches(rows: Sequence[Any], order: Sequence[int], size: int) -> Iterable[Batch]:
    """Batches of rows in that order."""
    for start in range(0, len(order), size):
        chosen = list(order[start : start + size])
        ids, labels = Language().collate([torch.tensor(rows[i]) for i in chosen], chosen)
        yield Batch(ids, labels, torch.tensor(chosen), tuple(f"example {i}" for i in chosen))


def _make(request: LanguageRequest, models: Sequence[Any], rows: Sequence[Any]) -> _Made:
    """Join the anchors, start the joints on examples, wrap what trains."""
    model = languages.joined([one for one, _ in models])
    model.to(processes_here().device)
    anchors = tuple(
        LanguageAnchor(BackboneRef(name, "pretrained", backbones.digest(anchor))) for anchor, name in models
    )
    if len({anchor.backbone.digest for anchor in anchors}) < len(anchors):
        raise UsageError("two anchors are the same model", hint="name two sizes of one family")
    palette = LanguagePalette(anchors, model.plan, TunePlan("pst"), RouteBiasPlan(()))
    folder = request.folder / BASE
    if not (folder / BASE_JSON).is_file():
        chosen = rows[: request.samples]
        request.tell(Event("joints", text=f"least squares over {len(chosen)} examples"))
        batches = _batches(chosen, range(len(chosen)), 8)
        fits = languages.started_(model, ((batch.images, batch.targets) for batch in batches))
        facts = {"data": str(request.data), "explained": [round(fit.explained, 4) for fit in fits.values()]}
        joints = list(zip(model.plan.layers, model.layers, strict=True))
        if processes_here().is_main_process:
            write_base(folder, anchors, [False] * len(anchors), list(model.anchors), joints, facts)
        processes_here().wait_for_everyone()
    base = read_base(folder, palette)
    load_base_(model, folder, base)
    params, products = languages.parameters(model), languages.products(model)
    whole = sum(p.numel() for anchor in model.anchors for p in anchor.parameters())
    tune, biases = languages.adapted_(model, request.adapt, request.recipe.seed)
    explained = [float(value) for value in base.facts.get("explained", ())]
    share = sum(explained) / max(len(explained), 1)
    reference = BaseRef(BASE, sha256(folder / BASE_JSON))
    return _Made(
        model,
        causal.tokeniser(models[0][1]),
        replace(palette, tune=tune, biases=biases),
        reference,
        params,
        products,
        whole,
        share,
    )


def _train(request: LanguageRequest, made: _Made, rows: Sequence[Any]) -> Sampler:
    """Train the palette; the sampler with the routes' scores."""
    recipe, task = request.recipe, Language()
    size = recipe.batch_size
    per_epoch = -(-len(rows) // size)
    sampler = Sampler(made.products, len(made.model.anchors), per_epoch * recipe.epochs, request.sampling, recipe.seed)
    course = RouteTraining(
        made.model,
        sampler,
        lambda output, share: _mean(task, task.loss(output, share.targets), share.targets),
        learn=lambda output, taught, share: _mean(
            task, task.learn(output, taught, share.targets, True, 1.0), share.targets
        ),
        weigh=lambda share: task.weight(share.targets),
        call=lambda model, share: model(share.images, **task.named(share.targets)),
        reduce=summed_over_processes,
    )

    if recipe.frozen == "bf16":
        hold_(made.model, torch.bfloat16)

    def shares(epoch: int, start: int, process: int, processes: int) -> Iterable[Batch]:
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(rows)).tolist()
        for step in range(start, per_epoch):
            mine = order[step * size : (step + 1) * size][process::processes]
            yield from _batches(rows, mine, max(len(mine), 1))

    fit(
        made.model,
        recipe,
        task,
        batches=shares,
        steps_per_epoch=per_epoch,
        run=request.folder,
        step=course.step,
        companion=course,
        resume=request.resume,
        report=training_report(request.tell, "loss"),
    )
    return sampler


def _mean(task: Language, losses: Tensor, targets: Tensor) -> Tensor:
    """Over the tokens that are learnt."""
    return losses.sum() / max(task.weight(targets), 1)


def _write(request: LanguageRequest, made: _Made, sampler: Sampler, held: Sequence[Instruction]) -> None:
    """Score routes by exact match on the examples held out, keep what they answered, write the palette."""
    from tailor.evidence.palette import palette_plot

    records = _records(made, sampler)
    which = [n for n, r in enumerate(records) if r.deployed or request.evaluate_routes]
    said: dict[str, list[str]] = {}
    for done, number in enumerate(which):
        request.tell(Event("scoring routes", done, len(which), records[number].route))
        plain = picked(made.model, made.palette.tune, number)
        said[records[number].route] = prompts.answers(plain, made.tokeniser, [example.prompt for example in held])
        share = prompts.exact_match(said[records[number].route], [example.output for example in held])
        records[number] = replace(records[number], accuracy=share)
    lines = [
        {"instruction": e.instruction, "input": e.input, "expected": e.output, **{r: said[r][i] for r in said}}
        for i, e in enumerate(held)
    ]
    write_text(request.folder / ANSWERS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    inside = sum(p.numel() for p in trainable(made.model).values())
    metrics = {
        "split": "held out",
        "metric": "exact_match",
        "n": len(held),
        "trainable_params": inside,
        "head_params": 0,
        "trainable_percent": 100 * inside / made.whole,
        "explained": made.explained,
        "epochs": request.recipe.epochs,
        "seconds": round(seconds_of(request.folder), 1),
    }
    palette_plot(records, request.folder / "palette.png", "exact match")
    evidence.routes(request.folder, records, metrics)
    facts = provenance(str(request.data), request.recipe)
    write_palette(request.folder, made.palette, made.model, made.base, records, metrics, facts)
    leave_page(request.folder)


def _records(made: _Made, sampler: Sampler) -> list[RouteRecord]:
    """What is known of the routes; their MACs are those of one token, attention aside."""
    deployed, scores = set(sampler.deployed()), sampler.scores
    interval = {route: at for at, members in enumerate(sampler.intervals) for route in members}
    found = []
    for number, route in enumerate(made.palette.plan.routes):
        found.append(
            RouteRecord(
                route.name,
                made.products[number],
                made.params[number],
                interval[number],
                number in deployed,
                float(scores[number]),
                int(sampler.visited[number]),
            )
        )
    return found
