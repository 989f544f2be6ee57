"""Modules beside convolutions of every kind: padded in any way, dilated, in one dimension; or refused by name."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tailor.errors import PlanError
from tailor.tuning.methods import MODULES

DENSE = {
    "circular": nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular", stride=2),
    "reflect": nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect", dilation=2),
    "replicate": nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate", bias=False),
    "valid": nn.Conv2d(4, 6, (2, 3), padding="valid", dilation=2),
    "even same": nn.Conv2d(4, 6, (4, 2), padding="same"),
    "reflected same": nn.Conv2d(4, 6, 4, padding="same", padding_mode="reflect"),
    "dilated patches": nn.Conv2d(4, 6, 2, stride=2, dilation=3),
    "one dimension": nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"),
    "padded 1x1": nn.Conv2d(4, 6, 1, padding=1),
    "strided 1x1": nn.Conv2d(4, 6, 1, stride=2),
}


def _wrapped(kind: str, conv: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    layer = copy.deepcopy(DENSE[conv]).double()
    method = MODULES[kind](dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return layer, method, method.wrap(copy.deepcopy(layer)).eval()


def _seen(conv: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 9, *([8] if conv.weight.ndim == 4 else []), generator=generator, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("conv", DENSE)
@pytest.mark.parametrize("kind", ["lora", "site-adapter", "repadapter"])
def test_a_module_beside_it_starts_as_nothing_and_merges_exactly_or_is_refused(kind, conv):
    if kind == "repadapter" and conv != "strided 1x1":
        with pytest.raises(PlanError, match="dense 1x1 convolutions without padding only"):
            _wrapped(kind, conv)
        return
    layer, method, wrapped = _wrapped(kind, conv)
    x = _seen(layer)
    with torch.no_grad():
        assert_close(wrapped(x), layer(x), rtol=0, atol=0)
        for parameter in wrapped.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        found = wrapped(x)
        assert not torch.allclose(found, layer(x), atol=1e-3)
        if method.merges:
            assert_close(method.merge(wrapped)(x), found, rtol=1e-10, atol=1e-12)


def test_lora_is_refused_on_groups_by_name():
    with pytest.raises(PlanError, match="`lora` stands beside dense convolutions, found one in 2 groups"):
        MODULES["lora"]().wrap(nn.Conv2d(4, 6, 3, groups=2))
