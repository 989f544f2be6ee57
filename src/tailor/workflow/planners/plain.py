"""Every tuning method that needs no data: at its usual places, at the largest size that the budget allows."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic.dataclasses import dataclass

from tailor.budget import check_parameters
from tailor.errors import UsageError
from tailor.settings import STRICT, Flag

if TYPE_CHECKING:
    from tailor.build import Opened
    from tailor.tuning.plan import TunePlan
    from tailor.workflow.context import Context, Decision

BUDGET = "trainable parameters without the head: `0.4%` of the backbone's, or `0.4M`; never exceeded"
LARGEST = 1 << 16


@dataclass(frozen=True, config=STRICT)
class Plain:
    """The method of that name; `size` is its number (`lora-16`)."""

    method: str
    size: int | None = None
    budget: Annotated[str | None, Flag(BUDGET)] = None

    needs: ClassVar[frozenset[str]] = frozenset()
    page: ClassVar[str] = "docs/methods"

    def __post_init__(self) -> None:
        check_parameters(self.budget)

    def numbered(self, name: str, number: int) -> "Plain":
        """`lora-16`."""
        if not 1 <= number <= LARGEST:
            raise UsageError(
                f"the number in `{name}` must lie between 1 and {LARGEST}",
                hint=f"write for instance `{self.method}-8`",
            )
        return Plain(self.method, number)

    def plan(self, context: "Context") -> "Decision":
        """At its usual places."""
        from tailor.tuning import planner
        from tailor.workflow.budgets import allowed
        from tailor.workflow.context import Decision

        opened = context.opened
        method = planner.parse(self.method if self.size is None else f"{self.method}-{self.size}")
        limit = allowed(opened, self.budget)
        return Decision((planner.plan(opened.model, opened.anatomy, method, limit),))

    def explain(self, plan: "TunePlan", opened: "Opened") -> tuple[str, ...]:
        """Nothing: where it sits is in its name."""
        return ()
