"""Tuning methods: one file each, one row in a table. Plans say what trains; `apply` does it and folds it back."""

from typing import Union

from tailor.tuning.bias import Bias
from tailor.tuning.full import Full
from tailor.tuning.linear import Linear
from tailor.tuning.lora import Lora
from tailor.tuning.partial import Partial

SELECTIONS = {"full": Full, "linear": Linear, "partial": Partial, "bias": Bias}
"""Methods that train parameters of the backbone itself."""

MODULES = {"lora": Lora}
"""Methods that put modules into the backbone, by the `kind` that plans carry."""

AnyModule = Union[tuple(MODULES.values())]  # type: ignore[valid-type]  # noqa: UP007
"""One of `MODULES`, for plans read from JSON."""
