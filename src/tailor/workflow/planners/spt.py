"""SPT: a pass over the data says which weights the task needs, and the budget goes there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic.dataclasses import dataclass

from tailor.budget import check_parameters
from tailor.errors import PlanError
from tailor.events import Event
from tailor.settings import STRICT, Flag
from tailor.tuning.spt.settings import PlacementName, Spt
from tailor.workflow.planners.plain import BUDGET

if TYPE_CHECKING:
    import torch

    from tailor.build import Opened
    from tailor.tuning.plan import TunePlan
    from tailor.tuning.spt.scores import Scores
    from tailor.tuning.spt.stability import Stable
    from tailor.workflow.context import Context, Decision

SCORES, HEAT_MAP = "sensitivity.safetensors", "heatmap.png"
DEFAULT_BUDGET = "0.47%"
"""Without a budget, as a share of the backbone: SPT's main rows have 0.4 M of ViT-B/16."""
SCORING_BATCH = {"sample": 16, "batch": 32}
"""Images a step of the sensitivity pass, by its unit. Of samples the result does not depend on it, only the scratch
memory; of batches it is what is squared, 32 in the released code."""
_HEADS = {"random": "own", "class-means": "ncm"}


@dataclass(frozen=True, config=STRICT)
class PlaceBudget:
    """One of SPT's methods; `spt` holds its settings, `scores` a run or file to take the scores from."""

    method: str
    budget: Annotated[str | None, Flag(BUDGET + f" (default: {DEFAULT_BUDGET})")] = None
    criterion: Annotated[
        PlacementName | None, Flag("what ranks the weights instead of the method's own: the controls of SPT's claim")
    ] = None
    scores: Annotated[
        str | None, Flag("take SPT's scores from this earlier run: another budget costs no second pass")
    ] = None
    spt: Spt = Spt()

    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    closed: ClassVar[tuple[str, ...]] = ("structured", "kind")
    page: ClassVar[str] = "docs/methods/spt.md"

    def __post_init__(self) -> None:
        if self.criterion is not None:
            replace(self.spt, criterion=self.criterion)  # refused here, before anything is opened
        check_parameters(self.budget)

    def numbered(self, name: str, number: int) -> "PlaceBudget":
        """`spt-lora-4`: another rank."""
        return PlaceBudget(name, spt=replace(self.spt, rank=number))

    def plan(self, context: "Context") -> "Decision":
        """The plan; its scores and a picture of it are left in the run's folder."""
        from tailor.bundle.files import replacing
        from tailor.training import processes_here
        from tailor.tuning.spt.allocate import allocate
        from tailor.tuning.spt.placement import PLACEMENTS, placed
        from tailor.workflow.budgets import allowed
        from tailor.workflow.context import Decision

        opened = context.opened
        limit = allowed(opened, self.budget or DEFAULT_BUDGET)
        assert limit is not None
        settings = self._settings(context)
        squares = self._scores(context, settings, limit) if PLACEMENTS[settings.criterion].sees else None
        scores = placed(settings.criterion, opened.model, opened.anatomy, squares, context.recipe.seed)
        plan = allocate(scores, opened.anatomy, opened.model, settings, limit)
        if processes_here().is_main_process:
            if squares is not None:
                with replacing(context.folder / SCORES) as temporary:
                    squares.save(temporary)
            _draw(plan, opened, squares, context.folder)
        return Decision((plan,))

    def _settings(self, context: "Context") -> Spt:
        """The settings; in a dense task without single entries, which the paper found to be worse there."""
        dense = hasattr(context.task, "decoders") and self.spt.parts == "both"
        settings = replace(self.spt, parts="structured") if dense else self.spt
        return settings if self.criterion is None else replace(settings, criterion=self.criterion)

    def _scores(self, context: "Context", settings: Spt, limit: int) -> "Scores":
        """The sensitivity of every candidate: from a file, from another method of this call, or from a new pass."""
        own = (settings, limit) if settings.samples == "auto" else ()  # when it stops is up to the plan
        wanted = (self.spt.unit, self.spt.samples, self.spt.head, *own)
        if self.scores is not None:
            return _taken(Path(self.scores), context, {"unit": self.spt.unit, "head": _HEADS[self.spt.head]})
        if wanted not in context.known:
            context.known[wanted] = _measured(settings, context, limit)
        return context.known[wanted]  # type: ignore[no-any-return]

    def explain(self, plan: "TunePlan", opened: "Opened") -> tuple[str, ...]:
        """The figures and the heat map of the plan."""
        from tailor.evidence.terminal import heatmap_text
        from tailor.tuning.spt import report

        found = report.summary(plan, opened.anatomy)
        rows = tuple(f"block {i}" for i in range(len(found.shares)))
        drawn = heatmap_text(found.shares, rows, found.operations, _structured(plan, opened, found.operations))
        return (*found.lines(), "", *drawn.splitlines())


