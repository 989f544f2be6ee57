"""What NOAH is told: the space it searches, and how."""

from typing import Literal

from pydantic.dataclasses import dataclass

from tailor.errors import PlanError
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Noah:
    """The space and the search. `depths`: how many of the first blocks may have modules of a type.

    Of each generation the `top` sub-nets are parents of `mutations` (each width redrawn with chance `mutate_width`, the
    depth of a type with `mutate_depth`) and `crossovers`. The paper's supernet trains 500 epochs at a rate of 5e-4.
    """

    widths: tuple[int, ...] = (1, 5, 10)
    depths: tuple[int, ...] = (3, 6, 9, 12)
    generations: int = 15
    population: int = 50
    mutations: int = 25
    crossovers: int = 25
    top: int = 10
    mutate_width: float = 0.2
    mutate_depth: float = 0.4
    kind: Literal["noah"] = "noah"

    def __post_init__(self) -> None:
        counts = (*self.widths, *self.depths, self.generations, self.population, self.top)
        if not self.widths or not self.depths or min(counts) < 1:
            raise PlanError("NOAH needs widths, depths and counts above zero", hint="leave them at their defaults")
