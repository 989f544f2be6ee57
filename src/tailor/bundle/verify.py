"""A bundle's files, trusting nothing in them: format, paths, sizes, digests, names and shapes before any allocation.

The safetensors header alone is compared with the manifest first; what it declares beyond the file's own size never gets
memory. Nothing is unpickled.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tailor.bundle.files import sha256
from tailor.bundle.manifest import READS, File, Manifest
from tailor.errors import BundleError, PlanError
from tailor.run_folder import MANIFEST, TENSORS
from tailor.strangers import AGAIN, is_link, read_json

_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
T = TypeVar("T")
Declared = Mapping[str, tuple[str, tuple[int, ...]]]
"""Each tensor's type and shape."""


def read_manifest(path: Path) -> Manifest:
    """`bundle.json`, validated; BundleError where the folder is no bundle, unfinished, or of another format."""
    raw = read_raw(path)
    if of_palette(raw):
        raise BundleError(
            f"`{path}` is a palette of several models", hint=f"pick one: `tailor pick {path} --macs 50% -o OUT`"
        )
    return validated(_MANIFEST, raw, path / MANIFEST)


def read_raw(path: Path) -> Any:
    """The JSON of `bundle.json` of any kind of bundle, of our format and not too deep."""
    file = path / MANIFEST
    if not path.exists():
        raise BundleError(f"there is no bundle `{path}`", hint="give a folder that `tailor adapt` wrote")
    if not file.is_file():
        unfinished = (path / "checkpoints").is_dir() or (path / TENSORS).is_file()
        hint = "continue it with `--resume`" if unfinished else "give a folder that `tailor adapt` wrote"
        what = "an unfinished run" if unfinished else "not a bundle"
        raise BundleError(f"`{path}` is {what}: it has no `{MANIFEST}`", hint=hint)
    raw = read_json(file)
    if isinstance(raw, dict) and raw.get("format") not in READS:
        raise BundleError(
            f"`{file}` has format {raw.get('format')!r}, this tailor reads up to {READS[-1]}",
            hint="update tailor, or " + AGAIN,
        )
    return raw


def validated(adapter: TypeAdapter[T], raw: Any, file: Path) -> T:
    """The values as the type that they should be; BundleError where they are not."""
    try:
        return adapter.validate_json(json.dumps(raw))
    except PlanError as error:
        raise BundleError(f"`{file}` is not valid: {error.message}", hint=AGAIN) from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BundleError(f"`{file}` is not valid at `{where}`: {error.errors()[0]['msg']}", hint=AGAIN) from None


def of_palette(raw: Any) -> bool:
    """Whether it is the manifest of a palette."""
    return isinstance(raw, dict) and raw.get("kind") == "palette"


def is_palette(path: Path) -> bool:
    """Whether the folder holds a palette that was written to its end."""
    try:
        raw = read_json(path / MANIFEST)
    except (OSError, BundleError):
        return False
    return of_palette(raw)


def check_files(path: Path, files: Mapping[str, File]) -> None:
    """BundleError unless every file that the manifest names is in the folder, as it was written, the tensors too."""
    for name, file in files.items():
        place = path / name
        if Path(name).name != name or is_link(place):
            raise BundleError(f"the bundle names a file outside its folder, or a link: `{name}`", hint=AGAIN)
        if not place.is_file():
            raise BundleError(f"the bundle `{path}` lacks `{name}`", hint=AGAIN)
        if place.stat().st_size != file.bytes or sha256(place) != file.sha256:
            raise BundleError(f"`{place}` was changed or cut short: its digest differs from the manifest", hint=AGAIN)
    if TENSORS not in files:
        raise BundleError(f"the bundle `{path}` names no `{TENSORS}`", hint=AGAIN)


def read_tensors(path: Path, declared: Declared, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of the file, whose names, types and shapes must be those declared; with `wanted`, these only."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != declared.keys():
                odd = sorted(names ^ declared.keys())[0]
                raise BundleError(f"`{path}` and its manifest disagree about tensor `{odd}`", hint=AGAIN)
            _fits(path, declared)
            tensors = {}
            for name, (kind, shape) in declared.items():
                if wanted is not None and name not in wanted:
                    continue
                if tuple(file.get_slice(name).get_shape()) != shape:
                    raise BundleError(f"tensor `{name}` in `{path}` has another shape than declared", hint=AGAIN)
                tensors[name] = file.get_tensor(name)
                if str(tensors[name].dtype) != f"torch.{kind}":
                    raise BundleError(f"tensor `{name}` in `{path}` has another type than declared", hint=AGAIN)
                _finite(name, tensors[name], path)
    except SafetensorError as error:
        raise BundleError(f"`{path}` is not a safetensors file: {error}", hint=AGAIN) from None
    return tensors


def _fits(path: Path, declared: Declared) -> None:
    """The declared elements take no more bytes than the file has."""
    count = sum(math.prod(shape) for _, shape in declared.values())
    if count > path.stat().st_size or any(size < 0 for _, shape in declared.values() for size in shape):
        raise BundleError(f"the manifest declares {count:,} numbers, more than `{path}` can hold", hint=AGAIN)


def _finite(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise BundleError(f"tensor `{name}` in `{path}` holds NaN or infinite values", hint="train the model again")
