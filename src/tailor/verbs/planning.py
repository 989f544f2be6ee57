"""From a method's name to a plan, for every kind of method: plain ones need the model, SPT a pass over the data first."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from tailor import budget as budgets
from tailor.build import Base
from tailor.bundle.files import replacing
from tailor.data.images import ImageData
from tailor.data.loading import loader
from tailor.data.transforms import eval_transform
from tailor.errors import TailorError, UsageError
from tailor.evidence import plots
from tailor.preprocessing import Preprocessing
from tailor.spec import Spec
from tailor.surgery import trainable
from tailor.tuning import MODULES, SELECTIONS, planner, spt, spt_report, spt_scores
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt_allocate import allocate
from tailor.verbs.events import Event, Report

SCORES, HEAT_MAP = "sensitivity.safetensors", "heatmap.png"
SCORING_BATCH = 16
"""Images a step of the sensitivity pass: its scratch memory grows with it, its result does not depend on it."""


def known_methods() -> list[str]:
    """Every name that `--method` understands, without numbers."""
    return [*SELECTIONS, *MODULES, *spt.SPT]


def check_names(methods: Sequence[str]) -> None:
    """UsageError for the first unknown method, or where none is named, or one twice."""
    if not methods:
        raise UsageError("no method was named", hint="add for instance `--method spt-lora`")
    if len(set(methods)) < len(methods):
        raise UsageError("a method is named twice", hint="name each method once")
    for name in methods:
        if name.startswith("spt"):
            spt.named(name)
        else:
            planner.parse(name, tuple(spt.SPT))


def backbone_parameters(base: Base) -> int:
    """Parameters of the backbone, its classifier left out."""
    heads = tuple(head + "." for head in base.anatomy.heads)
    return sum(p.numel() for name, p in base.model.named_parameters() if not name.startswith(heads))


def head_parameters(model: nn.Module, heads: Iterable[str]) -> int:
    """Trainable parameters of the classifier."""
    roots = tuple(head + "." for head in heads)
    return sum(p.numel() for name, p in trainable(model).items() if name.startswith(roots))


def allowed(base: Base, budget: str | None, default: str | None = None) -> int | None:
    """The budget in parameters, None where there is none; UsageError where it is no count or share."""
    if budget is None and default is None:
        return None
    amount = budgets.parse(budget or str(default))
    if amount.unit == "ms":
        raise UsageError(f"`--budget {budget}` is a time; a budget counts parameters", hint="write `0.4%` or `0.4M`")
    return amount.of(backbone_parameters(base))


DEFAULT_BUDGET = "0.47%"
"""SPT without a budget: the 0.4 M of ViT-B/16 that the thesis's main rows use, as a share of the backbone."""


def choose(
    base: Base,
    images: ImageData,
    preprocessing: Preprocessing,
    method: str,
    budget: str | None,
    folder: Path,
    seed: int,
    report: Report,
) -> TunePlan:
    """The plan of any method; SPT leaves its scores and a picture of the plan in `folder`."""
    if not method.startswith("spt"):
        return planner.plan(base.model, base.anatomy, planner.parse(method), allowed(base, budget))
    settings = spt.named(method)
    limit = allowed(base, budget, DEFAULT_BUDGET)
    assert limit is not None
    scores = _scores(base, images, preprocessing, settings, folder, seed, report)
    plan = allocate(scores, base.anatomy, base.model, settings, limit)
    if PartialState().is_main_process:
        _draw(plan, base, folder)
    return plan


def _scores(
    base: Base,
    images: ImageData,
    preprocessing: Preprocessing,
    settings: spt.Spt,
    folder: Path,
    seed: int,
    report: Report,
) -> spt_scores.Scores:
    """The sensitivity of every candidate: from the folder where the same pass was done before, else from a new pass."""
    split = images.splits["train"]
    wanted = {
        "backbone": base.reference.digest or f"{base.reference.name} {base.reference.seed}",
        "data": images.name,
        "images": len(split),
        "seed": seed,
        "unit": settings.unit,
        "wanted": settings.samples,
    }
    file = _saved(folder, wanted)
    if file is not None:
        report(Event("sensitivity", text=f"scores taken from `{file}`"))
        return spt_scores.load(file)
    batches = loader(split, eval_transform(preprocessing), batch_size=SCORING_BATCH, seed=seed, epoch=0, shuffle=True)
    scores = spt_scores.sensitivity(
        base.model,
        base.anatomy,
        _pairs(batches),
        head_seed=seed,
        unit=settings.unit,
        samples=settings.samples,
        progress=lambda done, total: report(Event("sensitivity", done, total, "squared gradients per sample")),
    )
    scores = spt_scores.Scores(scores.tensors, {**scores.facts, **{f"for_{k}": v for k, v in wanted.items()}})
    if PartialState().is_main_process:
        with replacing(folder / SCORES) as temporary:
            scores.save(temporary)
    return scores


class _pairs:  # noqa: N801  (reads as a function at its one call)
    """Batches as (images, labels), with their number, for the scoring pass."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.batches:
            yield batch.images, batch.labels


def _saved(folder: Path, wanted: dict[str, Any]) -> Path | None:
    """A scores file in the folder, or in one beside it (another method of the same call), made by the same pass."""
    for file in (folder / SCORES, *sorted(folder.parent.glob(f"*/{SCORES}"))):
        if not file.is_file():
            continue
        try:
            facts = spt_scores.load_facts(file)
        except TailorError:
            continue
        if all(facts.get(f"for_{k}") == v for k, v in wanted.items()):
            return file
    return None


def _draw(plan: TunePlan, base: Base, folder: Path) -> None:
    """The heat map block x operation as a picture."""
    found = spt_report.summary(plan, base.anatomy)
    if not found.shares:
        return
    plots.heatmap(
        found.shares,
        rows=tuple(f"{i}" for i in range(len(found.shares))),
        columns=found.operations,
        title=f"{plan.method}: where {plan.cost:,} trainable parameters went",
        out=folder / HEAT_MAP,
    )


def text_map(spec: Spec, base: Base) -> tuple[str, ...]:
    """The figures and the heat map of an SPT plan as lines of text; nothing for other plans."""
    plan = next((p for p in spec.plans if isinstance(p, TunePlan)), None)
    if plan is None or not plan.method.startswith("spt"):
        return ()
    found = spt_report.summary(plan, base.anatomy)
    rows = tuple(f"block {i}" for i in range(len(found.shares)))
    return (*found.lines(), *plots.heatmap_text(found.shares, rows, found.operations))
