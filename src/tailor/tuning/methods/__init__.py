"""Tuning methods: one file each, one row in a table. Plans say what trains; `apply` does it and folds it back."""

from typing import TYPE_CHECKING

from tailor.settings import Rows

if TYPE_CHECKING:  # the names of methods are told before torch is loaded
    from tailor.tuning.method import Module, Selection

SELECTIONS: "Rows[type[Selection]]" = Rows(
    {
        "full": "tailor.tuning.methods.full.Full",
        "linear": "tailor.tuning.methods.linear.Linear",
        "partial": "tailor.tuning.methods.partial.Partial",
        "bias": "tailor.tuning.methods.bias.Bias",
    }
)
"""Methods that train parameters of the backbone itself."""

MODULES: "Rows[type[Module]]" = Rows(
    {
        "lora": "tailor.tuning.methods.lora.Lora",
        "site-adapter": "tailor.tuning.methods.site_adapter.SiteAdapter",
        "mlp": "tailor.tuning.methods.mlp.Mlp",
        "vpt-shallow": "tailor.tuning.methods.vpt_shallow.VptShallow",
        "vpt-deep": "tailor.tuning.methods.vpt_deep.VptDeep",
        "adapter": "tailor.tuning.methods.adapter.Adapter",
        "adaptformer": "tailor.tuning.methods.adaptformer.AdaptFormer",
        "convpass": "tailor.tuning.methods.convpass.Convpass",
        "repadapter": "tailor.tuning.methods.repadapter.RepAdapter",
        "ssf": "tailor.tuning.methods.ssf.Ssf",
    }
)
"""Methods that put modules into the backbone, by the `kind` that plans carry."""

VARIANTS: "dict[str, tuple[str, dict[str, str]]]" = {"eva": ("lora", {"start": "inputs"})}
"""Further names: a module with settings of its own."""
