"""Selection over many tensors against one stable sort of everything."""

import pytest
import torch
from torch import Tensor

from tailor.criteria.select import ranked_segments, top
from tailor.errors import PlanError


def sorted_reference(scores: dict[str, Tensor], k: int) -> list[tuple[int, int]]:
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    where = [(i, j) for i, s in enumerate(scores.values()) for j in range(s.numel())]
    return [where[p] for p in flat.argsort(descending=True, stable=True)[:k].tolist()]


def made(kind: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"a": (40, 30), "b": (7,), "empty": (0, 4), "c": (13, 5, 3)}
    scores = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    match kind:
        case "ties":
            return {name: (s * 4).floor() for name, s in scores.items()}
        case "zeros":
            return {name: torch.where(s > 0.97, s, 0) for name, s in scores.items()}
        case "equal":
            return {name: torch.ones_like(s) for name, s in scores.items()}
        case "signed":
            return {name: s.double() - 0.5 for name, s in scores.items()}
        case "infinite":
            return {name: torch.where(s > 0.99, torch.inf, s) for name, s in scores.items()}
    return scores


@pytest.mark.parametrize("kind", ["plain", "ties", "zeros", "equal", "signed", "infinite"])
@pytest.mark.parametrize("k", [1, 5, 300, 1000, 1402, 5000])
def test_the_ranking_is_that_of_a_stable_sort(kind, k):
    scores = made(kind)
    ranked = ranked_segments(scores, k)
    assert ranked.names == tuple(scores)
    pairs = list(zip(ranked.segments.tolist(), ranked.indices.tolist(), strict=True))
    assert pairs == sorted_reference(scores, k)


@pytest.mark.parametrize("trap", ["none", "on the sample", "off the sample"])
def test_large_tensors_select_what_a_sort_selects_however_the_sample_falls(trap):
    generator = torch.Generator().manual_seed(5)
    scores = {name: torch.rand(700_000, generator=generator).mul_(1000).round_() for name in "abc"}
    for s in scores.values():
        if trap == "on the sample":
            s[::97] += 5000
        if trap == "off the sample":
            s[5::97] += 5000
    flat = torch.cat(list(scores.values()))
    expected = flat.argsort(descending=True, stable=True)
    for k in (10, 30_000, 900_000):
        ranked = ranked_segments(scores, k)
        assert torch.equal(ranked.segments * 700_000 + ranked.indices, expected[:k])


def test_top_gives_sorted_indices_for_every_tensor():
    scores = made("ties")
    chosen = top(scores, 300)
    assert list(chosen) == list(scores) and sum(map(len, chosen.values())) == 300
    pairs = {(i, j) for i, name in enumerate(scores) for j in chosen[name].tolist()}
    assert pairs == set(sorted_reference(scores, 300))
    assert all(i.dtype == torch.int64 and torch.equal(i, i.sort().values) for i in chosen.values())


def test_prefixes_are_the_smaller_selections():
    scores = made("ties")
    long = ranked_segments(scores, 1000)
    short = ranked_segments(scores, 77)
    assert torch.equal(long.indices[:77], short.indices) and torch.equal(long.segments[:77], short.segments)


def test_nothing_asked_for_is_nothing():
    assert len(ranked_segments(made("plain"), 0).indices) == 0
    assert len(ranked_segments({}, 5).indices) == 0


def test_nan_is_refused_by_name_and_a_negative_number_too():
    scores = made("plain")
    scores["c"][3, 2, 1] = torch.nan
    with pytest.raises(PlanError, match="score of `c` is not a number"):
        top(scores, 5)
    with pytest.raises(PlanError, match="-1 scores cannot be selected"):
        top(scores, -1)
