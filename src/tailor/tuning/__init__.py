"""Tuning methods: one file each, one row in a table. Plans say what trains; `apply` does it and folds it back."""

from typing import TYPE_CHECKING, Union

from tailor.tuning.adapter import Adapter
from tailor.tuning.adaptformer import AdaptFormer
from tailor.tuning.bias import Bias
from tailor.tuning.convpass import Convpass
from tailor.tuning.full import Full
from tailor.tuning.linear import Linear
from tailor.tuning.lora import Lora
from tailor.tuning.method import Module, Selection
from tailor.tuning.mlp import Mlp
from tailor.tuning.partial import Partial
from tailor.tuning.repadapter import RepAdapter
from tailor.tuning.site_adapter import SiteAdapter
from tailor.tuning.ssf import Ssf
from tailor.tuning.vpt_deep import VptDeep
from tailor.tuning.vpt_shallow import VptShallow

SELECTIONS: dict[str, type[Selection]] = {"full": Full, "linear": Linear, "partial": Partial, "bias": Bias}
"""Methods that train parameters of the backbone itself."""

MODULES: dict[str, type[Module]] = {
    "lora": Lora,
    "site-adapter": SiteAdapter,
    "mlp": Mlp,
    "vpt-shallow": VptShallow,
    "vpt-deep": VptDeep,
    "adapter": Adapter,
    "adaptformer": AdaptFormer,
    "convpass": Convpass,
    "repadapter": RepAdapter,
    "ssf": Ssf,
}
"""Methods that put modules into the backbone, by the `kind` that plans carry."""

if TYPE_CHECKING:
    AnyModule = Module
else:
    AnyModule = Union[tuple(MODULES.values())]  # noqa: UP007
    """One of `MODULES`, for plans read from JSON."""
