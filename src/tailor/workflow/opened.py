"""What a verb starts from, opened: a bundle, or a backbone by name with a head for the data or its own."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from tailor import backbones, bundle
from tailor import build as builder
from tailor.build import Opened
from tailor.data.images import ImageData
from tailor.errors import UsageError
from tailor.plans import renumbered, retuned
from tailor.spec import BackboneRef
from tailor.surgery import get_module
from tailor.tasks import Task
from tailor.tasks.classification import ClassifierHead
from tailor.tasks.language import LanguageHead
from tailor.training import Recipe
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merges
from tailor.tuning.beside import names_of
from tailor.workflow.names import is_bundle
from tailor.workflow.tunes_beside import folded


def open_bundle(
    name: str | Path, weights: str | None = None, download: bool = False, route: str | None = None
) -> Opened:
    """The bundle's model (of a palette a route's), its tunes unmerged; `download` as in `bundle.restore`."""
    loaded = bundle.read(Path(name), route, download)
    model = bundle.restore(loaded, weights, download)
    spec = replace(loaded.spec, plans=renumbered(loaded.spec.plans))
    return Opened(spec, model, backbones.describe(model), loaded.manifest.complete, weights)


def own_head(name: str, weights: str, image_size: int | None, seed: int = 0) -> Opened:
    """A backbone with the classifier that it came with, its classes numbered; UsageError where it has none."""
    reference = BackboneRef(name, weights, image_size=image_size, seed=seed)
    stock = backbones.create(name, weights, image_size, seed)
    if hasattr(stock, "generate"):
        return replace(builder.base(reference, LanguageHead(seed)), complete=True)
    classes = int(getattr(stock, "num_classes", 0) or 0)
    if classes < 2:
        raise UsageError(f"`{name}` has no classifier of its own", hint="add `--data DATA`, or adapt it first")
    opened = builder.base(reference, ClassifierHead(tuple(map(str, range(classes))), seed))
    _take_classifier_(opened.model, stock, opened.anatomy.heads, name)
    return replace(opened, complete=True)


def with_head(
    name: str,
    weights: str,
    image_size: int | None,
    images: ImageData,
    task: Task,
    recipe: Recipe,
    own: bool = False,
) -> Opened:
    """A backbone by name, or a bundle's model, with a fresh head for the data.

    With `own` the head is the backbone's classifier, whose outputs must be the data's classes, in their order.
    """
    head = task.head(images, recipe.seed)
    reference = BackboneRef(name, weights, image_size=image_size, seed=recipe.seed)
    if is_bundle(name):
        return bundle.continued(Path(name), head, recipe.seed)
    opened = builder.base(reference, head, interpolation=recipe.interpolation, longest=recipe.longest)
    if own:
        stock = backbones.create(name, weights, image_size, recipe.seed)
        _take_classifier_(opened.model, stock, opened.anatomy.heads, name)
    return opened


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


def headed(opened: Opened) -> Opened:
    """The model with a plan of what may train: the head alone, where it has no tunes."""
    if opened.spec.tuning:
        return opened
    plan = planner.plan(opened.model, opened.anatomy, planner.parse("linear"))
    apply_(opened.model, plan, opened.anatomy.heads)
    return replace(opened, spec=replace(opened.spec, plans=(*opened.spec.plans, plan)))


def merged(opened: Opened, train: str = "") -> Opened:
    """A copy with its tunes folded in: what has none can be cut in every width.

    `train` (`full`, or `tunes` for the head alone) plans what may train afterwards; without it nothing is planned.
    """
    model = builder.merged_(copy.deepcopy(opened.model), opened.spec)
    anatomy = backbones.describe(model)
    plans = opened.spec.pruning  # names are those that the pruning has left
    if train:
        plans = (*plans, planner.plan(model, anatomy, planner.parse("full" if train == "full" else "linear")))
    return Opened(replace(opened.spec, plans=plans), model, anatomy, complete=True)


def thawed(opened: Opened) -> Opened:
    """The model with every parameter to train, its tunes still beside the layers; single entries are folded in."""
    model = folded(opened.model).requires_grad_(True)
    names, roots = names_of(opened.spec.tuning), tuple(f"{head}." for head in opened.anatomy.heads)
    stock = [names.place(name).stock for name, _ in model.named_parameters()]
    full = tuple(name for name in stock if name is not None and not name.startswith(roots))
    plans = retuned(opened.spec.plans, lambda plan: replace(plan, entries=(), full=full))
    return replace(opened, spec=replace(opened.spec, plans=plans), model=model)


def deployed(opened: Opened) -> nn.Module:
    """A copy of the model as it would be deployed: tunes folded in where all of them fold exactly."""
    plain = copy.deepcopy(opened.model)
    return builder.merged_(plain, opened.spec) if all(merges(plan) for plan in opened.spec.tuning) else plain
