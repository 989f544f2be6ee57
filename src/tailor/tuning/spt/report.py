"""What an SPT plan consists of, in figures and in lines for the terminal."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.tuning.plan import TunePlan
from tailor.tuning.spt.candidates import TensorCandidate, candidates

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Mask:
    """The single entries of one matrix: how many, and how many distinct rows and columns they touch."""

    site: str
    entries: int
    rows: int
    columns: int
    hull: float
    """Share of the matrix that rows x columns cover."""


@dataclass(frozen=True)
class Summary:
    """A plan in figures. `operations` label the columns of `shares`, whose rows are the blocks.

    `shares` are parts of all trained parameters (weights with their biases); `rest` is the part outside the blocks.
    `per_operation` counts (operation, structured matrices, matrices).
    """

    cost: int
    structured: int
    matrices: int
    whole: int
    vectors: int
    scalars: int
    per_operation: tuple[tuple[str, int, int], ...]
    per_block: tuple[int, ...]
    operations: tuple[str, ...]
    shares: Matrix
    rest: float
    masks: tuple[Mask, ...]

    def lines(self) -> tuple[str, ...]:
        """A few lines for the terminal."""
        entries = [mask.entries for mask in self.masks]
        made = [
            f"trainable without head  {self.cost:,}",
            f"structured matrices     {self.structured} of {self.matrices}",
            f"whole vectors           {self.whole} of {self.vectors}",
            f"single weights          {self.scalars:,}",
            "structured by operation " + "  ".join(f"{op} {n}/{of}" for op, n, of in self.per_operation),
        ]
        if self.per_block:
            made.append("structured by block     " + " ".join(str(n) for n in self.per_block))
        if entries:
            rows, columns = (statistics.mean(getattr(m, side) for m in self.masks) for side in ("rows", "columns"))
            made.append(
                f"masked matrices         {len(entries)}, entries mean {statistics.mean(entries):.0f}, median "
                f"{statistics.median(entries):.0f}, max {max(entries):,}, rows {rows:.0f}, columns {columns:.0f}"
            )
        return tuple(made)


def summary(plan: TunePlan, anatomy: Anatomy) -> Summary:
    """Figures of a plan that names sites, vectors and entries of this anatomy."""
    everything = candidates(anatomy)
    sites = [c for c in everything if c.site]
    tuned = _modules(plan, sites)
    whole = _whole(plan, everything)
    single = _single(plan, everything)
    trained = {c.name: tuned.get(c.name, 0) + whole.get(c.name, 0) + len(single.get(c.name, ())) for c in everything}
    operations = tuple(dict.fromkeys(c.operation for c in everything if c.block >= 0))
    total = max(plan.cost, 1)
    shares = tuple(
        tuple(sum(trained[c.name] for c in everything if c.block == b and c.operation == o) / total for o in operations)
        for b in range(len(anatomy.blocks))
    )
    labels = tuple(dict.fromkeys(c.operation for c in sites))
    return Summary(
        cost=plan.cost,
        structured=len(tuned),
        matrices=len(sites),
        whole=len(whole),
        vectors=len(everything) - len(sites),
        scalars=sum(len(e.indices) for e in plan.entries),
        per_operation=tuple(
            (o, sum(c.name in tuned for c in sites if c.operation == o), sum(c.operation == o for c in sites))
            for o in labels
        ),
        per_block=tuple(sum(c.name in tuned for c in sites if c.block == b) for b in range(len(anatomy.blocks))),
        operations=operations,
        shares=shares,
        rest=1 - sum(map(sum, shares)) if plan.cost else 0.0,
        masks=tuple(_mask(c, single[c.name]) for c in sites if c.name in single),
    )


def sensitivity(tensors: dict[str, Tensor], anatomy: Anatomy, operations: Sequence[str]) -> Matrix:
    """The summed sensitivity of each operation in each block (blocks, operations)."""
    found = [[0.0] * len(operations) for _ in anatomy.blocks]
    for one in candidates(anatomy):
        if one.block >= 0 and one.operation in operations and one.tensor in tensors:
            found[one.block][operations.index(one.operation)] += float(one.view(tensors).double().sum())
    return tuple(map(tuple, found))


def _modules(plan: TunePlan, sites: Sequence[TensorCandidate]) -> dict[str, int]:
    """Parameters of the module at each structured site; a layer of the site's shape stands in for the real one."""
    shapes = {c.name: nn.Linear(c.width, c.size // c.width, device="meta") for c in sites}
    return {t.site: t.method.cost(shapes[t.site]) for t in plan.tunes if t.site in shapes}  # type: ignore[attr-defined]


def _whole(plan: TunePlan, everything: Sequence[TensorCandidate]) -> dict[str, int]:
    """Length of each vector that trains whole, by itself or with the parameter that it is a part of."""
    named = set(plan.full)
    return {c.name: c.size for c in everything if c.site is None and (c.name in named or c.tensor in named)}


def _single(plan: TunePlan, everything: Sequence[TensorCandidate]) -> dict[str, Tensor]:
    """Entries of each candidate, as flat indices into its whole parameter."""
    found = {}
    flat = {e.tensor: torch.tensor(e.indices) for e in plan.entries}
    for c in everything:
        if c.tensor in flat:
            inside = flat[c.tensor][(flat[c.tensor] >= c.start) & (flat[c.tensor] < c.start + c.size)]
            if len(inside):
                found[c.name] = inside
    return found


def _mask(candidate: TensorCandidate, entries: Tensor) -> Mask:
    rows, columns = len((entries // candidate.width).unique()), len((entries % candidate.width).unique())
    return Mask(candidate.name, len(entries), rows, columns, rows * columns / candidate.size)
