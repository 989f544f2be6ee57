"""Closed-form recovery of what a planner decided: the cut model's tensors, repaired on training images before anything
trains. Labels are not looked at."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from tailor.events import Event
from tailor.plans import PLANS
from tailor.pruning.recover import estimate_, repair_
from tailor.pruning.settings import Recovery, Repair
from tailor.workflow.context import Context, Decision, Recovered
from tailor.workflow.smaller import extended, smaller

SAMPLES = 512
"""Images that a cut model is repaired on."""


def recovered(context: Context, decision: Decision, how: Recovery, samples: int = SAMPLES) -> Decision:
    """The decision with the tensors that recovery leaves of the context's model.

    All layers behind a cut of widths are repaired, and behind one of blocks where nothing stands in their place and
    the bundle is to hold every tensor; else only what stands there.
    """
    if how == "none":
        return decision
    opened = context.opened
    cut = smaller(opened, extended(opened, decision.plans), decision).model
    (part,) = context.sample(samples, "train")

    def images() -> Iterator[Tensor]:
        return (batch.images for batch in context.batches(part))

    if how == "norms":
        norms = estimate_(cut, opened.model, decision.plans, images)
        told = Recovered(how, f"statistics of {norms} batch norms estimated anew on {len(part)} images")
    else:
        cuts = any(PLANS[plan.kind].narrows for plan in decision.plans)
        bridged = any(getattr(plan, "bypasses", ()) for plan in decision.plans)
        behind = cuts or (opened.complete and not bridged)
        settings = Repair(layers="behind" if behind else "bypass", seed=context.recipe.seed)
        done = repair_(cut, opened.model, decision.plans, images, settings, context.tell)
        text = (
            f"{len(done.layers)} layers repaired on {done.images} images: error {done.before:.3f} -> {done.after:.3f}"
        )
        if done.skipped:
            path, why = done.skipped[0]
            text += f"; {len(done.skipped)} could not be, such as `{path}`: {why}"
        told = Recovered(how, text, len(done.layers), done.before, done.after, done.seconds)
    context.tell(Event("repaired", text=told.text))
    tensors = {name: tensor.clone() for name, tensor in cut.state_dict().items()}  # a tied one is written twice
    return replace(decision, tensors=tensors, recovered=told)
