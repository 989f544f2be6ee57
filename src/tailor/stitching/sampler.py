"""Which route each step trains, and which routes a palette offers in the end: ESTA's task-specific sampling.

A route's importance is the moving average of its saliency. After a warm-up of uniform draws, an interval of cost is
drawn uniformly and in it a route by softmax over importance; the most important of every interval is deployed, without
evaluation. Deviations, where the paper says nothing: averages are corrected for their start, as Adam's are, or routes
with few visits would never recover; the smallest anchor is drawn as often as an interval, since no other route ends in
its head (by importance alone it was visited twice in 250 steps); before the softmax averages are standardised within
the interval, whose members differ by far more or far less than one; the warm-up is a tenth of the steps and five visits
each, at most a quarter.
"""

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from tailor.errors import PlanError, TrainingError
from tailor.settings import STRICT

STREAM = 4  # what this random stream is for


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """How routes are drawn. `uniform` never leaves the warm-up's way, but keeps the scores."""

    kind: Literal["importance", "uniform"] = "importance"
    intervals: int = 15
    momentum: float = 0.9
    warmup: float = 0.1
    visits: int = 5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.intervals < 1 or not 0 <= self.momentum < 1 or not 0 <= self.warmup <= 1 or self.temperature <= 0:
            raise PlanError(
                "the sampling has no intervals, or its momentum, warm-up or temperature is out of range",
                hint="leave them at 15, 0.9, 0.1 and 1",
            )


@plain_dataclass
class Sampler:
    """Scores and visits of routes whose costs are known; the draw of a step follows from them, the seed and the step.

    `anchors` are the first routes: intervals of equal width lie between the cheapest and the dearest of them.
    """

    costs: Sequence[int]
    anchors: int
    steps: int
    settings: Sampling
    seed: int = 0

    def __post_init__(self) -> None:
        count = len(self.costs)
        if self.settings.intervals > count:
            raise PlanError(
                f"{self.settings.intervals} intervals are more than the palette's {count} routes",
                hint=f"ask for {min(15, count)} or fewer",
            )
        self.averages = torch.zeros(count, dtype=torch.float64)
        self.visited = torch.zeros(count, dtype=torch.int64)
        self.intervals = intervals_of(self.costs, self.anchors, self.settings.intervals)

    @property
    def warmup(self) -> int:
        """Steps that draw uniformly at first."""
        share = round(self.settings.warmup * self.steps)
        return min(max(share, self.settings.visits * len(self.costs)), self.steps // 4)

    @property
    def scores(self) -> Tensor:
        """(R,) the importance of every route, its average corrected for the start; zero where it was never drawn."""
        weight = 1 - self.settings.momentum ** self.visited.double()
        return torch.where(self.visited > 0, self.averages / weight.clamp_min(1e-300), 0.0)

    def draw(self, step: int) -> int:
        """The route of a step, the same on every process."""
        generator = np.random.default_rng([STREAM, self.seed, step])
        if self.settings.kind == "uniform" or step < self.warmup:
            return int(generator.integers(len(self.costs)))
        place = int(generator.integers(len(self.intervals) + 1))
        if place == len(self.intervals):
            return 0
        members = self.intervals[place]
        return members[int(generator.choice(len(members), p=self.chances(members)))]

    def chances(self, members: Sequence[int]) -> np.ndarray:
        """The chance of each of an interval's routes; a route that was never drawn counts as the mean."""
        scores, seen = self.scores[list(members)], self.visited[list(members)] > 0
        known = scores[seen]
        spread = float(known.std(correction=0)) if len(known) else 0.0
        level = torch.zeros_like(scores)
        if spread > 0:
            level[seen] = (known - known.mean()) / spread
        chances: np.ndarray = torch.softmax(level / self.settings.temperature, 0).numpy()
        return chances / chances.sum()

    def visit(self, route: int, saliency: float) -> None:
        """Take in what a step found of the route."""
        if not np.isfinite(saliency):
            raise TrainingError(f"the saliency of a route is {saliency}", hint="lower `lr`, or set `clip_norm`")
        momentum = self.settings.momentum
        self.averages[route] = momentum * self.averages[route] + (1 - momentum) * saliency
        self.visited[route] += 1

    def deployed(self) -> tuple[int, ...]:
        """The most important route of every interval, from the cheapest interval on."""
        scores = self.scores
        return tuple(max(members, key=lambda route: (float(scores[route]), -route)) for members in self.intervals)

    def state(self) -> dict[str, Tensor]:
        """What steps have changed."""
        return {"averages": self.averages, "visited": self.visited}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Undo `state`; TrainingError where it is of other routes."""
        for name, mine in self.state().items():
            if name not in tensors or tensors[name].shape != mine.shape:
                raise TrainingError("the scores of the checkpoint are of other routes", hint="start again")
            mine.copy_(tensors[name])


def intervals_of(costs: Sequence[int], anchors: int, count: int) -> tuple[tuple[int, ...], ...]:
    """The routes in each of `count` intervals of equal width over the anchors' costs; empty ones are left out.

    A route that is dearer than every anchor is in the last one, a cheaper one in the first.
    """
    low, high = min(costs[:anchors]), max(costs[:anchors])
    members: list[list[int]] = [[] for _ in range(count)]
    for route, cost in enumerate(costs):
        at = int((cost - low) * count / (high - low)) if high > low else 0
        members[min(max(at, 0), count - 1)].append(route)
    return tuple(tuple(routes) for routes in members if routes)
