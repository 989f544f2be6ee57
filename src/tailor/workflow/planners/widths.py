"""Widths: trace the model, score its units, choose what stays, check that the cut is exact."""

import dataclasses
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic.dataclasses import dataclass

from tailor.errors import ModelError, UsageError, nearest
from tailor.events import Event
from tailor.pruning.settings import Adapters, Recovery, Widths
from tailor.settings import STRICT, Flag
from tailor.workflow.goal import Goal
from tailor.workflow.planners.layers import SAMPLES, check_samples

if TYPE_CHECKING:
    from torch import nn

    from tailor.build import Opened
    from tailor.inputs import Example
    from tailor.tracing import Groups, Traced, WidthPlan
    from tailor.workflow.context import Context, Decision

CRITERIA = ("l1", "l2", "taylor", "hessian", "salience", "random")
"""Every criterion; a test holds it against the tables of those that score."""
LABELLED = ("taylor", "hessian", "salience")
"""Those that need labelled images."""


@dataclass(frozen=True, config=STRICT)
class CutWidths:
    """Cut the units that score lowest: to a target that may remain, or by shares that go.

    `merge` folds the tunes in first; with `keep` and `prune` they stand beside the layers. With `steps` a part goes at
    a time, with `recover` epochs of training between.
    """

    method: str
    criterion: Annotated[
        str | None,
        Flag(
            "how units are scored: `taylor` (default with data), `l1` (without), `l2`, `hessian`, `salience`, `random`"
        ),
    ] = None
    macs: Annotated[str | None, Flag("multiply-accumulates that may remain: `50%`, or `2G`")] = None
    params: Annotated[str | None, Flag("parameters that may remain: `50%`, or `20M`")] = None
    latency: Annotated[str | None, Flag("milliseconds that may remain, measured here: median, batch 1")] = None
    ratio: Annotated[str | None, Flag("share that goes of the embedding, the heads and the hidden units alike")] = None
    emb: Annotated[str | None, Flag("share of the embedding (the residual stream's channels) that goes")] = None
    heads: Annotated[str | None, Flag("share of the attention heads that goes")] = None
    dim: Annotated[str | None, Flag("share of every head's dimensions that goes")] = None
    mlp: Annotated[str | None, Flag("share of the hidden units that goes")] = None
    samples: Annotated[int, Flag(SAMPLES)] = 1000
    adapters: Annotated[
        Adapters, Flag("before the cut: `merge` the tunes, `keep` them as they are, or `prune` them too")
    ] = "merge"
    repair: Annotated[
        Recovery | None,
        Flag(
            "after the cut, before any training: `ridge` gives the layers weights that best give back the dense ones' "
            "outputs (default with data, `--adapters merge`), `norms` estimates batch norms anew, `none`"
        ),
    ] = None
    steps: Annotated[int, Flag("cut in so many steps, each scored anew")] = 1
    recover: Annotated[int | None, Flag("epochs of training after every step but the last (default: 1)")] = None
    widths: Widths = Widths()

    closed: ClassVar[tuple[str, ...]] = ("ranking", "drawn")
    page: ClassVar[str] = "docs/methods/width.md"

    def __post_init__(self) -> None:
        if self.criterion not in (None, *CRITERIA):
            raise UsageError(f"unknown criterion `{self.criterion}`", hint=nearest(str(self.criterion), CRITERIA))
        if self.widths.drawn and self.criterion not in (None, "random"):
            raise UsageError(
                f"`--method {self.method}` draws units, `--criterion {self.criterion}` scores them",
                hint="leave one of the two out",
            )
        check_samples(self.samples)
        if self.widths.blocks and self.adapters != "merge":
            raise UsageError(
                f"`blocks` and `--adapters {self.adapters}` do not go together", hint="use `--adapters merge`"
            )
        if self.repair in ("ridge", "norms") and self.adapters != "merge":
            raise UsageError(
                f"`--repair {self.repair}` changes tensors that a bundle of `--adapters {self.adapters}` does not hold",
                hint="use `--adapters merge`, or `--repair none`",
            )
        if self.steps < 1 or (self.recover or 0) < 0:
            raise UsageError(
                f"`--steps {self.steps} --recover {self.recovers}` cannot be", hint="write for instance `--steps 3`"
            )
        if self.recover is not None and self.steps == 1:
            raise UsageError(
                f"`--recover {self.recover}` trains between steps, and there is one", hint="add `--steps 3`"
            )
        if self.steps > 1 and self.widths.blocks:
            raise UsageError("`blocks` and `--steps` do not go together", hint="prune in steps first, then drop blocks")

    @property
    def needs(self) -> frozenset[str]:
        """Images, where the criterion or the repair does; a goal in any case."""
        self.goal.target()
        return frozenset({"images"} if self.criterion in LABELLED or self.repair in ("ridge", "norms") else ())

    @property
    def goal(self) -> Goal:
        """What was asked for."""
        return Goal(**{field.name: getattr(self, field.name) for field in fields(Goal)})

    @property
    def recovers(self) -> int:
        """Epochs of training between steps."""
        return 1 if self.recover is None else self.recover

    @property
    def settings(self) -> Widths:
        """How units are chosen. A target leaves the embedding alone where tunes are kept: they read and write it."""
        if self.adapters == "keep" and self.widths.parts == Widths().parts:
            kept = tuple(part for part in self.widths.parts if part != "embedding")
            return dataclasses.replace(self.widths, parts=kept)
        return self.widths

    def numbered(self, name: str, number: int) -> "CutWidths":
        """It has no size."""
        raise UsageError(f"`{self.method}` takes no number, found `{name}`", hint=f"write `--method {self.method}`")

    def plan(self, context: "Context") -> "Decision":
        """The cut, and where `widths.blocks` asks for it the blocks that stay; NothingToGo where no unit would go."""
        from tailor.pruning.blocks import check_blocks
        from tailor.pruning.target import NothingToGo
        from tailor.pruning.width import kept
        from tailor.tracing import plan_widths
        from tailor.tuning.apply import merges
        from tailor.workflow.context import Decision
        from tailor.workflow.counts import ScoredUnits, counts_for
        from tailor.workflow.recover import recovered
        from tailor.workflow.tunes_beside import as_merged, folded
        from tailor.workflow.unit_scores import choose_blocks, score_units

        opened, settings, example = context.opened, self.settings, context.example
        criterion = "random" if settings.drawn else self.criterion or ("taylor" if context.images else "l1")
        check_blocks(settings.blocks, [block.path for block in opened.anatomy.blocks])
        beside = self.adapters != "merge"
        if beside:
            opened = dataclasses.replace(opened, model=folded(opened.model))
            context = context.at(opened)
        context.tell(Event("tracing", text="which widths shrink together"))
        traced = self._traced(opened, example)
        scores = score_units(context, traced.groups, criterion, self.samples, settings, self.adapters)
        scored = ScoredUnits(opened.model, traced, scores.units, settings, opened.spec.inputs, whole=context.step.whole)
        if beside and all(merges(tuning) for tuning in opened.spec.tuning):
            scored = dataclasses.replace(scored, **as_merged(opened.spec))
        counts = counts_for(scored, self.goal.shares(settings.parts), self.goal.target(), context.tell)
        plan = plan_widths(traced.groups, kept(traced.groups, scores.units, counts))
        if not plan.cuts:
            raise NothingToGo(
                "nothing is left to go: every width is pinned or already at its least", hint="ask for more"
            )
        _check(opened.model, traced, plan, example)
        why = f"{self.method} by {criterion}: {_line(traced.groups, plan)}"
        decision = Decision((plan,), why)
        if settings.blocks:
            layers = choose_blocks(opened, plan, scores.elements, settings.blocks, example, context.recipe.seed)
            decision = Decision((plan, layers), f"{why}; {layers.facts['reason']}")
        images = context.images is not None and opened.spec.preprocessing.reads == "images"
        default: Recovery = "none" if beside or not images else "ridge"
        return recovered(context, decision, self.repair or default)

    def _traced(self, opened: "Opened", example: "Example") -> "Traced":
        """What can be cut exactly, in the classes that the settings ask for."""
        from tailor.tracing import as_published, settle, trace
        from tailor.workflow.tunes_beside import trace_beside

        if self.adapters == "merge":
            cached = hasattr(opened.model, "generate")  # a recording of a module's graph knows no cache
            traced = settle(opened.model, trace(opened.model, example), example, record_modules=not cached)
        else:
            traced = trace_beside(opened.model, opened.spec, opened.anatomy.heads, example, self.adapters)
        if self.settings.strict == "paper":
            return dataclasses.replace(traced, groups=as_published(traced))
        return traced


def _check(model: "nn.Module", traced: "Traced", plan: "WidthPlan", example: "Example") -> None:
    """The cut model computes what the dense one does without the removed units; ModelError where it does not."""
    from tailor.tracing import awakened, cut, verify

    awake = awakened(model)
    verdict = verify(awake, cut(awake, plan), traced, plan, example)
    if not verdict.exact:
        raise ModelError(
            f"the cut is not exact at `{verdict.module}`: {verdict.cause} (error {verdict.error:.1e})",
            hint="use `--method sls`, and report the model's name",
        )


def _line(groups: "Groups", plan: "WidthPlan") -> str:
    """`embedding 96 -> 48, hidden 384 -> 200 (mean of 12)`."""
    labels: dict[str, list[tuple[int, int]]] = {}
    for group in plan.cuts:
        labels.setdefault(groups[group.group].label, []).append((group.size, len(group.keep)))
    parts = []
    for label, sizes in labels.items():
        whole, kept = (sum(column) / len(sizes) for column in zip(*sizes))
        parts.append(f"{label} {whole:.4g} -> {kept:.4g}" + (f" (mean of {len(sizes)})" if len(sizes) > 1 else ""))
    return ", ".join(parts)
