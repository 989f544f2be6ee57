"""The algebra of dimensions, on small cases that can be followed by hand."""

import pytest
import torch

from tailor.tracing.graph.axes import ONE, expand, find, fresh, leaves, parts, pin, product, reshape, size, unify


def atoms(dim):
    return [[find(atom) for atom in segment] for segment in expand(dim)]


def test_reshape_factors_rows_into_three_heads_and_head_dim():
    rows = fresh(3 * 4 * 8)
    three, heads, dim = reshape([rows], [3, 4, 8], "here")
    (segment,) = expand(rows)
    assert [atom.size for atom in segment] == [3, 4, 8]
    assert [segment[0], segment[1], segment[2]] == [a for d in (three, heads, dim) for a in atoms(d)[0]]


def test_reshape_back_gives_the_same_axis():
    rows = fresh(24)
    split = reshape([rows], [4, 6], "here")
    (merged,) = reshape(split, [24], "here")
    assert expand(merged) == expand(rows)


def test_reshape_skips_ones_and_splits_space_into_windows():
    height, width, channels = fresh(8), fresh(8), fresh(5)
    windows = reshape([ONE, height, width, channels], [1, 2, 4, 2, 4, 5], "here")
    assert [size(dim) for dim in windows] == [1, 2, 4, 2, 4, 5]
    assert expand(product([windows[1], windows[2]])) == expand(height)
    assert windows[5] == channels


def test_parts_of_a_sum_unify_with_what_they_are_added_to():
    whole = fresh(10)
    first, second = parts(whole, [4, 6], "here")
    left, right = fresh(4), fresh(6)
    unify((*left, *right), whole, "here")
    assert (atoms(first), atoms(second)) == (atoms(left), atoms(right))


def test_a_sum_under_a_product_is_distributed():
    heads, dim = fresh(4), fresh(8)
    rows = product([heads, dim])
    parts(rows, [8, 24], "here")
    assert [sum(1 for _ in leaves((segment,))) for segment in expand(rows)] == [1, 2]
    assert size(rows) == 32


def test_cat_of_one_tensor_twice_has_two_parts_of_one_atom():
    axis, whole = fresh(6), fresh(12)
    unify((*axis, *axis), whole, "here")
    assert len(set(leaves(whole))) == 1


def test_pins_survive_refinement_and_union():
    pinned, free = fresh(12), fresh(12)
    pin(pinned, "because")
    reshape([pinned], [3, 4], "here")
    unify(free, pinned, "here")
    assert all("because" in leaf.pins for leaf in leaves(free))


def test_factors_that_do_not_line_up_are_pinned_on_both_sides():
    a, b = product([fresh(4), fresh(9)]), product([fresh(6), fresh(6)])
    unify(a, b, "`blocks.0`")
    reasons = {reason for dim in (a, b) for leaf in leaves(dim) for reason in leaf.pins}
    assert reasons == {"factors that do not line up at `blocks.0`"}
    assert all(leaf.pins for dim in (a, b) for leaf in leaves(dim))


@pytest.mark.parametrize("seed", range(20))
def test_reshapes_agree_with_torch_on_any_mask(seed):
    """Mask the atoms at random: the mask of a reshaped tensor is the reshaped mask."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [[4, 6, 10], [24, 10], [2, 2, 6, 10], [4, 3, 2, 10], [4, 6, 2, 5], [4, 60], [240]]
    order = torch.randperm(len(shapes), generator=generator)[:3].tolist()
    dims = [fresh(n) for n in shapes[0]]
    history = [dims]
    for choice in order:
        history.append(reshape(history[-1], shapes[choice], "here"))
    keep = {leaf: torch.rand(leaf.size, generator=generator) < 0.5 for dim in dims for leaf in leaves(dim)}

    def mask(dim):
        segments = []
        for segment in expand(dim):
            vector = torch.ones(1, dtype=torch.bool)
            for atom in segment:
                vector = (vector[:, None] & keep[find(atom)]).flatten()
            segments.append(vector)
        return torch.cat(segments)

    def whole(value):
        result = torch.ones((), dtype=torch.bool)
        for dim in value:
            result = result[..., None] & mask(dim)
        return result.flatten()

    assert all(torch.equal(whole(value), whole(dims)) for value in history)
