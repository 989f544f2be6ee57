"""From a method's name to a plan: plain methods need only the model, SPT a pass over the data first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tailor import budget as budgets
from tailor.build import Base
from tailor.bundle.files import replacing
from tailor.data.loading import loader
from tailor.data.transforms import eval_transform
from tailor.errors import PlanError, UsageError, nearest
from tailor.events import Event
from tailor.evidence.terminal import heatmap_text
from tailor.spec import Spec
from tailor.training import processes_here
from tailor.tuning import planner
from tailor.tuning.layers import innermost
from tailor.tuning.methods import MODULES, SELECTIONS
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt import report as spt_report
from tailor.tuning.spt import scores as spt_scores
from tailor.tuning.spt import settings as spt
from tailor.tuning.spt.allocate import allocate
from tailor.verbs import searching
from tailor.verbs.configured import configured
from tailor.verbs.task import Task

_HEADS: dict[str, Literal["own", "ncm"]] = {"random": "own", "class-means": "ncm"}
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
SCORES, HEAT_MAP = "sensitivity.safetensors", "heatmap.png"
SCORING_BATCH = {"sample": 16, "batch": 32}
"""Images a step of the sensitivity pass, by its unit. Of samples the result does not depend on it, only the scratch
memory; of batches it is what is squared, 32 in the released code."""


def known_methods() -> list[str]:
    """Every name that `--method` understands, without numbers."""
    return [*SELECTIONS, *MODULES, *spt.SPT, NOAH]


def check_names(methods: Sequence[str]) -> None:
    """UsageError for the first unknown method, or where none is named, or one twice."""
    if not methods:
        raise UsageError("no method was named", hint="add for instance `--method spt-lora`")
    if len(set(methods)) < len(methods):
        raise UsageError("a method is named twice", hint="name each method once")
    for name in methods:
        if name.startswith("spt"):
            spt.named(name)
        elif name != NOAH:
            planner.parse(name, (*spt.SPT, NOAH))


def backbone_parameters(base: Base) -> int:
    """Parameters of the backbone, its classifier left out."""
    heads = tuple(head + "." for head in base.anatomy.heads)
    return sum(p.numel() for name, p in base.model.named_parameters() if not name.startswith(heads))


def head_parameters(model: nn.Module, heads: Iterable[str]) -> int:
    """Trainable parameters of the classifier itself: hidden layers that `mlp` puts before it belong to the method."""
    layers = [innermost(model.get_submodule(head)) for head in heads]
    return sum(p.numel() for layer in layers for p in layer.parameters() if p.requires_grad)


def allowed(base: Base, budget: str | None, default: str | None = None) -> int | None:
    """The budget in parameters, None where there is none; UsageError where it is no count or share."""
    if budget is None and default is None:
        return None
    amount = budgets.parse(budget or str(default))
    if amount.unit == "ms":
        raise UsageError(f"`--budget {budget}` is a time; a budget counts parameters", hint="write `0.4%` or `0.4M`")
    whole = backbone_parameters(base)
    if amount.of(whole) > whole:
        raise UsageError(
            f"`--budget {budget}` is more than the backbone's {whole:,} parameters", hint="write for instance `0.4%`"
        )
    return amount.of(whole)


NOAH = "noah"
DEFAULT_BUDGET, NOAH_BUDGET = "0.47%", "0.75%"
"""Without a budget, as shares of the backbone: SPT's main rows have 0.4 M of ViT-B/16, NOAH's limit is 0.64 M."""


def choose(task: Task, method: str, budget: str | None) -> TunePlan:
    """The plan of any method; SPT leaves its scores and a picture of the plan in the task's folder."""
    base = task.base
    if method == NOAH:
        limit = allowed(base, budget, NOAH_BUDGET)
        assert limit is not None
        return searching.search(task, limit)
    if not method.startswith("spt"):
        return planner.plan(base.model, base.anatomy, planner.parse(method), allowed(base, budget))
    settings, head = _spt(method, task.spt)
    limit = allowed(base, budget, DEFAULT_BUDGET)
    assert limit is not None
    scores = _scores(task, settings, head)
    plan = allocate(scores, base.anatomy, base.model, settings, limit)
    if processes_here().is_main_process:
        with replacing(task.run.folder / SCORES) as temporary:
            scores.save(temporary)
        _draw(plan, base, task.run.folder)
    return plan


