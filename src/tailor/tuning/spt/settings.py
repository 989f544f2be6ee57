"""SPT's settings and its competitors: which matrices and vectors of a backbone are ranked, by which rule they train.

He et al., "Sensitivity-aware visual parameter-efficient fine-tuning" (ICCV 2023, arXiv 2303.08566; thesis ch. 2). The
scores come from `scores`, the decision from `allocate`. Deviations: a fused qkv competes as three matrices by
rows, as the released code's separate layers do; depthwise and grouped convolutions train by single entries only.
"""

import math
from dataclasses import dataclass as plain_dataclass
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Site
from tailor.errors import PlanError, UsageError, nearest
from tailor.surgery import get_module, get_parameter
from tailor.tuning.method import STRICT, Module
from tailor.tuning.methods import MODULES

_NAMES = {"lora": "spt-lora", "site-adapter": "spt-adapter", "vpt-deep": "spt-vpt"}


@dataclass(frozen=True, config=STRICT)
class Spt:
    """How a budget is placed: which module a sensitive matrix gets, and when a matrix or a vector counts as sensitive.

    A matrix with n selected weights gets the module iff n >= sigma / alpha, sigma being the module's parameters; a
    vector trains whole iff n >= length / beta. `rule` sets both: `released` (10, 5: the code) or `thesis` (1, 1: the
    text, by which the cost never exceeds the number of selected weights). `nearest` reproduces the released sweep over
    tau. `fill` spends what the largest tau leaves on the weights that follow, matrices too dear for their module
    keeping single weights (ours: on a small backbone one module is a large part of the budget). `parts="structured"`
    drops the single entries, `parts="unstructured"` makes sigma infinite. With `vpt-deep` only prompts train, in the
    blocks that hold a sensitive matrix. `unit` and `samples` say how to score.
    """

    structured: Literal["lora", "site-adapter", "vpt-deep"] = "lora"
    rank: int = 8
    rule: Literal["released", "thesis"] = "released"
    nearest: bool = False
    fill: bool = False
    parts: Literal["both", "structured", "unstructured"] = "both"
    dropout: float = 0.1
    drop_path: float = 0.1
    unit: Literal["sample", "batch"] = "sample"
    samples: int = 800
    kind: Literal["spt"] = "spt"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.samples < 1:
            raise PlanError(
                f"SPT needs a rank and samples above zero, found {self.rank} and {self.samples}",
                hint="the usual values are `rank` 8 and `samples` 800",
            )
        if self.structured == "vpt-deep" and (self.parts == "unstructured" or self.nearest):
            raise PlanError(
                "`spt-vpt` trains prompts only: it has no unstructured part and no released sweep",
                hint="leave `parts` and `nearest` out, or use `spt-lora`",
            )

    @property
    def name(self) -> str:
        """`spt-lora`, and `spt-lora-structured` without single entries; `spt-unstructured` has no module to name."""
        if self.parts == "unstructured":
            return "spt-unstructured"
        return _NAMES[self.structured] + ("-structured" if self.parts == "structured" else "")

    @property
    def alpha(self) -> int:
        """By how much a matrix's selected weights may fall short of its module's parameters."""
        return 10 if self.rule == "released" else 1

    @property
    def beta(self) -> int:
        """By how much a vector's selected weights may fall short of its length."""
        return 5 if self.rule == "released" else 1

    def module(self) -> Module:
        """The method that a sensitive matrix gets."""
        settings = {"rank": self.rank, "dropout": self.dropout, "drop_path": self.drop_path}
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
    )
}
"""The methods of this file by the name that the command line knows."""


def named(name: str) -> Spt:
    """`spt-lora`, or `spt-lora-4` for another rank; UsageError with the nearest name."""
    stem, _, number = name.rpartition("-")
    if name not in SPT and stem in SPT and number.isdigit():
        return Spt(structured=SPT[stem].structured, parts=SPT[stem].parts, rank=int(number))
    if name not in SPT:
        raise UsageError(f"unknown method `{name}`", hint=nearest(name, list(SPT)))
    return SPT[name]


@plain_dataclass(frozen=True)
class Candidate:
    """A matrix or vector that competes: `size` scalars of the parameter `tensor` from flat index `start` on.

    `width` is the length of a row (1 for vectors); `operation` is the layer's label (`q`, `fc1`, `norm1`), under which
    a weight and its bias are one.
    """

    name: str
    tensor: str
    start: int
    size: int
    width: int
    operation: str
    block: int
    site: Site | None = None

    def view(self, scores: dict[str, Tensor]) -> Tensor:
        """Its part of the scores of the whole parameter, flat; no copy where the scores are contiguous."""
        return scores[self.tensor].reshape(-1)[self.start : self.start + self.size]


def candidates(anatomy: Anatomy) -> tuple[Candidate, ...]:
    """Everything that competes in the one ranking, matrices first, in the anatomy's order, which also breaks ties.

    ViT-B/16: 72 matrices and 122 vectors, 85,056,000 scalars. Learned tokens always train and the
    head, the stem and the position embedding never compete.
    """
    found = []
    for site in anatomy.sites:
        start = site.rows[0] * site.inputs if site.rows else 0
        found.append(Candidate(site.name, site.tensor, start, site.size, site.inputs, site.op, site.block, site))
    for vector in anatomy.vectors:
        start = vector.rows[0] if vector.rows else 0
        operation = vector.op.rpartition(".")[0] or vector.op
        found.append(Candidate(vector.name, vector.tensor, start, vector.size, 1, operation, vector.block))
    return tuple(found)


def price(model: nn.Module, candidate: Candidate, settings: Spt) -> int | None:
    """Sigma: the parameters of the module that the matrix may get; None where it trains by single entries only.

    That is so for vectors, for convolutions with groups or in one dimension, and where the module would be no smaller
    than the matrix (no case on the backbones of the paper).
    """
    site = candidate.site
    if site is None or site.kind == "depthwise" or settings.parts == "unstructured":
        return None
    layer = get_module(model, site.path)
    if get_parameter(model, site.tensor).ndim not in (2, 4):
        return None
    sigma = settings.module().cost(layer, site.rows)
    return sigma if sigma < candidate.size else None


def threshold(candidate: Candidate, sigma: int | None, settings: Spt) -> int:
    """The number of selected weights from which the candidate trains as a whole; above its size where it never does."""
    if candidate.site is None:
        return math.ceil(candidate.size / settings.beta)
    return candidate.size + 1 if sigma is None else math.ceil(sigma / settings.alpha)
