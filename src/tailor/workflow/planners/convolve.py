"""SPViT: which attention becomes a convolution or nothing and which hidden units stay; and what it is compared with."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic.dataclasses import dataclass

from tailor import budget as budgets
from tailor.errors import UsageError
from tailor.events import Event
from tailor.pruning.convolve.settings import RandomArchitecture, Search, StepSearch, Written
from tailor.settings import STRICT, Flag

if TYPE_CHECKING:
    from tailor.pruning.convolve.places import Slot
    from tailor.pruning.convolve.read_off import Converted
    from tailor.pruning.convolve.search import Now, Train
    from tailor.pruning.convolve.table import Table
    from tailor.workflow.context import Context, Decision

SUPERNET = "supernet"
"""Folder of the search's own training state inside the run."""
FIGURE = "operations.png"
MACS = "multiply-accumulates that may remain: `70%`, or `2G`"
SECONDS = 20.0
"""Within which the models of a table of latencies are timed in turns."""


@dataclass(frozen=True, config=STRICT)
class SearchOperations:
    """Swap attention for convolution or nothing, and narrow MLPs, by a search that trains on the task."""

    method: str = "spvit"
    macs: Annotated[str | None, Flag(MACS)] = None
    latency: Annotated[str | None, Flag("milliseconds that may remain, measured here: median, batch 1")] = None
    spvit: Search = Search()

    adapters: ClassVar[str] = "merge"
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0
    closed: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[str] = "docs/methods/spvit.md"

    @property
    def needs(self) -> frozenset[str]:
        """Images to search on; a target in any case."""
        _one_target(self.macs, self.latency)
        return frozenset({"images"})

    def numbered(self, name: str, number: int) -> "SearchOperations":
        """It has no size."""
        raise _no_number(self.method, name)

    def plan(self, context: "Context") -> "Decision":
        """Search; PlanError where the target is out of reach, ModelError where no attention can be swapped."""
        from tailor.pruning.convolve.places import find_places

        places = find_places(context.opened.model, context.opened.anatomy)
        if self.latency is not None:
            table = _latencies(context, places, self.spvit)
            target = _target(self.latency, "--latency", table)
        else:
            released = self.spvit.table == "released"
            table = _released(context, places) if released else _macs(context, places, self.spvit.scope)
            target = _target(str(self.macs), "--macs", table)
        return _searched(context, places, table, target, self.spvit, self.method)


@dataclass(frozen=True, config=STRICT)
class GateHeads:
    """Drop attention heads by a gate each, in the same search; the MLPs stay whole (NAS head pruning)."""

    method: str = "nas-heads"
    macs: Annotated[str | None, Flag(MACS)] = None
    spvit: Search = Search(parts=("hidden",))

    adapters: ClassVar[str] = "merge"
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0
    closed: ClassVar[tuple[str, ...]] = ("parts", "paths", "scope", "skip", "order", "temperature", "closing", "table")
    page: ClassVar[str] = "docs/methods/spvit.md"

    @property
    def needs(self) -> frozenset[str]:
        """Images to search on; a target in any case."""
        _one_target(self.macs)
        return frozenset({"images"})

    def numbered(self, name: str, number: int) -> "GateHeads":
        """It has no size."""
        raise _no_number(self.method, name)

    def plan(self, context: "Context") -> "Decision":
        """Search; PlanError where the target is out of reach of the heads."""
        from tailor.pruning.convolve.places import find_places, heads_of

        places = heads_of(find_places(context.opened.model, context.opened.anatomy))
        table = _macs(context, places, "map")
        return _searched(context, places, table, _target(str(self.macs), "--macs", table), self.spvit, self.method)


@dataclass(frozen=True, config=STRICT)
class KeepBest:
    """Keep the heads and hidden units that score best, by scores learned through a straight-through mask (STEP)."""

    method: str = "step"
    macs: Annotated[str | None, Flag(MACS)] = None
    step: StepSearch = StepSearch()

    adapters: ClassVar[str] = "merge"
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0
    closed: ClassVar[tuple[str, ...]] = ("seed",)
    page: ClassVar[str] = "docs/methods/spvit.md"

    @property
    def needs(self) -> frozenset[str]:
        """Images to learn on; a target in any case."""
        _one_target(self.macs)
        return frozenset({"images"})

    def numbered(self, name: str, number: int) -> "KeepBest":
        """It has no size."""
        raise _no_number(self.method, name)

    def plan(self, context: "Context") -> "Decision":
        """Learn the scores; PlanError where the target is out of reach."""
        from tailor.pruning.convolve.places import find_places
        from tailor.pruning.convolve.step import step_places, step_search

        opened = context.opened
        places = step_places(find_places(opened.model, opened.anatomy))
        table = _macs(context, places, "map")
        found = step_search(
            opened.model,
            places,
            table,
            _target(str(self.macs), "--macs", table),
            replace(self.step, seed=context.recipe.seed),
            loss=_loss(context),
            train=_trainer(context, self.step),
            example=context.example,
        )
        return _decided(context, found, table, self.method)


