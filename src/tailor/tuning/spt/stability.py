"""When a sensitivity pass has seen enough: the plan that it leads to stays what it is.

Ours; the paper scores 240 to 800 images. One comparison says little where a module that is a large part of a small
budget stands at its threshold, so several in a row have to agree. What was seen decides and no clock, so that the same
pass stops at the same image.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.surgery import get_parameter
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt.candidates import candidates, price
from tailor.tuning.spt.scores import Scores
from tailor.tuning.spt.settings import Spt

EVERY, MOST = 80, 800
"""Images between two plans, and those after which a pass ends in any case."""
AGREED, TIMES = 0.95, 3
"""The share of its trainable weights that a plan has to have in common with the one before, so often in a row."""

_RANGE = re.compile(r"\[(\d+):(\d+)\]$")


@dataclass
class Stable:
    """Hears the scores after every `EVERY` images, and says when the plan has stayed what it is."""

    plan: Callable[[Scores], TunePlan]
    common: Callable[[TunePlan, TunePlan], float]
    before: TunePlan | None = None
    agreed: int = field(default=0)

    def __call__(self, scores: Scores) -> bool:
        """Whether that is enough."""
        try:
            plan = self.plan(scores)
        except PlanError:  # nothing fits yet
            self.before, self.agreed = None, 0
            return False
        near = self.before is not None and self.common(self.before, plan) >= AGREED
        self.before, self.agreed = plan, self.agreed + 1 if near else 0
        return self.agreed >= TIMES


def agreement(model: nn.Module, anatomy: Anatomy, settings: Spt) -> Callable[[TunePlan, TunePlan], float]:
    """The share of the trainable weights of the larger of two plans of these settings that both have."""
    prices = {c.name: price(model, c, settings) for c in candidates(anatomy) if c.site}

    def common(one: TunePlan, other: TunePlan) -> float:
        largest = max(one.cost, other.cost)
        shared = sum(_size(model, name) for name in set(one.full) & set(other.full))
        shared += sum(len(a & b) for a, b in _pairs(_entries(one), _entries(other)))
        modules = set(one.tunes) & set(other.tunes)
        left = one.cost - sum(_size(model, name) for name in one.full) - sum(len(e.indices) for e in one.entries)
        alike = left / max(len(one.tunes), 1)  # of prompts: one number a block, the same in all
        return (shared + sum(prices.get(tune.site) or alike for tune in modules)) / max(largest, 1)

    return common


def _size(model: nn.Module, name: str) -> int:
    found = _RANGE.search(name)
    return int(found[2]) - int(found[1]) if found else get_parameter(model, name).numel()


def _entries(plan: TunePlan) -> dict[str, set[int]]:
    return {one.tensor: set(one.indices) for one in plan.entries}


def _pairs(one: Mapping[str, set[int]], other: Mapping[str, set[int]]) -> list[tuple[set[int], set[int]]]:
    return [(one[name], other[name]) for name in one.keys() & other.keys()]
