"""The algebra of tensor dimensions: every dimension is a sum of row-major products of atomic axes.

`Dim = ((a, b), (c,))` reads `a*b + c`: rows of a fused qkv are `3*heads*head_dim`, those of `cat([x, y])` are `x + y`.
Two facts drive the analysis: operators say which dimensions are the same (`unify`), and reshapes and splits refine
an atom into factors or parts. Atoms are a union-find forest; a pin is a reason why an atom must keep all its units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from math import prod

Segment = tuple["Atom", ...]  # a row-major product; the empty product has size 1
Dim = tuple[Segment, ...]  # a sum of products

ONE: Dim = ((),)
_UNROLL = 8  # a leading factor up to this size may be unrolled so that a part can end inside it
_MAX_PINS = 6  # reasons kept for one atom: enough to explain it, few enough to stay cheap

_serial = count()


class Atom:
    """One atomic axis: `size` units that are kept or removed, or a refinement into the `parts` of a `Dim`."""

    __slots__ = ("parent", "parts", "pins", "serial", "size", "tags")

    def __init__(self, size: int, pins: Iterable[str] = ()) -> None:
        self.size = size
        self.parent: Atom | None = None
        self.parts: Dim | None = None
        self.pins: dict[str, None] = dict.fromkeys(pins)
        self.tags: set[str] = set()
        self.serial = next(_serial)

    def pin(self, reason: str) -> None:
        """Every unit stays, for this reason."""
        if len(self.pins) < _MAX_PINS:
            self.pins[reason] = None


def fresh(size: int, *pins: str) -> Dim:
    """A dimension of one new atom (of none where the size is 1), pinned for the given reasons."""
    return ONE if size == 1 else ((Atom(size, pins),),)


def find(atom: Atom) -> Atom:
    """The atom that represents this one's equivalence class."""
    while atom.parent is not None:
        if atom.parent.parent is not None:
            atom.parent = atom.parent.parent  # halve the path
        atom = atom.parent
    return atom


def size(dim: Dim) -> int:
    """Number of positions along the dimension."""
    return sum(length(segment) for segment in dim)


def length(segment: Segment) -> int:
    """Number of positions of one product."""
    return prod(atom.size for atom in segment)


def expand(dim: Dim) -> Dim:
    """The same dimension in its refined form: products inlined, a sum that leads its product distributed over it."""
    return tuple(part for segment in dim for part in _expand_segment(segment))


def _expand_segment(segment: Segment) -> list[Segment]:
    flat: list[Atom] = []
    for position, atom in enumerate(segment):
        root = find(atom)
        if root.parts is None:
            flat.append(root)
        elif len(root.parts) == 1:
            return _expand_segment((*flat, *root.parts[0], *segment[position + 1 :]))
        elif not flat:
            rest = segment[position + 1 :]
            return [part for segments in root.parts for part in _expand_segment((*segments, *rest))]
        else:
            flat.append(root)
    return [tuple(flat)]


def leaves(dim: Dim) -> Iterator[Atom]:
    """Every unrefined atom below the dimension, repeats included."""
    for segment in dim:
        for atom in segment:
            root = find(atom)
            if root.parts is None:
                yield root
            else:
                yield from leaves(root.parts)


def pin(dim: Dim, reason: str) -> None:
    """Every unit of the dimension stays, for this reason."""
    for leaf in leaves(dim):
        leaf.pin(reason)


def tag(dim: Dim, name: str) -> None:
    """Remember the part that the dimension's atoms play (`heads`, `head dim`, `residual`, ...)."""
    for leaf in leaves(dim):
        leaf.tags.add(name)


def product(dims: Iterable[Dim]) -> Dim:
    """The row-major product of dimensions, as `flatten` makes it."""
    result: Dim = ONE
    for dim in dims:
        if len(result) == 1 and not result[0]:
            result = dim
        elif len(dim) == 1:
            result = tuple((*segment, *dim[0]) for segment in result)
        else:
            result = tuple((*segment, _wrap(dim)) for segment in result)
    return result


def _wrap(dim: Dim) -> Atom:
    """One atom that stands for a sum, so that the sum can be a factor."""
    atom = Atom(size(dim))
    atom.parts = dim
    return atom


def parts(dim: Dim, sizes: Iterable[int], where: str) -> list[Dim]:
    """The consecutive parts of a dimension, as `split` makes them."""
    pieces = [fresh(n) if n else () for n in sizes]
    unify(dim, tuple(segment for piece in pieces for segment in piece), where)
    return pieces


