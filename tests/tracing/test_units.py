"""Sums over units against a slow reference: removing a unit removes exactly its sum."""

import copy

import torch

from tailor.tracing import cut_, plan_widths, unit_sums
from tracing.test_exact import net


def test_a_unit_s_sum_is_what_goes_when_it_is_removed():
    model, _, traced = net("swin")
    values = {name: p.detach().abs() for name, p in model.named_parameters()}
    for group in traced.groups.groups:
        sums = unit_sums(traced.groups, group.id, values)
        assert {(m.tensor, m.dim) for m in group.members if m.tensor in values} == set(sums)
        unit = group.size // 2
        plan = plan_widths(traced.groups, {group.id: [u for u in range(group.size) if u != unit]})
        plain = plan_widths(traced.groups, {group.id: [u for u in range(group.size) if u != unit]})
        pruned = cut_(copy.deepcopy(model), type(plan)(plain.cuts, plain.slices, plain.settings))  # without rescaling
        left = {name: p.detach().abs().sum() for name, p in pruned.named_parameters()}
        for tensor in {tensor for tensor, _ in sums}:
            dims = [d for t, d in sums if t == tensor]
            if len(dims) == 1:
                torch.testing.assert_close(values[tensor].sum() - left[tensor], sums[tensor, dims[0]][unit])
