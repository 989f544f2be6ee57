"""Pruning in steps: every step cuts a part of the way and recovers, and the next scores its units anew.

How far each goes is reckoned from what the first one starts from, so that rounding does not add up. Steps are ordinary
bundles in `OUT/steps`, each a plan longer than the one before; the last is written to `OUT`.
"""

import json
from dataclasses import asdict, replace

from tailor.budget import parse
from tailor.build import Opened
from tailor.bundle.files import dumps, write_text
from tailor.bundle.write import prepare
from tailor.events import Event
from tailor.pruning.target import check_below
from tailor.run_folder import MANIFEST
from tailor.training import processes_here
from tailor.workflow.context import CutStep
from tailor.workflow.counts import figures
from tailor.workflow.decision import STEPS, check_asked, noted
from tailor.workflow.goal import Goal
from tailor.workflow.opened import deployed
from tailor.workflow.prune import PruneRequest, finished, once, open_, ready_to_cut
from tailor.workflow.records import Pruned

DENSE = "dense.json"
"""The file, among the steps, of the amount that the first one starts from."""


def carry_out(request: PruneRequest) -> Pruned:
    """The pruning, in as many steps as its planner takes; resumed, only with the request that began it."""
    if request.resume:
        check_asked(request.folder, request.asked)
        if (request.folder / MANIFEST).is_file():
            request.tell(Event("done", text=f"`{request.folder}` is finished already"))
            return finished(request.folder)
    return once(request) if request.planner.steps == 1 else in_steps(request)


def in_steps(request: PruneRequest) -> Pruned:
    """Prune in the planner's steps, training `recovers` epochs after each but the last."""
    dense = ready_to_cut(open_(request)[1], request)
    steps, goal, asked = request.planner.steps, request.planner.goal, request.asked
    amount = _amount(request, dense)
    now, whole = request, dict[str, int]()
    for k in range(1, steps):
        request.tell(Event("step", k - 1, steps, f"step {k} of {steps}"))
        folder = request.folder / STEPS / str(k)
        if processes_here().is_main_process:
            prepare(folder, resume=True)
        processes_here().wait_for_everyone()
        made = once(
            replace(
                now,
                folder=folder,
                planner=replace(request.planner, **asdict(part(goal, k, steps, amount))),
                retrain="1clr" if request.planner.recovers else "none",
                recipe=replace(request.recipe, epochs=max(request.planner.recovers, 1), warmup_epochs=None),
                step=CutStep(k, steps, whole),
            ),
            asked=asked,
        )
        plans = noted(folder).decision.plans
        whole = {one.group: one.size for plan in plans for one in getattr(plan, "cuts", ())} | whole
        now = replace(request, name=made.bundle, image_size=None)
    request.tell(Event("step", steps - 1, steps, f"step {steps} of {steps}"))
    planner = replace(request.planner, **asdict(part(goal, steps, steps, amount)))
    last = replace(now, planner=planner, step=CutStep(steps, steps, whole), resume=True)  # its folder holds the steps
    return once(last, dense, asked)


def _amount(request: PruneRequest, dense: Opened) -> float:
    """What there is before the first step of the amount that is to be reached, 0 without a target.

    It is measured once: a resumed run goes the same way.
    """
    target = request.planner.goal.target()
    if target is None:
        return 0.0
    flag, wanted = target
    file, state = request.folder / STEPS / DENSE, processes_here()
    if state.is_main_process and not file.is_file():
        (file.parent / "1").mkdir(parents=True, exist_ok=True)
        whole = figures(flag, dense.spec.inputs)(deployed(dense))
        write_text(file, dumps({flag: whole}))
    state.wait_for_everyone()
    found = float(json.loads(file.read_text(encoding="utf-8"))[flag])
    check_below(wanted.value * (found if wanted.unit == "share" else 1), found)
    return found


def part(goal: Goal, k: int, steps: int, whole: float) -> Goal:
    """The goal of step `k` of `steps`: the same share goes in every one. `whole` is the target's amount before them.

    Shares are of what was there before the first step.
    """
    shares = {flag: f"{100 * (1 - (1 - share) ** (k / steps))!r}%" for flag, share in _given(goal).items()}
    if k == steps:
        shares = {}  # as they were given
    target = goal.target()
    if target is None:
        return replace(goal, **shares)
    flag, amount = target
    last = amount.value * whole if amount.unit == "share" else amount.value
    value = last if k == steps else whole * (last / whole) ** (k / steps)
    return replace(goal, **shares, **{flag: f"{value:.6f}ms" if flag == "latency" else str(int(value))})


def _given(goal: Goal) -> dict[str, float]:
    flags = ("ratio", "emb", "heads", "dim", "mlp")
    return {
        flag: parse(text, f"--{flag}", zero=True).value for flag in flags if (text := getattr(goal, flag)) is not None
    }
