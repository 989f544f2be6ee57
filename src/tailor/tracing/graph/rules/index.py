"""Indexing by tensors: the indexed axes are fixed, the others pass."""

from itertools import pairwise

from tailor.tracing.graph.axes import Dim
from tailor.tracing.graph.rules.call import Call, Dims, Rule, Value, axis, broadcast


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
