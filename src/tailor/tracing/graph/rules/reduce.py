"""Reductions. Sums and squares are exact with zeros; means and variances are those of the kept units, like a norm's."""

from tailor.tracing.graph.axes import ONE, tag
from tailor.tracing.graph.rules.call import Call, Dims, Result, Rule, axes, axis, broadcast


def _reduced(call: Call) -> tuple[int, ...]:
    return axes(call.get("dim"), len(call.x.dims))


def _rest(call: Call) -> Dims:
    gone = _reduced(call)
    if bool(call.get("keepdim", False)):
        return [ONE if d in gone else dim for d, dim in enumerate(call.x.dims)]
    return [dim for d, dim in enumerate(call.x.dims) if d not in gone]


def summed(call: Call) -> Dims:
    """`sum`, L2 norms: what was removed adds nothing."""
    return _rest(call)


def averaged(call: Call) -> Dims:
    """`mean`, `var`, `std`: over the kept units."""
    for d in _reduced(call):
        tag(call.x.dims[d], "norm")
    return _rest(call)


def extreme(call: Call) -> Result:
    """`amax`, `max`, `argmax`: a zero may win, so the axis is fixed. `max` of two tensors is element-wise."""
    if len(call.tensors()) == 2:
        return broadcast(call, call.tensors(), len(call.shape))
    call.pin([call.x.dims[d] for d in _reduced(call)], f"`{call.name}`")
    rest = _rest(call)
    return [rest for _ in call.shapes] if len(call.shapes) > 1 else rest


def coupled(call: Call) -> Dims:
    """`softmax`, `cumsum`: every position depends on the others along one axis."""
    call.pin([call.x.dims[axis(int(call.args["dim"]), len(call.x.dims))]], f"`{call.name}`")
    return list(call.x.dims)


def ranked(call: Call) -> Result:
    """`topk`, `sort`: the axis is fixed."""
    d = axis(int(call.get("dim", -1)), len(call.x.dims))
    call.pin([call.x.dims[d]], f"`{call.name}`")
    dims = list(call.x.dims)
    dims[d] = call.fixed(call.shape[d], f"`{call.name}`")
    return [list(dims) for _ in call.shapes] if len(call.shapes) > 1 else dims


def normalised(call: Call) -> Dims:
    """`normalize`: divides by an L2 norm."""
    return list(call.x.dims)


REDUCE: dict[str, Rule] = {
    **dict.fromkeys(("sum", "norm", "linalg_vector_norm", "nansum"), summed),
    **dict.fromkeys(("mean", "var", "std"), averaged),
    **dict.fromkeys(("amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod", "logsumexp"), extreme),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "cumsum", "cumprod"), coupled),
    **dict.fromkeys(("topk", "sort", "argsort"), ranked),
}
