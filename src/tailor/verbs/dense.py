"""What `prune` starts from, an adapted bundle or a backbone by name with a fresh head; and the same model made smaller.

A spec with a pruning plan added is built anew on the stock backbone and given the tensors that are left, so that what
is measured is what the written bundle will be read as.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from tailor import backbones, bundle
from tailor import build as builder
from tailor.anatomy import Anatomy
from tailor.data.images import ImageData
from tailor.errors import UsageError
from tailor.pruning.blocks import lists_of
from tailor.pruning.layers import LayerPlan
from tailor.spec import AnyPlan, BackboneRef, ClassifierHead, Spec
from tailor.surgery import changed, get_module, load_changed_, trainable
from tailor.tracing import WidthPlan
from tailor.training import Recipe
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merges
from tailor.tuning.beside import names_of
from tailor.tuning.plan import TunePlan, without
from tailor.verbs.beside import folded, left
from tailor.verbs.images import preprocessing_of
from tailor.verbs.planning import backbone_parameters, head_parameters
from tailor.verbs.train import Planned


@dataclass(frozen=True)
class Dense:
    """A model before pruning. `complete` as in a bundle; `weights` is where the backbone's tensors are looked for."""

    spec: Spec
    model: nn.Module
    anatomy: Anatomy
    complete: bool
    weights: str | None = None


def from_bundle(name: str, weights: str | None) -> Dense:
    """The bundle's model, its tunes unmerged; where it has none (a merged bundle), the classifier is what may train."""
    loaded = bundle.read(Path(name))
    model = bundle.restore(loaded, weights)
    anatomy = backbones.describe(model)
    spec = replace(loaded.spec, plans=_renumbered(loaded.spec.plans))
    if not spec.tuning:
        plan = planner.plan(model, anatomy, planner.parse("linear"))
        apply_(model, plan, anatomy.heads)
        spec = replace(spec, plans=(*spec.plans, plan))
    return Dense(spec, model, anatomy, loaded.manifest.complete, weights)


def from_name(
    name: str, weights: str, image_size: int | None, images: ImageData, recipe: Recipe, own: bool = False
) -> Dense:
    """A backbone by name with a fresh classifier for the data's classes, which is all that may train.

    With `own` the classifier is the backbone's, whose outputs must be the data's classes, in their order.
    """
    head = ClassifierHead(images.classes, recipe.seed)
    made = builder.base(BackboneRef(name, weights, image_size=image_size, seed=recipe.seed), head)
    plan = planner.plan(made.model, made.anatomy, planner.parse("linear"))
    preprocessing = preprocessing_of(made.config, recipe.interpolation)
    spec = Spec(made.reference, head, preprocessing, (plan,))
    model = builder.apply_plans_(made, spec.plans, head.seed).eval()
    if own:
        _take_classifier_(model, backbones.create(name, weights, image_size, recipe.seed), made.anatomy.heads, name)
    return Dense(spec, model, made.anatomy, weights == "random")


def _take_classifier_(model: nn.Module, stock: nn.Module, heads: Sequence[str], name: str) -> None:
    """Give the model the stock backbone's classifiers; UsageError where they tell other classes apart."""
    for head in heads:
        ours, theirs = get_module(model, head).state_dict(), get_module(stock, head).state_dict()
        for leaf, tensor in theirs.items():
            if ours[leaf].shape != tensor.shape:
                raise UsageError(
                    f"the classifier of `{name}` has {len(tensor)} classes, the data {len(ours[leaf])}",
                    hint=f"adapt it first, `tailor adapt DATA --model {name} -o runs/a`, then prune `runs/a`",
                )
        get_module(model, head).load_state_dict(theirs)


def merged(dense: Dense, train: str = "full") -> Dense:
    """The model with its tunes folded in: what has none can be cut in every width. `train` is `full` or the head."""
    model = builder.merged_(copy.deepcopy(dense.model), dense.spec)
    anatomy = backbones.describe(model)
    plan = planner.plan(model, anatomy, planner.parse("full" if train == "full" else "linear"))
    spec = replace(dense.spec, plans=(*dense.spec.pruning, plan))  # its names are those that the pruning has left
    return Dense(spec, model, anatomy, complete=True)


def _renumbered(plans: Sequence[AnyPlan]) -> tuple[AnyPlan, ...]:
    """The same plans, tunes of whole tensors behind the layer plans, in the names of the blocks that these leave.

    Where a block goes from the middle of its list, those behind it get other numbers. Everything else that looks at a
    model reads what trains in it by the names that it has now.
    """
    found: list[AnyPlan] = []
    for plan in plans:
        whole = [p for p in found if isinstance(p, TunePlan) and not p.tunes and not p.entries]
        dropped = plan.dropped if isinstance(plan, LayerPlan) else ()
        moved = [replace(p, full=tuple(_number_now(name, dropped) for name in p.full)) for p in whole]
        found = [*(p for p in found if p not in whole), plan, *moved] if moved != whole else [*found, plan]
    return tuple(found)


