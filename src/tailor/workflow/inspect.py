"""What is in a bundle (nothing is built), what a backbone consists of, what data hold: plain values with a `kind`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm

from tailor import backbones, bundle
from tailor.anatomy import Anatomy
from tailor.backbones import bundled, causal
from tailor.bundle.palette import read_palette
from tailor.bundle.plan_file import PLAN, read_plan
from tailor.bundle.verify import is_palette
from tailor.data.check import check
from tailor.data.images import open_data
from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.evidence.terminal import operations_text
from tailor.measure.count import macs, parameters
from tailor.run_folder import MANIFEST
from tailor.workflow.groups import describe_groups
from tailor.workflow.names import REMOTE, is_bundle


def facts(name: str, groups: bool, image_size: int | None, seed: int, tell: Tell) -> dict[str, Any]:
    """Facts about what the name stands for; with `groups`, what can be made narrower in it."""
    place = Path(name)
    model = is_bundle(name) or _is_backbone(name)
    if groups:
        if not model:
            raise UsageError(f"`{name}` holds no model, so it has no groups", hint="name a bundle or a backbone")
        return describe_groups(name, image_size, seed, tell)
    if is_palette(place):
        return _palette(place)
    if is_bundle(name):
        chain = _chain(place)
        found = bundle.summary(bundle.read(place).manifest)
        for plan in found["plans"]:  # whose facts say of which backbone they are: here it is this one
            facts = plan.get("facts")
            if isinstance(facts, dict) and facts.get("backbone") == found["digest"]:
                plan["facts"] = {name: value for name, value in facts.items() if name != "backbone"}
        return {"kind": "bundle", **found, "goes_on_from": chain, "diagram": _hybrid(found["plans"])}
    if (place / PLAN).is_file() or place.name == PLAN:
        return _plan(place)
    return _backbone(name, image_size) if model else _data(name, seed, tell)


def _is_backbone(name: str) -> bool:
    """Whether the argument is a backbone's name, or so much like one that the error should say which are near."""
    if Path(name).exists():
        return False
    plain = name.split(".")[0]
    remote = name.startswith(REMOTE)
    known = remote or plain in bundled.WIDTHS or causal.is_causal(name) or timm.is_model(plain)
    return known or ("/" not in name and not name.endswith(".csv"))


def _chain(place: Path) -> list[str]:
    """The bundles that this one goes on from, the nearest first; BundleError where they lead back to it."""
    return [str(path) if (path / MANIFEST).is_file() else f"{path} (not here)" for path in bundle.sources(place)]


def _palette(place: Path) -> dict[str, Any]:
    found = read_palette(place)
    deployed = [
        {"route": r.route, "macs": r.macs, "params": r.params, "latency_ms": r.latency_ms, "accuracy": r.accuracy}
        for r in found.manifest.routes
        if r.deployed
    ]
    return {
        "kind": "palette",
        "anchors": [spec.backbone.name for spec in found.palette.anchors],
        "routes": len(found.manifest.routes),
        "deployed": deployed,
        "trains": found.palette.tune.method,
        "base": found.manifest.base.path,
        "metrics": found.manifest.metrics,
        "provenance": found.manifest.provenance,
    }


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


def _hybrid(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last plan that swaps attention, a line a block; nothing where there is none or its facts say less."""
    for plan in reversed(plans):
        facts = [plan.get(name) for name in ("operations", "hidden", "dense_hidden")]
        lists = [fact for fact in facts if isinstance(fact, list) and fact]
        numbers = all(isinstance(n, int) for fact in lists[1:] for n in fact)
        if len(lists) == 3 and numbers and len({len(fact) for fact in lists}) == 1:
            return operations_text([str(name) for name in lists[0]], lists[1], lists[2]).splitlines()
    return []


def _backbone(name: str, image_size: int | None) -> dict[str, Any]:
    model = backbones.create(name, "random", image_size)
    anatomy = backbones.describe(model)
    return {
        "kind": "backbone",
        "name": name,
        "family": anatomy.family,
        "params": parameters(model),
        "macs": macs(model, anatomy.inputs),
        "input_size": list(anatomy.inputs.shapes[0]),
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


def _data(name: str, seed: int, tell: Tell) -> dict[str, Any]:
    data = open_data(name, seed=seed)
    found = check(data, progress=lambda done, total: tell(Event("looking over the images", done, total)))
    return {
        "kind": "data",
        "name": data.name,
        "classes": list(data.classes),
        "splits": {split.name: len(split) for split in data.splits.values()},
        "findings": found.lines(),
        "report": found.as_json(),
        "notes": list(data.notes),
    }
