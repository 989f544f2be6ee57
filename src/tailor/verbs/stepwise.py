"""Pruning in steps: every step cuts a part of the way and recovers, and the next scores its units anew.

Steps are ordinary bundles in `OUT/steps`, each a plan longer than the one before; the last is written to `OUT`.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from tailor.budget import parse
from tailor.errors import UsageError
from tailor.verbs.dense import Dense, deployed
from tailor.verbs.events import Event
from tailor.verbs.narrow import Goal
from tailor.verbs.order import Order, Pruned
from tailor.verbs.reaching import figures
from tailor.verbs.train import ready

STEPS = "steps"


def check(order: Order, steps: int, recover: int | None) -> int:
    """The epochs between steps; UsageError where steps mean nothing."""
    if recover is not None and steps == 1:
        raise UsageError(f"`--recover {recover}` trains between steps, and there is one", hint="add `--steps 3`")
    recover = 1 if recover is None else recover
    if steps < 1 or recover < 0:
        raise UsageError(f"`--steps {steps} --recover {recover}` cannot be", hint="write for instance `--steps 3`")
    if steps > 1 and not order.narrows:
        raise UsageError(f"`--steps {steps}` is for widths, `{order.method}` decides once", hint="leave it out")
    if steps > 1 and (order.widths or {}).get("blocks"):
        raise UsageError("`blocks` and `--steps` do not go together", hint="prune in steps first, then drop blocks")
    if steps > 1 and recover and not order.data:
        raise UsageError("recovering between steps needs labelled images", hint="add `--data DATA`, or `--recover 0`")
    return recover


def in_steps(
    order: Order, steps: int, recover: int, dense: Dense, once: Callable[[Order, Dense | None], Pruned]
) -> Pruned:
    """Prune in `steps`, training `recover` epochs after each but the last. `dense` is what the order starts from."""
    ready(order.folder, order.overwrite, order.resume)
    name, whole = order.name, deployed(dense.model, dense.spec)
    for k in range(1, steps + 1):
        order.report(Event("step", k - 1, steps, f"step {k} of {steps}"))
        goal = part(order.goal, k, steps, whole, (3, *dense.spec.preprocessing.size))
        if k == steps:
            break
        recipe = replace(order.recipe, epochs=max(recover, 1), warmup_epochs=None)
        made = once(
            replace(
                order,
                name=name,
                folder=order.folder / STEPS / str(k),
                goal=goal,
                retrain="1clr" if recover else "none",
                recipe=recipe,
                resume=True,
            ),
            None,
        )
        name = made.bundle
    return replace(once(replace(order, name=name, goal=goal, resume=True), dense), steps=steps)


def part(goal: Goal, k: int, steps: int, model: nn.Module, size: tuple[int, int, int]) -> Goal:
    """The goal of step `k`: the same share goes in every step, so that all remove what was asked of `model`."""
    shares = {name: _percent(1 - (1 - share) ** (1 / steps)) for name, share in _given(goal).items()}
    target = goal.target()
    if target is None:
        return replace(goal, **shares)
    flag, amount = target
    whole = figures(flag, size)(model)
    last = amount.value * whole if amount.unit == "share" else amount.value
    value = whole * (last / whole) ** (k / steps) if last < whole else last
    return replace(goal, **{**shares, flag: f"{value:.6f}ms" if flag == "latency" else str(int(value))})


def _given(goal: Goal) -> dict[str, float]:
    flags = ("ratio", "emb", "heads", "dim", "mlp")
    return {flag: parse(text, f"--{flag}").value for flag in flags if (text := getattr(goal, flag)) is not None}


def _percent(share: float) -> str:
    return f"{100 * share:.8f}%"
