"""The time of a race: how much there is, and who gets how much of it. The clock is passed in."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Clock:
    """Seconds that a race may take; `before` are those that it took until it was interrupted."""

    limit: float
    before: float = 0.0
    now: Callable[[], float] = time.monotonic
    began: float = field(default=float("nan"))

    def __post_init__(self) -> None:
        if self.began != self.began:
            object.__setattr__(self, "began", self.now())

    @property
    def spent(self) -> float:
        """Seconds that have gone."""
        return self.before + self.now() - self.began

    @property
    def left(self) -> float:
        """Seconds that are left, never below nothing."""
        return max(0.0, self.limit - self.spent)


@dataclass(frozen=True)
class Round:
    """How many run, and the share of the race's time that each of them gets."""

    entrants: int
    share: float


def rounds(entrants: int, shares: Sequence[float]) -> tuple[Round, ...]:
    """Successive halving: each round the better half goes on; in the last the best alone has all that is left.

    Rounds in which only one would run are left out, and their share goes to the last.
    """
    found: list[Round] = []
    for share in shares:
        if entrants > 1:
            found.append(Round(entrants, share / entrants))
            entrants = (entrants + 1) // 2
    return (*found, Round(1, 1 - sum(one.entrants * one.share for one in found)))


def epochs(seconds: float, each: float, most: int = 1000) -> int:
    """How many passes fit in `seconds` where one takes `each`; at least one, and no more than `most`."""
    return max(1, min(most, int(seconds / max(each, 1e-9))))


def part(plan: Sequence[Round], number: int, left: float) -> float:
    """The seconds of each that runs in round `number`, where `left` are all that this round and those after have."""
    return left * plan[number].share / sum(one.entrants * one.share for one in plan[number:])
