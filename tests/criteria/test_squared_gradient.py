"""Per-sample squared gradients against the plain, slow definition: one backward for each sample."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import StdConv2d
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from tailor.criteria.squared_gradient import squared_gradients
from tailor.errors import ModelError, PlanError


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with every parameter and running statistic away from its start, so that no gradient is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn(b.shape, generator=generator))
            if name.endswith("running_var"):
                b.copy_(torch.rand(b.shape, generator=generator) + 0.5)
    return model.eval()


def images(n: int = 6, size: int = 64, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, size, size, generator=generator).to(dtype), torch.arange(n) % 5


def batched(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def by_loop(model: nn.Module, x: Tensor, y: Tensor, size: int = 1, loss=F.cross_entropy) -> dict[str, Tensor]:
    """The definition: the gradient of every sample (or batch mean), squared, summed."""
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for inputs, labels in batched(x, y, size):
        grads = torch.autograd.grad(loss(model(inputs), labels), list(parameters.values()), allow_unused=True)
        for name, g in zip(parameters, grads, strict=True):
            sums[name] += g**2 if g is not None else 0
    return sums


def compare(ours: dict[str, Tensor], reference: dict[str, Tensor], tolerance: float) -> None:
    largest = max(float(r.max()) for r in reference.values())
    for name, score in ours.items():
        error = (score - reference[name]).norm() / (reference[name].norm() + 1e-9 * largest)
        assert float(error) < tolerance, f"{name}: {float(error)}"


MODELS = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "init_values": 0.1}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 1}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 1}),
    "eva": ("vit_small_patch16_dinov3", {"img_size": 64, "depth": 1}),
    "beit": ("beit_base_patch16_224", {"img_size": 64, "depth": 1, "embed_dim": 48, "num_heads": 3}),
    # windows of 5 pad the 16 x 16 map; the second block of a stage shifts them
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (2, 2), "num_heads": (3, 6), "window_size": 5}),
    "swinv2": ("swinv2_tiny_window8_256", {"img_size": 64, "depths": (2, 2), "num_heads": (3, 6), "window_size": 4}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1)}),
    "convnextv2": ("convnextv2_atto", {"depths": (1, 1, 1, 1)}),
    "resnet": ("resnet18", {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_scores_as_in_a_loop_over_samples(name):
    kind, settings = MODELS[name]
    model = shaken(timm.create_model(kind, num_classes=5, **settings)).double()
    x, y = images(size=settings.get("img_size", 64))
    ours = squared_gradients(model, batched(x, y, 4), parameters=None)
    assert ours.keys() == dict(model.named_parameters()).keys()
    compare(ours, by_loop(model, x, y), 1e-10)


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "resnet"])
def test_fp32_scores_are_exact_to_rounding(name):
    kind, settings = MODELS[name]
    model = shaken(timm.create_model(kind, num_classes=5, **settings))
    x, y = images(size=settings.get("img_size", 64))
    names = [n for n, p in model.named_parameters() if p.dim() > 1 and "table" not in n]
    ours = squared_gradients(model, batched(x.float(), y, 6), parameters=names)
    assert all(score.dtype == torch.float32 for score in ours.values())
    compare({n: s.double() for n, s in ours.items()}, by_loop(model.double(), x, y), 2e-5)


class Micro(nn.Module):
    """Small nets whose use of parameters is out of the ordinary; `forward` is given."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.run(self, x))


