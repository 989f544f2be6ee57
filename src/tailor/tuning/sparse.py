"""Single entries of a frozen weight that train: SPT's unstructured part, as a vector of deltas.

The deltas are written through into the frozen weight after every optimiser step (`write_through_`), so the forward pass
is the plain layer's, merging is a no-op, and optimiser and data-parallel reduction see only the vector. The backward
pass multiplies only the rows and columns that the entries touch (in SPT's released plans 241 rows x 49 columns on
average); the released code builds an n x n product instead. Vectors (norms, biases) use torch's parametrization.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tailor.surgery import computes_plainly
from tailor.tuning.layers import answers_for_base

_DENSE_ABOVE = 0.25
"""Share of the matrix that the rows x columns hull may cover before one dense product is cheaper."""


@dataclass(frozen=True, eq=False)
class Held:
    """What a stored tensor is: `part` of the tensor called `name` once single entries are folded in.

    `whole` it, the `delta` of its entries `indices`, or the `rest`, to which that delta is added.
    """

    name: str
    part: Literal["whole", "delta", "rest"] = "whole"
    indices: Tensor | None = None


@answers_for_base
class SparseWeight(nn.Module):
    """A linear or convolution layer of which the entries `indices` (flat, sorted) of the weight train."""

    rows: Tensor
    columns: Tensor
    at_row: Tensor
    at_column: Tensor
    start: Tensor
    indices: Tensor

    def __init__(self, base: nn.Linear | nn.Conv2d, indices: Tensor) -> None:
        super().__init__()
        base.weight.requires_grad_(False)
        self.base = base
        width = base.weight[0].numel()
        flat = indices.to(base.weight.device, torch.int64)
        rows, at_row = torch.unique(flat // width, return_inverse=True)
        columns, at_column = torch.unique(flat % width, return_inverse=True)
        self.dense = isinstance(base, nn.Conv2d) or len(rows) * len(columns) > _DENSE_ABOVE * base.weight.numel()
        for name, value in (("indices", flat), ("rows", rows), ("columns", columns)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("at_row", at_row, persistent=False)
        self.register_buffer("at_column", at_column, persistent=False)
        self.register_buffer("start", base.weight.detach().flatten()[flat].clone(), persistent=False)
        self.delta = nn.Parameter(torch.zeros_like(self.start))

    def write_through_(self) -> None:
        """weight[indices] = start + delta."""
        with torch.no_grad():
            self.base.weight.view(-1)[self.indices] = self.start + self.delta

    def rebase_(self) -> None:
        """start = weight[indices] - delta: after a weight that already holds the deltas was loaded."""
        with torch.no_grad():
            self.start.copy_(self.base.weight.view(-1)[self.indices] - self.delta)

    def forward(self, x: Tensor) -> Tensor:
        """The plain layer's output; the gradient reaches `delta`."""
        if not (torch.is_grad_enabled() and self.delta.requires_grad):
            return self.base(x)
        if isinstance(self.base, nn.Conv2d):
            x = _padded(self.base, x)
            return _SparseConv.apply(x, self.base.weight, self.base.bias, self.delta, self)
        return _SparseLinear.apply(x, self.base.weight, self.base.bias, self.delta, self)


class _SparseLinear(torch.autograd.Function):
    """y = x W^T + b; grad delta = (G[:, rows]^T x[:, columns])[at_row, at_column]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, delta: Tensor, site: SparseWeight) -> Tensor:
        ctx.site, ctx.dtype = site, x.dtype
        ctx.save_for_backward(x if site.dense else x[..., site.columns], weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor, None]:
        seen, weight = ctx.saved_tensors
        site: SparseWeight = ctx.site
        flat = grad.flatten(0, -2)
        grad_x = (grad @ weight.to(grad.dtype)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        grad_bias = flat.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        seen = seen.flatten(0, -2).to(grad.dtype)
        if site.dense:
            product = (flat.t() @ seen).view(-1)[site.indices]
        else:
            product = (flat[:, site.rows].t() @ seen)[site.at_row, site.at_column]
        return grad_x, None, grad_bias, product.to(site.delta.dtype), None


class _SparseConv(torch.autograd.Function):
    """A convolution whose dense weight gradient is gathered at once and thrown away."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, delta: Tensor, site: SparseWeight) -> Tensor:
        ctx.site, ctx.dtype = site, x.dtype
        ctx.save_for_backward(x, weight)
        base: nn.Conv2d = site.base  # type: ignore[assignment]
        return F.conv2d(x, weight, bias, base.stride, _padding(base), base.dilation, base.groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        base = ctx.site.base
        wanted = [ctx.needs_input_grad[0], True, ctx.needs_input_grad[2]]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            x.to(grad.dtype),
            weight.to(grad.dtype),
            [weight.shape[0]],
            base.stride,
            _padding(base),
            base.dilation,
            False,
            [0, 0],
            base.groups,
            wanted,
        )
        product = grad_weight.reshape(-1)[ctx.site.indices].to(ctx.site.delta.dtype)
        return (grad_x.to(ctx.dtype) if wanted[0] else None, None, grad_bias if wanted[2] else None, product, None)