def _spt(method: str, given: Mapping[str, Any]) -> tuple[spt.Spt, Literal["own", "ncm"]]:
    """SPT's settings by the method's name, changed by those of a configuration file, and the head that scores.

    `head: class-means` scores with a classifier of class means instead of the seeded random one. UsageError for a wrong
    setting.
    """
    named = spt.named(method)
    head = given.get("head", "random")
    if head not in _HEADS:
        raise UsageError(f"SPT scores with no head `{head}`", hint=nearest(str(head), list(_HEADS)))
    others = {key: value for key, value in given.items() if key != "head"}
    return configured(named, others, "SPT", "docs/methods/spt.md", closed=("structured", "kind")), _HEADS[head]


def _scores(task: Task, settings: spt.Spt, head: Literal["own", "ncm"]) -> spt_scores.Scores:
    """The sensitivity of every candidate: taken from a file, from another method of this call, or from a new pass."""
    wanted = (settings.unit, settings.samples, head)
    if task.scores is not None:
        return _taken(Path(task.scores), task, {"unit": settings.unit, "head": head})
    if wanted not in task.known:
        batches = loader(
            task.run.images.splits["train"],
            eval_transform(task.preprocessing),
            batch_size=SCORING_BATCH[settings.unit],
            seed=task.run.recipe.seed,
            epoch=0,
            shuffle=True,
        )
        device = processes_here().device
        scores = spt_scores.sensitivity(
            task.base.model.to(device),
            task.base.anatomy,
            _pairs(batches, device),
            head=head,
            head_seed=task.run.recipe.seed,
            unit=settings.unit,
            samples=settings.samples,
            autocast=_HALF.get(task.run.recipe.precision),
            progress=lambda done, total: task.run.report(Event("sensitivity", done, total, "squared gradients")),
        )
        task.base.model.cpu()  # what a plan adds is drawn on the CPU, so that the same seed gives the same start
        facts = {**scores.facts, "backbone": task.base.reference.digest, "data": task.run.images.name}
        task.known[wanted] = spt_scores.Scores({n: t.cpu() for n, t in scores.tensors.items()}, facts)
    return task.known[wanted]


def _taken(path: Path, task: Task, wanted: Mapping[str, str]) -> spt_scores.Scores:
    """Scores of an earlier run; PlanError where they were made with other weights or in another way."""
    file = path / SCORES if path.is_dir() else path
    scores = spt_scores.load(file)
    theirs, ours = scores.facts.get("backbone", ""), task.base.reference.digest
    if theirs != ours:
        raise PlanError(
            f"the scores in `{file}` are those of other weights than `{task.base.reference.name}` has here",
            hint="leave `--scores` out to score again",
        )
    for key, value in wanted.items():
        if scores.facts.get(key, value) != value:
            raise PlanError(
                f"the scores in `{file}` were made with {key} `{scores.facts[key]}`, not `{value}`",
                hint="leave `--scores` out to score again",
            )
    other = scores.facts.get("data", task.run.images.name)
    made = "" if other == task.run.images.name else f", which were made on other data: {other}"
    task.run.report(Event("sensitivity", text=f"scores taken from `{file}`{made}"))
    return scores


class _pairs:  # noqa: N801  (reads as a function at its one call)
    """Batches as (images, labels) on the device, with their number, for the scoring pass."""

    def __init__(self, batches: Any, device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.batches:
            yield batch.images.to(self.device), batch.targets.to(self.device)


def _draw(plan: TunePlan, base: Base, folder: Path) -> None:
    """The heat map block x operation as a picture."""
    from tailor.evidence.plots import heatmap  # matplotlib only where something is drawn

    found = spt_report.summary(plan, base.anatomy)
    if found.shares:
        heatmap(
            found.shares,
            rows=tuple(str(i) for i in range(len(found.shares))),
            columns=found.operations,
            title=f"{plan.method}: where {plan.cost:,} trainable parameters went",
            out=folder / HEAT_MAP,
            marked=_structured(plan, base, found.operations),
        )


def text_map(spec: Spec, base: Base) -> tuple[str, ...]:
    """The figures and the heat map of an SPT plan as lines of text; nothing for other plans."""
    plan = next((p for p in spec.plans if isinstance(p, TunePlan)), None)
    if plan is None or not plan.method.startswith("spt"):
        return ()
    found = spt_report.summary(plan, base.anatomy)
    rows = tuple(f"block {i}" for i in range(len(found.shares)))
    drawn = heatmap_text(found.shares, rows, found.operations, _structured(plan, base, found.operations))
    return (*found.lines(), "", *drawn.splitlines())


def _structured(plan: TunePlan, base: Base, operations: Sequence[str]) -> list[list[bool]]:
    """(blocks, operations): whether a matrix there got a module."""
    tuned = {tune.site for tune in plan.tunes}
    cells = {(site.block, site.op) for site in base.anatomy.sites if site.name in tuned}
    return [[(block, op) in cells for op in operations] for block in range(len(base.anatomy.blocks))]
