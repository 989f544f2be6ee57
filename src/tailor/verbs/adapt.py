"""`tailor adapt DATA --model NAME`: plan what to tune, train it, write a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tailor import tasks
from tailor.errors import UsageError
from tailor.events import Tell
from tailor.recipe import recipe_of
from tailor.workflow import planners
from tailor.workflow.destination import Destination, weights_file
from tailor.workflow.names import named_model, parted
from tailor.workflow.records import Pruned, Trained
from tailor.workflow.telling import SHOWN, told


def adapt(
    data: str | Path,
    *,
    model: str | Path | None = None,
    method: str = planners.DEFAULT["adapt"],
    out: str | Path = "runs/adapt",
    plan_only: bool = False,
    weights: str = "pretrained",
    image_size: int | None = None,
    init: str | Path | None = None,
    task: str | None = None,
    decoder: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    teacher: str | Path | None = None,
    corrupt: Literal["skip", "fail"] = "skip",
    workers: int = 0,
    device: str | None = None,
    log_with: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    decoders: Mapping[str, Any] | None = None,
    progress: Tell | None = SHOWN,
    **settings: Any,
) -> Trained | Pruned | list[Trained]:
    """Fit a pre-trained backbone, or a bundle, to data, with a budget of trainable parameters; write a bundle.

    The epoch is chosen on val; the score is that of test where there is one, else of val. With `plan_only` nothing is
    trained: the plan is written for `fit`. With `speed` (or another target of `prune --method auto`) the adapted model
    is then made smaller, all of it within `minutes`; the adapted one is in `out`/adapted.

    Args:
        data: a folder, a CSV, `builtin/digits`, ...: see docs/data.md.
        model: a backbone's name, or a bundle, which is merged, its head replaced; only the difference is stored.
        method: how to tune; several with commas give a list, and one bundle each in `out`/METHOD.
        out: the folder to write.
        plan_only: write the plan and train nothing.
        weights: `pretrained`, `random`, or a checkpoint file.
        image_size: pixels a side, other than the backbone's own.
        init: a bundle of the same task whose training goes on, instead of a model and a method.
        task: what the head is for, where the data do not say it.
        decoder: what makes masks or boxes of the backbone's maps; several with commas: `out`/DECODER/METHOD.
        epochs: passes over the training images.
        lr: peak learning rate.
        batch_size: images a step, over all processes.
        teacher: a bundle of the same classes, or a backbone with as many, to learn from as well.
        corrupt: what to do with images that cannot be read.
        workers: processes that decode images.
        device: `cpu`, `cuda`, `mps`; by default what Accelerate finds.
        log_with: trackers of Accelerate, with commas: `tensorboard`, `wandb`.
        resume: go on with an interrupted run.
        overwrite: replace what an earlier run left in `out`.
        seed: of everything random.
        recipe: further settings of the training, see docs/recipe.md.
        decoders: settings of decoders by their names, see docs/methods/segmentation.md.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
        settings: of the method: `budget`, `criterion`, `scores`, `spt`, `noah`; of what follows: `speed`, `minutes`.

    Raises:
        TailorError: one line and a hint, before anything is written where the request means nothing.
    """
    names, parts = parted(method), parted(decoder)
    tasks.check(task)
    smaller, settings = planners.then("adapt", settings)
    chosen = planners.several("adapt", names, settings)
    if smaller is not None and (plan_only or init is not None or len(names) > 1 or len(parts) > 1):
        raise UsageError(
            "a target makes one smaller model, of one method, trained to its end",
            hint="leave `--plan-only`, `--init` and other methods out",
        )
    if init is not None and (model is not None or len(names) > 1 or parts or plan_only):
        raise UsageError("`--init` goes on with a bundle as it is", hint="leave `--model` and other methods out")
    name = named_model(str(model or init or ""))
    given = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    training = recipe_of(recipe, seed, **given)
    read = (data, model, init, teacher, weights_file(weights))
    places = {
        (part, method): Destination(
            Path(out).joinpath(*[part] * (len(parts) > 1), *[method] * (len(names) > 1)),
            overwrite,
            resume,
            (*read, getattr(planner, "scores", None)),
        )
        for part in parts or ("",)
        for method, planner in chosen.items()
    }
    for place in places.values():
        place.check()
    with told(progress) as tell:
        from tailor.workflow.adapt import AdaptRequest
        from tailor.workflow.adapt import adapt as carry_out
        from tailor.workflow.place import placed, trackers_of

        trackers = trackers_of(log_with)
        with placed(device):
            request = AdaptRequest(
                planners=chosen,
                data=str(data),
                task=task,
                decoders=parts,
                settings=decoders or {},
                model=name,
                weights=weights,
                image_size=image_size,
                init=None if init is None else str(init),
                recipe=training,
                further=recipe or {},
                given=given,
                places=places,
                plan_only=plan_only,
                teacher=None if teacher is None else str(teacher),
                corrupt=corrupt,
                workers=workers,
                resume=resume,
                trackers=trackers,
                tell=tell,
            )
            if smaller is not None:
                from tailor.workflow.shrunk import adapt_and_prune

                return adapt_and_prune(request, smaller)
            results = carry_out(request)
    return results if len(names) > 1 or len(parts) > 1 else results[0]
