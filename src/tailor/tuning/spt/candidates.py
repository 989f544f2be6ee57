"""What competes for SPT's budget: which matrices and vectors of a backbone are ranked, and what each would cost.

Deviations: a fused qkv competes as three matrices by rows, as the released code's separate layers do; depthwise and
grouped convolutions train by single entries only.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from tailor.anatomy import Anatomy, Site
from tailor.surgery import get_module, get_parameter
from tailor.tuning.spt.settings import Spt


@dataclass(frozen=True)
class TensorCandidate:
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


def candidates(anatomy: Anatomy) -> tuple[TensorCandidate, ...]:
    """Everything that competes in the one ranking, matrices first, in the anatomy's order, which also breaks ties.

    ViT-B/16: 72 matrices and 122 vectors, 85,056,000 scalars. Learned tokens always train and the
    head, the stem and the position embedding never compete.
    """
    found = []
    for site in anatomy.sites:
        start = site.rows[0] * site.inputs if site.rows else 0
        found.append(TensorCandidate(site.name, site.tensor, start, site.size, site.inputs, site.op, site.block, site))
    for vector in anatomy.vectors:
        start = vector.rows[0] if vector.rows else 0
        operation = vector.op.rpartition(".")[0] or vector.op
        found.append(TensorCandidate(vector.name, vector.tensor, start, vector.size, 1, operation, vector.block))
    return tuple(found)


def price(model: nn.Module, candidate: TensorCandidate, settings: Spt) -> int | None:
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


def threshold(candidate: TensorCandidate, sigma: int | None, settings: Spt) -> int:
    """The number of selected weights from which the candidate trains as a whole; above its size where it never does."""
    if candidate.site is None:
        return math.ceil(candidate.size / settings.beta)
    return candidate.size + 1 if sigma is None else math.ceil(sigma / settings.alpha)
