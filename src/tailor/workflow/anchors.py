"""The anchors of a palette, opened: backbones by name or bundles, merged, in order of cost, with one head."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tailor import backbones, bundle
from tailor import build as builder
from tailor.build import Opened
from tailor.errors import PlanError, UsageError
from tailor.measure.count import macs_along
from tailor.spec import BackboneRef
from tailor.stitching.cost import Pieces
from tailor.stitching.join import shape_of
from tailor.stitching.space import Shape
from tailor.tasks import Head
from tailor.training import Recipe
from tailor.workflow.names import is_bundle
from tailor.workflow.opened import merged, open_bundle


def open_anchors(
    names: Sequence[str], weights: str, image_size: int | None, head: Head, recipe: Recipe
) -> list[tuple[Opened, Shape, Pieces]]:
    """Each anchor with its shape and the MACs of its pieces, the cheapest first.

    A bundle of the same classes keeps its head. UsageError where there are fewer than two, or two are equal.
    """
    if len(names) < 2:
        raise UsageError(
            "a palette needs two anchors or more", hint="name them with commas: `--models tailor_mini_ti,tailor_mini_s`"
        )
    found = []
    for name in names:
        opened = open_anchor(name, weights, image_size, head, recipe)
        inputs = opened.spec.inputs
        anatomy = replace(opened.anatomy, inputs=inputs)
        pieces = Pieces.along(macs_along(opened.model, inputs, [block.path for block in anatomy.blocks]))
        found.append((replace(opened, anatomy=anatomy), shape_of(opened.model, anatomy), pieces))
    found.sort(key=lambda one: one[2].stem + sum(one[2].blocks) + one[2].tail)
    _check_apart(found)
    return found


def open_anchor(name: str, weights: str, image_size: int | None, head: Head, recipe: Recipe) -> Opened:
    """A backbone by name with the head, or a bundle's model, merged, which keeps its head if it has these classes."""
    if not is_bundle(name):
        reference = BackboneRef(name, weights, image_size=image_size, seed=recipe.seed)
        return builder.base(reference, head, interpolation=recipe.interpolation)
    if image_size is not None:
        raise UsageError(f"the bundle `{name}` keeps its image size", hint="leave `--image-size` out")
    opened = open_bundle(name)
    if getattr(opened.spec.head, "classes", ()) == head.classes:
        plain = merged(opened)
        spec = replace(plain.spec, head=head)
    else:
        plain = bundle.continued(Path(name), head, recipe.seed)
        spec = plain.spec
    odd = [plan.kind for plan in spec.plans if plan.kind not in ("layers", "width")]
    if odd:
        raise PlanError(
            f"the bundle `{name}` cannot be an anchor: what its plan `{odd[0]}` made is no part of a stock backbone",
            hint="take the bundle it was made from",
        )
    digest = backbones.digest(plain.model)
    spec = replace(spec, backbone=replace(spec.backbone, weights="random", digest=digest))
    return replace(plain, spec=spec, complete=True)


def _check_apart(found: Sequence[tuple[Opened, Shape, Pieces]]) -> None:
    """UsageError where two neighbours are the same, or see other images."""
    for (one, *_), (other, *_) in pairwise(found):
        if one.spec.backbone == other.spec.backbone and one.spec.plans == other.spec.plans:
            raise UsageError(f"`{one.spec.backbone.name}` is named twice", hint="name every anchor once")
        if one.spec.preprocessing != other.spec.preprocessing:
            sizes = ["x".join(map(str, o.spec.preprocessing.size)) for o in (one, other)]
            what = f"{sizes[0]} and {sizes[1]} pixels" if sizes[0] != sizes[1] else "images prepared in other ways"
            raise UsageError(
                f"`{one.spec.backbone.name}` and `{other.spec.backbone.name}` see {what}",
                hint="give one `--image-size`, or take anchors of one family",
            )
