"""The gradient of one parameter for each sample of a batch, kept as what it is made of, and its squares summed.

A *factor* is one use of a parameter in one forward: an outer product, a convolution, looked-up rows, or plain values.
Gradients of one sample add up over all uses before they are squared. Only a small scratch tensor is ever dense.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def wide(t: Tensor) -> Tensor:
    """The same tensor in a precision that sums well: half precisions become fp32."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


class Factor(Protocol):
    """One use of a parameter, for every sample of a batch."""

    def gradient(self, start: int, stop: int) -> Tensor:
        """The gradients of samples `start` to `stop`, (stop - start, *any shape with the parameter's elements)."""
        ...


@dataclass(frozen=True)
class Given:
    """Gradients that are small enough to hold: `values` (B, *shape)."""

    values: Tensor

    def gradient(self, start: int, stop: int) -> Tensor:
        """See `Factor`."""
        return self.values[start:stop]


@dataclass(frozen=True)
class Outer:
    """A matrix applied to every token: g_i = left_i^T right_i, `left` (B, T, rows), `right` (B, T, columns)."""

    left: Tensor
    right: Tensor

    def gradient(self, start: int, stop: int) -> Tensor:
        """See `Factor`."""
        return torch.bmm(wide(self.left[start:stop]).mT, wide(self.right[start:stop]))


@dataclass(frozen=True)
class Convolution:
    """A convolution's weight; `inputs` (R, Cin, *space), `grads` (R, Cout, *space), R a multiple of the `samples`."""

    inputs: Tensor
    grads: Tensor
    samples: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def gradient(self, start: int, stop: int) -> Tensor:
        """See `Factor`.

        The rows of a batch as groups of one convolution: its weight gradient holds one filter bank a row.
        """
        repeat = self.inputs.shape[0] // self.samples
        x, g = (wide(t[start * repeat : stop * repeat]) for t in (self.inputs, self.grads))
        rows, inner, outer = x.shape[0], x.shape[1], g.shape[1]
        x, g = x.reshape(1, rows * inner, *x.shape[2:]), g.reshape(1, rows * outer, *g.shape[2:])
        shape = (rows * outer, inner // self.groups, *self.kernel)
        _, weight, _ = torch.ops.aten.convolution_backward(
            g,
            x,
            x.new_empty(1).expand(shape),
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.kernel),
            rows * self.groups,
            [False, True, False],
        )
        return weight.view(stop - start, repeat, outer, *shape[1:]).sum(1)


@dataclass(frozen=True)
class LookedUp:
    """Rows looked up in a table of `size` rows: `index` (B, T), and `grads` (B, T, C) of what was found."""

    index: Tensor
    grads: Tensor
    size: int

    def gradient(self, start: int, stop: int) -> Tensor:
        """See `Factor`."""
        grads, index = self.grads[start:stop], self.index[start:stop]
        table = grads.new_zeros(stop - start, self.size, grads.shape[-1])
        return table.scatter_add_(1, index.unsqueeze(-1).expand_as(grads), grads)


@dataclass(frozen=True)
class Placed:
    """A tensor that already leads with the batch: row i of `values` (B * m, ...) belongs to sample i // m alone."""

    values: Tensor
    samples: int

    def gradient(self, start: int, stop: int) -> Tensor:
        """See `Factor`."""
        each = self.values.shape[0] // self.samples
        placed = self.values.new_zeros(stop - start, *self.values.shape)
        for i in range(start, stop):
            placed[i - start, i * each : (i + 1) * each] = self.values[i * each : (i + 1) * each]
        return placed


@dataclass(frozen=True)
class Pulled:
    """The factor of a tensor that was computed from the parameter (`root`), pulled back through that computation."""

    inner: Factor
    derived: Tensor
    root: Tensor
    permission: Callable[[], AbstractContextManager[None]]

    def gradient(self, start: int, stop: int) -> Tensor:
        """See `Factor`."""
        outer = self.inner.gradient(start, stop).reshape(stop - start, *self.derived.shape).to(self.derived.dtype)
        with self.permission():
            (grads,) = torch.autograd.grad(
                self.derived, self.root, outer, is_grads_batched=True, retain_graph=True, allow_unused=True
            )
        return grads if grads is not None else self.root.new_zeros(stop - start, *self.root.shape)


def add_squares_(total: Tensor, factors: Sequence[Factor], samples: int, scratch: Tensor) -> Tensor:
    """Add sum_i g_i^2 over the `samples` to `total`; g_i is the sum of the factors. `scratch` (any size) is used up."""
    if all(isinstance(f, Outer) for f in factors):
        left = torch.cat([f.left for f in factors], 1) if len(factors) > 1 else factors[0].left  # type: ignore[attr-defined]
        right = torch.cat([f.right for f in factors], 1) if len(factors) > 1 else factors[0].right  # type: ignore[attr-defined]
        _add_outer_(total.view(left.shape[2], right.shape[2]), left, right, scratch)
        return total
    chunk = max(1, scratch.numel() // total.numel())
    for start in range(0, samples, chunk):
        grads = _sum(factors, start, min(start + chunk, samples), total)
        if len(grads) == 1:
            total.addcmul_(grads[0], grads[0])
        else:
            total.add_(grads.square().sum(0))
    return total


def add_mean_squared_(total: Tensor, factors: Sequence[Factor], samples: int, scratch: Tensor) -> Tensor:
    """Add (mean_i g_i)^2 over the `samples` to `total`; see `add_squares_`."""
    mean = torch.zeros_like(total)
    dense = []
    for f in factors:
        if isinstance(f, Outer):
            mean.view(f.left.shape[2], f.right.shape[2]).addmm_(
                f.left.flatten(0, 1).T.to(total.dtype), f.right.flatten(0, 1).to(total.dtype)
            )
        else:
            dense.append(f)
    chunk = max(1, scratch.numel() // total.numel())
    for start in range(0, samples if dense else 0, chunk):
        mean.add_(_sum(dense, start, min(start + chunk, samples), total).sum(0))
    return total.add_(mean.div_(samples).square_())


def _sum(factors: Sequence[Factor], start: int, stop: int, like: Tensor) -> Tensor:
    """The gradients of some samples, over all uses, (stop - start, *shape)."""
    shape = (stop - start, *like.shape)
    first, *others = (f.gradient(start, stop).reshape(shape) for f in factors)
    return sum(others, start=first).to(like.dtype)


def _add_outer_(total: Tensor, left: Tensor, right: Tensor, scratch: Tensor) -> None:
    """total += sum_i (left_i^T right_i)^2, in tiles that fit the scratch; `total` (rows, columns)."""
    left, right = left.to(total.dtype), right.to(total.dtype)
    samples, tokens, rows = left.shape
    columns = right.shape[2]
    if tokens == 1:  # the square of a product is the product of the squares: one matrix product for the batch
        total.addmm_(left[:, 0].square().T, right[:, 0].square())
        return
    tile = max(1, min(rows, scratch.numel() // columns))
    chunk = max(1, min(samples, scratch.numel() // (tile * columns)))
    for top in range(0, rows, tile):
        part = total[top : top + tile]
        height = part.shape[0]
        for start in range(0, samples, chunk):
            x = right[start : start + chunk]
            g = left[start : start + chunk, :, top : top + tile].mT
            product = scratch[: x.shape[0] * height * columns].view(x.shape[0], height, columns)
            torch.bmm(g, x, out=product)
            if x.shape[0] == 1:
                part.addcmul_(product[0], product[0])
            else:
                part.add_(product.square_().sum(0))