def pooled(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT[..., :3]


def linear(inputs: int = 3) -> nn.Linear:
    return nn.Linear(inputs, 6)


def conv(inputs: int = 3, kernel: int | tuple[int, ...] = 3, **settings) -> nn.Conv2d:
    return nn.Conv2d(inputs, 6, kernel, **settings)


def looked_up(n: Micro, x: Tensor) -> Tensor:
    return n.a((x.flatten(1)[:, :9].abs() * 4).long().clamp(max=7)).tanh().mean(1)


def windows(n: Micro, x: Tensor) -> Tensor:
    x = x.unflatten(3, (4, 4)).permute(0, 3, 4, 2, 1).flatten(0, 1)  # (B * 4, 4, 16, 3)
    return n.b(n.a(x) * n.a.bias).unflatten(0, (-1, 4)).mean((1, 2, 3))


def convolved_windows(n: Micro, x: Tensor) -> Tensor:
    x = x.unflatten(3, (4, 4)).permute(0, 3, 1, 2, 4).flatten(0, 1)  # (B * 4, 3, 16, 4)
    return n.b(n.a(x)).tanh().unflatten(0, (-1, 4)).mean((1, 3, 4))


def chain(n: Micro, x: Tensor) -> Tensor:
    return pooled(n.b(n.a(x)).tanh())


def single(n: Micro, x: Tensor) -> Tensor:
    return pooled(n.a(x).tanh())


MICRO = {
    "reuse": lambda: Micro(lambda n, x: pooled(n.b(n.b(n.a(x)).relu())), a=conv(), b=conv(6)),
    "reused linear": lambda: Micro(lambda n, x: n.b(n.b(n.a(tokens(x))).tanh()).mean(1), a=linear(), b=linear(6)),
    "grouped": lambda: Micro(
        chain,
        a=conv(kernel=(3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=3),
        b=conv(6, groups=2, padding="same", dilation=2),
    ),
    "depthwise": lambda: Micro(chain, a=conv(kernel=4, padding="same"), b=conv(6, 7, groups=6, padding=3)),
    "few sites": lambda: Micro(chain, a=conv(stride=8, padding=1, dilation=2), b=conv(6, padding=1, bias=False)),
    "strided 1x1": lambda: Micro(single, a=conv(kernel=1, stride=2)),
    "reflect": lambda: Micro(single, a=conv(padding=1, padding_mode="reflect")),
    "circular": lambda: Micro(single, a=conv(padding=(2, 1), padding_mode="circular", stride=2)),
    "valid": lambda: Micro(single, a=conv(kernel=(2, 4), padding="valid", dilation=2)),
    "dilated patches": lambda: Micro(single, a=conv(stride=3, dilation=2)),
    "dilated patches in groups": lambda: Micro(single, a=conv(kernel=2, stride=2, dilation=3, groups=3)),
    "patches with a rest": lambda: Micro(single, a=conv(stride=3)),
    "standardised": lambda: Micro(single, a=StdConv2d(3, 6, 3)),
    "conv1d": lambda: Micro(lambda n, x: n.a(x.flatten(2)).tanh().mean(2), a=nn.Conv1d(3, 6, 5, stride=2, padding=1)),
    "in place": lambda: Micro(lambda n, x: pooled(n.b(n.a(x).relu_()).relu_()), a=conv(), b=conv(6)),
    "embedding": lambda: Micro(looked_up, a=nn.Embedding(8, 6, padding_idx=2)),
    "group norm": lambda: Micro(chain, a=conv(), b=nn.GroupNorm(2, 6)),
    "rms norm": lambda: Micro(lambda n, x: n.b(n.a(tokens(x))).tanh().mean(1), a=linear(), b=nn.RMSNorm(6)),
    "two ways": lambda: Micro(lambda n, x: F.linear(tokens(x), n.a.weight, n.a.bias).mean(1) + n.a.bias, a=linear()),
    "tied": lambda: Micro(lambda n, x: (n.a(tokens(x)).tanh() @ n.a.weight @ n.a.weight.T).mean(1), a=linear()),
    "partly unused": lambda: Micro(lambda n, x: (n.a(tokens(x)), n.a(2 * tokens(x)))[0].mean(1), a=linear()),
    "scalar beside": lambda: Micro(lambda n, x: (n.a(tokens(x)) * n.a.bias * x.new_tensor(2.0)).mean(1), a=linear()),
    "convolved windows": lambda: Micro(convolved_windows, a=conv(), b=nn.GroupNorm(2, 6)),
    "windows": lambda: Micro(windows, a=linear(), b=nn.LayerNorm(6)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", MICRO)
@pytest.mark.parametrize("size", [1, 3, 6])
def test_unusual_uses_score_as_in_a_loop_over_samples(name, size):
    model = shaken(MICRO[name]()).double()
    x, y = images(size=16)
    ours = squared_gradients(model, batched(x, y, size), parameters=None)
    compare(ours, by_loop(model, x, y), 1e-10)


def test_a_module_that_nothing_uses_scores_zero():
    model = shaken(Micro(lambda n, x: n.a(tokens(x)).mean(1), a=nn.Linear(3, 6), b=nn.Linear(6, 6))).double()
    scores = squared_gradients(model, batched(*images(size=16), 3), parameters=None)
    assert not scores["b.weight"].any() and scores["a.weight"].all()


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_the_batch_unit_squares_the_mean_gradient(name):
    kind, settings = MODELS[name]
    model = shaken(timm.create_model(kind, num_classes=5, **settings)).double()
    x, y = images()
    compare(squared_gradients(model, batched(x, y, 3), parameters=None, unit="batch"), by_loop(model, x, y, 3), 1e-10)


def test_the_batch_unit_with_one_sample_is_the_sample_unit():
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=5)).double()
    data = batched(*images(), 1)
    compare(
        squared_gradients(model, data, parameters=None, unit="batch"),
        squared_gradients(model, data, parameters=None),
        1e-12,
    )


def test_other_batches_of_the_same_images_change_nothing():
    model = shaken(timm.create_model("convnext_atto", depths=(1, 1, 1, 1), num_classes=5)).double()
    x, y = images()
    compare(
        squared_gradients(model, batched(x, y, 6), parameters=None),
        squared_gradients(model, batched(x, y, 4), parameters=None),
        1e-10,
    )


def test_a_model_in_training_mode_is_scored_in_evaluation_mode():
    model = shaken(Micro(lambda n, x: F.dropout(chain(n, x), 0.5, n.training), a=conv(), b=nn.BatchNorm2d(6))).double()
    x, y = images(size=16)
    reference = by_loop(model, x, y)
    compare(squared_gradients(model.train(), batched(x, y, 3), parameters=None), reference, 1e-10)


def test_a_selection_scores_as_the_whole():
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5)).double()
    data = batched(*images(), 3)
    names = ["norm.bias", "blocks.1.attn.qkv.weight", "cls_token"]
    ours = squared_gradients(model, data, parameters=names)
    assert list(ours) == names
    compare(ours, squared_gradients(model, data, parameters=None), 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_forwards_keep_small_gradients(dtype, tolerance):
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5))
    x, y = images(dtype=torch.float32)
    small = lambda out, labels: 1e-6 * F.cross_entropy(out, labels, reduction="none")  # noqa: E731  fp16 alone would flush it
    ours = squared_gradients(model, batched(x, y, 3), parameters=None, autocast=dtype, loss=small)
    reference = by_loop(model, x, y)
    for name, score in ours.items():
        assert score.dtype == torch.float32
        if "k_bias" not in name:
            assert_close(score.sum() * 1e12, reference[name].sum(), rtol=tolerance * 3, atol=0)


