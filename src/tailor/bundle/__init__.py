"""Bundles: a model as a folder of ordinary files. Spec and digests in JSON, tensors in safetensors, nothing pickled."""

from tailor.bundle.manifest import Bundle, Manifest
from tailor.bundle.read import (
    MISFIT,
    base,
    blank,
    continued,
    load,
    load_all_,
    read,
    restore,
    sources,
    summary,
)
from tailor.bundle.verify import read_manifest
from tailor.bundle.write import prepare, state, write
from tailor.run_folder import MANIFEST

__all__ = [
    "MANIFEST",
    "MISFIT",
    "Bundle",
    "Manifest",
    "base",
    "blank",
    "continued",
    "load",
    "load_all_",
    "prepare",
    "read",
    "read_manifest",
    "restore",
    "sources",
    "state",
    "summary",
    "write",
]
