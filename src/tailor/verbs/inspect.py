"""`tailor inspect`: what is in a bundle (nothing is built), what a backbone consists of, what data hold."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm

from tailor import backbones, bundle
from tailor.anatomy import Anatomy
from tailor.backbones import bundled
from tailor.bundle.plan_file import PLAN, read_plan
from tailor.data.check import check
from tailor.data.images import open_data
from tailor.errors import UsageError
from tailor.events import Event, Report, silent
from tailor.measure.count import macs, parameters
from tailor.verbs.subject import is_bundle
from tailor.verbs.widths import describe_groups


def inspect(
    name: str,
    *,
    groups: bool = False,
    image_size: int | None = None,
    seed: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """Facts about a bundle, a plan, a backbone by name, or a data set, as plain values with a `kind`.

    With `groups`, what `prune` can make narrower instead: the groups of axes of a bundle's or a backbone's model, their
    members and ties, and every axis that stays, with the reason.
    """
    place = Path(name)
    model = is_bundle(name) or _is_backbone(name)
    if groups:
        if not model:
            raise UsageError(f"`{name}` holds no model, so it has no groups", hint="name a bundle or a backbone")
        return describe_groups(name, image_size, seed, report)
    if is_bundle(name):
        return {"kind": "bundle", **bundle.summary(bundle.read(place).manifest)}
    if (place / PLAN).is_file() or place.name == PLAN:
        return _plan(place)
    return _backbone(name, image_size) if model else _data(name, seed, report)


def _is_backbone(name: str) -> bool:
    """Whether the argument is a backbone's name, or so much like one that the error should say which are near."""
    if Path(name).exists():
        return False
    plain = name.split(".")[0]
    remote = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    known = remote or plain in bundled.WIDTHS or timm.is_model(plain)
    return known or ("/" not in name and not name.endswith(".csv"))


def _plan(place: Path) -> dict[str, Any]:
    file = read_plan(place)
    plans = [
        {"method": p.method, "cost": p.cost, "modules": len(p.tunes), "whole": len(p.full), "facts": dict(p.facts)}
        for p in file.spec.tuning
    ]
    return {
        "kind": "plan",
        "backbone": file.spec.backbone.name,
        "classes": list(file.spec.head.classes),
        "plans": plans,
        "settings": file.settings,
    }


def _backbone(name: str, image_size: int | None) -> dict[str, Any]:
    model = backbones.create(name, "random", image_size)
    anatomy = backbones.describe(model)
    return {
        "kind": "backbone",
        "name": name,
        "family": anatomy.family,
        "params": parameters(model),
        "macs": macs(model, anatomy.input_size),
        "input_size": list(anatomy.input_size),
        "blocks": len(anatomy.blocks),
        "sites": _by_operation(anatomy),
        "vectors": len(anatomy.vectors),
        "candidates": sum(s.size for s in anatomy.sites) + sum(v.size for v in anatomy.vectors),
        "prefix_tokens": anatomy.prefix,
        "features": [asdict(f) for f in anatomy.features],
        "notes": list(anatomy.notes),
    }


def _by_operation(anatomy: Anatomy) -> dict[str, int]:
    counts: dict[str, int] = {}
    for site in anatomy.sites:
        counts[site.op] = counts.get(site.op, 0) + 1
    return counts


def _data(name: str, seed: int, report: Report) -> dict[str, Any]:
    data = open_data(name, seed=seed)
    found = check(data, progress=lambda done, total: report(Event("looking over the images", done, total)))
    return {
        "kind": "data",
        "name": data.name,
        "classes": list(data.classes),
        "splits": {n: len(s) for n, s in data.splits.items()},
        "findings": found.lines(),
        "report": found.as_json(),
        "notes": list(data.notes),
    }
