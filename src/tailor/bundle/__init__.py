"""Bundles: a model as a folder of ordinary files. Spec and digests in JSON, tensors in safetensors, nothing pickled."""

from tailor.bundle.manifest import MANIFEST, Manifest
from tailor.bundle.read import Bundle, load, read, read_manifest, restore, summary
from tailor.bundle.write import prepare, state, write

__all__ = [
    "MANIFEST",
    "Bundle",
    "Manifest",
    "load",
    "prepare",
    "read",
    "read_manifest",
    "restore",
    "state",
    "summary",
    "write",
]