def test_half_precision_weights_score_in_fp32():
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=5))
    x, y = images(dtype=torch.float32)
    exact = squared_gradients(model, batched(x, y, 3), parameters=["blocks.0.mlp.fc1.weight"])
    rough = squared_gradients(model.bfloat16(), batched(x.bfloat16(), y, 3), parameters=["blocks.0.mlp.fc1.weight"])
    for name, score in rough.items():
        assert score.dtype == torch.float32
        assert_close(score.sum(), exact[name].sum(), rtol=0.2, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "resnet"])
def test_a_gpu_gives_the_scores_of_the_cpu(name):
    kind, settings = MODELS[name]
    model = shaken(timm.create_model(kind, num_classes=5, **settings)).double()
    x, y = images(size=settings.get("img_size", 64))
    reference = squared_gradients(model, batched(x, y, 3), parameters=None)
    ours = squared_gradients(model.cuda(), batched(x, y, 3), parameters=None)
    compare({n: s.cpu() for n, s in ours.items()}, reference, 1e-9)


def state(model: nn.Module) -> list:
    return [(m.training, len(m._forward_hooks)) for m in model.modules()] + [
        (p.requires_grad, p.grad is None, bool(p._backward_hooks)) for p in model.parameters()
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(fails):
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5)).train()
    model.blocks[0].eval()
    model.blocks[1].attn.requires_grad_(False)
    model.set_grad_checkpointing()
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    x, y = images(dtype=torch.float32)
    if fails:
        with pytest.raises(RuntimeError, match="stop here"):
            squared_gradients(model, batched(x, y, 3), parameters=None, loss=stop)
    else:
        squared_gradients(model, batched(x, y, 3), parameters=None)
    assert state(model) == before and model.grad_checkpointing
    assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)


def stop(outputs: Tensor, labels: Tensor) -> Tensor:
    raise RuntimeError("stop here")


def test_progress_hears_every_batch():
    model = shaken(Micro(lambda n, x: n.a(tokens(x)).mean(1), a=nn.Linear(3, 6))).double()
    heard: list[tuple[int, int]] = []
    data = batched(*images(size=16), 2)
    squared_gradients(model, data, parameters=["a.bias"], progress=lambda *a: heard.append(a))
    squared_gradients(model, iter(data), parameters=["a.bias"], progress=lambda *a: heard.append(a))
    assert heard == [(1, 3), (2, 3), (3, 3), (1, 0), (2, 0), (3, 0)]


def test_a_zero_head_is_refused():
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=5))
    nn.init.zeros_(model.head.weight)
    names = [n for n, _ in model.named_parameters() if not n.startswith("head")]
    x, y = images(dtype=torch.float32)
    with pytest.raises(PlanError, match=r"every score is zero.*\n.*head is zero"):
        squared_gradients(model, batched(x, y, 3), parameters=names)


