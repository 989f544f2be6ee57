"""Convolutions, pooling and resizing: channels are axes, positions are fixed by the input's size."""

from tailor.tracing.graph.axes import Dim, fresh, product, size, unify
from tailor.tracing.graph.rules.call import Call, Dims, Rule, RuleResult


def convolution(call: Call) -> Dims:
    """`x = [G][I]`, `w = [G][O], [I], kernel`: groups, inputs of a group and outputs of a group are separate axes."""
    return _convolve(call, transposed=False)


def transposed(call: Call) -> Dims:
    """As a convolution; the weight is stored `[G][I], [O], kernel`."""
    return _convolve(call, transposed=True)


def _convolve(call: Call, transposed: bool) -> Dims:
    x, weight, bias = call.x, call.value("weight"), call.maybe("bias")
    rank = len(weight.dims) - 2
    channel = len(x.dims) - rank - 1
    groups = int(call.get("groups", 1))
    positions = list(x.dims[channel + 1 :])
    if not _pointwise(call):
        call.pin([*weight.dims[2:], *positions], "positions of a convolution")
        positions = [call.fixed(n, "positions of a convolution") for n in call.shape[channel + 1 :]]
    grouped, single = weight.dims[0], weight.dims[1]
    if groups == 1:
        source, target = (grouped, single) if transposed else (single, grouped)
        call.same(x.dims[channel], source)
    else:
        target = _grouped(call, x.dims[channel], grouped, single, groups, transposed)
    if bias is not None:
        call.same(bias.dims[0], target)
    return [*x.dims[:channel], target, *positions]


def _pointwise(call: Call) -> bool:
    """A kernel of one position, stride 1, no padding: every position by itself."""
    rank = len(call.value("weight").dims) - 2
    kernel = call.value("weight").shape[2:]
    return kernel == (1,) * rank and call.shape[-rank:] == call.x.shape[-rank:]


def _grouped(call: Call, x: Dim, grouped: Dim, single: Dim, groups: int, transposed: bool) -> Dim:
    """Align `x` and the weight with a shared axis of groups; returns the output channels."""
    group = fresh(groups)
    inputs, outputs = (
        product([group, fresh(n)])
        for n in (size(x) // groups, call.shape[-len(call.value("weight").dims) + 1] // groups)
    )
    unify(inputs, x, call.where)
    stored, other = (inputs, outputs) if transposed else (outputs, inputs)
    unify(stored, grouped, call.where)
    unify(_last(other, groups), single, call.where)
    return outputs


def _last(dim: Dim, groups: int) -> Dim:
    """The factor after the group axis."""
    return (dim[0][1:],)


def pool(call: Call) -> RuleResult:
    """Pooling and resizing: batch and channels pass (max pooling returns its indices too)."""
    kept = len(call.x.dims) - _rank(call)
    results = [[*call.x.dims[:kept], *(call.fixed(n, "positions") for n in shape[kept:])] for shape in call.shapes]
    call.pin(call.x.dims[kept:], "positions of a pooling or resizing operator")
    return results if len(results) > 1 else results[0]


def _rank(call: Call) -> int:
    return next(n for n in (1, 2, 3) if f"{n}d" in call.name or (n == 2 and "grid" in call.name))


def pixel_shuffle(call: Call) -> Dims:
    """`[C][r][r], H, W -> C, H*r, W*r`."""
    *batch, channel, _, _ = call.x.dims
    r = int(call.args["upscale_factor"])
    kept = fresh(call.shape[-3])
    square = [call.fixed(r, "pixel shuffle"), call.fixed(r, "pixel shuffle")]
    unify(product([kept, *square]), channel, call.where)
    return [*batch, kept, *(call.fixed(n, "positions") for n in call.shape[-2:])]


def pixel_unshuffle(call: Call) -> Dims:
    """`C, H*r, W*r -> [C][r][r], H, W`."""
    *batch, channel, _, _ = call.x.dims
    r = int(call.args["downscale_factor"])
    square = [call.fixed(r, "pixel unshuffle"), call.fixed(r, "pixel unshuffle")]
    return [*batch, product([channel, *square]), *(call.fixed(n, "positions") for n in call.shape[-2:])]


def channel_shuffle(call: Call) -> Dims:
    """`[G][C] -> [C][G]`."""
    batch, channel, *rest = call.x.dims
    groups = int(call.args["groups"])
    group, each = fresh(groups), fresh(call.shape[1] // groups)
    unify(product([group, each]), channel, call.where)
    return [batch, product([each, group]), *rest]


def im2col(call: Call) -> Dims:
    """`unfold`: `C, H, W -> [C][kernel], L`."""
    batch, channel, *spatial = call.x.dims
    call.pin(spatial, "positions")
    window = call.shape[1] // call.x.shape[1]
    return [
        batch,
        product([channel, call.fixed(window, "the window of unfold")]),
        call.fixed(call.shape[2], "positions"),
    ]


def col2im(call: Call) -> Dims:
    """`fold`: `[C][kernel], L -> C, H, W`."""
    batch, channel, positions = call.x.dims
    call.pin([positions], "positions")
    kept = fresh(call.shape[1])
    window = call.fixed(call.x.shape[1] // call.shape[1], "the window of fold")
    unify(product([kept, window]), channel, call.where)
    return [batch, kept, *(call.fixed(n, "positions") for n in call.shape[2:])]


POOLS = [
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool2d_with_indices",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "_adaptive_avg_pool2d",
    "lp_pool2d",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad2d",
    "upsample_nearest1d",
    "upsample_linear1d",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_trilinear3d",
    "upsample_nearest3d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "_upsample_nearest_exact2d",
]

CONVOLUTION: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed),
    **dict.fromkeys(POOLS, pool),
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "im2col": im2col,
    "col2im": col2im,
}
