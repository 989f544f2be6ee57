"""Watch every use of the wanted parameters in a forward, and hand on their gradients, one sample at a time.

A torch-function mode sees each call with its arguments. Where a parameter (or what was computed from parameters alone)
meets the batch, it is replaced by a detached copy, and a hook on the result rebuilds its gradient for each sample, so
autograd computes no weight gradient. A use that no rule covers leaves a gradient at the parameter itself: an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tailor.criteria.factors import Factor, Given, Placed, Pulled, wide
from tailor.criteria.rules import BROADCAST, CONCATENATE, RULES, Make, mask_shape
from tailor.errors import ModelError

Probe = tuple[tuple[int, ...], Tensor]


class Sink(Protocol):
    """Where gradients go: `expect` at each use in the forward, `receive` at most as often in the backward."""

    def expect(self, name: str) -> None:
        """One more use of the parameter."""
        ...

    def receive(self, name: str, factor: Factor) -> None:
        """The gradients of one use."""
        ...


class Capture(TorchFunctionMode):
    """Active around one forward of `samples` images.

    `wanted` names the parameters by id, `constants` are the other tensors of the model; `copies` are the calls whose
    input must be copied since the model changes it afterwards (found by `stale`). Without a `sink` it only takes the
    `probes` of a forward; those of the first sample alone are the `reference` for a batch: where the leading axis of a
    call is not the samples in order, they differ.
    """

    def __init__(
        self,
        wanted: Mapping[str, Tensor],
        constants: Iterable[Tensor],
        samples: int,
        sink: Sink | None,
        copies: frozenset[int] = frozenset(),
        reference: Sequence[Probe] | None = None,
    ) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in wanted.items()}
        self.samples, self.sink, self.copies, self.reference = samples, sink, copies, reference
        self.probes: list[Probe] = []
        # Tensors that do not depend on the batch, by id, with the wanted parameters they were computed from. Holding
        # them keeps their ids from being used again.
        self._fixed: dict[int, tuple[Tensor, frozenset[str]]] = {id(c): (c, frozenset()) for c in constants}
        self._fixed |= {id(p): (p, frozenset({name})) for name, p in wanted.items()}
        self._aliases: dict[str, Tensor] = {}
        self._kept: list[tuple[int, Tensor, int]] = []
        self._calls = 0
        self._pulling = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, with the wanted parameters replaced as the module docstring says."""
        kwargs = kwargs or {}
        tensors = list(_tensors(args, kwargs))
        data = [t for t in tensors if id(t) not in self._fixed]
        shared = [t for t in tensors if self._roots(t)]
        if data and not shared:
            return self._call(func, args, kwargs)
        if not data:
            out = func(*_swap(args, self._alias), **_swap(kwargs, self._alias))
            self._fix(out, frozenset().union(*map(self._roots, shared)))
            return out
        if func in RULES:
            out = self._rule(func, args, kwargs)
        elif func in BROADCAST or func in CONCATENATE or mask_shape(func, args, kwargs) is not None:
            out = self._broadcast(func, args, kwargs, tensors)
        else:
            out = NotImplemented
        return self._call(func, _swap(args, self._alias), _swap(kwargs, self._alias)) if out is NotImplemented else out

    def stale(self) -> frozenset[int]:
        """The calls whose input was changed in place after the call, within this forward; asked once, at its end."""
        changed = frozenset(call for call, x, version in self._kept if x._version != version)
        self._kept.clear()  # from here on only the hooks hold the inputs
        return changed

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call with data among the arguments: what it writes into depends on the batch from then on."""
        target = args[0] if args and isinstance(args[0], Tensor) and id(args[0]) in self._fixed else None
        version = target._version if target is not None else 0
        out = func(*args, **kwargs)
        if target is not None and target._version != version:
            self._fixed.pop(id(target), None)
        return out

    def _rule(self, func: Any, args: Any, kwargs: Any) -> Any:
        rule = RULES[func]
        bound = dict(zip(rule.arguments, args, strict=False)) | kwargs
        x = bound[rule.arguments[0]]
        uses = {k: bound[k] for k in rule.parameters if bound.get(k) is not None and self._roots(bound[k])}
        if id(x) in self._fixed or self._lead(x.shape) == 0:
            return NotImplemented
        call = self._seen(x, whole=False)
        if call in self.copies:
            whole, x = x, x.clone()
            args, kwargs = (_swap(a, lambda t: x if t is whole else t) for a in (args, kwargs))
        kept = x.detach()
        makes = rule.make(bound | {rule.arguments[0]: kept}, self.samples)
        if not uses or not all(k in makes for k in uses):
            return NotImplemented
        out = func(*_swap(args, self._detached), **_swap(kwargs, self._detached))
        if torch.is_grad_enabled():
            if rule.parameters[0] in uses:  # only the weight's gradient needs the input
                self._kept.append((call, kept, kept._version))
            # the first call of all starts the graph
            out = out if out.requires_grad else out.requires_grad_().clone()
            self._hook(out, [(t, makes[k]) for k, t in uses.items()])
        return out

    def _broadcast(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """One copy of a shared tensor for each sample, so that autograd itself keeps the samples apart."""
        shape = mask_shape(func, args, kwargs) or (
            max((t.shape for t in tensors), key=len)
            if func in CONCATENATE
            else torch.broadcast_shapes(*(t.shape for t in tensors))
        )
        each = self._lead(shape)
        if each == 0:
            return NotImplemented
        for t in tensors:
            if id(t) not in self._fixed:
                self._seen(t, whole=t.dim() < len(shape) or t.shape[0] != shape[0])
        copies: dict[int, Tensor] = {}
        for t in tensors:
            if not self._roots(t) or id(t) in copies:
                continue
            lead = t.shape[0] if t.dim() == len(shape) else 1
            if lead == shape[0]:
                leaf = used = t.detach().requires_grad_(torch.is_grad_enabled())
                make: Make = partial(Placed, samples=self.samples)
            elif lead == 1 and func not in CONCATENATE:
                rest = (1,) * (len(shape) - 1 - t.dim()) + tuple(t.shape[t.dim() == len(shape) :])
                leaf = t.detach().reshape(1, 1, *rest).expand(self.samples, 1, *rest).clone()
                used = leaf.requires_grad_(torch.is_grad_enabled()).expand(-1, each, *rest).flatten(0, 1)
                make = Given
            else:
                return NotImplemented
            copies[id(t)] = used
            if leaf.requires_grad:
                self._hook(leaf, [(t, make)])

        def pick(t: Tensor) -> Tensor:
            return copies.get(id(t), t)

        return func(*_swap(args, pick), **_swap(kwargs, pick))

    def _hook(self, tensor: Tensor, uses: list[tuple[Tensor, Make]]) -> None:
        """Turn the gradient of `tensor` into factors of the shared tensors of `uses`, and let go of the input."""
        sink = self.sink
        if sink is None:
            return
        for t, _ in uses:
            for name in self._roots(t):
                sink.expect(name)

        @torch.no_grad()
        def arrived(grad: Tensor) -> None:
            while uses:
                t, make = uses.pop()
                factor = make(wide(grad.detach()))
                for name in self._roots(t):
                    whole = t if id(t) in self.names else None
                    sink.receive(name, factor if whole is not None else self._pulled(factor, t, name))

        tensor.register_hook(arrived)

    def _pulled(self, factor: Factor, derived: Tensor, name: str) -> Factor:
        return Pulled(factor, derived, self._aliases[name], self._permission)

    @contextmanager
    def _permission(self) -> Iterator[None]:
        self._pulling = True
        try:
            yield
        finally:
            self._pulling = False

    def _lead(self, shape: Sequence[int]) -> int:
        """How many rows of the leading axis belong to a sample (windows); 0 where it cannot be the batch."""
        return shape[0] // self.samples if shape and shape[0] % self.samples == 0 else 0

    def _seen(self, x: Tensor, whole: bool) -> int:
        """Count a call; compare its first sample (or the `whole`, if not by sample) with the first sample alone."""
        call, self._calls = self._calls, self._calls + 1
        if self.reference is not None or self.sink is None:
            first = x.detach() if whole else x.detach()[: self._lead(x.shape)]
            flat = first.reshape(-1)
            probe = (tuple(first.shape), flat[:: max(1, flat.numel() // 64)].to(torch.float64, copy=True))
            if self.reference is None:
                self.probes.append(probe)
            elif call >= len(self.reference) or not _alike(probe, self.reference[call]):
                raise ModelError(
                    "the samples of a batch are not the leading axis, in order, everywhere in the model",
                    hint="score it with a batch size of 1, or leave out what this model shares between samples",
                )
        return call

    def _roots(self, t: Tensor) -> frozenset[str]:
        entry = self._fixed.get(id(t))
        return entry[1] if entry is not None else frozenset()

    def _fix(self, out: Any, roots: frozenset[str]) -> None:
        for t in _tensors((out,), {}):
            if id(t) not in self._fixed:
                self._fixed[id(t)] = (t, roots if t.requires_grad else frozenset())

    def _detached(self, t: Tensor) -> Tensor:
        return t.detach() if self._roots(t) else t

    def _alias(self, t: Tensor) -> Tensor:
        """A stand-in for a wanted parameter, from which other tensors are computed; anything else is itself."""
        name = self.names.get(id(t))
        if name is None:
            return t
        if name not in self._aliases:
            alias = t.detach().requires_grad_()
            alias.register_hook(lambda _: None if self._pulling else unseen(name))
            self._aliases[name] = alias
        return self._aliases[name]


def unseen(name: str) -> None:
    """Refuse a parameter whose gradient came by a way that is not separated into samples."""
    raise ModelError(
        f"parameter `{name}` is used in a way that cannot be scored sample by sample",
        hint="leave it out of `parameters`",
    )


def _alike(a: Probe, b: Probe) -> bool:
    if a[0] != b[0]:
        return False
    return bool((a[1] - b[1]).norm() <= 0.1 * max(a[1].norm(), b[1].norm()) + 1e-6)


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for a in (*args, *kwargs.values()):
        if isinstance(a, Tensor):
            yield a
        elif isinstance(a, tuple | list):
            yield from (t for t in a if isinstance(t, Tensor))


def _swap(values: Any, pick: Callable[[Tensor], Tensor]) -> Any:
    """The same arguments with every tensor replaced by what `pick` gives for it."""
    if isinstance(values, Tensor):
        return pick(values)
    if isinstance(values, dict):
        return {k: _swap(v, pick) for k, v in values.items()}
    if type(values) in (tuple, list):
        return type(values)(_swap(v, pick) for v in values)
    return values
