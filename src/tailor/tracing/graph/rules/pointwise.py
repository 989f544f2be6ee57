"""Operators that treat every position alike: aligned dimensions are the same axis."""

from tailor.tracing.graph.axes import tag
from tailor.tracing.graph.rules.call import Call, Dims, Rule, broadcast


def elementwise(call: Call) -> Dims:
    """Broadcast the tensor operands; in-place forms too (a size-1 result dim of a reduced operand stays)."""
    return broadcast(call, call.tensors(), len(call.shape))


def residual(call: Call) -> Dims:
    """`add`: as any element-wise operator; the sum of two computed tensors of one shape marks a residual stream."""
    dims = elementwise(call)
    computed = [value for value in call.tensors() if not value.source and value.shape == call.shape]
    if len(computed) == 2:
        for dim in dims:
            tag(dim, "residual")
    return dims


def first(call: Call) -> Dims:
    """The result has the dimensions of the first tensor; others only steer its type or are its new content."""
    return list(call.x.dims)


def overwrite(call: Call) -> Dims:
    """`copy_(x, src)`: the source is broadcast to the target."""
    target, *sources = call.tensors()
    for source in sources:
        broadcast(call, [target, source], len(target.dims))
    return list(target.dims)


ELEMENTWISE = [
    "sub",
    "rsub",
    "mul",
    "div",
    "true_divide",
    "floor_divide",
    "fmod",
    "remainder",
    "pow",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "atan2",
    "where",
    "lerp",
    "addcmul",
    "addcdiv",
    "logical_and",
    "logical_or",
    "logical_xor",
    "logical_not",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_not",
    "__and__",
    "__or__",
    "__xor__",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "masked_fill",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clip",
    "prelu_elementwise",
    "relu",
    "relu6",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "elu",
    "selu",
    "celu",
    "leaky_relu",
    "softplus",
    "softsign",
    "threshold",
    "log_sigmoid",
    "tanhshrink",
    "hardshrink",
    "softshrink",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "rsqrt",
    "square",
    "abs",
    "neg",
    "negative",
    "sign",
    "sgn",
    "reciprocal",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "erf",
    "erfc",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "nan_to_num",
    "isnan",
    "isinf",
    "isfinite",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "native_dropout",
    "bernoulli",
    "rand_like",
]

FIRST = [
    "contiguous",
    "clone",
    "alias",
    "detach",
    "to",
    "type_as",
    "_to_copy",
    "float",
    "half",
    "double",
    "bfloat16",
    "type",
    "lift_fresh_copy",
    "lift_fresh",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "fill",
    "zero",
    "detach_",
    "resolve_conj",
    "resolve_neg",
    "positive",
    "requires_grad",
]

POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(FIRST, first),
    "add": residual,
    "__iadd__": residual,
    "copy": overwrite,
}
