"""Reading a checkpoint file into a backbone: safetensors, `.pth`/`.bin` (weights only), the `.npz` of the first ViTs.

Nothing is unpickled: torch files go through `weights_only=True`. Known wrappers are taken off (MAE's `model`, MoCo v3's
`module.base_encoder.`, DataParallel's `module.`); what is neither the backbone's nor a known training head is an error.
"""

import hashlib
import importlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tailor.backbones import walk
from tailor.errors import ModelError

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "encoder")
_PREFIXES = (
    "module.base_encoder.",
    "module.momentum_encoder.",
    "module.backbone.",
    "module.encoder.",
    "backbone.",
    "base_encoder.",
    "encoder.",
    "module.",
    "model.",
)
_TRAINING_ONLY = (
    "decoder",
    "mask_token",
    "predictor",
    "projector",
    "prototypes",
    "momentum_encoder",
    "queue",
    "module.momentum_encoder",
    "module.predictor",
    "relative_position_index",
    "attn_mask",
)


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file, wrappers taken off. ModelError where it is not one."""
    if not os.path.isfile(path):  # unlike Path's, False for a name too long
        raise ModelError(f"there is no weights file `{path}`", hint="give `--weights FILE` or `--weights random`")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ModelError(f"`{path.name}` is not a safetensors file: {error}", hint="download it again") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:120]
        raise ModelError(
            f"`{path.name}` cannot be read without unpickling code: {reason}",
            hint="convert it to safetensors on a machine where you trust it",
        ) from None
    return _unwrap(loaded, path)


def _unwrap(loaded: object, path: Path) -> dict[str, Tensor]:
    """The innermost mapping of names to tensors, without the prefix that a training wrapper put before each name."""
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ModelError(f"`{path.name}` holds no state dict", hint="expected names with tensors")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    for prefix in _PREFIXES:
        chosen = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if len(chosen) > len(tensors) // 3:
            return chosen
    return tensors


def load_(model: nn.Module, path: Path) -> nn.Module:
    """Load the file's backbone weights into `model` (the classifier is left alone); every other key must fit."""
    if path.suffix == ".npz":
        return _load_npz_(model, path)
    heads = walk.heads_of(model)
    own = {k for k in model.state_dict() if not walk.within(k, heads)}
    tensors = {k: v for k, v in read(path).items() if k in own or not walk.within(k, (*heads, "fc", "head"))}
    tensors = {k: v for k, v in _filtered(tensors, model).items() if not walk.within(k, heads)}
    extra = sorted(k for k in tensors.keys() - own if not k.startswith(_TRAINING_ONLY))
    missing = sorted(own - tensors.keys() - {n for n in own if n.startswith("fc_norm")})
    if missing or extra:
        first = f"lacks `{missing[0]}`" if missing else f"has an unknown `{extra[0]}`"
        raise ModelError(
            f"`{path.name}` does not fit the backbone: it {first} ({len(missing)} missing, {len(extra)} unknown)",
            hint="check `--model`: name the architecture that the file was trained with",
        )
    state = model.state_dict()
    with torch.no_grad():
        for name in own & tensors.keys():
            if state[name].shape != tensors[name].shape:
                raise ModelError(
                    f"`{path.name}`: `{name}` has shape {tuple(tensors[name].shape)}, "
                    f"the backbone expects {tuple(state[name].shape)}",
                    hint="check `--model` and the image size",
                )
            state[name].copy_(tensors[name])
    return model


def _load_npz_(model: Any, path: Path) -> nn.Module:
    """The numpy files of the first ViT release, by timm's own reader; numpy refuses pickled arrays."""
    if not os.path.isfile(path):
        raise ModelError(f"there is no weights file `{path}`", hint="give `--weights FILE` or `--weights random`")
    if not hasattr(model, "load_pretrained"):
        raise ModelError(f"`{type(model).__name__}` has no reader for `.npz`", hint="use a safetensors file")
    try:
        model.load_pretrained(str(path))
    except (ValueError, KeyError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ModelError(f"`{path.name}` cannot be read: {reason}", hint="check the file and `--model`") from None
    return model  # type: ignore[no-any-return]


def _filtered(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's own conversion for the model's family: old names, position embeddings of another size."""
    convert = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return dict(convert(dict(tensors), model))
    except (KeyError, TypeError):  # converters assume their own release's keys; plain keys need no conversion
        return tensors


def digest(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of the backbone's tensors, the classifier left out."""
    heads = walk.heads_of(model)
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if walk.within(name, heads):
            continue
        plain = tensor.detach().cpu().contiguous()
        hasher.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        hasher.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{hasher.hexdigest()}"
