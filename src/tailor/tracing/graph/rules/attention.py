"""Fused attention: heads are a batch axis, q and k share the head dim, v has its own."""

from tailor.tracing.graph.axes import product, tag, unify
from tailor.tracing.graph.rules.call import Call, Dims, Rule, Value, broadcast


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


ATTENTION: dict[str, Rule] = {"scaled_dot_product_attention": attention}