def _padding(base: nn.Conv2d) -> list[int]:
    """The zeros on both sides that are left to the convolution: none where `_padded` put something there."""
    return [0, 0] if _pads_first(base) else list(base.padding)  # type: ignore[arg-type]


def _padded(base: nn.Conv2d, x: Tensor) -> Tensor:
    """The input with what the layer pads it with, where that is not equally many zeros on both sides."""
    if not _pads_first(base):
        return x
    mode = "constant" if base.padding_mode == "zeros" else base.padding_mode
    return F.pad(x, base._reversed_padding_repeated_twice, mode)


def _pads_first(base: nn.Conv2d) -> bool:
    return base.padding_mode != "zeros" or isinstance(base.padding, str)


class AddDelta(nn.Module):
    """Parametrization of a small tensor: the stored value plus a vector of deltas at flat `indices`."""

    indices: Tensor

    def __init__(self, indices: Tensor, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("indices", indices.to(like.device, torch.int64), persistent=False)
        self.delta = nn.Parameter(like.new_zeros(len(indices)))

    def forward(self, value: Tensor) -> Tensor:
        """A tensor of the same shape."""
        return value.flatten().index_add(0, self.indices, self.delta).view(value.shape)


def tune_entries_(model: nn.Module, tensor: str, indices: Tensor) -> nn.Module:
    """Make the entries `indices` (flat, sorted) of the parameter `tensor` trainable; the rest of it stays frozen."""
    path, _, leaf = tensor.rpartition(".")
    owner = model.get_submodule(path)
    if leaf == "weight" and isinstance(owner, nn.Linear | nn.Conv2d) and computes_plainly(owner):
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = SparseWeight(owner, indices)
        return model
    value = getattr(owner, leaf)
    value.requires_grad_(False)
    parametrize.register_parametrization(owner, leaf, AddDelta(indices, value))
    return model


def merge_entries_(model: nn.Module) -> nn.Module:
    """Put plain layers and plain tensors back, deltas inside."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SparseWeight):
                child.write_through_()
                module._modules[name] = child.base
        if parametrize.is_parametrized(module):
            _unparametrize_(module)
    return model


def _unparametrize_(module: nn.Module) -> None:
    """Plain tensors again. torch's own way takes the property off the class, which copies of the module share."""
    values = {leaf: getattr(module, leaf).detach() for leaf in module.parametrizations}  # type: ignore[union-attr]
    trains = {leaf: module.parametrizations[leaf].original.requires_grad for leaf in values}  # type: ignore[index, union-attr]
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for leaf, value in values.items():
        module.register_parameter(leaf, nn.Parameter(value, requires_grad=trains[leaf]))


def held(model: nn.Module) -> dict[str, Held]:
    """What every tensor of the model's state is, by its name there."""
    sites = {path: module for path, module in model.named_modules() if isinstance(module, SparseWeight)}
    found = {}
    for name in model.state_dict():
        path, _, leaf = name.rpartition(".")
        if leaf == "delta" and path in sites:
            found[name] = Held(f"{path}.weight", "delta", sites[path].indices)
            continue
        below = next((p for p in sites if name.startswith(f"{p}.base.")), None)
        plain = name if below is None else below + name.removeprefix(f"{below}.base")
        owner, _, inner = plain.partition("parametrizations.")
        if inner:
            tensor = owner + inner.split(".")[0]
            indices = model.get_submodule(path).indices if leaf == "delta" else None
            found[name] = Held(tensor, "delta" if leaf == "delta" else "rest", indices)  # type: ignore[arg-type]
        else:
            found[name] = Held(plain)
    return found
