"""Normalisation: affine parameters follow their axis. Statistics are those of the units that are kept."""

from tailor.tracing.graph.axes import Dim, fresh, product, tag, unify
from tailor.tracing.graph.rules.call import Call, Dims, Rule

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


NORM: dict[str, Rule] = {
    "batch_norm": channelwise,
    "instance_norm": channelwise,
    "layer_norm": trailing,
    "rms_norm": trailing,
    "group_norm": group_norm,
    "prelu": prelu,
}