def test_a_score_that_is_not_finite_names_its_parameter():
    model = shaken(Micro(lambda n, x: n.a(tokens(x)).mean(1), a=nn.Linear(3, 6))).double()
    x, y = images(size=16)
    x[2, 0, 0, 0] = float("nan")
    with pytest.raises(PlanError, match=r"score of `a\.weight` is not finite"):
        squared_gradients(model, batched(x, y, 6), parameters=["a.weight"])


def test_unknown_doubled_and_no_parameters_are_refused():
    model = shaken(MICRO["reuse"]()).double()
    with pytest.raises(ModelError, match=r"no parameter `a\.wieght`\n.*`a\.weight`"):
        squared_gradients(model, [], parameters=["a.wieght"])
    with pytest.raises(PlanError, match="no parameter to score"):
        squared_gradients(model, [], parameters=[])
    with pytest.raises(PlanError, match="no batch"):
        squared_gradients(model, [], parameters=None)
    model.c = model.a
    with pytest.raises(ModelError, match="one tensor"):
        squared_gradients(model, [], parameters=["a.weight", "c.weight"])


HIDDEN = {
    "inside attention": lambda n, x: n.b(*[n.a(tokens(x))] * 3, need_weights=False)[0].mean(1),
    "einsum": lambda n, x: torch.einsum("bnc,dc->bnd", tokens(x), n.a.weight).mean(1),
}


@pytest.mark.parametrize("way", HIDDEN)
def test_a_use_that_no_rule_covers_is_refused_by_name(way):
    model = shaken(Micro(HIDDEN[way], a=nn.Linear(3, 6), b=nn.MultiheadAttention(6, 2, batch_first=True))).double()
    x, y = images(size=16)
    names = ["b.in_proj_weight"] if way == "inside attention" else ["a.weight"]
    with pytest.raises(ModelError, match=rf"`{names[0]}` is used in a way"):
        squared_gradients(model, batched(x, y, 3), parameters=names)


def test_normalisation_by_the_batch_is_refused():
    model = shaken(Micro(chain, a=conv(), b=nn.BatchNorm2d(6, track_running_stats=False))).double()
    with pytest.raises(ModelError, match=r"`b\.weight` is used in a way"):
        squared_gradients(model, batched(*images(size=16), 3), parameters=["b.weight"])


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_an_input_that_is_overwritten_after_the_call_is_copied(kind):
    """Ordinary training refuses such a model, so the reference is its twin that makes a new tensor."""

    def forward(net: nn.Module, x: Tensor, in_place: bool) -> Tensor:
        x = tokens(x) if kind == "linear" else x
        y = net.a(x)
        z = net.b(y)
        y = y.mul_(0.5) if in_place else y * 0.5
        return (y.square() + z).mean(1) if kind == "linear" else pooled(y.square() + z)

    parts = {"a": nn.Linear(3, 6), "b": nn.Linear(6, 6)}
    parts = parts if kind == "linear" else {"a": nn.Conv2d(3, 6, 3), "b": nn.Conv2d(6, 6, 1)}
    model = shaken(Micro(lambda n, x: forward(n, x, True), **parts)).double()
    x, y = images(size=16)
    ours = squared_gradients(model, batched(x, y, 3), parameters=None)
    model.run = lambda n, x: forward(n, x, False)
    compare(ours, by_loop(model, x, y), 1e-10)


@pytest.mark.parametrize("reentrant", [False, True])
def test_parts_that_are_checkpointed_by_hand_are_refused(reentrant):
    run = lambda n, x: checkpoint(n.b, n.a(tokens(x)), use_reentrant=reentrant).mean(1)  # noqa: E731
    model = shaken(Micro(run, a=nn.Linear(3, 6), b=nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)))).double()
    x, y = images(size=16)
    with pytest.raises(ModelError, match=r"is used in a way|checkpointing"):
        squared_gradients(model, batched(x, y, 3), parameters=["a.weight", "b.2.weight"])


def test_statistics_of_the_batch_are_refused():
    model = shaken(Micro(lambda n, x: (n.a(tokens(x)) - n.a.bias * x.mean()).mean(1), a=linear())).double()
    with pytest.raises(ModelError, match="leading axis"):
        squared_gradients(model, batched(*images(size=16), 3), parameters=["a.bias"])


def test_another_axis_than_the_first_for_the_batch_is_refused():
    model = shaken(Micro(lambda n, x: n.a(tokens(x)[:, :9].transpose(0, 1)).mean(0), a=nn.Linear(3, 6))).double()
    x, y = images(size=16)  # 9 tokens lead, a multiple of 3 samples
    with pytest.raises(ModelError, match="leading axis"):
        squared_gradients(model, batched(x, y, 3), parameters=["a.weight"])
    compare(squared_gradients(model, batched(x, y, 1), parameters=None), by_loop(model, x, y), 1e-10)
