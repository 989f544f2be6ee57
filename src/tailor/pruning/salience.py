"""Salience of heads and hidden units, the scores of structured pruning as S2ViTE and the thesis use them (SSP).

A head's is E |A_h . dL/dA_h|: what the loss would change, to first order, were its output A_h left out (Michel et al.
2019). A hidden unit's is the L1 norm of the weights into and out of it. SSP keeps the same rate in every layer, which
is `--method uniform`. Deviation: other parts (embedding, head dims) have no salience there and take the L1 norm too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tailor.criteria.samples import Loss, called, count, cross_entropy, placed, summed
from tailor.errors import PlanError
from tailor.pruning.elements import INSTEAD
from tailor.pruning.settings import Normaliser
from tailor.pruning.width import normalised, unit_scores
from tailor.surgery import eval_mode, forget_, get_module
from tailor.tracing.graph.groups import Group, Groups
from tailor.tracing.widths.layout import unit_of


def salience_scores(
    model: nn.Module,
    groups: Groups,
    pairs: Iterable[tuple[Any, Any]],
    normaliser: Normaliser = "mean",
    everything: bool = False,
    loss: Loss = cross_entropy,
) -> dict[str, Tensor]:
    """A score for each unit of each group; `pairs` are inputs and targets, `loss` is one number a sample."""
    elements = {name: parameter.detach().abs() for name, parameter in model.named_parameters()}
    scores = unit_scores(groups, elements, normaliser, everything)
    heads = [group for group in groups.groups if group.label == "heads"]
    found = head_saliences(model, groups, heads, pairs, loss) if heads else {}
    return scores | {name: normalised(score, normaliser) for name, score in found.items()}


def head_saliences(
    model: nn.Module,
    groups: Groups,
    heads: Sequence[Group],
    pairs: Iterable[tuple[Any, Any]],
    loss: Loss = cross_entropy,
) -> dict[str, Tensor]:
    """E |A_h . dL/dA_h| over the samples, (heads,) for each group; the model stays as it was."""
    readers = {group.id: _reader(model, groups, group) for group in heads}
    sums = {group.id: torch.zeros(group.size, dtype=torch.float64) for group in heads}
    place = next(model.parameters())
    seen = 0
    with _evaluated(model), _inputs(readers) as given:
        for inputs, targets in pairs:
            given.clear()
            samples = count(inputs)
            seen += samples
            output = called(forget_(model), placed(inputs, place.device, place.dtype))
            _check_read(readers, given)
            whole = summed(loss, output, placed(targets, place.device), samples)
            grads = torch.autograd.grad(whole, [given[name] for name in readers])
            for name, grad in zip(readers, grads, strict=True):
                product = (given[name].detach() * grad).double()  # (B, ..., C), or (B * windows, N, C)
                each = product.reshape(samples, -1, product.shape[-1]).sum(1)
                units = readers[name][1].to(each.device)
                by_head = each.new_zeros(samples, len(sums[name])).index_add_(1, units, each)
                sums[name] += by_head.abs().sum(0).cpu()
    if not seen:
        raise PlanError("there is no image to score the heads on", hint="give at least one")
    return {name: total / seen for name, total in sums.items()}


def _reader(model: nn.Module, groups: Groups, group: Group) -> tuple[nn.Module, Tensor]:
    """The linear layer that reads the heads' outputs, and the head that each of its input channels belongs to."""
    for member in group.members:
        path, _, leaf = member.tensor.rpartition(".")
        if leaf == "weight" and member.dim == 1 and isinstance(module := get_module(model, path), nn.Linear):
            units = unit_of(groups.layouts[member.tensor][1], group.id, groups.sizes)
            if bool((units >= 0).all()):
                return module, units
    raise PlanError(f"no linear layer reads the heads `{group.id}` alone, so they have no salience", hint=INSTEAD)


def _check_read(readers: Iterable[str], given: Mapping[str, Tensor]) -> None:
    """Recorded modules, and some of torch's own, compute with a layer's tensors and never call it: nothing is seen."""
    for name in readers:
        if name not in given:
            raise PlanError(
                f"the heads `{name}` have no salience: the layer that reads them is not called, as in a module that an "
                "earlier pruning recorded",
                hint=INSTEAD,
            )


@contextmanager
def _inputs(readers: Mapping[str, tuple[nn.Module, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """What each layer was given in the last forward pass, by its group."""
    given: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def kept(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # No parameter needs a gradient, so the graph begins where the first reader is given something.
            given[name] = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            return (given[name], *args[1:])

        return kept

    with ExitStack() as stack:
        for name, (module, _) in readers.items():
            stack.callback(module.register_forward_pre_hook(keep(name)).remove)
        yield given


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode without gradients for its parameters; everything as before afterwards."""
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        with eval_mode(model):
            yield
    finally:
        for parameter, wanted in asked.items():
            parameter.requires_grad_(wanted)
