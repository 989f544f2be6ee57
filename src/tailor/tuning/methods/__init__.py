"""Tuning methods: one file each, one row in a table. Plans say what trains; `apply` does it and folds it back."""

from typing import TYPE_CHECKING, Union

from tailor.tuning.method import Module, Selection
from tailor.tuning.methods.adapter import Adapter
from tailor.tuning.methods.adaptformer import AdaptFormer
from tailor.tuning.methods.bias import Bias
from tailor.tuning.methods.convpass import Convpass
from tailor.tuning.methods.full import Full
from tailor.tuning.methods.linear import Linear
from tailor.tuning.methods.lora import Lora
from tailor.tuning.methods.mlp import Mlp
from tailor.tuning.methods.partial import Partial
from tailor.tuning.methods.repadapter import RepAdapter
from tailor.tuning.methods.site_adapter import SiteAdapter
from tailor.tuning.methods.ssf import Ssf
from tailor.tuning.methods.vpt_deep import VptDeep
from tailor.tuning.methods.vpt_shallow import VptShallow

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
