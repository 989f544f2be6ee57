"""What a budget of parameters is a share of, and how many that makes."""

from collections.abc import Iterable

from torch import nn

from tailor import budget as budgets
from tailor.build import Opened
from tailor.errors import UsageError
from tailor.tuning.layers import innermost


def backbone_parameters(opened: Opened) -> int:
    """Parameters of the model, its head left out."""
    heads = tuple(head + "." for head in opened.anatomy.heads)
    return sum(p.numel() for name, p in opened.model.named_parameters() if not name.startswith(heads))


def head_parameters(model: nn.Module, heads: Iterable[str]) -> int:
    """Trainable parameters of the head itself: hidden layers that `mlp` puts before it belong to the method."""
    layers = [innermost(model.get_submodule(head)) for head in heads]
    return sum(p.numel() for layer in layers for p in layer.parameters() if p.requires_grad)


def allowed(opened: Opened, budget: str | None) -> int | None:
    """The budget in parameters, None where there is none; UsageError where it is more than all, or less than one."""
    if budget is None:
        return None
    amount, whole = budgets.parse(budget), backbone_parameters(opened)
    if amount.of(whole) > whole:
        raise UsageError(
            f"`--budget {budget}` is more than the backbone's {whole:,} parameters", hint="write for instance `0.4%`"
        )
    if amount.of(whole) < 1:
        raise UsageError(
            f"`--budget {budget}` of the backbone's {whole:,} parameters is less than one",
            hint="write for instance `--budget 0.4%`",
        )
    return amount.of(whole)
