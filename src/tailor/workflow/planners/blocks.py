"""Whole blocks by how much each matters by itself: the baselines of SLS. So many stay, wherever they stand."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic.dataclasses import dataclass

from tailor.errors import UsageError
from tailor.settings import STRICT, Flag
from tailor.workflow.planners.layers import SAMPLES, check_samples

if TYPE_CHECKING:
    from tailor.workflow.context import Context, Decision


@dataclass(frozen=True, config=STRICT)
class KeepBlocks:
    """Keep the `keep` blocks that score highest; those that change the size of their map stay in any case."""

    keep: Annotated[int, Flag("how many blocks stay")] = 0
    criterion: Annotated[
        Literal["influence", "taylor", "magnitude", "random", "last"],
        Flag("what a block is worth: how far it turns its input, |w g|, |w|, a lot, or `last`: its depth alone"),
    ] = "influence"
    samples: Annotated[int, Flag(SAMPLES)] = 1000

    closed: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[str] = "docs/methods/sls.md"
    method: ClassVar[str] = "blocks"
    adapters: ClassVar[str] = ""
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_samples(self.samples)
        if self.keep < 0:
            raise UsageError(f"`--keep {self.keep}` blocks cannot stay", hint="write for instance `--keep 6`")

    @property
    def needs(self) -> frozenset[str]:
        """Images, where the criterion looks at any; how many blocks stay in any case."""
        if self.keep < 1:
            raise UsageError("it is not said how many blocks stay", hint="add for instance `--keep 6`")
        return frozenset({"images"} if self.criterion in _SEES else ())

    def numbered(self, name: str, number: int) -> "KeepBlocks":
        """`blocks-6`: six stay."""
        if number < 1:
            raise UsageError(f"`{name}` keeps no block", hint="write for instance `--method blocks-6`")
        return KeepBlocks(number)

    def plan(self, context: "Context") -> "Decision":
        """The blocks with the highest scores, in their order."""
        from tailor.pruning.blocks import resizing
        from tailor.pruning.layers import LayerPlan
        from tailor.workflow.context import Decision

        opened = context.opened
        blocks = opened.anatomy.blocks
        if self.keep >= len(blocks):
            raise UsageError(f"the model has {len(blocks)} blocks, and {self.keep} are to stay", hint="keep fewer")
        scores = _SCORES[self.criterion](context, self.samples)
        fixed = resizing(opened.model, [block.path for block in blocks], context.example)
        ranked = sorted(blocks, key=lambda block: (block.path not in fixed, -scores[block.path]))
        stay = {block.path for block in ranked[: max(self.keep, len(fixed))]}
        plan = LayerPlan(
            kept=tuple(index for index, block in enumerate(blocks) if block.path in stay),
            dropped=tuple(block.path for block in blocks if block.path not in stay),
            method=f"blocks by {self.criterion}",
            curve=tuple(None if block.path in fixed else scores[block.path] for block in blocks),
            facts={"reason": f"the {len(stay)} with the highest {self.criterion} stay", "seed": context.recipe.seed},
        )
        return Decision((plan,), str(plan.facts["reason"]))


def _influence(context: "Context", samples: int) -> dict[str, float]:
    from tailor.pruning.importance import influence

    (part,) = context.sample(samples, "train")
    batches = (batch.images for batch in context.batches(part, "scoring", f"{len(part)} images through every block"))
    return influence(context.opened.model, context.opened.anatomy.blocks, batches)


def _taylor(context: "Context", samples: int) -> dict[str, float]:
    from tailor.pruning.elements import Pairs

    (part,) = context.sample(samples, "train")
    return _weights(context, "taylor", Pairs(lambda: context.batches(part, "scoring", f"taylor on {len(part)} images")))


def _magnitude(context: "Context", samples: int) -> dict[str, float]:
    return _weights(context, "l1", None)


def _weights(context: "Context", criterion: str, pairs: object) -> dict[str, float]:
    from tailor.pruning.elements import element_scores
    from tailor.pruning.importance import of_weights

    opened = context.opened
    inside = tuple(f"{block.path}." for block in opened.anatomy.blocks)
    names = [name for name, _ in opened.model.named_parameters() if name.startswith(inside)]
    elements = element_scores(opened.model, names, criterion, pairs, context.task.loss)  # type: ignore[arg-type]
    return of_weights(elements, opened.anatomy.blocks)


def _random(context: "Context", samples: int) -> dict[str, float]:
    from tailor.pruning.importance import lots

    return lots(context.opened.anatomy.blocks, context.recipe.seed)


def _last(context: "Context", samples: int) -> dict[str, float]:
    from tailor.pruning.importance import depth

    return depth(context.opened.anatomy.blocks)


_SEES = ("influence", "taylor")
_SCORES: dict[str, Callable[["Context", int], dict[str, float]]] = {
    "influence": _influence,
    "taylor": _taylor,
    "magnitude": _magnitude,
    "random": _random,
    "last": _last,
}