def _measured(settings: Spt, context: "Context", limit: int) -> "Scores":
    import torch

    from tailor.data.loading import loader
    from tailor.data.transforms import eval_transform
    from tailor.training import processes_here
    from tailor.tuning.spt.scores import Scores, sensitivity
    from tailor.tuning.spt.stability import EVERY, MOST

    opened, recipe = context.opened, context.recipe
    batches = loader(
        context.split("train"),
        eval_transform(opened.spec.preprocessing),
        batch_size=SCORING_BATCH[settings.unit],
        seed=recipe.seed,
        epoch=0,
        shuffle=True,
        collate=context.task.collate,
    )
    device = processes_here().device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(recipe.seed)  # a loss may draw the points at which it looks
        scores = sensitivity(
            opened.model.to(device),
            opened.anatomy,
            _Pairs(batches, device),
            loss=context.task.loss,
            head=_HEADS[settings.head],  # type: ignore[arg-type]
            head_seed=recipe.seed,
            unit=settings.unit,
            samples=MOST if settings.samples == "auto" else settings.samples,
            autocast={"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision),
            progress=lambda done, total: context.tell(Event("sensitivity", done, total, "squared gradients")),
            enough=_stable(settings, context, limit) if settings.samples == "auto" else None,
            every=EVERY,
        )
    opened.model.cpu()  # what a plan adds is drawn on the CPU, so that the same seed gives the same start
    assert context.images is not None
    facts = {**scores.facts, "backbone": opened.spec.backbone.digest, "data": context.images.name}
    return Scores({n: t.cpu() for n, t in scores.tensors.items()}, facts)


def _stable(settings: Spt, context: "Context", limit: int) -> "Stable":
    """Who ends a pass once the plan of these settings within the limit stays what it is."""
    from tailor.tuning.spt.allocate import allocate
    from tailor.tuning.spt.placement import placed
    from tailor.tuning.spt.stability import Stable, agreement

    opened, seed = context.opened, context.recipe.seed
    model, anatomy = opened.model, opened.anatomy

    def plan(squares: "Scores") -> "TunePlan":
        return allocate(placed(settings.criterion, model, anatomy, squares, seed), anatomy, model, settings, limit)

    return Stable(plan, agreement(model, anatomy, settings))


def _taken(path: Path, context: "Context", wanted: dict[str, str]) -> "Scores":
    """Scores of an earlier run; PlanError where they were made with other weights or in another way."""
    from tailor.tuning.spt.scores import load

    file = path / SCORES if path.is_dir() else path
    scores = load(file)
    reference = context.opened.spec.backbone
    if scores.facts.get("backbone", "") != reference.digest:
        raise PlanError(
            f"the scores in `{file}` are those of other weights than `{reference.name}` has here",
            hint="leave `--scores` out to score again",
        )
    for key, value in wanted.items():
        if scores.facts.get(key, value) != value:
            raise PlanError(
                f"the scores in `{file}` were made with {key} `{scores.facts[key]}`, not `{value}`",
                hint="leave `--scores` out to score again",
            )
    here = context.images.name if context.images else ""
    other = scores.facts.get("data", here)
    made = "" if other == here else f", which were made on other data: {other}"
    context.tell(Event("sensitivity", text=f"scores taken from `{file}`{made}"))
    return scores


class _Pairs:
    """Batches as (images, targets) on the device, with their number, for the scoring pass."""

    def __init__(self, batches: Any, device: "torch.device") -> None:
        self.batches, self.device = batches, device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        from accelerate.utils import send_to_device

        for batch in self.batches:
            yield batch.images.to(self.device), send_to_device(batch.targets, self.device)


def _draw(plan: "TunePlan", opened: "Opened", squares: "Scores | None", folder: Path) -> None:
    """The heat map block x operation as a picture, and as evidence beside the sensitivity of each cell."""
    from tailor.evidence.plots import heatmap
    from tailor.tuning.spt import report
    from tailor.workflow import evidence

    found = report.summary(plan, opened.anatomy)
    structured = _structured(plan, opened, found.operations)
    felt = report.sensitivity(squares.tensors, opened.anatomy, found.operations) if squares else ()
    evidence.placed(folder, plan, found.operations, found.shares, structured, felt)
    if found.shares:
        heatmap(
            found.shares,
            rows=tuple(str(i) for i in range(len(found.shares))),
            columns=found.operations,
            title=f"{plan.method}: where {plan.cost:,} trainable parameters went",
            out=folder / HEAT_MAP,
            marked=structured,
        )


def _structured(plan: "TunePlan", opened: "Opened", operations: Sequence[str]) -> list[list[bool]]:
    """(blocks, operations): whether a matrix there got a module."""
    tuned = {tune.site for tune in plan.tunes}
    cells = {(site.block, site.op) for site in opened.anatomy.sites if site.name in tuned}
    return [[(block, op) in cells for op in operations] for block in range(len(opened.anatomy.blocks))]
