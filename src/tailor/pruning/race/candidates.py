"""A candidate as plain numbers, and what is decided from numbers alone: who goes on, who wins, what can be had.

Scores are the leading metric on val by stage, in the order of the stages; more is better only if `larger` says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pydantic.dataclasses import dataclass as checked

from tailor.settings import STRICT


@checked(frozen=True, config=STRICT)
class Candidate:
    """A model that could be taken: what it consists of, what it costs, how good it was at each stage.

    `ms` is a pass of the batch that the target is measured with, `speed` how many times faster than the dense model
    that is; both are foretold unless `measured`. `meets` says that it holds the target. `epochs` are those of each
    round, `took` the seconds of each stage.
    """

    name: str
    depth: int
    plans: str
    ms: float
    speed: float
    macs: int
    params: int
    bytes: int
    meets: bool = True
    measured: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """That of the last stage."""
        return next(reversed(self.scores.values()))

    def scored(self, stage: str, score: float, seconds: float) -> "Candidate":
        """After one more stage."""
        return replace(self, scores={**self.scores, stage: score}, took={**self.took, stage: round(seconds, 2)})

    @property
    def each(self) -> float | None:
        """Seconds that a pass of its training took, over all rounds; None before the first."""
        passes = sum(self.epochs[stage] for stage in self.took if stage in self.epochs)
        return sum(self.took[stage] for stage in self.took if stage in self.epochs) / passes if passes else None


@dataclass(frozen=True)
class Judge:
    """How scores are compared: the dense model's on val, whether more is better, and its standard error."""

    dense: float
    larger: bool
    error: float

    def key(self, candidate: Candidate) -> float:
        """More is better."""
        return candidate.score if self.larger else -candidate.score

    def behind(self, score: float) -> float:
        """How much worse than the dense model a score is; below nothing where it is better."""
        return self.dense - score if self.larger else score - self.dense

    def equal(self, score: float) -> bool:
        """Whether a score is within one standard error of the dense model's, or better."""
        return self.behind(score) <= self.error

    def best(self, candidates: Iterable[Candidate], count: int) -> list[Candidate]:
        """The `count` best, best first."""
        return sorted(candidates, key=self.key, reverse=True)[:count]

    def entrants(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """Who starts: the best of each depth, then the others; which depth is best, a cut's score hardly tells."""
        ranked = self.best([one for one in candidates if one.meets], len(candidates))
        first: dict[int, Candidate] = {}
        for one in ranked:
            first.setdefault(one.depth, one)
        chosen = list(first.values())
        return (chosen + [one for one in ranked if one not in chosen])[:count]


def standard_error(score: float, count: int, share: bool) -> float:
    """Of a score on `count` records: of a share that of a proportion; else a fiftieth of it, for want of a spread."""
    if share and 0 <= score <= 1:
        return float((score * (1 - score) / max(count, 1)) ** 0.5)
    return abs(score) / 50


def front(candidates: Iterable[Candidate], judge: Judge) -> list[Candidate]:
    """Those that no other beats in both time and score, fastest first."""
    found: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: (c.ms, -judge.key(c))):
        if not found or judge.key(one) > judge.key(found[-1]):
            found.append(one)
    return found


def table(candidates: Sequence[Candidate], judge: Judge, metric: str) -> list[str]:
    """Candidates in lines: times faster, score on val, how far it is from the dense model's, epochs, MACs."""
    heads = ("times faster", f"{metric} on val", f"against {judge.dense:.3f}", "epochs", "MACs", "model")
    rows = [
        (
            f"{c.speed:.2f}x",
            f"{c.score:.3f}",
            f"{-judge.behind(c.score):+.3f}",
            str(sum(c.epochs.values())),
            f"{c.macs:,}",
            c.name,
        )
        for c in candidates
    ]
    wide = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
    return ["  ".join([*(cell.rjust(width) for cell, width in zip(row, wide)), row[-1]]) for row in (heads, *rows)]


def sentence(winner: Candidate, judge: Judge, metric: str) -> str:
    """What came of it, in one line; says where the score is not equal."""
    found = f"{winner.speed:.2f}x faster, {metric} on val {winner.score:.3f}, before {judge.dense:.3f}"
    if judge.equal(winner.score):
        return f"{found}: equal within one standard error ({judge.error:.3f})"
    return f"{found}: {judge.behind(winner.score):.3f} behind, more than one standard error ({judge.error:.3f})"
