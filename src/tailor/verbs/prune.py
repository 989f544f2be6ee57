"""`tailor prune BUNDLE|NAME`: decide what the task does not need, remove it, retrain if asked, write a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from tailor import tasks
from tailor.errors import UsageError, check_choice
from tailor.events import Event, Tell
from tailor.recipe import recipe_of
from tailor.workflow import planners
from tailor.workflow.destination import Destination, weights_file
from tailor.workflow.names import is_bundle, named_model
from tailor.workflow.records import Pruned, Retrain, Trains
from tailor.workflow.telling import SHOWN, told


def prune(
    name: str | Path,
    *,
    method: str = planners.DEFAULT["prune"],
    data: str | Path | None = None,
    retrain: Retrain = "none",
    train: Trains | None = None,
    out: str | Path = "runs/pruned",
    weights: str | None = None,
    download: bool = False,
    image_size: int | None = None,
    task: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    teacher: str | Path | None = None,
    corrupt: Literal["skip", "fail"] = "skip",
    workers: int = 0,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    classifier: Literal["fresh", "own"] | None = None,
    progress: Tell | None = SHOWN,
    **settings: Any,
) -> Pruned:
    """Make an adapted bundle (or a backbone by name) smaller, and write an ordinary bundle.

    Without data a backbone by name keeps the classifier it came with, and no score is taken.

    Args:
        name: a bundle, or a backbone's name.
        method: `sls` drops blocks; `isomorphic`, `depgraph`, `uniform`, `random` cut widths; see docs/verbs/prune.md.
        data: labelled images; those the model was adapted to.
        retrain: after the cut: `1clr` the full schedule again, `ft` a constant 1e-5, `tfs` from fresh tunes.
        train: what retraining trains: `tunes` and head, or everything (`full`: the default after merged widths).
        out: the folder to write.
        weights: `pretrained`, `random`, or a checkpoint file; of a bundle, where its backbone's weights are.
        download: whether what a bundle's backbone lacks on this machine may be fetched.
        image_size: pixels a side, other than the backbone's own.
        task: what the head is for, where the data do not say it.
        epochs: passes over the training images, of the retraining.
        lr: its peak learning rate.
        batch_size: images a step, over all processes.
        teacher: a bundle of the same classes, or a backbone with as many, to learn from as well.
        corrupt: what to do with images that cannot be read.
        workers: processes that decode images.
        device: `cpu`, `cuda`, `mps`; by default what Accelerate finds.
        resume: go on with an interrupted run.
        overwrite: replace what an earlier run left in `out`.
        seed: of everything random.
        recipe: further settings of the retraining, see docs/recipe.md.
        classifier: of a backbone by name with data: a `fresh` one, or its `own`.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
        settings: of the method: `alpha`, `macs`, `criterion`, `widths`, ...

    Raises:
        TailorError: one line and a hint, before anything is written where the request means nothing.
    """
    place = named_model(str(name))
    tasks.check(task)
    planner = planners.named("prune", method, settings)
    trains = train or ("full" if planner.adapters == "merge" else "tunes")
    _check(planner, place, data, retrain, train, classifier, image_size)
    flags = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "teacher": teacher}
    training = recipe_of(recipe, seed, epochs=epochs, lr=lr, batch_size=batch_size)
    wanted = Destination(out, overwrite, resume, (place, data, teacher, weights_file(weights)))
    wanted.check()
    idle = retrain == "none" and (planner.steps == 1 or not planner.recovers) and not getattr(planner, "learns", False)
    with told(progress) as tell:
        given = [f"`--{flag.replace('_', '-')} {value}`" for flag, value in flags.items() if value is not None]
        if idle and given:  # no error: a configuration holds them too, and `--retrain none` takes its cut alone
            tell(Event("warning", text=f"nothing is trained without `--retrain`: {', '.join(given)} not used"))
        from tailor.workflow.context import CutStep
        from tailor.workflow.output import output
        from tailor.workflow.place import placed
        from tailor.workflow.prune import PruneRequest
        from tailor.workflow.steps import carry_out
        from tailor.workflow.train import usual_of

        training = recipe_of(recipe, seed, usual_of(place), epochs=epochs, lr=lr, batch_size=batch_size)
        with placed(device), output(wanted, tell) as found:
            request = PruneRequest(
                name=place,
                folder=found.folder,
                planner=planner,
                data=None if data is None else str(data),
                task=task,
                classifier=classifier or "fresh",
                retrain=retrain,
                train=trains,
                recipe=training,
                weights=weights,
                download=download,
                image_size=image_size,
                teacher=None if teacher is None else str(teacher),
                corrupt=corrupt,
                workers=workers,
                resume=resume,
                tell=tell,
                step=CutStep(of=planner.steps),
            )
            result: Pruned = found.settled(carry_out(request))
    return result


def _check(
    planner: Any, name: str, data: Any, retrain: str, train: str | None, classifier: str | None, image_size: int | None
) -> None:
    """UsageError for what cannot be, before anything is opened."""
    check_choice("retrain", retrain, get_args(Retrain))
    check_choice("train", train, get_args(Trains))
    if classifier not in (None, "fresh", "own"):  # no flag: only a file says it
        raise UsageError(f"no classifier is called `{classifier}`", hint="write `own` or `fresh`")
    recovers = planner.steps > 1 and planner.recovers
    why = f"`--retrain {retrain}`" if retrain != "none" else ""
    if not why and getattr(planner, "repair", None) in ("ridge", "norms"):
        why = f"`--repair {planner.repair}`"
    why = why or (f"`{getattr(planner, 'criterion', None) or planner.method}`" if "images" in planner.needs else "")
    if not data and (why or recovers):
        what, or_ = (why, "") if why else ("`--steps`", ", or `--recover 0`")
        raise UsageError(f"no data was named, and {what} needs labelled images", hint=f"add `--data DATA`{or_}")
    if train and retrain == "none" and not recovers:
        raise UsageError(f"nothing is trained, and `--train {train}` says what", hint="add `--retrain 1clr`")
    if image_size is not None and is_bundle(name):
        raise UsageError(
            f"the bundle `{name}` keeps its image size, so `--image-size {image_size}` means nothing",
            hint="leave it out, or adapt again at that size",
        )
