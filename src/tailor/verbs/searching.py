"""NOAH's two stages before the ordinary one: train the supernet, then search it on val for a plan within the budget.

The supernet trains as long as the recipe says, at half its rate (the paper: 5 times as long as the final run, 5e-4).
"""

import copy
import math
from dataclasses import replace

from tailor.events import Event
from tailor.training import fit, objective
from tailor.tuning import noah
from tailor.tuning.apply import apply_
from tailor.tuning.apply import cost as price
from tailor.tuning.plan import TunePlan
from tailor.verbs.configured import configured
from tailor.verbs.course import on_images, training_report
from tailor.verbs.images import in_order
from tailor.verbs.task import Task

SUPERNET = "supernet"
"""Folder of the supernet's own training state inside the run."""


def search(task: Task, limit: int) -> TunePlan:
    """The best plan of at most `limit` parameters that mixes prompts, LoRA and adapters; PlanError where none fits."""
    base, recipe = task.base, task.run.recipe
    settings = configured(noah.Noah(), task.noah, "NOAH", "docs/methods/noah.md")
    depth = len(base.anatomy.blocks)
    if depth < max(settings.depths) and "depths" not in task.noah:
        settings = replace(settings, depths=tuple(sorted({max(1, depth * i // 4) for i in (1, 2, 3, 4)})))
    plan = noah.plan(base.model, base.anatomy, noah.full(base.anatomy, settings))
    model = apply_(copy.deepcopy(base.model), plan, base.anatomy.heads, task.run.recipe.seed)
    low = min(recipe.min_lr, recipe.lr / 2)
    slower = replace(recipe, lr=recipe.lr / 2, min_lr=low, select="last", evaluate_every=recipe.epochs)
    course = on_images(model, task.preprocessing, task.run.images, slower, workers=0)
    fit(
        model,
        slower,
        batches=course.batches,
        steps_per_epoch=math.ceil(len(task.run.images.splits["train"]) / slower.batch_size),
        run=task.run.folder / SUPERNET,
        step=noah.step(base.anatomy, settings, lambda logits, share: objective(logits, share, slower)),
        resume=task.run.resume,
        report=training_report(task.run.report, "supernet"),
    )
    found = noah.search(
        noah.evaluator(model, base.anatomy, in_order(task.run.images.splits["val"], task.preprocessing)),
        lambda widths: price(base.model, noah.plan(base.model, base.anatomy, widths), base.anatomy.heads),
        base.anatomy,
        settings,
        limit,
        seed=task.run.recipe.seed,
        progress=lambda done, total: task.run.report(Event("search", done, total, "generations of sub-nets, on val")),
    )
    return noah.plan(base.model, base.anatomy, found.widths)
