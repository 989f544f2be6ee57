"""Norms and reductions: affine parameters follow their axis, and statistics are those of the units that are kept.

Sums and squares are exact with zeros.
"""

from tailor.tracing.graph.axes import ONE, Dim, fresh, product, tag, unify
from tailor.tracing.graph.rules.call import Call, Dims, Rule, RuleResult, axes, axis, broadcast

AFFINE = ("weight", "bias", "running_mean", "running_var")


def channelwise(call: Call) -> Dims:
    """`batch_norm`, `instance_norm`: one axis for channels, affine parameters and running statistics."""
    for name in AFFINE:
        value = call.maybe(name)
        if value is not None:
            call.same(call.x.dims[1], value.dims[0])
    return list(call.x.dims)


def trailing(call: Call) -> Dims:
    """`layer_norm`, `rms_norm`: the last axes are normalised together."""
    count = len(call.args["normalized_shape"])
    for name in ("weight", "bias"):
        value = call.maybe(name)
        if value is not None:
            for a, b in zip(call.x.dims[-count:], value.dims, strict=True):
                call.same(a, b)
    for dim in call.x.dims[-count:]:
        tag(dim, "norm")
    return list(call.x.dims)


def group_norm(call: Call) -> Dims:
    """`C = [G][C/G]`: the number of groups is fixed unless every channel is its own group."""
    channel, groups = call.x.dims[1], int(call.args["num_groups"])
    each = call.x.shape[1] // groups
    if groups > 1 and each > 1:
        split: Dim = product([call.fixed(groups, "groups of a group norm"), fresh(each)])
        unify(split, channel, call.where)
    tag(channel, "norm")
    return channelwise(call)


def prelu(call: Call) -> Dims:
    """One slope, or one a channel."""
    weight = call.value("weight")
    if weight.shape and weight.shape[0] > 1:
        call.same(call.x.dims[1], weight.dims[0])
    return list(call.x.dims)


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


def extreme(call: Call) -> RuleResult:
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


def ranked(call: Call) -> RuleResult:
    """`topk`, `sort`: the axis is fixed."""
    d = axis(int(call.get("dim", -1)), len(call.x.dims))
    call.pin([call.x.dims[d]], f"`{call.name}`")
    dims = list(call.x.dims)
    dims[d] = call.fixed(call.shape[d], f"`{call.name}`")
    return [list(dims) for _ in call.shapes] if len(call.shapes) > 1 else dims


def normalised(call: Call) -> Dims:
    """`normalize`: divides by an L2 norm."""
    return list(call.x.dims)


STATISTICS: dict[str, Rule] = {
    "batch_norm": channelwise,
    "instance_norm": channelwise,
    "layer_norm": trailing,
    "rms_norm": trailing,
    "group_norm": group_norm,
    "prelu": prelu,
    **dict.fromkeys(("sum", "norm", "linalg_vector_norm", "nansum"), summed),
    **dict.fromkeys(("mean", "var", "std"), averaged),
    **dict.fromkeys(("amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod", "logsumexp"), extreme),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "cumsum", "cumprod"), coupled),
    **dict.fromkeys(("topk", "sort", "argsort"), ranked),
}
