"""What the automatic planner is told besides its target: how many candidates, and how its time is divided."""

from pydantic.dataclasses import dataclass

from tailor.errors import UsageError
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Race:
    """How candidates are found and how they race; the `race:` section of a file.

    `depths` numbers of blocks are tried, from every block down to `least`; widths are multiples of one of `rounding`,
    the one that runs best here. Units and blocks are scored on `samples` images. Finding and repairing candidates may
    take the share `finding` of the time. Then the best `entrants` train, and of these the better half again, each round
    for the next of the shares in `rounds`; the one that is left trains for what remains.
    """

    depths: int = 6
    least: int = 2
    rounding: tuple[int, ...] = (8, 16)
    samples: int = 256
    finding: float = 0.3
    entrants: int = 4
    rounds: tuple[float, ...] = (0.2, 0.2)

    def __post_init__(self) -> None:
        for name in ("depths", "least", "samples", "entrants"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` of `race:` must be at least 1: {getattr(self, name)}", hint="see its page")
        if not self.rounding or min(self.rounding) < 1:
            raise UsageError("`rounding` of `race:` names the multiples of widths", hint="write `rounding: [8, 16]`")
        if not 0 < self.finding < 1 or any(not 0 < share < 1 for share in self.rounds) or sum(self.rounds) >= 1:
            raise UsageError(
                f"`finding` {self.finding:g} and `rounds` {list(self.rounds)} are shares of the time that leave some",
                hint="write for instance `rounds: [0.2, 0.2]`",
            )
