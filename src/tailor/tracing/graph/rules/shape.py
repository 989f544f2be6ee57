"""Shape operators: they move, merge, factor, cut and join axes and change no value."""

from itertools import pairwise

from tailor.tracing.graph.axes import ONE, Dim, fresh, parts, product, size, unify
from tailor.tracing.graph.axes import reshape as refold
from tailor.tracing.graph.rules.call import Call, Dims, Rule, RuleResult, Value, axes, axis, broadcast


def reshape(call: Call) -> Dims:
    """Any row-major reshape: the result's shape says all."""
    return refold(list(call.x.dims), call.shape, call.where)


def permute(call: Call) -> Dims:
    """The axes in another order."""
    return [call.x.dims[d] for d in call.args["dims"]]


def transpose(call: Call) -> Dims:
    """Two axes change places."""
    dims = list(call.x.dims)
    a, b = (axis(int(call.args[name]), len(dims)) for name in ("dim0", "dim1"))
    dims[a], dims[b] = dims[b], dims[a]
    return dims


def swapaxes(call: Call) -> Dims:
    """Two axes change places."""
    dims = list(call.x.dims)
    a, b = (axis(int(call.args[name]), len(dims)) for name in ("axis0", "axis1"))
    dims[a], dims[b] = dims[b], dims[a]
    return dims


def reverse(call: Call) -> Dims:
    """`t`, `numpy_T`, `mT`: for two axes all the same."""
    return list(reversed(call.x.dims)) if call.name != "mT" else [*call.x.dims[:-2], call.x.dims[-1], call.x.dims[-2]]


def movedim(call: Call) -> Dims:
    """Axes move, the others keep their order."""
    ndim = len(call.x.dims)
    source, target = (axes(call.args[name], ndim) for name in ("source", "destination"))
    order = [d for d in range(ndim) if d not in source]
    for t, s in sorted(zip(target, source, strict=True)):
        order.insert(t, s)
    return [call.x.dims[d] for d in order]


def expand(call: Call) -> Dims:
    """A size-1 axis becomes n equal copies: any of them may go."""
    offset = len(call.shape) - len(call.x.dims)
    old = [ONE] * offset + list(call.x.dims)
    return [dim if size(dim) == n else fresh(n) for dim, n in zip(old, call.shape, strict=True)]


def expand_as(call: Call) -> Dims:
    """Like `expand`, to another tensor's shape."""
    other = call.tensors()[1]
    offset = len(call.shape) - len(call.x.dims)
    for a, b in zip(call.x.dims, other.dims[offset:], strict=True):
        call.same(a, b)
    return list(other.dims)


def repeat(call: Call) -> Dims:
    """Whole copies, one after the other: `[copies][x]`."""
    ndim = len(call.shape)
    times = [int(n) for n in call.args["repeats" if "repeats" in call.args else "dims"]]
    times = [1] * (ndim - len(times)) + times
    old = [ONE] * (ndim - len(call.x.dims)) + list(call.x.dims)
    return [dim if n == 1 else product([fresh(n), dim]) for dim, n in zip(old, times, strict=True)]


def repeat_interleave(call: Call) -> RuleResult:
    """Every unit several times in a row: `[x][copies]`."""
    times = call.args.get("repeats")
    if not isinstance(times, int) or call.get("dim") is None:
        return pinned(call)
    d = axis(int(call.args["dim"]), len(call.shape))
    dims = list(call.x.dims)
    dims[d] = product([dims[d], fresh(times)])
    return dims


def cat(call: Call) -> Dims:
    """The parts side by side; every other axis is shared."""
    values = [value for value in call.tensors() if value.shape != (0,)]
    d = axis(int(call.get("dim", 0)), len(call.shape))
    for a, b in pairwise(values):
        for position, (p, q) in enumerate(zip(a.dims, b.dims, strict=True)):
            if position != d:
                call.same(p, q)
    dims = list(values[0].dims)
    dims[d] = tuple(segment for value in values for segment in value.dims[d])
    return dims


def stack(call: Call) -> Dims:
    """A new axis of fixed length."""
    values = call.tensors()
    for a, b in pairwise(values):
        for p, q in zip(a.dims, b.dims, strict=True):
            call.same(p, q)
    dims = list(values[0].dims)
    dims.insert(axis(int(call.get("dim", 0)), len(call.shape)), call.fixed(len(values), "stack"))
    return dims


def split(call: Call) -> list[Dims]:
    """`split`, `chunk`, `split_with_sizes`, `tensor_split`: the parts of one axis."""
    d = axis(int(call.get("dim", 0)), len(call.x.dims))
    pieces = parts(call.x.dims[d], [shape[d] for shape in call.shapes], call.where)
    return [[*call.x.dims[:d], piece, *call.x.dims[d + 1 :]] for piece in pieces]


def unbind(call: Call) -> list[Dims]:
    """Every position of one axis by itself, so the axis is fixed."""
    d = axis(int(call.get("dim", 0)), len(call.x.dims))
    call.pin([call.x.dims[d]], "taken apart")
    rest = [*call.x.dims[:d], *call.x.dims[d + 1 :]]
    return [rest for _ in call.shapes]


def select(call: Call) -> Dims:
    """One position of an axis, so the axis is fixed."""
    d = axis(int(call.args["dim"]), len(call.x.dims))
    call.pin([call.x.dims[d]], "one position is taken")
    return [*call.x.dims[:d], *call.x.dims[d + 1 :]]


