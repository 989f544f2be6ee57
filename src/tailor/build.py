"""From a spec to a module: make the backbone, give it its head, apply the plans in order.

The only way to make a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from tailor import backbones
from tailor.anatomy import Anatomy
from tailor.dense.attach import settle_, without_decoder_
from tailor.errors import BundleError
from tailor.plans import PLANS, AnyPlan, Circumstances
from tailor.preprocessing import Interpolation, Preprocessing
from tailor.spec import BackboneRef, Spec
from tailor.tasks import Head, task_of
from tailor.tuning.apply import merge_


@dataclass(frozen=True)
class Opened:
    """A model and what is known of it: its spec, and its anatomy as it is now.

    `complete` says that a bundle of it has to hold every tensor; `weights` is where its backbone's tensors are looked
    for, if not where the spec says; `whole` counts the parameters of its backbone before any plan, the head left out.
    """

    spec: Spec
    model: nn.Module
    anatomy: Anatomy
    complete: bool = False
    weights: str | None = None
    whole: int = 0


def base(
    reference: BackboneRef,
    head: Head,
    *,
    interpolation: Interpolation = "bicubic",
    longest: int = 256,
    check: bool = True,
) -> Opened:
    """The backbone with a fresh head, before any plan; images are resized by `interpolation`, texts cut at `longest`.

    With `check`, the weights must have the digest that the reference records; a reference without a digest gets one.
    ModelError where the backbone cannot be made; BundleError on other weights.
    """
    model = backbones.create(reference.name, reference.weights, reference.image_size, reference.seed)
    preprocessing = backbones.input_of(model, reference.name, interpolation, longest)
    return _headed(model, Spec(reference, head, preprocessing), check)


def continued(
    source: Spec, tensors: Mapping[str, Tensor], reference: BackboneRef, head: Head, *, check: bool = True
) -> Opened:
    """Another model, merged, with a fresh head: `source` is its spec and `tensors` are all it holds.

    Its plans that take away lead the new spec; `reference` is checked as in `base`.
    """
    made = base(replace(source.backbone, weights="random"), source.head, check=False)
    model = apply_plans_(made, source.pruning).model
    model.load_state_dict(dict(tensors))
    return _headed(model, Spec(reference, head, source.preprocessing, source.pruning), check)


def _headed(model: nn.Module, spec: Spec, check: bool) -> Opened:
    """The model with the spec's head, fresh, once its weights have been held against their digest."""
    reference = spec.backbone
    digest = reference.digest
    if check or not digest:
        digest = backbones.digest(model)
        if check and reference.digest and digest != reference.digest:
            raise BundleError(
                f"the weights of `{reference.name}` are not those the bundle was made with: "
                f"{digest[:19]}..., expected {reference.digest[:19]}...",
                hint="get the same weights again, or give the right file with `--weights FILE`",
            )
    task = task_of(spec.head)
    task.attach_(without_decoder_(model), spec.head)
    preprocessing = spec.preprocessing
    if isinstance(preprocessing, Preprocessing):
        size = task.size(spec.head, preprocessing.size, reference.image_size)
        preprocessing = replace(preprocessing, size=size)
    anatomy = backbones.describe(model)
    roots = tuple(f"{path}." for path in anatomy.heads)
    whole = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(roots))
    spec = replace(spec, backbone=replace(reference, digest=digest), preprocessing=preprocessing)
    return Opened(spec, model, anatomy, reference.weights == "random", whole=whole)


def apply_plans_(opened: Opened, plans: Sequence[AnyPlan], most: int | None = None) -> Opened:
    """Apply further plans to the opened model, in order: its spec has them, its anatomy is as before.

    With `most`, PlanError before modules of more parameters than that are made.
    """
    setting = Circumstances(opened.anatomy.heads, opened.spec.head.seed, most)
    for plan in plans:
        PLANS[plan.kind].apply_(opened.model, plan, setting)
    settle_(opened.model)
    spec = replace(opened.spec, plans=(*opened.spec.plans, *plans))
    return replace(opened, spec=spec)


def build(spec: Spec, check: bool = True, most: int | None = None) -> nn.Module:
    """The model that `spec` describes, in eval mode, its trained tensors still at their start.

    `most` bounds the parameters of the modules that the plans put in.
    """
    return apply_plans_(base(spec.backbone, spec.head, check=check), spec.plans, most).model.eval()


def merged_(model: nn.Module, spec: Spec) -> nn.Module:
    """Fold the spec's tunes back into plain layers; PlanError naming what cannot be folded."""
    for plan in reversed(spec.tuning):
        merge_(model, plan)
    return model
