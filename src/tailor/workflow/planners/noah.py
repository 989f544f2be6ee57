"""NOAH's two stages before the ordinary one: train the supernet, then search it on val for a plan within the budget.

The supernet trains as long as the recipe says, at half its rate (the paper: 5 times as long as the final run, 5e-4).
"""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic.dataclasses import dataclass

from tailor.budget import check_parameters
from tailor.errors import UsageError
from tailor.events import Event
from tailor.settings import STRICT, Flag
from tailor.tuning.noah.settings import Noah
from tailor.workflow.planners.plain import BUDGET

if TYPE_CHECKING:
    from tailor.build import Opened
    from tailor.tuning.plan import TunePlan
    from tailor.workflow.context import Context, Decision

DEFAULT_BUDGET = "0.75%"
"""As a share of the backbone: NOAH's limit is 0.64 M of ViT-B/16."""
SUPERNET = "supernet"
"""Folder of the supernet's own training state inside the run."""


@dataclass(frozen=True, config=STRICT)
class SearchModules:
    """The best plan within the budget that mixes prompts, LoRA and adapters."""

    budget: Annotated[str | None, Flag(BUDGET + f" (default: {DEFAULT_BUDGET})")] = None
    noah: Noah = Noah()

    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    page: ClassVar[str] = "docs/methods/noah.md"

    def __post_init__(self) -> None:
        check_parameters(self.budget)

    def numbered(self, name: str, number: int) -> "SearchModules":
        """It has no size."""
        raise UsageError(f"`noah` takes no number, found `{name}`", hint="write `--method noah`")

    def plan(self, context: "Context") -> "Decision":
        """Search; PlanError where nothing fits."""
        from tailor.tuning.apply import apply_
        from tailor.tuning.apply import cost as price
        from tailor.tuning.noah import search as noah
        from tailor.workflow.batches import on_images, train_
        from tailor.workflow.budgets import allowed
        from tailor.workflow.context import Decision
        from tailor.workflow.data import in_order

        base, recipe, task = context.opened, context.recipe, context.task
        limit = allowed(base, self.budget or DEFAULT_BUDGET)
        assert limit is not None
        settings = self._within(len(base.anatomy.blocks))
        plan = noah.plan(base.model, base.anatomy, noah.full(base.anatomy, settings))
        model = apply_(copy.deepcopy(base.model), plan, base.anatomy.heads, recipe.seed)
        low = min(recipe.min_lr, recipe.lr / 2)
        slower = replace(recipe, lr=recipe.lr / 2, min_lr=low, select="last", evaluate_every=recipe.epochs)
        run = replace(context.run(), recipe=slower, folder=context.folder / SUPERNET, workers=0, teacher=None)
        course = on_images(model, base.spec, run)
        step = noah.step(base.anatomy, settings, lambda output, share: share.loss(task, output))
        train_(course, run, task, step=step, stage="supernet")
        held_out: Any = in_order(context.split("val"), base.spec.preprocessing, base.spec.head)
        value = noah.correct if task.groups else lambda output, targets: -task.loss(output, targets)
        found = noah.search(
            noah.evaluator(model, base.anatomy, held_out, value),
            lambda widths: price(base.model, noah.plan(base.model, base.anatomy, widths), base.anatomy.heads),
            base.anatomy,
            settings,
            limit,
            seed=recipe.seed,
            progress=lambda done, total: context.tell(Event("search", done, total, "generations of sub-nets, on val")),
        )
        return Decision((noah.plan(base.model, base.anatomy, found.widths),))

    def _within(self, depth: int) -> Noah:
        """The settings, their default depths taken as shares of a shallower backbone."""
        if depth < max(self.noah.depths) and self.noah.depths == Noah().depths:
            return replace(self.noah, depths=tuple(sorted({max(1, depth * i // 4) for i in (1, 2, 3, 4)})))
        return self.noah

    def explain(self, plan: "TunePlan", opened: "Opened") -> tuple[str, ...]:
        """Nothing."""
        return ()
