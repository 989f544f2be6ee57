"""Pruning in steps: every step cuts a part of the way and recovers, and the next scores its units anew.

How far each goes is reckoned from what the first one starts from, so that rounding does not add up. Steps are ordinary
bundles in `OUT/steps`, each a plan longer than the one before; the last is written to `OUT`.
"""

import json
from collections.abc import Callable
from dataclasses import replace

from tailor.budget import parse
from tailor.bundle.files import dumps, write_text
from tailor.errors import UsageError
from tailor.events import Event
from tailor.pruning.target import check_below
from tailor.training import processes_here
from tailor.verbs.decided import STEPS, noted
from tailor.verbs.dense import Dense, deployed
from tailor.verbs.narrow import Goal
from tailor.verbs.order import Order, Step
from tailor.verbs.pruned import Pruned
from tailor.verbs.reaching import figures
from tailor.verbs.train import ready

DENSE = "dense.json"
"""The file, among the steps, of the amount that the first one starts from."""


def check(order: Order) -> None:
    """UsageError where steps mean nothing."""
    steps, recover = order.step.of, order.recover
    if steps < 1 or recover < 0:
        raise UsageError(f"`--steps {steps} --recover {recover}` cannot be", hint="write for instance `--steps 3`")
    if steps > 1 and not order.narrows:
        raise UsageError(f"`--steps {steps}` is for widths, `{order.method}` decides once", hint="leave it out")
    if steps > 1 and (order.widths or {}).get("blocks"):
        raise UsageError("`blocks` and `--steps` do not go together", hint="prune in steps first, then drop blocks")
    if steps > 1 and recover and not order.data:
        raise UsageError("recovering between steps needs labelled images", hint="add `--data DATA`, or `--recover 0`")


def in_steps(order: Order, dense: Dense, once: Callable[[Order, Dense | None], Pruned]) -> Pruned:
    """Prune in steps, training `recover` epochs after each but the last. `dense` is what the order starts from."""
    steps = order.step.of
    ready(order.folder, order.overwrite, order.resume)
    amount = _amount(order, dense)
    now, whole = order, dict[str, int]()
    for k in range(1, steps):
        order.report(Event("step", k - 1, steps, f"step {k} of {steps}"))
        made = once(
            replace(
                now,
                folder=order.folder / STEPS / str(k),
                goal=part(order.goal, k, steps, amount),
                retrain="1clr" if order.recover else "none",
                recipe=replace(order.recipe, epochs=max(order.recover, 1), warmup_epochs=None),
                step=Step(k, steps, whole),
            ),
            None,
        )
        cut = noted(order.folder / STEPS / str(k)).cut
        whole = {one.group: one.size for one in (cut.cuts if cut else ())} | whole
        now = replace(order, name=made.bundle, image_size=None)
    order.report(Event("step", steps - 1, steps, f"step {steps} of {steps}"))
    last = replace(now, goal=part(order.goal, steps, steps, amount), step=Step(steps, steps, whole))
    return once(replace(last, resume=True), dense)  # its folder holds the steps already


def _amount(order: Order, dense: Dense) -> float:
    """What there is before the first step of the amount that is to be reached, 0 without a target.

    It is measured once: a resumed run goes the same way.
    """
    target = order.goal.target()
    if target is None:
        return 0.0
    flag, wanted = target
    file, state = order.folder / STEPS / DENSE, processes_here()
    if state.is_main_process and not file.is_file():
        (file.parent / "1").mkdir(parents=True, exist_ok=True)
        whole = figures(flag, (3, *dense.spec.preprocessing.size))(deployed(dense.model, dense.spec))
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