def reshape(dims: list[Dim], shape: Iterable[int], where: str) -> list[Dim]:
    """The dimensions after a row-major reshape: runs of equal product are merged or factored (3, heads, head dim)."""
    target = list(shape)
    if 0 in target or any(not dim for dim in dims):
        return [fresh(n, f"reshape of an empty tensor at {where}") if n else () for n in target]
    result: list[Dim] = []
    i = j = 0
    while i < len(dims) or j < len(target):
        if j < len(target) and target[j] == 1:
            result.append(ONE)
            j += 1
            continue
        if i < len(dims) and size(dims[i]) == 1:
            i += 1
            continue
        first_in, first_out = i, j
        have, want = size(dims[i]), target[j]
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                have, i = have * size(dims[i]), i + 1
            else:
                want, j = want * target[j], j + 1
        result.extend(_refold(product(dims[first_in:i]), target[first_out:j], where))
    return result


def _refold(flat: Dim, sizes: list[int], where: str) -> list[Dim]:
    """One flat dimension seen as the product of dimensions of these sizes."""
    if sum(n != 1 for n in sizes) <= 1:
        return [flat if n != 1 else ONE for n in sizes]
    factors = [fresh(n) for n in sizes]
    unify(flat, product(factors), where)
    return factors


def unify(a: Dim, b: Dim, where: str) -> None:
    """Both dimensions are one axis: the same unit goes from both. What cannot be aligned is pinned on both sides."""
    assert size(a) == size(b), f"{size(a)} and {size(b)} at {where}"
    left, right = list(reversed(a)), list(reversed(b))
    while left and right:
        p, q = _pop(left), _pop(right)
        m, n = length(p), length(q)
        if m == n:
            _unify_products(p, q, where)
            continue
        longer, shorter, side, other = (p, q, left, right) if m > n else (q, p, right, left)
        if _break(longer, min(m, n)):
            side.append(longer)
            other.append(shorter)
        else:
            pin((p, q, *left, *right), f"parts that do not line up at {where}")
            return


def _pop(stack: list[Segment]) -> Segment:
    """The next product, refined: earlier steps may have split its atoms."""
    expanded = _expand_segment(stack.pop())
    stack.extend(reversed(expanded[1:]))
    return expanded[0]


def _break(segment: Segment, at: int) -> bool:
    """Split the leading atom so that a part ends `at` positions in, or before; False where that is impossible."""
    leading, rest = segment[0], length(segment[1:])
    whole, remainder = divmod(at, rest)
    if remainder and (leading.size > _UNROLL or len(segment) == 1):
        return False
    head = max(whole, 1)
    if head >= leading.size:
        return False
    _refine(leading, (*fresh(head), *fresh(leading.size - head)))
    return True


def _unify_products(a: Segment, b: Segment, where: str) -> None:
    left, right = list(a), list(b)
    while left and right:
        x, y = find(left[0]), find(right[0])
        if any(_inline(side, root) for side, root in ((left, x), (right, y))):
            continue
        if x is y or x.size == y.size:
            _merge(x, y, where)
            left.pop(0), right.pop(0)
            continue
        big, small = (x, y) if x.size > y.size else (y, x)
        if big.size % small.size or big.parts is not None:
            pin((tuple(left), tuple(right)), f"factors that do not line up at {where}")
            return
        _refine(big, ((small, *fresh(big.size // small.size)[0]),))


def _inline(side: list[Atom], root: Atom) -> bool:
    """Replace a leading atom that is a product by its factors."""
    if root.parts is None or len(root.parts) != 1:
        return False
    side[:1] = root.parts[0]
    return True


def _refine(atom: Atom, dim: Dim) -> None:
    """The atom is this dimension; what was said of the atom holds for its parts."""
    assert atom.parts is None and atom.parent is None
    atom.parts = dim
    for leaf in leaves(dim):
        for reason in atom.pins:
            leaf.pin(reason)
        leaf.tags |= atom.tags


def _merge(x: Atom, y: Atom, where: str) -> None:
    """Two atoms of one size become one; the refined one represents both."""
    if x is y:
        return
    if x.parts is not None and y.parts is not None:
        unify(x.parts, y.parts, where)
        y.parent = x
        return
    root, other = (x, y) if x.parts is not None or (y.parts is None and x.serial < y.serial) else (y, x)
    other.parent = root
    for leaf in leaves(((root,),)):
        for reason in other.pins:
            leaf.pin(reason)
        leaf.tags |= other.tags
