"""What `bundle.json` says: format number, spec, files with digests, metrics, provenance. Data only.

Long index lists leave the JSON: each becomes a tensor in the safetensors file, named and digested where the list stood:
the gaps between sorted indices in a byte or two each (`gaps`), other lists as int32. Format 1 had int32 only.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from tailor.bundle import gaps
from tailor.errors import BundleError, TailorError
from tailor.settings import STRICT
from tailor.spec import MOST_PIXELS, SPEC, Spec
from tailor.strangers import AGAIN

FORMAT = 2
READS = (1, FORMAT)
"""The formats that are read; the last is written."""
LONGEST_LIST = 1000
MOST_PLANS, LARGEST_SETTING = 256, 1 << 16
INDEX_PREFIX = "plan:"
"""Names of index tensors begin with this; no parameter of a module can."""


@dataclass(frozen=True, config=STRICT)
class File:
    """One file of the bundle: its size in bytes and its sha256."""

    bytes: int
    sha256: str


@dataclass(frozen=True, config=STRICT)
class Manifest:
    """The content of `bundle.json`. `tensors` gives each tensor's type and shape, so that reading checks before it
    allocates; `complete` says that the bundle holds every tensor, not only what differs from the backbone."""

    format: int
    spec: dict[str, Any]
    files: dict[str, File]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    complete: bool = False
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)


@plain_dataclass(frozen=True)
class Bundle:
    """A bundle in memory: its folder, manifest, spec and tensors (index lists taken out)."""

    path: Path
    manifest: Manifest
    spec: Spec
    tensors: dict[str, Tensor]


def pack(spec: Spec) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The spec as JSON values, and the long index lists taken out of it as tensors."""
    lists: dict[str, Tensor] = {}

    def take(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: take(inner, f"{path}.{key}" if path else key) for key, inner in value.items()}
        if not isinstance(value, list):
            return value
        if len(value) > LONGEST_LIST and all(type(i) is int for i in value):
            coding = "gaps" if gaps.fits(value) else "int32"
            tensor = gaps.encode(value) if coding == "gaps" else torch.tensor(value, dtype=torch.int32)
            lists[INDEX_PREFIX + path] = tensor
            return {"tensor": INDEX_PREFIX + path, "sha256": _digest(tensor), "coding": coding}
        return [take(inner, f"{path}.{i}") for i, inner in enumerate(value)]

    return take(SPEC.dump_python(spec, mode="json"), ""), lists


def unpack(values: dict[str, Any], tensors: Mapping[str, Tensor]) -> Spec:
    """The spec again; BundleError where a list is missing or was changed, or where a key does not belong."""

    def give(value: Any) -> Any:
        if isinstance(value, list):
            return [give(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        if value.keys() - {"coding"} == {"tensor", "sha256"}:
            return _listed(value, tensors)
        return {key: give(inner) for key, inner in value.items()}

    if isinstance(plans := values.get("plans"), list) and len(plans) > MOST_PLANS:
        raise BundleError(f"the spec holds {len(plans)} plans, more than {MOST_PLANS}", hint=AGAIN)
    try:
        return sane(SPEC.validate_json(json.dumps(give(values))))
    except TailorError as error:  # a plan that contradicts itself, a preprocessing that cannot be
        raise BundleError(f"the spec is not valid: {error.message}", hint=AGAIN) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"the spec is not valid at `{where}`: {first['msg']}", hint=AGAIN) from None


def _listed(value: dict[str, Any], tensors: Mapping[str, Tensor]) -> list[int]:
    """The list that a tensor holds; BundleError where it is missing, was changed, or is not coded as it says."""
    name, coding = str(value["tensor"]), value.get("coding", "int32")  # format 1 names no coding
    tensor = tensors.get(name)
    dtype = {"int32": torch.int32, "gaps": torch.uint8}.get(str(coding))
    if tensor is None or tensor.dtype != dtype or _digest(tensor) != value["sha256"]:
        raise BundleError(f"the index list `{name}` is missing or was changed", hint=AGAIN)
    return gaps.decode(tensor, name) if coding == "gaps" else tensor.tolist()


def sane(spec: Spec) -> Spec:
    """The spec, or BundleError where it would take memory that no spec of ours takes before a tensor is compared."""
    pixels = (*spec.preprocessing.size, spec.backbone.image_size or 1)
    if not all(1 <= n <= MOST_PIXELS for n in pixels):
        raise BundleError(f"the spec asks for images of {max(pixels)} pixels, more than {MOST_PIXELS}", hint=AGAIN)
    if not all(0 <= seed < 1 << 63 for seed in (spec.backbone.seed, spec.head.seed)):
        raise BundleError("a seed of the spec is below 0 or has more than 63 bits", hint=AGAIN)
    classes = spec.head.classes
    if len(set(classes)) < len(classes):
        twice = next(name for name, count in Counter(classes).items() if count > 1)
        raise BundleError(f"the spec has two classes of one name: {twice!r}", hint=AGAIN)
    for plan in spec.tuning:
        for tune in plan.tunes:
            if tune.rows and not 0 <= tune.rows[0] < tune.rows[1]:
                raise BundleError(f"the rows of the method at `{tune.site}` are not in order: {tune.rows}", hint=AGAIN)
            place = tune.geometry
            if place and not all(
                1 <= n <= LARGEST_SETTING for n in (place.width, place.prefix + 1, *(place.grid or ()))
            ):
                raise BundleError(f"the geometry of the method at `{tune.site}` is out of range: {place}", hint=AGAIN)
            for name, value in vars(tune.method).items():
                low, high = _RANGES.get(name, _COUNT if isinstance(value, int) else _RANGE)
                if isinstance(value, int | float) and not low <= value <= high:
                    raise BundleError(f"`{name}` of the method at `{tune.site}` is out of range: {value}", hint=AGAIN)
    return spec


_COUNT, _RANGE = (1, LARGEST_SETTING), (0, LARGEST_SETTING)
_RANGES = {"dropout": (0, 0.99), "drop_path": (0, 0.99), "scale": (-LARGEST_SETTING, LARGEST_SETTING)}
"""What a method's settings may be; NaN is in no range."""


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
