"""A plan on disk before it is paid for: `plan.json` (the spec and the training settings), long index lists beside it.

`tailor adapt --plan-only` writes it, a person may read and edit it, `tailor fit` trains what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tailor.bundle.files import dumps, replacing, write_text
from tailor.bundle.manifest import FORMAT, READS, pack, unpack
from tailor.errors import BundleError
from tailor.spec import Spec
from tailor.strangers import read_json

PLAN, LISTS = "plan.json", "plan.safetensors"


@dataclass(frozen=True)
class PlanFile:
    """A spec that waits for its training, and the settings it was made with."""

    spec: Spec
    settings: dict[str, Any]


def write_plan(out: Path, spec: Spec, settings: Mapping[str, Any]) -> Path:
    """Write `plan.json` (and `plan.safetensors` where lists are long) into the folder `out`."""
    values, lists = pack(spec)
    if lists:
        with replacing(out / LISTS) as temporary:
            save_file(lists, temporary)
    write_text(out / PLAN, dumps({"format": FORMAT, "settings": dict(settings), "spec": values}))
    return out / PLAN


def read_plan(path: Path) -> PlanFile:
    """The plan in the folder (or file) `path`; BundleError where there is none or it is not valid."""
    file = path / PLAN if path.is_dir() else path
    if not file.is_file():
        raise BundleError(f"there is no `{PLAN}` in `{path}`", hint="make one with `tailor adapt ... --plan-only`")
    try:
        raw = read_json(file)
        lists = load_file(file.with_name(LISTS)) if file.with_name(LISTS).is_file() else {}
    except SafetensorError as error:
        raise BundleError(f"`{file}` cannot be read: {error}", hint="check the last edit of the file") from None
    if not isinstance(raw, dict) or raw.get("format") not in READS or not isinstance(raw.get("spec"), dict):
        raise BundleError(
            f"`{file}` is not a plan of format {READS[0]} or {FORMAT}", hint="make it again with `--plan-only`"
        )
    return PlanFile(unpack(raw["spec"], lists), dict(raw.get("settings") or {}))
