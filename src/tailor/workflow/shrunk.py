"""Adapting and pruning in one go: one time for both, one bundle at the end, the adapted one in `OUT/adapted`."""

import time
from dataclasses import replace
from typing import Any

from tailor.bundle.evidence import Asked
from tailor.deploy.runtimes import tried
from tailor.errors import PlanError
from tailor.events import Event
from tailor.recipe import recipe_of
from tailor.run_folder import MANIFEST
from tailor.workflow import adapt as adapting
from tailor.workflow import evidence
from tailor.workflow.context import CutStep
from tailor.workflow.decision import ADAPTED, check_asked
from tailor.workflow.destination import Destination
from tailor.workflow.output import output
from tailor.workflow.planners import given
from tailor.workflow.prune import PruneRequest, finished, once
from tailor.workflow.records import Pruned
from tailor.workflow.train import usual_of

SHARE = 0.3
"""Of the time, for adapting."""


def adapt_and_prune(request: adapting.AdaptRequest, planner: Any) -> Pruned:
    """The adapted model, made smaller by the planner within its minutes, adapting included."""
    began, tell = time.monotonic(), request.tell
    ((key, wanted),) = request.places.items()
    with output(wanted, tell) as found:
        smaller = PruneRequest(
            name=str(found.folder / ADAPTED),
            folder=found.folder,
            planner=planner,
            data=request.data,
            task=None,
            classifier="fresh",
            retrain="none",
            train="full",
            recipe=request.recipe,
            weights=None,
            download=False,
            image_size=None,
            teacher=request.teacher,
            corrupt=request.corrupt,
            workers=request.workers,
            resume=request.resume,
            tell=tell,
            step=CutStep(),
            said=said(request, planner),
        )
        asked = {**smaller.asked, "name": ADAPTED}
        if request.resume:
            check_asked(found.folder, asked)
            if (found.folder / MANIFEST).is_file():
                tell(Event("done", text=f"`{found.folder}` is finished already"))
                return found.settled(finished(found.folder))  # type: ignore[no-any-return]
        place = Destination(found.folder / ADAPTED, resume=request.resume, inputs=wanted.inputs)
        tried(planner.runtime)
        adapting.adapt(replace(request, places={key: place}, seconds=SHARE * 60 * float(planner.minutes)))
        spent, usual = time.monotonic() - began, usual_of(smaller.name)
        recipe = recipe_of(request.further, request.recipe.seed, usual, **request.given)
        try:
            made = once(replace(smaller, recipe=recipe, spent=spent), asked=asked)
        except PlanError as error:
            kept = f"the adapted model is kept, `--resume` starts from it: `{smaller.name}`"
            raise PlanError(error.message, hint=f"{error.hint}; {kept}") from None
        return found.settled(replace(made, seconds=round(time.monotonic() - began, 2)))  # type: ignore[no-any-return]


def said(request: adapting.AdaptRequest, planner: Any) -> Asked:
    """The command that asks for both."""
    ((decoder, method),) = request.places
    own, more = request.said(method, decoder), given("prune", planner.method, planner)
    flags = {name: value for name, value in more.items() if isinstance(value, str | int | float)}
    sections = {name: evidence.plain(value) for name, value in more.items() if name not in flags}
    return replace(own, flags={**own.flags, **flags}, sections={**own.sections, **sections})
