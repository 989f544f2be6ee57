"""Small models for every test: depth 2 or 3, 32 to 40 pixels, shaken so that nothing hides behind a fresh start."""

import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from tailor.surgery import trainable, write_through_

CLASSES = 5


def vit(seed: int = 0, **settings: object) -> nn.Module:
    """A plain ViT: 32 px, patch 8 (a grid of 4 x 4), width 32, depth 3, one class token."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, **settings}
    return _made("vit_tiny_patch16_224", seed, 32, **sizes)


def distilled(seed: int = 0) -> nn.Module:
    """A DeiT with distillation token and two classifiers."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    return _made("deit_tiny_distilled_patch16_224", seed, 32, **sizes)


def eva(seed: int = 0) -> nn.Module:
    """A rotary ViT with a gated MLP, a fused qkv without bias and the bias beside it."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "ref_feat_shape": (4, 4)}
    return _made("eva02_tiny_patch14_224", seed, 32, qkv_fused=True, **sizes)


def swin(seed: int = 0, img_size: int = 40) -> nn.Module:
    """Swin v1 on 40 px: maps of 10 x 10 and 5 x 5 in windows of 4, so both stages pad; the second block is shifted."""
    sizes = {"img_size": img_size, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    return _made("swin_tiny_patch4_window7_224", seed, img_size, **sizes)


def swin2(seed: int = 0) -> nn.Module:
    """Swin v2 on 40 px, padded as `swin`."""
    sizes = {"img_size": 40, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    return _made("swinv2_tiny_window8_256", seed, 40, **sizes)


def convnext(seed: int = 0, **settings: object) -> nn.Module:
    """ConvNeXt on 64 px; its MLPs read (B, H, W, C), or (B, C, H, W) with `conv_mlp=True`."""
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24), "conv_mlp": False, **settings}
    return _made("convnext_atto", seed, 64, **sizes)


def convnext_nchw(seed: int = 0) -> nn.Module:
    """ConvNeXt whose MLPs are 1x1 convolutions."""
    return convnext(seed, conv_mlp=True)


def convnext2(seed: int = 0) -> nn.Module:
    """ConvNeXt v2, with global response norms."""
    return _made("convnextv2_atto", seed, 64, depths=(1, 1, 1, 1), dims=(8, 16, 16, 24), conv_mlp=False)


def resnet(seed: int = 0, **settings: object) -> nn.Module:
    """A bottleneck ResNet with narrow stages."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (4, 8, 8, 16), "stem_width": 8, **settings}
    return _made("resnet26", seed, 32, **sizes)


def efficientnet(seed: int = 0) -> nn.Module:
    """Inverted residuals with squeeze-and-excite, two stages of stride 16, three blocks that can be dropped."""
    stages = ["ds_r1_k3_s1_e1_c8"], ["ir_r2_k3_s2_e2_c8"], ["ir_r2_k5_s2_e2_c12_se0.25"], ["ir_r2_k3_s2_e2_c16"]
    arguments = decode_arch_def([*stages, ["ir_r1_k3_s1_e2_c20"]])
    return _configured(EfficientNet(arguments, CLASSES, num_features=24, stem_size=8), seed)


def mobilenet(seed: int = 0) -> nn.Module:
    """MobileNet V3: the last convolution comes after the pooling."""
    stages = ["ds_r1_k3_s2_e1_c8_se0.25"], ["ir_r2_k3_s2_e2_c8"], ["ir_r2_k5_s2_e2_c16_se0.25"], ["cn_r1_k1_s1_c24"]
    return _configured(MobileNetV3(decode_arch_def([*stages]), CLASSES, num_features=32, stem_size=8), seed)


MODELS = {
    "vit": vit,
    "distilled": distilled,
    "eva": eva,
    "swin": swin,
    "swin2": swin2,
    "convnext": convnext,
    "convnext_nchw": convnext_nchw,
    "convnext2": convnext2,
    "resnet": resnet,
    "efficientnet": efficientnet,
}
"""Every small model, for contracts over families."""


def linear(inputs: int = 12, outputs: int = 18, seed: int = 0) -> nn.Linear:
    """A shaken linear layer; its outputs divide by three, as a fused qkv's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs).requires_grad_(False)


def tokens(width: int = 12, count: int = 7, batch: int = 2, seed: int = 1) -> Tensor:
    """(B, N, C) of standard normal numbers."""
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed))


def images(model: nn.Module, batch: int = 2, seed: int = 1) -> Tensor:
    """(B, 3, H, W) of the size and type that the model takes."""
    size = model.pretrained_cfg["input_size"]  # type: ignore[index, union-attr]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *size, generator=generator).to(next(model.parameters()).dtype)  # type: ignore[misc]


def labels(batch: int = 2) -> Tensor:
    """Class indices."""
    return torch.arange(batch) % CLASSES


def shake_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter and running statistic anew, at sizes that keep activations near one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, spread: float) -> None:
        tensor.copy_(mean + spread * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf.startswith("logit_scale"):
                normal(parameter, 1.0, 0.2)
            elif parameter.ndim > 1 and leaf == "weight":
                normal(parameter, 0.0, parameter[0].numel() ** -0.5)
            else:
                normal(parameter, 1.0 if leaf in ("weight", "gamma", "gamma_1", "gamma_2") else 0.0, 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                normal(buffer, 0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def trained_(model: nn.Module, seed: int = 0, spread: float = 0.1) -> nn.Module:
    """As if trained: every trainable parameter is moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += (spread * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
    return write_through_(model)


def _configured(model: nn.Module, seed: int) -> nn.Module:
    """A model that timm's factory did not make, with what the factory would have noted."""
    model.pretrained_cfg = {"input_size": (3, 32, 32), "classifier": "classifier", "first_conv": "conv_stem"}
    return shake_(model, seed).eval()


def _made(name: str, seed: int, pixels: int, **settings: object) -> nn.Module:
    model = timm.create_model(name, num_classes=CLASSES, **settings)  # type: ignore[arg-type]
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, pixels, pixels)}
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):  # as `backbones.create` does
            module.qkv_bias_separate = True
    return shake_(model, seed).eval()
