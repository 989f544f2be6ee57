"""MACs against closed forms and the published table; the model itself is never touched."""

import pytest
import timm
import torch
from torch import Tensor, nn

from tailor.errors import ModelError
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters

# name -> (parameters, MACs rounded to 1e5 as printed), counted independently
TABLE = {
    "deit_tiny_patch16_224": (5_717_416, 1.2537),
    "deit_small_patch16_224": (22_050_664, 4.5989),
    "deit_base_patch16_224": (86_567_656, 17.5638),
    "deit_tiny_distilled_patch16_224": (5_910_800, 1.2610),
    "deit_small_distilled_patch16_224": (22_436_432, 4.6241),
    "deit_base_distilled_patch16_224": (87_338_192, 17.6568),
    "swin_tiny_patch4_window7_224": (28_288_354, 4.4906),
    "swin_small_patch4_window7_224": (49_606_258, 8.7409),
    "swin_base_patch4_window7_224": (87_768_224, 15.4309),
    "convnext_tiny": (28_589_128, 4.4555),
    "convnext_small": (50_223_688, 8.6837),
    "convnext_base": (88_591_464, 15.3547),
    "resnet50": (25_557_032, 4.0892),
    "resnet101": (44_549_160, 7.8014),
    "resnet152": (60_192_808, 11.5136),
    "regnety_160": (83_590_140, 15.9115),
}


def on_meta(name: str, **settings: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **settings)


def vit_macs(width: int, depth: int, prefix: int, heads_out: int, size: int = 224, patch: int = 16) -> int:
    """Closed form for a plain ViT with MLP ratio 4 and full-width attention."""
    grid = (size // patch) ** 2
    tokens = grid + prefix
    block = tokens * width * 3 * width + 2 * tokens**2 * width + tokens * width**2 + 8 * tokens * width**2
    return grid * width * 3 * patch**2 + depth * block + heads_out * width * 1000


@pytest.mark.parametrize("name", TABLE)
def test_counts_equal_the_published_table(name: str) -> None:
    model = on_meta(name)
    expected_parameters, expected_giga = TABLE[name]
    assert parameters(model) == expected_parameters
    assert round(macs(model, Inputs.images(3, 224, 224)) / 1e9, 4) == expected_giga


@pytest.mark.parametrize(
    ("size", "width", "prefix"), [("tiny", 192, 1), ("small", 384, 1), ("base", 768, 1), ("base", 768, 2)]
)
@pytest.mark.parametrize("fused", [True, False])
def test_vit_macs_equal_the_closed_form_to_the_last_digit(size: str, width: int, prefix: int, fused: bool) -> None:
    distilled = "_distilled" if prefix == 2 else ""
    model = on_meta(f"deit_{size}{distilled}_patch16_224")
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    assert macs(model, Inputs.images(3, 224, 224)) == vit_macs(width, 12, prefix, heads_out=prefix)


@pytest.mark.parametrize("blocks", [1, 3, 6, 9, 12])
def test_a_headless_vit_base_costs_its_embedding_and_its_blocks(blocks: int) -> None:
    model = on_meta("vit_base_patch16_224", num_classes=0)
    del model.blocks[blocks:]
    assert macs(model, Inputs.images(3, 224, 224)) == 115_605_504 + 1_453_954_560 * blocks
    assert parameters(model) == 744_192 + 7_087_872 * blocks


def test_image_size_counts() -> None:
    model = on_meta("deit_tiny_patch16_224", img_size=96)
    assert macs(model, Inputs.images(3, 96, 96)) == vit_macs(192, 12, 1, 1, size=96)


def test_every_kind_of_product_counts() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vector = nn.Parameter(torch.randn(5))
            self.convolution = nn.Conv2d(3, 6, 3, groups=3, padding=1)
            self.transposed = nn.ConvTranspose2d(6, 4, 2, stride=2)

        def forward(self, image: Tensor) -> Tensor:
            maps = self.transposed(self.convolution(image))  # (1, 4, 10, 10) of a 5x5 image
            rows = torch.einsum("bchw,bdhw->bcd", maps, maps)[0]  # (4, 4)
            return (image[0, 0] @ self.vector).sum() + rows.sum() + torch.dot(self.vector, self.vector)

    convolution, transposed = 6 * 9 * 25, 6 * 4 * 4 * 25
    einsum, matrix_vector, dot = 4 * 4 * 100, 25, 5
    assert macs(Products(), Inputs.images(3, 5, 5)) == convolution + transposed + einsum + matrix_vector + dot


def test_the_model_is_not_touched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    macs(model, Inputs.images(3, 8, 8))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert torch.equal(torch.random.get_rng_state(), random)


finished: list[str] = []  # devices on which a forward came to its end


class MakesTensors(nn.Module):
    """Makes CPU tensors in its forward and keeps one in a list, as position encodings do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)
        self.plain = torch.randn(6)
        self.listed = [torch.randn(6)]

    def forward(self, image: Tensor) -> Tensor:
        x = image.mean((2, 3)).repeat(1, 2)
        x = x + self.plain + self.listed[0] + torch.arange(6) + torch.zeros(6, device="cpu")
        x = self.linear(x.to("cpu"))
        finished.append(x.device.type)
        return x


def test_tensors_made_in_forward_are_no_obstacle() -> None:
    model = MakesTensors()
    finished.clear()
    assert macs(model, Inputs.images(3, 4, 4)) == 12
    assert finished == ["meta"]  # and never with real numbers
    assert not model.plain.is_meta
    assert not model.listed[0].is_meta


class Doubled(torch.autograd.Function):
    """A custom function as the sparse deltas use it; with `peek` it reads a value, which no meta tensor has."""

    @staticmethod
    def forward(ctx: object, x: Tensor, weight: Tensor, peek: bool) -> Tensor:
        if peek and float(weight.sum()) == 0:
            return x.new_zeros(len(x), len(weight))
        return 2 * x @ weight.T

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[None, None, None]:
        return None, None, None


@pytest.mark.parametrize("peek", [False, True])
def test_custom_functions_count_on_meta_or_else_on_the_cpu(peek: bool) -> None:
    class Wrapped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return Doubled.apply(x, self.weight, peek)

    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Wrapped(3, 7))
    assert macs(model, Inputs.images(3, 4, 4)) == 21


def test_tied_and_frozen_parameters() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second, nn.Linear(4, 2))
    first.weight.requires_grad_(False)
    assert parameters(model) == 16 + 10
    assert parameters(model, trainable=True) == 10


def test_a_wrong_image_size_is_a_sentence() -> None:
    with pytest.raises(ModelError, match="does not run on images of 3x100x90"):
        macs(on_meta("deit_tiny_patch16_224").to_empty(device="cpu"), Inputs.images(3, 100, 90))
