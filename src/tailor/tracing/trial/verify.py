"""Is a cut exact? Compare the cut model with the masked reference, and name the first module where they part.

Layer scales start at 1e-6, last norms of a branch and some classifiers at zero: whatever a cut does wrong behind them,
the output hardly moves. What can be cut does not depend on values, so a comparison may be made on an `awakened` copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from tailor.inputs import Example
from tailor.surgery import eval_mode
from tailor.tracing.graph.export import LIMIT, time_limit
from tailor.tracing.graph.traced import Traced
from tailor.tracing.trial.reference import Masking, run_masked
from tailor.tracing.widths.cut import cut as cut_of
from tailor.tracing.widths.cut import keep_vectors, sharing
from tailor.tracing.widths.plan import WidthPlan


@dataclass(frozen=True)
class Verdict:
    """`error` is the largest difference, relative to the reference's largest value; `module` the first that differs."""

    exact: bool
    error: float
    module: str = ""
    cause: str = ""


SCALE, WEIGHT = 0.1, 1e-3
"""Vectors and weights are near zero where no entry is larger; a fresh classifier draws its own with 0.02."""
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
DOUBTED = 0.01
"""A difference that rounding may have made is no larger."""


def verify(
    dense: nn.Module, cut: nn.Module, traced: Traced, plan: WidthPlan, example: Example, *, limit: float = LIMIT
) -> Verdict:
    """Whether `cut(*example)` equals the dense model with the removed units masked after every operator.

    What lies behind a layer scale or a norm near zero is not compared: give an `awakened` model and a cut of it.
    Where the two are a little apart, a copy of the model on drawn values says whether that is rounding: in a language
    model some activations are thousands of times larger than the rest. A `ModelError` says that it took longer than
    `limit` seconds.
    """
    with time_limit(limit, "comparing the cut model with the dense one"):
        found = _compared(dense, cut, traced, plan, example)
        if found.exact or found.error > DOUBTED or not _same(cut, cut_of(dense, plan)):
            return found
        calm = drawn(dense)
        return _compared(calm, cut_of(calm, plan), traced, plan, example)


def _compared(dense: nn.Module, cut: nn.Module, traced: Traced, plan: WidthPlan, example: Example) -> Verdict:
    output, failure = attempt(cut, example)
    if failure is not None:
        return failure
    masking = Masking(traced.analysis, traced.names, keep_vectors(plan))
    found = _tensors(output)
    expected = _tensors(run_masked(dense, masking, example))
    error = _difference(found, expected)
    if error <= max(TOLERANCE.get(one.dtype, 0.0) for one in expected):
        return Verdict(True, error)
    return Verdict(
        False, error, first_divergence(dense, cut, masking, example, plan), "other values than the masked reference"
    )


def _same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def attempt(model: nn.Module, example: Example) -> tuple[Any, Verdict | None]:
    """The model's output, or the verdict on why it cannot run, with the innermost module that was running."""
    with eval_mode(model), torch.no_grad(), _entered(model) as inside:
        try:
            return model(*example), None
        except Exception as error:  # a module's own code fails in its own way
            where, cause = inside[-1] if inside else "", f"{type(error).__name__}: {_line(error)}"
            return None, Verdict(False, float("inf"), where, cause)


def first_divergence(dense: nn.Module, cut: nn.Module, masking: Masking, example: Example, plan: WidthPlan) -> str:
    """The first module, in order of completion, whose output is not the reference's without the removed units."""
    expected: dict[str, Tensor] = {}

    def watch(node: Node, result: Any) -> None:
        stack = node.meta.get("nn_module_stack")
        if not stack or not isinstance(result, Tensor):
            return
        kept = result
        for d, mask in enumerate(masking.of(masking.analysis.values.get(node))):
            if mask is not None:
                kept = kept.index_select(d, mask.nonzero().flatten())
        for path, _ in stack.values():
            expected[str(path).split("@")[0]] = kept

    run_masked(dense, masking, example, watch)
    with eval_mode(cut), torch.no_grad(), _outputs(cut) as outputs:
        cut(*example)
    rescaled = {rescale.tensor.rpartition(".")[0] for rescale in plan.rescales}  # differ by the factor, on purpose
    for path, tensor in outputs:
        reference = expected.get(path)
        if reference is None or path in rescaled:
            continue
        if reference.shape != tensor.shape:
            if reference.numel() == tensor.numel():
                continue  # the module's last operator was a reshape outside it
            return path
        if _difference([tensor], [reference]) > TOLERANCE.get(reference.dtype, 0.0):
            return path
    return ""


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    return [tensor for item in output or () for tensor in _tensors(item)]


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    if [t.shape for t in found] != [t.shape for t in expected]:
        return float("inf")
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if b.numel() and b.dtype.is_floating_point:
            error = float((a - b).abs().max()) / (float(b.abs().max()) or 1.0)
            worst = max(worst, error if error == error else float("inf"))
    return worst


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""


@contextmanager
def _entered(model: nn.Module) -> Iterator[list[str]]:
    """The paths of the modules that were entered and not left, outermost first."""
    inside: list[str] = []

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        inside.pop()

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, a, path=path: inside.append(path)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _outputs(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Every module's output, in order of completion, where it is one tensor."""
    seen: list[tuple[str, Tensor]] = []

    def note(path: str, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append((path, output.clone()))

    handles = [
        module.register_forward_hook(lambda m, a, o, path=path: note(path, o)) for path, module in model.named_modules()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def awakened(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in eval mode: vectors near zero (biases aside) drawn from 0.5 to 1.5, weights so that sizes stay.

    It shares all other values with the model.
    """
    awake = sharing(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in awake.named_parameters():
            if not name.endswith("bias") and parameter.numel():
                _awake_(parameter, generator)
    return awake


def _awake_(parameter: Tensor, generator: torch.Generator) -> None:
    largest = float(parameter.abs().max())
    if parameter.numel() == max(parameter.shape, default=1):  # a scale may also be (), (C, 1, 1) or (1, 1, C)
        if largest < SCALE:
            parameter.data = (0.5 + torch.rand(parameter.shape, generator=generator)).to(parameter)
    elif largest < WEIGHT:
        drawn = torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5
        parameter.data = drawn.to(parameter)


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in eval mode on values of its own, of the sizes that a fresh model has: none stands out from the rest."""
    calm = sharing(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in calm.parameters():
            spread = 0.3 if parameter.dim() < 2 else max(parameter[0].numel(), 1) ** -0.5
            value = spread * torch.randn(parameter.shape, generator=generator) + float(parameter.dim() < 2)
            parameter.data = value.to(parameter)
    return calm
