"""Folding is exact on shaken models, touches a copy, and leaves alone what it may not move."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tiny
from tailor.errors import ModelError
from tailor.measure.fold import fold

BATCH_NORMS = {
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050"),
    "repvit": lambda: timm.create_model("repvit_m1", depth=(1, 1, 1, 1)),
    "levit": lambda: timm.create_model("levit_128s", depth=(1, 1, 1)),
    "densenet": lambda: timm.create_model("densenet121", block_config=(2, 2)),
}
SIZES = {"levit": 224}


def shaken(name: str) -> tuple[nn.Module, Tensor]:
    if name in tiny.MODELS:
        model = tiny.MODELS[name]()
        return model, tiny.images(model)
    model = tiny.shake_(BATCH_NORMS[name]()).eval()
    return model, torch.randn(2, 3, SIZES.get(name, 64), SIZES.get(name, 64))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", [*tiny.MODELS, *BATCH_NORMS])
def test_a_folded_model_computes_the_same(name, dtype, bound):
    model, x = shaken(name)
    model, x = model.to(dtype).eval(), x.to(dtype)
    before = copy.deepcopy(model.state_dict())
    done = fold(model, (x,))
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=dtype)
    with torch.no_grad():
        expected, found = model(other), done.model(other)
    pairs = zip(found, expected) if isinstance(expected, tuple) else [(found, expected)]
    for a, b in pairs:
        assert float((a - b).abs().max()) <= bound * max(1.0, float(b.abs().max()))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_nothing_of_a_foldable_norm_is_left():
    model, x = shaken("resnet")
    done = fold(model, (x,))
    assert done.batch_norms[0] == done.batch_norms[1] == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in done.model.modules())
    vit, x = shaken("vit")
    norms = [m for m in fold(vit, (x,)).model.modules() if isinstance(m, nn.LayerNorm)]
    assert norms and all(norm.weight is None and norm.bias is None for norm in norms)


class Odd(nn.Module):
    """Norms that may not be folded, one a mode; all take (B, 6, 6) or (B, 6, 4, 4) and give a number a channel."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.norm, self.linear, self.other = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.conv, self.batch = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        if mode == "tied weight":
            self.other.weight = self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y + self.batch(y) if self.mode == "read twice" else self.batch(y)
        if self.mode == "convolution run twice":
            y = y + self.batch(self.conv(x * 2))
        t = y.flatten(2).transpose(1, 2)
        match self.mode:
            case "padded":
                return self.linear(F.pad(self.norm(t), (0, 0, 0, 1)))
            case "also added":
                n = self.norm(t)
                return n + self.linear(n)
            case "mixed":
                return self.linear(self.norm(t).transpose(1, 2).reshape(t.shape))
            case "layer reused":
                return self.linear(self.norm(t)) + self.linear(t)
            case "tied weight":
                return self.linear(self.norm(t)) + self.other(t)
        return self.linear(self.norm(t))


REFUSED = {"padded": 0, "also added": 0, "mixed": 0, "layer reused": 0, "tied weight": 0, "none": 1}


@pytest.mark.parametrize("mode", REFUSED)
def test_a_layer_norm_stays_where_something_else_reads_it_or_its_layer(mode):
    model = tiny.shake_(Odd(mode)).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    done = fold(model, (x,))
    assert done.layer_norms == (REFUSED[mode], 1) and done.batch_norms == (1, 1)
    assert done.error < 1e-10


@pytest.mark.parametrize("mode", ["read twice", "convolution run twice"])
def test_a_batch_norm_stays_where_its_convolution_serves_others(mode):
    done = fold(tiny.shake_(Odd(mode)).double().eval(), (torch.randn(2, 3, 8, 8, dtype=torch.float64),))
    assert done.batch_norms[0] == 0 and done.error < 1e-10


def test_statistics_of_the_batch_are_not_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert fold(model, (torch.randn(2, 3, 8, 8),)).batch_norms == (0, 1)


def test_a_model_without_a_graph_is_a_sentence():
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.detach().sum().item() > 0 else -x

    with pytest.raises(ModelError, match="folding needs a graph") as caught:
        fold(Reads(), (torch.randn(2, 3, 8, 8),))
    assert "--fold" in caught.value.hint
