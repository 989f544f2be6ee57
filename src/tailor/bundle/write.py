"""Writing a bundle: tensors and card first, `bundle.json` with every file's digest last.

A folder without `bundle.json` is an unfinished run, so a crash at any moment leaves nothing that could be mistaken for
a bundle.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor, nn

from tailor.bundle.card import card
from tailor.bundle.evidence import Evidence
from tailor.bundle.files import PARTIAL, dumps, replacing, sha256, write_text
from tailor.bundle.manifest import FORMAT, File, Manifest, pack
from tailor.errors import BundleError
from tailor.run_folder import CARD, MANIFEST, RUN_FILES, TENSORS, check_folder, check_free
from tailor.spec import Spec
from tailor.surgery import changed


def prepare(out: Path, resume: bool = False, planned: bool = False) -> Path:
    """Make the output folder ready before anything costly starts; `planned`: it holds the plan that will be trained.

    BundleError where it holds something else and `resume` is not set, or where it cannot be written.
    """
    try:
        check_folder(out)
        if not resume:
            check_free(out, planned)
        _sweep(out)
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".write-probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise BundleError(f"`{out}` cannot be written: {error.strerror}", hint="choose another `-o` folder") from None
    return out


def _sweep(out: Path) -> None:
    """Remove the halves of files that a killed run was writing."""
    for name in RUN_FILES:
        for half in out.glob(f".{name}.*{PARTIAL}"):
            half.unlink()


def state(model: nn.Module, complete: bool) -> dict[str, Tensor]:
    """The tensors to store: what training may have changed, or all of them."""
    chosen = dict(model.state_dict()) if complete else changed(model)
    whole = {n: t.float() if t.dtype == torch.bfloat16 else t for n, t in chosen.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in whole.items()}


def write(
    out: Path,
    spec: Spec,
    tensors: Mapping[str, Tensor],
    *,
    complete: bool,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    evidence: Evidence | None = None,
) -> Path:
    """Write the bundle into `out` (made where missing) and return it. `complete` where `tensors` are all there are.

    The card says what the `evidence` measured in the form that model hubs read.
    """
    out.mkdir(parents=True, exist_ok=True)
    values, lists = pack(spec)
    stored = {name: tensor.clone() for name, tensor in {**tensors, **lists}.items()}  # clone: tied storage is refused
    with replacing(out / TENSORS) as temporary:
        # One entry: safetensors writes several in an order of chance, and equal tensors would differ in their digest.
        save_file(stored, temporary, metadata={"format": f"tailor-{FORMAT}"})
    size = (out / TENSORS).stat().st_size
    write_text(out / CARD, card(spec, metrics, provenance, size, evidence))
    files = {name: File((out / name).stat().st_size, sha256(out / name)) for name in (TENSORS, CARD)}
    manifest = Manifest(
        format=FORMAT,
        spec=values,
        files=files,
        tensors={n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in stored.items()},
        complete=complete,
        metrics=dict(metrics),
        provenance=dict(provenance),
    )
    write_text(out / MANIFEST, dumps(as_json(manifest)))
    return out


def as_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON values."""
    return TypeAdapter(Manifest).dump_python(manifest, mode="json")  # type: ignore[no-any-return]
