"""Surgery: put the plain modules of a swap plan into a model, their kernels folded out of the attention's weights.

The same fold serves a stock backbone (every head alike, as z starts) and a searched supernet (its own z and norms).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailor.backbones.windows import undivided_
from tailor.errors import PlanError
from tailor.pruning.convolve.modules import NoAttention, TokenConvolution
from tailor.pruning.convolve.places import value_bias
from tailor.pruning.convolve.plan import Order, Swap, SwapPlan
from tailor.pruning.convolve.wrap import KERNELS, Gated, UnifiedAttention
from tailor.surgery import get_module, set_module_

_HINT = "the plan was made for another backbone, or was already applied; make it again with `tailor prune`"


def apply_swaps_(model: nn.Module, plan: SwapPlan) -> nn.Module:
    """Replace the plan's attentions; return the model. PlanError where one is not there, or has other sizes."""
    for swap in plan.swaps:
        _check(model, swap)
    for swap in plan.swaps:
        block, attention = get_module(model, swap.block), get_module(model, swap.attention)
        if swap.undivided:
            undivided_(block)
        plain: nn.Module = NoAttention(plan.skip)
        if swap.operation != "none":
            plain = _plain(swap, plan.order, plan.folded, attention)
        set_module_(model, swap.attention, plain.train(attention.training))
    return model


def _plain(swap: Swap, order: Order, folded: bool, attention: Any) -> TokenConvolution:
    """The convolution that the attention's weights hold, all heads alike; its norm is new."""
    weight = attention.proj.weight
    mix = weight.new_ones(int(attention.num_heads), 3, 3)
    made = TokenConvolution(swap, order, folded, weight.dtype).to(weight.device)
    tensors = kernels(attention.qkv.weight, value_bias(attention, attention.qkv), attention.proj, mix, swap.kernel)
    made.load_state_dict({**made.state_dict(), **tensors})
    return made.requires_grad_(weight.requires_grad)


@torch.no_grad()
def kernels(
    qkv: Tensor, bias: Tensor | None, proj: Any, mix: Tensor, size: int, temperature: float = 1.0
) -> dict[str, Tensor]:
    """The tensors of `conv` and `proj` from a fused weight (3 * heads * D, C), a bias (heads * D,) and z (heads, 3, 3).

    At offset (r, s) the kernel is the mean of the heads' value weights by softmax(z / temperature)[:, r, s]; bias and
    output weight are summed over the offsets. Computed in float64.
    """
    heads, third = len(mix), len(qkv) // 3
    shares = (mix.double() / temperature).softmax(0)
    shares = shares if size == 3 else shares[:, 1:2, 1:2]
    value = qkv[2 * third :].double().unflatten(0, (heads, -1))
    shift = value.new_zeros(heads, value.shape[1]) if bias is None else bias.double().unflatten(0, (heads, -1))
    tensors = {
        "conv.weight": torch.einsum("hdc,hrs->dcrs", value, shares),
        "conv.bias": torch.einsum("hd,hrs->d", shift, shares),
        "proj.weight": torch.einsum("chd,hrs->cd", proj.weight.double().unflatten(1, (heads, -1)), shares),
        "proj.bias": proj.weight.new_zeros(len(proj.weight)) if proj.bias is None else proj.bias,
    }
    return {name: tensor.to(qkv.dtype).contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def folded(tensors: Mapping[str, Tensor], order: Order, eps: float) -> dict[str, Tensor]:
    """The same convolution without its norm: into the kernel where the norm comes first, else into `proj`."""
    t = {name: tensor.double() for name, tensor in tensors.items()}
    scale = t["norm.weight"] * (t["norm.running_var"] + eps).rsqrt()
    shift = t["norm.bias"] - t["norm.running_mean"] * scale
    if order == "bn-relu":
        t["conv.weight"] = t["conv.weight"] * scale[:, None, None, None]
        t["conv.bias"] = t["conv.bias"] * scale + shift
    else:
        t["proj.bias"] = t["proj.bias"] + t["proj.weight"] @ shift
        t["proj.weight"] = t["proj.weight"] * scale
    return {name: t[name].to(tensors[name].dtype) for name in tensors if not name.startswith("norm.")}


def searched_(model: nn.Module, supernet: nn.Module, gated: Sequence[Gated], plan: SwapPlan) -> nn.Module:
    """Give `model`, the plain one with the plan applied, what its parts have become in the supernet; return it."""
    kept = supernet.state_dict()
    tensors = {_plain_name(name, gated): tensor for name, tensor in kept.items()}
    unified = {g.attention.place.path: g.attention for g in gated if g.attention}
    for swap in plan.swaps:
        if swap.operation != "none":
            own = convolution(unified[swap.attention], swap.kernel, plan.folded)
            tensors |= {f"{swap.attention}.{name}": tensor for name, tensor in own.items()}
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    return model


def convolution(unified: UnifiedAttention, size: int, fold: bool) -> dict[str, Tensor]:
    """The tensors of the plain module that computes as the supernet's convolution of that size."""
    if unified.own:
        own: Any = unified.own[KERNELS.index(size)]
        kept = {name: tensor.detach().clone() for name, tensor in own.state_dict().items()}
        return folded(kept, unified.wrapping.order, own.norm.eps) if fold else kept
    attention: Any = unified.attention
    qkv, z, temperature = attention.qkv.layer, unified.mix, unified.wrapping.temperature
    tensors = kernels(qkv.weight, value_bias(attention, qkv), attention.proj, z, size, temperature)
    norm: Any = unified.norms[KERNELS.index(size)]
    tensors |= {f"norm.{name}": tensor.detach().clone() for name, tensor in norm.state_dict().items()}
    return folded(tensors, unified.wrapping.order, norm.eps) if fold else tensors


def _plain_name(name: str, gated: Sequence[Gated]) -> str:
    """The stock name of a tensor of the supernet."""
    for one in gated:
        if one.attention and name.startswith(f"{one.attention.place.path}.attention."):
            rest = name.removeprefix(f"{one.attention.place.path}.attention.")
            return f"{one.attention.place.path}.{rest.replace('qkv.layer.', 'qkv.')}"
        if one.hidden and one.place.hidden and name.startswith(f"{one.place.hidden.last}.layer."):
            return name.replace(f"{one.place.hidden.last}.layer.", f"{one.place.hidden.last}.")
    return name


def _check(model: nn.Module, swap: Swap) -> None:
    """PlanError unless the attention stands there with the sizes of the swap."""
    attention: Any = get_module(model, swap.attention)
    if getattr(attention, "replaces_attention", ""):
        raise PlanError(f"`{swap.attention}` is no attention any more: {attention.replaces_attention}", hint=_HINT)
    qkv, proj = getattr(attention, "qkv", None), getattr(attention, "proj", None)
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        raise PlanError(f"`{swap.attention}` is no attention with plain `qkv` and `proj`", hint=_HINT)
    heads = int(attention.num_heads)
    found = (qkv.in_features, qkv.out_features // (3 * heads), proj.out_features)
    expected = (swap.inputs, swap.channels, swap.outputs)
    if found != expected:
        raise PlanError(
            f"`{swap.attention}` has inputs, channels per head and outputs {found}, the plan expects {expected}",
            hint=_HINT,
        )
    if swap.undivided and not hasattr(get_module(model, swap.block), "window_size"):
        raise PlanError(f"`{swap.block}` has no windows, and the plan says that it no longer cuts them", hint=_HINT)
