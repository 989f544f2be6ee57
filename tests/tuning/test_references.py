"""Each module against its formula, written once more and slowly."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.errors import PlanError
from tailor.tuning import planner
from tailor.tuning.apply import apply_
from tailor.tuning.method import Geometry
from tailor.tuning.methods.adapter import Adapter
from tailor.tuning.methods.adaptformer import AdaptFormer
from tailor.tuning.methods.convpass import ConvBranch, Convpass
from tailor.tuning.methods.lora import Lora, LoraConv
from tailor.tuning.methods.mlp import Mlp
from tailor.tuning.methods.repadapter import RepAdapter
from tailor.tuning.methods.site_adapter import SiteAdapter
from tailor.tuning.methods.ssf import Ssf

QUIET = {"dropout": 0.0}


def _made(method, layer, rows=(), geometry=None):
    """The wrapped layer, moved as by training, in eval mode."""
    return tiny.trained_(method.wrap(layer, rows, geometry), spread=0.3).eval().double()


def _mlp(width=12):
    return nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width)).requires_grad_(False).double()


def _quick(x):
    return x / (1 + torch.exp(-1.702 * x))


def test_adapter_is_fed_with_the_mlp_s_output():
    wrapped = _made(Adapter(width=3), _mlp(), geometry=Geometry(12))
    x, inner = tiny.tokens().double(), wrapped.adapter
    z = wrapped.base(x)
    hidden = _quick(z @ inner.down.weight.T + inner.down.bias)
    assert_close(wrapped(x), z + hidden @ inner.up.weight.T + inner.up.bias)


def test_adaptformer_is_fed_with_the_mlp_s_input_and_scaled():
    wrapped = _made(AdaptFormer(width=3, scale=0.1), _mlp(), geometry=Geometry(12))
    x, inner = tiny.tokens().double(), wrapped.branch
    hidden = (x @ inner.down.weight.T + inner.down.bias).clamp(min=0)
    assert_close(wrapped(x), wrapped.base(x) + 0.1 * (hidden @ inner.up.weight.T + inner.up.bias))


@pytest.mark.parametrize("method", [Adapter(width=3), AdaptFormer(width=3)])
def test_a_bottleneck_works_on_the_channels_of_a_map_alike(method):
    """(B, C, H, W) through 1x1 convolutions equals (B, H, W, C) through linear layers."""
    first = _made(method, _mlp(), geometry=Geometry(12, "nhwc"))
    second = _made(method, _nchw(first.base), geometry=Geometry(12, "nchw"))
    own = {n: p for n, p in first.named_parameters() if not n.startswith("base")}
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if name in own:
                parameter.copy_(own[name].view_as(parameter))
    x = torch.randn(2, 5, 4, 12, dtype=torch.float64)
    assert_close(second(x.permute(0, 3, 1, 2)), first(x).permute(0, 3, 1, 2))


def _nchw(mlp):
    layers = []
    for layer in mlp:
        if isinstance(layer, nn.Linear):
            conv = nn.Conv2d(layer.in_features, layer.out_features, 1).double().requires_grad_(False)
            conv.weight.copy_(layer.weight[:, :, None, None])
            conv.bias.copy_(layer.bias)
            layer = conv
        layers.append(layer)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_convpass_position_by_position(prefix):
    branch = ConvBranch(12, 4, (2, 3), prefix, "xavier", 0.0, torch.empty(0, dtype=torch.float64))
    tiny.trained_(branch, spread=0.3)
    x = tiny.tokens(count=prefix + 6).double()
    with torch.no_grad():
        hidden = _quick(x @ branch.down.weight.T + branch.down.bias)
        mixed = branch.conv.bias.expand(2, prefix + 6, 4).clone()
        for at in range(prefix):
            mixed[:, at] += hidden[:, at] @ branch.conv.weight[:, :, 1, 1].T
        for row in range(2):
            for column in range(3):
                for i in range(-1, 2):
                    for j in range(-1, 2):
                        if 0 <= row + i < 2 and 0 <= column + j < 3:
                            source = hidden[:, prefix + 3 * (row + i) + column + j]
                            mixed[:, prefix + 3 * row + column] += source @ branch.conv.weight[:, :, 1 + i, 1 + j].T
        assert_close(branch(x), _quick(mixed) @ branch.up.weight.T + branch.up.bias)


def test_convpass_passes_the_mask_on_and_scales():
    class Masked(nn.Linear):
        def forward(self, x, mask=None):
            return super().forward(x) + mask

    wrapped = _made(
        Convpass(width=4, scale=10.0), Masked(12, 12).double(), geometry=Geometry(12, prefix=1, grid=(2, 3))
    )
    x, mask = tiny.tokens(count=7).double(), torch.ones(12, dtype=torch.float64)
    assert_close(wrapped(x, mask=mask), wrapped.base(x, mask=mask) + 10 * wrapped.branch(x))


def test_convpass_names_tokens_that_do_not_fit_its_grid():
    wrapped = Convpass().wrap(tiny.linear(12, 12), geometry=Geometry(12, prefix=1, grid=(2, 3)))
    with pytest.raises(PlanError, match=r"planned for 1 \+ 2x3 tokens, found shape \(2, 8, 12\)"):
        wrapped(tiny.tokens(count=8))


def test_convpass_on_maps_of_odd_size():
    """Patch merging pads 9 x 9 patches to 10 x 10 and makes 5 x 5 of them."""
    model = tiny.swin(img_size=36)
    plan = planner.plan(model, describe(model), Convpass())
    grids = {tune.geometry.grid for tune in plan.tunes if tune.path.endswith("mlp")}
    assert grids == {(9, 9), (5, 5)}
    apply_(model, plan, ("head.fc",))(torch.randn(1, 3, 36, 36))


def test_convpass_can_start_as_the_identity_between_its_maps():
    branch = ConvBranch(12, 4, (2, 3), 1, "identity", 0.0, torch.empty(0))
    hidden = torch.randn(2, 4, 2, 3)
    assert_close(branch.conv(hidden), hidden)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_repadapter_and_its_merge(groups):
    method = RepAdapter(width=4, groups=groups, scale=0.5)
    wrapped = _made(method, tiny.linear(12, 18))
    x = tiny.tokens().double()
    up = torch.zeros(12, 4, dtype=torch.float64)
    for g in range(groups):
        rows, columns = slice(12 // groups * g, 12 // groups * (g + 1)), slice(4 // groups * g, 4 // groups * (g + 1))
        up[rows, columns] = wrapped.up.detach()[rows]
    change = (x @ wrapped.down.weight.T + wrapped.down.bias) @ up.T + wrapped.up_bias
    expected = wrapped.base(x + 0.5 * change)
    assert_close(wrapped(x), expected)
    assert_close(method.merge(wrapped)(x), expected)


def test_repadapter_has_no_bias_where_the_layer_has_none():
    layer = nn.Linear(12, 18, bias=False).requires_grad_(False)
    method = RepAdapter(width=4)
    wrapped = _made(method, layer)
    x = tiny.tokens().double()
    merged = method.merge(wrapped)
    assert_close(merged(x), wrapped(x))
    assert merged.bias is None
    assert method.cost(layer) == sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == 12 * 4 + 12 * 2


def test_repadapter_refuses_what_it_could_not_merge():
    with pytest.raises(PlanError, match="linear layers and dense 1x1 convolutions without padding only"):
        RepAdapter().wrap(nn.Conv2d(8, 8, 3, padding=1))
    with pytest.raises(PlanError, match="splits its 3 channels into 2 groups of one size"):
        RepAdapter(width=3)
    with pytest.raises(PlanError, match="divide into 5 groups, found 12"):
        RepAdapter(width=5, groups=5).wrap(tiny.linear(12, 18))


def test_site_adapter_corrects_its_rows_and_leaves_the_others():
    wrapped = _made(SiteAdapter(rank=2), tiny.linear(12, 18), rows=((12, 18), (0, 6)))
    x = tiny.tokens().double()
    z, y = wrapped.base(x), wrapped(x)
    assert torch.equal(y[..., 6:12], z[..., 6:12])
    for adapter, part in zip(wrapped.adapters, (slice(0, 6), slice(12, 18)), strict=True):
        hidden = F.gelu(z[..., part] @ adapter.down.weight.T + adapter.down.bias)
        assert_close(y[..., part], z[..., part] + hidden @ adapter.up.weight.T + adapter.up.bias)


def test_site_adapter_works_on_the_channels_of_a_convolution():
    wrapped = _made(SiteAdapter(rank=2), nn.Conv2d(4, 6, 3, stride=2).requires_grad_(False))
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    z, adapter = wrapped.base(x), wrapped.adapters[0]
    hidden = F.gelu(torch.einsum("bchw,kc->bkhw", z, adapter.down.weight[..., 0, 0]) + adapter.down.bias[:, None, None])
    change = torch.einsum("bkhw,ck->bchw", hidden, adapter.up.weight[..., 0, 0]) + adapter.up.bias[:, None, None]
    assert_close(wrapped(x), z + change)


@pytest.mark.parametrize("rows", [(), ((0, 6),), ((6, 12), (0, 6), (12, 18)), ((6, 12),), ((0, 6), (12, 18))])
def test_lora_s_rows_and_scale(rows):
    wrapped = _made(Lora(rank=2, alpha=5.0), tiny.linear(12, 18), rows=rows)
    x = tiny.tokens().double()
    delta = torch.zeros(18, 12, dtype=torch.float64)
    taken = 0
    for index, (start, stop) in enumerate(sorted(rows) or [(0, 18)]):
        down = wrapped.down.detach()[2 * index : 2 * index + 2]
        delta[start:stop] = 2.5 * wrapped.up.detach()[taken : taken + stop - start] @ down
        taken += stop - start
    assert_close(wrapped(x), wrapped.base(x) + x @ delta.T)
    assert_close(wrapped.delta(), delta)


def test_lora_on_a_convolution_is_an_update_of_its_kernel():
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2).requires_grad_(False)
    wrapped = _made(Lora(rank=2), conv)
    assert isinstance(wrapped, LoraConv)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    kernel = wrapped.base.weight + torch.einsum("or,rihw->oihw", wrapped.up[..., 0, 0], wrapped.down)
    assert_close(wrapped(x), F.conv2d(x, kernel, wrapped.base.bias, 2, 1, 2))


@pytest.mark.parametrize(
    ("operation", "shape", "axis"),
    [
        (nn.Linear(12, 6), (2, 5, 12), -1),
        (nn.Conv2d(12, 6, 3), (2, 12, 5, 5), 1),
        (nn.LayerNorm(12), (2, 4, 4, 12), -1),
        (nn.GroupNorm(3, 12), (2, 12, 5, 5), 1),
        (nn.BatchNorm2d(12), (2, 12, 5, 5), 1),
        (nn.RMSNorm(12), (2, 5, 12), -1),
        (nn.Conv2d(12, 6, 3, bias=False), (2, 12, 5, 5), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_ssf_scales_the_channel_axis_and_merges(operation, shape, axis):
    tiny.shake_(operation).requires_grad_(False).eval()
    method = Ssf()
    wrapped = _made(method, operation)
    x = torch.randn(shape, dtype=torch.float64)
    y = wrapped.base(x).movedim(axis, -1)
    expected = (y * wrapped.gamma + (0 if wrapped.beta is None else wrapped.beta)).movedim(-1, axis)
    assert_close(wrapped(x), expected)
    assert_close(method.merge(wrapped)(x), expected)
    assert (wrapped.beta is None) == (getattr(operation, "bias", None) is None)
    assert method.cost(operation) == sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


def test_ssf_refuses_a_weight_that_does_not_scale_everything():
    with pytest.raises(PlanError, match="cannot be folded into a `PReLU`"):
        Ssf().wrap(nn.PReLU(4))


def test_the_mlp_head_trains_on_a_last_batch_of_one():
    head = Mlp(layers=3, **QUIET).wrap(nn.Linear(12, 5)).train()
    head(torch.randn(8, 12))
    before = head.hidden[0].norm.running_mean.clone()
    assert head(torch.randn(1, 12)).shape == (1, 5)
    assert torch.equal(head.hidden[0].norm.running_mean, before)


def test_the_mlp_head_needs_a_linear_classifier():
    with pytest.raises(PlanError, match="replaces a linear classifier, found a `Identity`"):
        Mlp().cost(nn.Identity())


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        (Adapter(), _mlp()),
        (AdaptFormer(), _mlp()),
        (Convpass(), _mlp()),
        (RepAdapter(), tiny.linear()),
        (SiteAdapter(drop_path=0.0), tiny.linear()),
        (Lora(), tiny.linear()),
        (Lora(dropout=0.0, drop_path=0.5), tiny.linear()),
        (SiteAdapter(dropout=0.0, drop_path=0.5), tiny.linear()),
    ],
)
def test_dropout_acts_in_training_only(method, layer):
    wrapped = _made(method, layer, geometry=Geometry(12, prefix=1, grid=(2, 3)))
    x = tiny.tokens(batch=32).double()
    assert torch.equal(wrapped(x), wrapped(x))
    wrapped.train()
    assert not torch.equal(wrapped(x), wrapped(x))
