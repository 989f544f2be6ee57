"""Bundles: a model as a folder of ordinary files. Spec and digests in JSON, tensors in safetensors, nothing pickled."""

from tailor.bundle.manifest import MANIFEST, Manifest
from tailor.bundle.read import Bundle, base, blank, continued, load, load_all_, read, read_manifest, restore, summary
from tailor.bundle.write import prepare, state, write

__all__ = [
    "MANIFEST",
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
    "state",
    "summary",
    "write",
]
