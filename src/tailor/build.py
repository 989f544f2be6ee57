"""From a spec to a module: make the backbone, give it its head, apply the plans in order.

The only way to make a model.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from tailor import backbones
from tailor.anatomy import Anatomy
from tailor.backbones import Config
from tailor.errors import BundleError, PlanError
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.spec import AnyPlan, BackboneRef, ClassifierHead, Spec
from tailor.tracing import cut_
from tailor.tuning.apply import apply_, cost, merge_
from tailor.tuning.plan import TunePlan


@dataclass(frozen=True)
class Base:
    """A backbone with its head, before any plan: what a planner looks at."""

    model: nn.Module
    anatomy: Anatomy
    config: Config
    reference: BackboneRef


def base(reference: BackboneRef, head: ClassifierHead, check: bool = True) -> Base:
    """Make the backbone and its head. With `check`, the weights must have the digest that the reference records.

    A reference without a digest gets one. ModelError where the backbone cannot be made; BundleError on other weights.
    """
    model = backbones.create(reference.name, reference.weights, reference.image_size, reference.seed)
    digest = reference.digest
    if check or not digest:
        digest = backbones.digest(model)
        if check and reference.digest and digest != reference.digest:
            raise BundleError(
                f"the weights of `{reference.name}` are not those the bundle was made with: "
                f"{digest[:19]}..., expected {reference.digest[:19]}...",
                hint="get the same weights again, or give the right file with `--weights FILE`",
            )
    config = backbones.config_of(model)
    backbones.attach_head_(model, len(head.classes), head.seed)
    anatomy = backbones.describe(model)
    return Base(model, anatomy, config, dataclasses.replace(reference, digest=digest))


def apply_plans_(made: Base, plans: Sequence[AnyPlan], seed: int = 0, most: int | None = None) -> nn.Module:
    """Apply the plans to the base's model, in order, and return it.

    With `most`, PlanError before modules of more parameters than that are made.
    """
    for plan in plans:
        match plan:
            case TunePlan():
                asked = cost(made.model, dataclasses.replace(plan, full=(), entries=()))
                if most is not None and asked > most:
                    raise PlanError(
                        f"{most:,} stored numbers do not fit the plan, whose modules have {asked:,} parameters"
                    )
                apply_(made.model, plan, made.anatomy.heads, seed)
            case LayerPlan():
                apply_layers_(made.model, plan)
            case _:
                cut_(made.model, plan)
    return made.model


def build(spec: Spec, check: bool = True, most: int | None = None) -> nn.Module:
    """The model that `spec` describes, in eval mode, its trained tensors still at their start.

    `most` bounds the parameters of the modules that the plans put in.
    """
    made = base(spec.backbone, spec.head, check)
    return apply_plans_(made, spec.plans, spec.head.seed, most).eval()


def merged_(model: nn.Module, spec: Spec) -> nn.Module:
    """Fold the spec's tunes back into plain layers; PlanError naming what cannot be folded."""
    for plan in reversed(spec.tuning):
        merge_(model, plan)
    return model
