"""Linear algebra: what is contracted is one axis, rows of a weight are the axis of the result.

In a fused attention heads are a batch axis, q and k share the head dim, v has its own.
"""

from tailor.tracing.graph.axes import ONE, Dim, fresh, product, size, tag, unify
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


def attention(call: Call) -> Dims:
    """`softmax(q k^T / sqrt(D) + mask) v`; the implicit `1/sqrt(D)` is kept as it was by rescaling q (see `scale`)."""
    q, k, v = call.tensors()[:3]
    call.same(q.dims[-1], k.dims[-1])
    call.same(k.dims[-2], v.dims[-2])
    call.pin([k.dims[-2], q.dims[-2]], "tokens of an attention")
    batch = list(q.dims[:-2])
    if bool(call.get("enable_gqa", False)) and q.shape[-3] != k.shape[-3]:
        copies = call.fixed(q.shape[-3] // k.shape[-3], "queries that share a key")
        unify(product([k.dims[-3], copies]), q.dims[-3], call.where)
        call.same(k.dims[-3], v.dims[-3])
        broadcast(call, [Value(q.dims[:-3]), Value(k.dims[:-3]), Value(v.dims[:-3])], len(batch) - 1)
    else:
        batch = broadcast(call, [Value(t.dims[:-2]) for t in (q, k, v)], len(batch))
    mask = call.maybe("attn_mask")
    if mask is not None:
        broadcast(call, [Value((*batch, q.dims[-2], k.dims[-2])), mask], len(batch) + 2)
    if len(q.dims) > 3 or len(batch) > 1:
        tag(batch[-1], "heads")
    tag(q.dims[-1], "head dim")
    tag(v.dims[-1], "value dim")
    return [*batch, q.dims[-2], v.dims[-1]]


PRODUCTS: dict[str, Rule] = {
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
    "scaled_dot_product_attention": attention,
}
