"""From numbers per weight to numbers per unit: what a criterion needs of the layouts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tailor.tracing.graph.groups import Groups
from tailor.tracing.widths.layout import unit_of


def unit_sums(groups: Groups, group: str, values: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """For each member `(tensor, dim)` of the group found in `values`, the sum over the slice of each unit, `(units,)`.

    `values` holds one number per weight under the parameters' names, such as |w * dL/dw|.
    """
    found = groups[group]
    sums: dict[tuple[str, int], Tensor] = {}
    for member in found.members:
        if member.tensor not in values:
            continue
        value = values[member.tensor]
        positions = value.sum([d for d in range(value.ndim) if d != member.dim]) if value.ndim > 1 else value
        units = unit_of(groups.layouts[member.tensor][member.dim], group, groups.sizes).to(value.device)
        inside = units >= 0  # parts of a `cat` that belong to other groups
        total = torch.zeros(found.size, dtype=value.dtype, device=value.device)
        sums[member.tensor, member.dim] = total.index_add_(0, units[inside], positions[inside])
    return sums
