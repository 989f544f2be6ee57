"""A pruning in as many steps as its planner takes, or what it said when it was finished before."""

from tailor import bundle
from tailor.events import Event
from tailor.workflow.decision import check_asked
from tailor.workflow.prune import Request, finished, once
from tailor.workflow.records import Pruned
from tailor.workflow.steps import in_steps


def carry_out(request: Request) -> Pruned:
    """The pruning; resumed, only with the request that began it."""
    if request.resume:
        check_asked(request.folder, request.asked)
        if (request.folder / bundle.MANIFEST).is_file():
            request.tell(Event("done", text=f"`{request.folder}` is finished already"))
            return finished(request.folder)
    return once(request) if request.planner.steps == 1 else in_steps(request)