@dataclass(frozen=True, config=STRICT)
class WriteOperations:
    """Swap attention and narrow MLPs as an architecture in a file says, such as the released ones."""

    method: str = "swap"
    swap: Written = Written()

    adapters: ClassVar[str] = "merge"
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0
    closed: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[str] = "docs/methods/spvit.md"

    @property
    def needs(self) -> frozenset[str]:
        """An architecture."""
        if not self.swap.operations and not self.swap.hidden:
            raise UsageError(
                "no architecture is written",
                hint="take `--config spvit/deit-s-3.3g`, or set `operations` and `hidden` in a `swap:` section",
            )
        return frozenset()

    def numbered(self, name: str, number: int) -> "WriteOperations":
        """It has no size."""
        raise _no_number(self.method, name)

    def plan(self, context: "Context") -> "Decision":
        """As written; PlanError where the model has other blocks."""
        from tailor.pruning.convolve.places import find_places
        from tailor.pruning.convolve.written import as_written

        model = context.opened.model
        places = find_places(model, context.opened.anatomy)
        table = _macs(context, places, self.swap.scope)
        return _made(context, places, as_written(model, places, self.swap), table, self.swap, self.method)


@dataclass(frozen=True, config=STRICT)
class DrawOperations:
    """A random architecture of the same space within 1 % of the target: the control."""

    method: str = "random-blocks"
    macs: Annotated[str | None, Flag(MACS)] = None
    drawn: RandomArchitecture = RandomArchitecture()

    adapters: ClassVar[str] = "merge"
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0
    closed: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[str] = "docs/methods/spvit.md"

    @property
    def needs(self) -> frozenset[str]:
        """A target."""
        _one_target(self.macs)
        return frozenset()

    def numbered(self, name: str, number: int) -> "DrawOperations":
        """It has no size."""
        raise _no_number(self.method, name)

    def plan(self, context: "Context") -> "Decision":
        """Drawn from the seed; PlanError where nothing of that cost comes up."""
        from tailor.pruning.convolve.places import find_places
        from tailor.pruning.convolve.written import drawn

        places = find_places(context.opened.model, context.opened.anatomy)
        table = _macs(context, places, self.drawn.scope)
        target, parts = _target(str(self.macs), "--macs", table), self.drawn.parts
        found = drawn(
            places,
            table,
            target,
            context.recipe.seed,
            attention="attention" in parts,
            hidden="hidden" in parts,
        )
        return _made(context, places, found, table, self.drawn, self.method)


def _no_number(method: str, name: str) -> UsageError:
    return UsageError(f"`{method}` takes no number, found `{name}`", hint=f"write `--method {method}`")


def _one_target(macs: str | None, latency: str | None = None) -> None:
    """UsageError unless exactly one amount is named."""
    if macs is None and latency is None:
        raise UsageError("nothing says how much may remain", hint="add `--macs 70%`")
    if macs is not None and latency is not None:
        raise UsageError("`--macs` and `--latency` are two targets", hint="leave one of them out")
    _amount(macs, "--macs") if macs is not None else _amount(str(latency), "--latency")


def _amount(text: str, flag: str) -> budgets.Amount:
    amount = budgets.parse(text, flag)
    if amount.unit != "share" and (amount.unit == "ms") != (flag == "--latency"):
        raise UsageError(f"`{flag} {text}` has the wrong unit", hint="write `--macs 2G`, `--latency 5ms` or `70%`")
    return amount


def _target(text: str, flag: str, table: "Table") -> float:
    amount = _amount(text, flag)
    return amount.value * table.dense if amount.unit == "share" else amount.value


def _macs(context: "Context", places: "Sequence[Slot]", scope: Any) -> "Table":
    from tailor.measure import count
    from tailor.pruning.convolve.table import counted

    opened = context.opened
    return counted(places, count.macs(opened.model, opened.spec.inputs), scope)


def _released(context: "Context", places: "Sequence[Slot]") -> "Table":
    from tailor.pruning.convolve.table import released

    opened = context.opened
    return released(places, opened.spec.inputs.image, len(opened.spec.head.classes))