def slice_(call: Call) -> Dims:
    """A part of an axis; with a step, one column of the axis seen as rows of that length."""
    d = axis(int(call.get("dim", 0)), len(call.x.dims))
    dim, n = call.x.dims[d], call.x.shape[d]
    start, stop, step = (int(call.get(name, default)) for name, default in (("start", 0), ("end", n), ("step", 1)))
    start, stop = (min(max(p + n if p < 0 else p, 0), n) for p in (start, stop))
    dims = list(call.x.dims)
    if (start, stop, step) == (0, n, 1):
        return dims
    if step == 1:
        dims[d] = parts(dim, [start, stop - start, n - stop], call.where)[1]
    elif n % step == 0 and start < step and stop == n:
        rows = fresh(n // step)
        unify(product([rows, call.fixed(step, "a slice with a step")]), dim, call.where)
        dims[d] = rows
    else:
        call.pin([dim], "a slice with a step")
        dims[d] = call.fixed(call.shape[d], "a slice with a step")
    return dims


def slice_scatter(call: Call) -> Dims:
    """Part of an axis is overwritten."""
    source = call.value("src")
    part = slice_(call)
    for a, b in zip(part, source.dims, strict=True):
        call.same(a, b)
    return list(call.x.dims)


def pad(call: Call) -> Dims:
    """Padding adds fixed positions before and after; negative padding cuts."""
    amounts = [int(n) for n in call.args["pad"]]
    dims = list(call.x.dims)
    for position, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True), start=1):
        if (before, after) == (0, 0):
            continue
        dim = dims[-position]
        if str(call.get("mode", "constant")) != "constant" or min(before, after) < 0:
            call.pin([dim], "padding")
            dims[-position] = call.fixed(call.shape[-position], "padding")
        else:
            edges: list[Dim] = [call.fixed(n, "padding") if n else () for n in (before, after)]
            dims[-position] = (*edges[0], *dim, *edges[1])
    return dims


def pin_moved(call: Call) -> Dims:
    """`roll`, `flip`: positions move along these axes only."""
    dims = axes(call.get("dims"), len(call.x.dims))
    call.pin([call.x.dims[d] for d in dims], "positions are shifted")
    return list(call.x.dims)


def unfold(call: Call) -> Dims:
    """`Tensor.unfold`: sliding windows of one axis."""
    d = axis(int(call.args["dimension"]), len(call.x.dims))
    call.pin([call.x.dims[d]], "a sliding window")
    dims = list(call.x.dims)
    dims[d] = call.fixed(call.shape[d], "a sliding window")
    return [*dims, call.fixed(call.shape[-1], "a sliding window")]


def created(call: Call) -> Dims:
    """A constant that is the same everywhere: any of it may go."""
    return [fresh(n) for n in call.shape]


def pinned(call: Call) -> RuleResult:
    """Everything stays: operands and results."""
    for value in call.tensors():
        call.pin(value.dims, f"`{call.name}`")
    results = [[call.fixed(n, f"`{call.name}`") for n in shape] for shape in call.shapes]
    return results if len(results) > 1 else results[0]


SHAPE: dict[str, Rule] = {
    **dict.fromkeys(
        [
            "view",
            "reshape",
            "_unsafe_view",
            "_reshape_alias",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "ravel",
            "view_as",
            "reshape_as",
        ],
        reshape,
    ),
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk"), split),
    **dict.fromkeys(("t", "numpy_T", "mT", "matrix_H", "adjoint"), reverse),
    **dict.fromkeys(("roll", "flip"), pin_moved),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    **dict.fromkeys(
        ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor"), created
    ),
    **dict.fromkeys(("arange", "linspace", "eye", "tril", "triu", "meshgrid", "one_hot"), pinned),
    "permute": permute,
    "transpose": transpose,
    "swapaxes": swapaxes,
    "movedim": movedim,
    "expand": expand,
    "expand_as": expand_as,
    "repeat": repeat,
    "tile": repeat,
    "repeat_interleave": repeat_interleave,
    "stack": stack,
    "unbind": unbind,
    "select": select,
    "slice": slice_,
    "narrow": slice_,
    "slice_scatter": slice_scatter,
    "pad": pad,
    "constant_pad_nd": pad,
    "unfold": unfold,
}


def index(call: Call) -> Dims:
    """`x[None, i, ...]`: the indices' own axes take the place of the indexed ones (in front where those lie apart)."""
    indices = list(call.args["indices"])
    indices += [None] * (len(call.x.dims) - len(indices))
    used = [d for d, item in enumerate(indices) if isinstance(item, Value)]
    call.pin([call.x.dims[d] for d in used], "picked by index")
    tensors = [item for item in indices if isinstance(item, Value)]
    for value in tensors:
        call.pin(value.dims, "an index")
    rest = [dim for d, dim in enumerate(call.x.dims) if d not in used]
    ndim = len(call.shape) - len(rest)
    picked: list[Dim] = broadcast(call, tensors, ndim)
    front = used[0] if all(b - a == 1 for a, b in pairwise(used)) else 0
    return [*rest[:front], *picked, *rest[front:]]


def index_select(call: Call) -> Dims:
    """Some positions of an axis, in any order."""
    d = axis(int(call.args["dim"]), len(call.x.dims))
    call.pin([call.x.dims[d]], "picked by index")
    dims = list(call.x.dims)
    dims[d] = call.fixed(call.shape[d], "picked by index")
    return dims


def gather(call: Call) -> Dims:
    """Every axis of the index is aligned with the data's; the gathered one is fixed."""
    d = axis(int(call.args["dim"]), len(call.x.dims))
    picks = call.value("index")
    for position, (a, b) in enumerate(zip(call.x.dims, picks.dims, strict=True)):
        if position == d:
            call.pin([a, b], "gathered by index")
        else:
            broadcast(call, [Value((a,)), Value((b,))], 1)
    return list(picks.dims)


INDEX: dict[str, Rule] = {"index": index, "index_select": index_select, "gather": gather}
"""By tensors: the indexed axes are fixed, the others pass."""
