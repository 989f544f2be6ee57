"""What of a backbone lies on this machine: found without asking the network, or said by name what would be fetched.

A bundle of a stranger names its backbone, so that reading it must not decide where this machine connects to.
"""

import os
from pathlib import Path
from urllib.parse import urlparse

import huggingface_hub
import timm
import torch

from tailor.backbones import bundled, causal, packaged
from tailor.errors import ModelError

REMOTE = ("hf-hub:", "hf_hub:")
_FILES = ("model.safetensors", "pytorch_model.bin")  # in timm's order
_HINT = "add `--download` where you trust the bundle, or name the file with `--weights FILE`"


def local(name: str, source: str) -> tuple[str, str]:
    """A name and a source of weights from which `create` makes the same backbone without the network.

    ModelError that says what would be fetched, where something is missing here.
    """
    if name.startswith(REMOTE):
        repository, _, revision = name.partition(":")[2].partition("@")
        config = _cached(repository, ("config.json",), revision)
        if config is None:
            raise _missing(name, f"`config.json` of huggingface.co/{repository}")
        if source == "pretrained" and _cached(repository, _FILES, revision) is None:
            raise _missing(name, f"`{_FILES[0]}` of huggingface.co/{repository}")
        return f"local-dir:{config.parent}", source
    if causal.is_causal(name):  # from disk or not at all
        return name, source
    if source != "pretrained" or name in bundled.WIDTHS or name.startswith("local-dir:") or packaged.file_of(name):
        return name, source
    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # no such weights of a known architecture
        found = None
    if found is None or not (found.hf_hub_id or found.url):
        return name, source  # there is nothing to fetch, and `create` says so
    if not found.hf_hub_id:
        file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlparse(str(found.url)).path)
        if not file.is_file():
            raise _missing(name, str(found.url))
        return name, str(file)
    repository, _, revision = found.hf_hub_id.partition("@")
    names = (found.hf_hub_filename,) if found.hf_hub_filename else _FILES
    weights = _cached(repository, names, revision)
    if weights is None:
        raise _missing(name, f"`{names[0]}` of huggingface.co/{repository}")
    return name, str(weights)


def _cached(repository: str, names: tuple[str, ...], revision: str) -> Path | None:
    """The first of these files that the hub's cache holds."""
    for name in names:
        try:
            found = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision or None)
        except ValueError:  # no repository can be called so
            return None
        if isinstance(found, str):
            return Path(found)
    return None


def _missing(name: str, what: str) -> ModelError:
    return ModelError(f"`{name}` is not on this machine: {what} would be fetched", hint=_HINT)
