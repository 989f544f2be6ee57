"""One number in, one model out: depth and widths to a measured target, by a race of candidates on the user's data."""

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic.dataclasses import dataclass

from tailor.deploy.runtimes import Name, check
from tailor.errors import UsageError
from tailor.events import Event
from tailor.pruning.race.aim import Aim, Quantity, aim_of
from tailor.pruning.race.settings import Race
from tailor.settings import STRICT, Flag

if TYPE_CHECKING:
    from tailor.workflow.context import Context, Decision


@dataclass(frozen=True, config=STRICT)
class Auto:
    """Drop blocks and cut widths so that the target, measured here, is met; the best of several, retrained.

    Everything is decided on val; candidates learn from the dense model, for `minutes` in all.
    """

    speed: Annotated[str | None, Flag("how many times faster it is to be, in batches of 64, measured here: `4x`")] = (
        None
    )
    latency: Annotated[str | None, Flag("milliseconds that may remain, batch 1, measured here: `3ms`, or `30%`")] = None
    macs: Annotated[str | None, Flag("multiply-accumulates that may remain: `25%`, or `2G`")] = None
    params: Annotated[str | None, Flag("parameters that may remain: `25%`, or `2M`")] = None
    bytes: Annotated[str | None, Flag("bytes that the bundle may have: `2M`")] = None
    minutes: Annotated[float, Flag("how long all of it may take")] = 10.0
    runtime: Annotated[Name, Flag("what carries the models out when they are timed")] = "eager"
    race: Race = Race()

    closed: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[str] = "docs/methods/auto.md"
    method: ClassVar[str] = "auto"
    adapters: ClassVar[str] = "merge"
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0
    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise UsageError(f"`--minutes {self.minutes:g}` is no time", hint="write for instance `--minutes 10`")

    @property
    def needs(self) -> frozenset[str]:
        """Images to score and train on; a target in any case."""
        self.aim  # noqa: B018  # refuses what is no target
        check(self.runtime)
        return frozenset({"images"})

    @property
    def aim(self) -> Aim:
        """What was asked for."""
        names: tuple[Quantity, ...] = ("speed", "latency", "macs", "params", "bytes")
        return aim_of({name: getattr(self, name) for name in names})

    @property
    def batch(self) -> int:
        """Images a pass, of the comparison at the end."""
        return 64

    @property
    def seconds(self) -> float:
        """Of each comparison at the end."""
        return min(10.0, 3.0 * self.minutes)

    def numbered(self, name: str, number: int) -> "Auto":
        """It has no size."""
        raise UsageError(f"`auto` takes no number, found `{name}`", hint="write `--method auto --speed 4x`")

    def plan(self, context: "Context") -> "Decision":
        """The race; PlanError where nothing of the model meets the target."""
        from tailor.pruning.race.candidates import front, sentence, table
        from tailor.pruning.race.clock import Clock
        from tailor.workflow.context import Decision
        from tailor.workflow.decision import RACE
        from tailor.workflow.race.arena import SECONDS, Arena, arranged, in_turns
        from tailor.workflow.race.ledger import evidence, opened
        from tailor.workflow.race.rounds import race

        before = max(context.spent, opened(context.folder / RACE, context.resume).seconds)
        clock = Clock(60 * self.minutes, before)
        runtime = arranged(context, self.runtime, min(SECONDS, self.seconds))
        arena = Arena(context, self.aim, self.race, clock, in_turns(context.opened.spec.inputs, runtime))
        won = race(arena)
        metric = context.task.metric
        why = sentence(won.winner, arena.judge, metric)
        context.tell(Event("racing", text=why))
        trained = [one for one in won.candidates if one.epochs]
        lines = tuple(table(front(trained, arena.judge), arena.judge, metric))
        known = evidence(won.candidates, won.winner.name)
        return Decision(won.plans, why, won.tensors, candidates=known, diagram=lines, runtime=runtime)
