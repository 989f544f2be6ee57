"""The model that a decision leads to: built anew from its spec, and given the tensors that are left.

So what is measured is what the written bundle will be read as.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import Tensor

from tailor import build as builder
from tailor import bundle
from tailor.build import Opened
from tailor.plans import PLANS, AnyPlan, retuned
from tailor.spec import Spec
from tailor.surgery import changed, load_changed_, trainable
from tailor.workflow.budgets import head_parameters
from tailor.workflow.context import Decision
from tailor.workflow.tunes_beside import left


def extended(opened: Opened, plans: Sequence[AnyPlan]) -> Spec:
    """The model's spec with further plans, made of that model one after the other."""
    found, blocks = opened.spec.plans, [block.path for block in opened.anatomy.blocks]
    for plan in plans:
        found = PLANS[plan.kind].add(found, plan, blocks)
    return replace(opened.spec, plans=found)


def smaller(opened: Opened, spec: Spec, decision: Decision, fresh: bool = False) -> Opened:
    """The model of `spec`, ready to train: with the tensors that are left, or, with `fresh`, its trained ones anew."""
    elsewhere = "random" if opened.complete else opened.weights or spec.backbone.weights
    made = bundle.base(replace(spec.backbone, weights=elsewhere), spec.head, check=False)
    stock = set(made.model.state_dict())
    model = builder.apply_plans_(made, spec.plans[len(made.spec.plans) :]).model.eval()
    ours = changed(model)
    theirs = left(opened, decision, model)
    if opened.complete:
        again = _new(spec, stock, ours, opened.anatomy.heads) if fresh else set()
        start = model.state_dict()
        bundle.load_all_(model, {**start, **_those(theirs, [n for n in start if n not in again])})
    elif not fresh:
        load_changed_(model, _those(theirs, list(ours)))
    return Opened(spec, model, opened.anatomy, opened.complete, opened.weights, made.whole)


def _new(spec: Spec, stock: Collection[str], ours: Collection[str], heads: tuple[str, ...]) -> set[str]:
    """What starts anew: the classifier, what tunes added, and tensors with sparse entries (from the same seed)."""
    roots = tuple(f"{head}." for head in heads)
    added = {name for name in ours if name.startswith(roots) or name not in stock}
    return added | {entries.tensor for plan in spec.tuning for entries in plan.entries}


def counted(opened: Opened) -> Opened:
    """With the cost of its tunes counted again on the model they were applied to."""
    trained = sum(p.numel() for p in trainable(opened.model).values())
    cost = trained - head_parameters(opened.model, opened.anatomy.heads)
    plans = retuned(opened.spec.plans, lambda plan: replace(plan, cost=cost))
    return replace(opened, spec=replace(opened.spec, plans=plans))


def _those(tensors: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names if name in tensors}