def _latencies(context: "Context", places: "Sequence[Slot]", settings: Search) -> "Table":
    """Median milliseconds at batch 1 on this machine, all models in turns."""
    from torch import nn

    from tailor.measure.speed import throughput
    from tailor.pruning.convolve.timing import measured

    opened = context.opened

    def measure(models: Mapping[str, nn.Module]) -> Mapping[str, float]:
        context.tell(Event("measuring", text=f"{len(models)} models in turns, within {SECONDS:g} s"))
        timed = throughput(models, opened.spec.inputs, batch=1, seconds=SECONDS)
        return {name: one.median for name, one in timed.timings.items()}

    return measured(
        opened.model, places, context.example, measure, unit="ms", scope=settings.scope, order=settings.order
    )


def _loss(context: "Context") -> Callable[[Any, Any], Any]:
    task = context.task
    return lambda model, share: share.loss(task, model(share.images))


def _trainer(context: "Context", settings: Search | StepSearch) -> "Train":
    """The engine, with the search's recipe: constant rates, the last weights, a checkpoint every 100 updates."""
    from tailor.training.optimizer import decayed
    from tailor.workflow.batches import on_images, train_

    images = len(context.split("train"))
    each = math.ceil(images / settings.batch_size)
    recipe = replace(
        context.recipe,
        epochs=math.ceil(settings.updates / each),
        batch_size=settings.batch_size,
        optimizer="adamw",
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        schedule="constant",
        min_lr=0.0,
        warmup_epochs=0.0,
        ema=None,
        select="last",
        evaluate_every=math.ceil(settings.updates / each),
        checkpoint_steps=100,
    )
    run = replace(context.run(), recipe=recipe, folder=context.folder / SUPERNET, teacher=None)

    def train(module: Any, step: Any, apart: Sequence[Mapping[str, Any]], before: Callable[[int], None]) -> None:
        own = {id(p) for group in apart for p in group["params"]}
        groups = [{**g, "params": [p for p in g["params"] if id(p) not in own]} for g in decayed(module)]
        groups = [group for group in groups if group["params"]]
        groups += [
            {"params": g["params"], "lr_scale": g["lr"] / recipe.lr, "weight_decay": g["weight_decay"]} for g in apart
        ]
        course = replace(on_images(context.opened.model, context.opened.spec, run), module=module)
        train_(course, run, context.task, step=step, stage="search", groups=groups, before=before)

    return train


def _searched(
    context: "Context", places: "Sequence[Slot]", table: "Table", target: float, settings: Search, method: str
) -> "Decision":
    from tailor.pruning.convolve.search import search

    def progress(now: "Now") -> None:
        text = (
            f"open gates {now.cost:.1%}, expected {now.expected:.1%}, aim {now.aim:.1%} of the dense {table.measure}; "
            f"entropy {now.entropy:.2f} bit"
        )
        context.tell(Event("gates", now.update, now.updates, text))

    found = search(
        context.opened.model,
        context.opened.anatomy,
        places,
        table,
        target,
        settings,
        loss=_loss(context),
        train=_trainer(context, settings),
        example=context.example,
        progress=progress,
    )
    return _decided(context, found, table, method)


def _made(
    context: "Context",
    places: "Sequence[Slot]",
    wanted: Any,
    table: "Table",
    settings: Written | RandomArchitecture,
    method: str,
) -> "Decision":
    from tailor.pruning.convolve.written import made

    how = {name: getattr(settings, name) for name in ("order", "skip", "scope", "folded")}
    return _decided(
        context, made(context.opened.model, places, wanted, table, context.example, how, method), table, method
    )


def _decided(context: "Context", found: "Converted", table: "Table", method: str) -> "Decision":
    """The plans that change something, and the model they lead to; a figure of it in the run's folder."""
    from tailor.evidence.operations import Hybrid, operations
    from tailor.pruning.target import NothingToGo
    from tailor.training import processes_here
    from tailor.workflow.context import Decision

    plans = ((replace(found.swaps, method=method),) if found.swaps.swaps else ()) + (
        (found.widths,) if found.widths is not None else ()
    )
    if not plans:
        raise NothingToGo("every gate stayed open", hint="search longer, or for less")
    built = found.architecture
    letters = "".join({"none": "S", "conv1": "1", "conv3": "3", "attention": "A"}[one] for one in built.operations)
    share = found.cost / table.dense
    why = f"{method}: {letters}, {share:.1%} of the {table.measure}"
    context.tell(Event("operations", text=why))
    if processes_here().is_main_process:
        dense = tuple(block.units for block in table.blocks)
        name = f"{method}: {share:.1%} of the dense {table.measure}"
        operations([Hybrid(name, built.operations, built.widths, dense)], context.folder / FIGURE)
    return Decision(plans, why, found.model.state_dict())
