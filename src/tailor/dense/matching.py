"""Which query answers for which object: the assignment of least cost (DETR), at points, for all depths at once.

Costs of all depths and images are computed on the device and cross to the host in one transfer; scipy assigns. A cost
that is not finite is one that nobody wants, so that a diverging query takes what is left, instead of ending the run.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tailor.dense import points
from tailor.dense.predictions import MaskPredictions, Objects, padded

CLASS, MASK, DICE = 2.0, 5.0, 5.0
"""Weights of the three costs, and of the three losses."""
UNWANTED = 1e9


def match(found: MaskPredictions, wanted: Sequence[Objects], places: Tensor) -> Tensor:
    """(D, B, G): the query of each object, G being the most objects of an image; -1 where there is none.

    `places` (P, 2) are the points at which masks are compared. Without queries enough, some objects have none.
    """
    most = max(len(one.labels) for one in wanted)
    depths, batch = found.classes.shape[:2]
    out = np.full((depths, batch, most), -1, dtype=np.int64)
    if most:
        with torch.no_grad():
            costs = _costs(found, wanted, places, most).cpu().double().numpy()
        costs = np.where(np.isfinite(costs), costs, UNWANTED)
        for depth in range(depths):
            for image, one in enumerate(wanted):
                query, which = linear_sum_assignment(costs[depth, image, :, : len(one.labels)])
                out[depth, image, which] = query
    return torch.from_numpy(out).to(found.classes.device)


def _costs(found: MaskPredictions, wanted: Sequence[Objects], places: Tensor, most: int) -> Tensor:
    """(D, B, N, G); what belongs to no object is never read."""
    read = points.at(found.pixels, places)  # (B, E, P)
    truth = padded([_at(one.masks, places) for one in wanted], most).to(read.dtype)  # (B, G, P)
    valid = points.known(torch.stack([one.valid for one in wanted]), places).to(truth.dtype)[:, None]
    labels = padded([one.labels for one in wanted], most)
    truth = truth * valid
    number = valid.sum(-1, keepdim=True).clamp(min=1)
    size = truth.sum(-1)[:, None]  # (B, 1, G)
    costs = []
    for classes, queries in zip(found.classes, found.queries):
        logits = queries @ read  # (B, N, P)
        # cross-entropy is softplus(x) - x y, so that one product with the truth is enough
        crossed = (F.softplus(logits) * valid).sum(-1, keepdim=True) - logits @ truth.transpose(1, 2)
        inside = logits.sigmoid() * valid
        overlap = 1 - (2 * inside @ truth.transpose(1, 2) + 1) / (inside.sum(-1, keepdim=True) + size + 1)
        chance = classes.softmax(-1).gather(2, labels[:, None].expand(-1, classes.shape[1], -1))
        costs.append(MASK * crossed / number + DICE * overlap - CLASS * chance)
    return torch.stack(costs)


def _at(masks: Tensor, places: Tensor) -> Tensor:
    """(G, P) shares between 0 and 1."""
    return points.at(masks[None].float(), places)[0]
