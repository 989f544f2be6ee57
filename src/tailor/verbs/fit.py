"""`tailor fit runs/plan --data DATA`: train what a plan, read and perhaps edited, says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.recipe import recipe_of
from tailor.workflow.destination import Destination, weights_file
from tailor.workflow.records import Trained
from tailor.workflow.telling import SHOWN, told


def fit(
    plan: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path = "runs/fit",
    weights: str | None = None,
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
    seed: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    progress: Tell | None = SHOWN,
) -> Trained:
    """Train the plan in the folder `plan` on `data` and write a bundle, as `adapt` does after planning.

    Args:
        plan: a folder with a `plan.json`; `out` may be the same, and a bundle in it is replaced only with `overwrite`.
        data: a folder, a CSV, `builtin/digits`, ...: see docs/data.md.
        out: the folder to write.
        weights: `pretrained`, `random`, or a checkpoint file, other than the plan's.
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
        seed: by default the one the plan was made with, so that validation is divided off as it was then.
        recipe: further settings of the training, see docs/recipe.md.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    if not data:
        raise UsageError("no data was named", hint="add `--data DATA`, for instance a folder of class folders")
    training = {key: value for key, value in (recipe or {}).items() if key != "seed"}  # which may be the plan's
    recipe_of(training, seed or 0, epochs=epochs, lr=lr, batch_size=batch_size)  # refuses what means nothing
    home = Path(plan) if Path(plan).is_dir() else Path(plan).parent
    inside = Path(out).resolve() == home.resolve()
    wanted = Destination(out, overwrite, resume, (plan, data, teacher, weights_file(weights)), inside)
    wanted.check()
    with told(progress) as tell:
        from tailor import bundle
        from tailor.workflow.fit import FitRequest
        from tailor.workflow.fit import fit as carry_out
        from tailor.workflow.output import output
        from tailor.workflow.place import placed, trackers_of
        from tailor.workflow.train import finished

        given = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed}
        trackers = trackers_of(log_with)
        with placed(device), output(wanted, tell) as place:
            if resume and (place.folder / bundle.MANIFEST).is_file():
                made = place.settled(finished(place.folder, given=given))
                tell(Event("done", text=f"`{out}` is finished already"))
                return made  # type: ignore[no-any-return]
            request = FitRequest(
                plan=Path(plan),
                data=str(data),
                folder=place.folder,
                weights=weights,
                seed=seed,
                recipe=dict(recipe or {}),
                given={name: value for name, value in given.items() if name != "seed"},
                teacher=None if teacher is None else str(teacher),
                corrupt=corrupt,
                workers=workers,
                resume=resume,
                trackers=trackers,
                tell=tell,
            )
            return place.settled(carry_out(request))  # type: ignore[no-any-return]