def _number_now(name: str, dropped: Collection[str]) -> str:
    """The name of a parameter once its block has moved up in its list."""
    for holder, gone in lists_of(tuple(dropped)).items():
        number, _, rest = name.removeprefix(f"{holder}.").partition(".")
        if name.startswith(f"{holder}.") and number.isdecimal():
            above = sum(int(path.rpartition(".")[2]) < int(number) for path in gone)
            return f"{holder}.{int(number) - above}.{rest}"
    return name


def thawed(dense: Dense) -> Dense:
    """The model with every parameter to train, its tunes still beside the layers; single entries are folded in."""
    model = folded(dense.model).requires_grad_(True)
    names, roots = names_of(dense.spec.tuning), tuple(f"{head}." for head in dense.anatomy.heads)
    stock = [names.place(name).stock for name, _ in model.named_parameters()]
    full = tuple(name for name in stock if name is not None and not name.startswith(roots))
    plans = [replace(p, entries=(), full=full) if isinstance(p, TunePlan) else p for p in dense.spec.plans]
    return replace(dense, spec=replace(dense.spec, plans=tuple(plans)), model=model)


def with_layers(dense: Dense, plan: LayerPlan) -> Spec:
    """The spec with a layer plan added, and with what was to train in the dropped blocks left out."""
    if not plan.dropped:
        return replace(dense.spec, plans=(*dense.spec.plans, plan))
    blocks = [block.path for block in dense.anatomy.blocks]
    kept = [without(p, blocks, plan.dropped) if isinstance(p, TunePlan) else p for p in dense.spec.plans]
    return replace(dense.spec, plans=(*kept, plan))


def smaller(dense: Dense, spec: Spec, cut: WidthPlan | None, fresh: bool = False) -> Planned:
    """The model of `spec`, ready to train: with the dense model's tensors, or, with `fresh`, its trained ones anew.

    `cut` says, in the dense model's names, which widths have gone, where any have.
    """
    made = builder.base(_reference(dense), spec.head, check=False)
    whole = backbone_parameters(made)
    stock = set(made.model.state_dict())
    model = builder.apply_plans_(made, spec.plans, spec.head.seed).eval()
    ours = changed(model)
    last = spec.plans[-1]
    layers = last if isinstance(last, LayerPlan) else None  # beside a cut: made with it
    theirs = dense.model.state_dict() if cut is None else left(dense.model, dense.spec.tuning, cut, model, layers)
    if dense.complete:
        again = _new(spec, stock, ours, dense.anatomy.heads) if fresh else set()
        start = model.state_dict()
        bundle.load_all_(model, {**start, **_those(theirs, [n for n in start if n not in again])})
    elif not fresh:
        load_changed_(model, _those(theirs, list(ours)))
    return Planned(model, dense.anatomy.heads, whole, dense.complete)


def _new(spec: Spec, stock: Collection[str], ours: Collection[str], heads: tuple[str, ...]) -> set[str]:
    """What starts anew: the classifier, what tunes added, and tensors with sparse entries (from the same seed)."""
    roots = tuple(f"{head}." for head in heads)
    added = {name for name in ours if name.startswith(roots) or name not in stock}
    return added | {entries.tensor for plan in spec.tuning for entries in plan.entries}


def deployed(model: nn.Module, spec: Spec) -> nn.Module:
    """A copy as it would be deployed: tunes folded in where all of them fold exactly."""
    plain = copy.deepcopy(model)
    return builder.merged_(plain, spec) if all(merges(plan) for plan in spec.tuning) else plain


def counted(spec: Spec, planned: Planned) -> Spec:
    """The spec with the cost of its tunes counted again on the model they were applied to."""
    trained = sum(p.numel() for p in trainable(planned.model).values())
    cost = trained - head_parameters(planned.model, planned.heads)
    return replace(spec, plans=tuple(replace(p, cost=cost) if isinstance(p, TunePlan) else p for p in spec.plans))


def _those(tensors: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names if name in tensors}


def _reference(dense: Dense) -> BackboneRef:
    """Where to build on: as reading the bundle does."""
    elsewhere = "random" if dense.complete else dense.weights or dense.spec.backbone.weights
    return replace(dense.spec.backbone, weights=elsewhere)
