"""The minis: three small vision transformers that ship with tailor, so that everything can be shown offline.

Their weights and model card lie in `minis/`; `scripts/pretrain_minis.py` made them.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer

WIDTHS = {"tailor_mini_ti": 64, "tailor_mini_s": 96, "tailor_mini_b": 160}
"""Embedding width by name; the head dimension is 32 throughout."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def create(name: str, image_size: int | None = None) -> VisionTransformer:
    """The architecture with fresh weights: 64 px, patch 8, depth 12, ImageNet mean and standard deviation."""
    width, size = WIDTHS[name], image_size or 64
    model: Any = VisionTransformer(
        img_size=size, patch_size=8, embed_dim=width, depth=12, num_heads=width // 32, num_classes=200
    )
    model.pretrained_cfg = {
        "architecture": name,
        "input_size": (3, size, size),
        "mean": _MEAN,
        "std": _STD,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "classifier": "head",
        "first_conv": "patch_embed.proj",
        "num_classes": 200,
    }
    model.default_cfg = model.pretrained_cfg
    return model  # type: ignore[no-any-return]


def weights(name: str) -> Path:
    """The safetensors file that ships for that name."""
    return Path(str(resources.files("tailor.backbones") / "minis" / f"{name}.safetensors"))
