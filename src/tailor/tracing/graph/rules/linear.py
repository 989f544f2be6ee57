"""Linear algebra: what is contracted is one axis, rows of a weight are the axis of the result."""

from tailor.tracing.graph.axes import ONE, Dim, fresh, size
from tailor.tracing.graph.rules.call import Call, Dims, Rule, Value, broadcast


def linear(call: Call) -> Dims:
    """`x @ w.T + b`."""
    x, weight, bias = call.x, call.value("weight"), call.maybe("bias")
    call.same(x.dims[-1], weight.dims[-1])
    if x.fixed:
        call.pin([x.dims[-1]], "a table that the code makes")
    if len(weight.dims) == 1:
        return list(x.dims[:-1])
    if bias is not None:
        call.same(bias.dims[0], weight.dims[0])
    return [*x.dims[:-1], weight.dims[0]]


def matmul(call: Call) -> Dims:
    """Contract a's last with b's last but one; the rest is broadcast."""
    a, b = call.tensors()[:2]
    rows = a.dims if len(a.dims) > 1 else (ONE, *a.dims)
    columns = b.dims if len(b.dims) > 1 else (*b.dims, ONE)
    call.same(rows[-1], columns[-2])
    ndim = max(len(rows), len(columns))
    batch = broadcast(call, [Value(rows[:-2]), Value(columns[:-2])], ndim - 2)
    tail = ([rows[-2]] if len(a.dims) > 1 else []) + ([columns[-1]] if len(b.dims) > 1 else [])
    return batch + tail


def addmm(call: Call) -> Dims:
    """`addmm(b, x, w)` and `baddbmm`: a product plus something broadcast to it."""
    first, a, b = call.tensors()[:3]
    dims = matmul(Call(call.name, call.where, {"a": a, "b": b}, call.shapes))
    return broadcast(call, [Value(tuple(dims)), first], len(dims))


def einsum(call: Call) -> Dims:
    """One axis a letter."""
    equation = str(call.args["equation"]).replace(" ", "")
    operands, _, result = equation.partition("->")
    tensors = call.tensors()
    if "." in equation or "->" not in equation:
        for value in tensors:
            call.pin(value.dims, "an einsum with an ellipsis or no arrow")
        return [call.fixed(n, "einsum") for n in call.shape]
    letters: dict[str, Dim] = {}
    for term, value in zip(operands.split(","), tensors, strict=True):
        for letter, dim in zip(term, value.dims, strict=True):
            if letter in letters and size(letters[letter]) > 1:
                call.same(letters[letter], dim)
            else:
                letters[letter] = dim
    return [letters[letter] for letter in result]


def embedding(call: Call) -> Dims:
    """Rows picked by index: the table's rows stay, its columns are the result's last axis."""
    weight, index = call.value("weight"), call.value("indices")
    call.pin([weight.dims[0], *index.dims], "looked up by index")
    return [*index.dims, weight.dims[1]]


def outer(call: Call) -> Dims:
    """`outer(a, b)`."""
    a, b = call.tensors()
    return [a.dims[0], b.dims[0]]


def cdist(call: Call) -> Dims:
    """Pairwise distances: the feature axis is contracted (zeros add nothing)."""
    a, b = call.tensors()[:2]
    call.same(a.dims[-1], b.dims[-1])
    return [*a.dims[:-1], b.dims[-2]]


def bilinear(call: Call) -> Dims:
    """`bilinear(a, b, w)`: only the outputs are free."""
    a, b, weight = call.tensors()[:3]
    call.pin([a.dims[-1], b.dims[-1], *weight.dims[1:]], "bilinear")
    return [*a.dims[:-1], weight.dims[0] if len(weight.dims) else fresh(1)]


LINEAR: dict[str, Rule] = {
    "linear": linear,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "mv": matmul,
    "dot": matmul,
    "addmm": addmm,
    "baddbmm": addmm,
    "einsum": einsum,
    "embedding": embedding,
    "outer": outer,
    "cdist": cdist,
    "bilinear": bilinear,
}
