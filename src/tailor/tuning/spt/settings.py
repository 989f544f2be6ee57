"""SPT's settings and its methods' names: which module a sensitive matrix gets, by which rule.

He et al., "Sensitivity-aware visual parameter-efficient fine-tuning" (ICCV 2023, arXiv 2303.08566; thesis ch. 2).
What competes stands in `candidates`, how it is scored in `scores`, the decision in `allocate`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass

from tailor.errors import PlanError, UsageError, nearest
from tailor.settings import STRICT
from tailor.tuning.methods import MODULES

if TYPE_CHECKING:  # names and settings are told before torch is loaded
    from tailor.tuning.method import Module

_NAMES = {"lora": "spt-lora", "site-adapter": "spt-adapter", "vpt-deep": "spt-vpt"}
PlacementName = Literal["sensitivity", "taylor", "magnitude", "random", "random-sites"]
"""By what weights are ranked: a row of `placement.PLACEMENTS`."""


@dataclass(frozen=True, config=STRICT)
class Spt:
    """How a budget is placed: which module a sensitive matrix gets, and when a matrix or a vector counts as sensitive.

    A matrix with n selected weights gets the module iff n >= sigma / alpha, sigma being the module's parameters; a
    vector trains whole iff n >= length / beta. `rule` sets both: `released` (10, 5: the code) or `thesis` (1, 1: the
    text, by which the cost never exceeds the number of selected weights). `nearest` reproduces the released sweep over
    tau. `fill` spends what the largest tau leaves on the weights that follow, matrices too dear for their module
    keeping single weights (ours: on a small backbone one module is a large part of the budget). `parts="structured"`
    drops the single entries, `parts="unstructured"` makes sigma infinite. `start="inputs"` begins LoRA in the principal
    directions of what a layer is given (ours, after EVA). With `vpt-deep` only prompts train, in the
    blocks that hold a sensitive matrix. `criterion` is what ranks the weights: SPT's sensitivity, or a control.
    `unit`, `samples` and `head` say how to score: on so many images, or until the plan stays what it is (`auto`, see
    `stability`); `class-means` with a classifier of class means instead of the seeded one.
    """

    structured: Literal["lora", "site-adapter", "vpt-deep"] = "lora"
    rank: int = 8
    rule: Literal["released", "thesis"] = "released"
    nearest: bool = False
    fill: bool = False
    parts: Literal["both", "structured", "unstructured"] = "both"
    dropout: float = 0.1
    drop_path: float = 0.1
    start: Literal["random", "inputs"] = "random"
    criterion: PlacementName = "sensitivity"
    unit: Literal["sample", "batch"] = "sample"
    samples: int | Literal["auto"] = 800
    head: Literal["random", "class-means"] = "random"
    kind: Literal["spt"] = "spt"

    def __post_init__(self) -> None:
        if self.rank < 1 or (self.samples != "auto" and self.samples < 1):
            raise PlanError(
                f"SPT needs a rank and samples above zero, found {self.rank} and {self.samples}",
                hint="the usual values are `rank` 8 and `samples` 800, or `auto`",
            )
        if self.structured == "vpt-deep" and (self.parts == "unstructured" or self.nearest):
            raise PlanError(
                "`spt-vpt` trains prompts only: it has no unstructured part and no released sweep",
                hint="leave `parts` and `nearest` out, or use `spt-lora`",
            )
        if self.start == "inputs" and (self.structured != "lora" or self.parts == "unstructured"):
            raise PlanError(
                "only LoRA can start in the directions of the inputs",
                hint="leave `start` out, or use `--method spt-eva`",
            )
        if self.criterion == "random-sites" and self.parts != "structured":
            raise PlanError(
                "`random-sites` draws matrices for modules, it ranks no single weights",
                hint="use `--method lora-random`, or `--criterion random`",
            )

    @property
    def name(self) -> str:
        """`spt-lora`, and `spt-lora-structured` without single entries; `spt-unstructured` has no module to name.

        Where something else than the sensitivity ranks, that stands behind: `spt-lora-magnitude`, `sparse-random`.
        """
        control = self.criterion != "sensitivity"
        if self.parts == "unstructured":
            return f"sparse-{self.criterion}" if control else "spt-unstructured"
        if self.criterion == "random-sites":
            return f"{self.structured}-random"
        whole = "-structured" if self.parts == "structured" else ""
        own = "spt-eva" if self.start == "inputs" else _NAMES[self.structured]
        return own + whole + (f"-{self.criterion}" if control else "")

    @property
    def alpha(self) -> int:
        """By how much a matrix's selected weights may fall short of its module's parameters."""
        return 10 if self.rule == "released" else 1

    @property
    def beta(self) -> int:
        """By how much a vector's selected weights may fall short of its length."""
        return 5 if self.rule == "released" else 1

    def module(self) -> "Module":
        """The method that a sensitive matrix gets."""
        settings: dict[str, Any] = {"rank": self.rank, "dropout": self.dropout, "drop_path": self.drop_path}
        if self.start != "random":
            settings["start"] = self.start
        kind = self.structured if self.structured != "vpt-deep" else "lora"  # LoRA's size is the threshold for prompts
        return MODULES[kind](**settings)


SPT = {
    spt.name: spt
    for spt in (
        Spt(),
        Spt(structured="site-adapter"),
        Spt(structured="vpt-deep"),
        Spt(parts="structured"),
        Spt(structured="site-adapter", parts="structured"),
        Spt(parts="unstructured"),
        Spt(start="inputs"),
        Spt(criterion="taylor"),
        Spt(criterion="magnitude"),
        Spt(criterion="random"),
        Spt(parts="unstructured", criterion="taylor"),
        Spt(parts="unstructured", criterion="magnitude"),
        Spt(parts="unstructured", criterion="random"),
        Spt(parts="structured", criterion="random-sites"),
    )
}
"""The methods of this file by the name that the command line knows; the last seven are the controls."""


def named(name: str) -> Spt:
    """`spt-lora`, or `spt-lora-4` for another rank; UsageError with the nearest name."""
    stem, _, number = name.rpartition("-")
    if name not in SPT and stem in SPT and number.isdigit():
        return replace(SPT[stem], rank=int(number))
    if name not in SPT:
        raise UsageError(f"unknown method `{name}`", hint=nearest(name, list(SPT)))
    return SPT[name]
