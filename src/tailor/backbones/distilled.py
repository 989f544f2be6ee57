"""The second classifier of a distilled DeiT: timm keeps both outputs apart only where its flag asks for that."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tailor.errors import ModelError


@contextmanager
def both_heads(model: nn.Module) -> Iterator[None]:
    """The forward pass gives the logits of both classifiers; ModelError where the model has only one."""
    if not isinstance(getattr(model, "distilled_training", None), bool):
        raise ModelError(
            f"`{type(model).__name__}` has no distillation classifier", hint="set `distil: {kind: hard}` in the recipe"
        )
    before = model.distilled_training
    try:
        model.distilled_training = True  # type: ignore[assignment]
        yield
    finally:
        model.distilled_training = before
