"""`tailor predict BUNDLE FILE...`: what is in files, folders and globs; of a language model its answers."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tailor.dense.views import read_views
from tailor.errors import DataError, UsageError, check_choice
from tailor.events import Tell
from tailor.workflow.destination import check_apart, weights_file
from tailor.workflow.given import files_of, inputs_in
from tailor.workflow.predictions import folder_, table, write_table
from tailor.workflow.telling import SHOWN, told

if TYPE_CHECKING:
    from tailor.deploy.predictor import Prediction


def predict(
    path: str | Path,
    *files: str | Path,
    out: str | Path | None = None,
    top_k: int = 5,
    route: str | None = None,
    weights: str | None = None,
    download: bool = False,
    batch_size: int = 32,
    corrupt: Literal["skip", "fail"] = "skip",
    scales: str | None = None,
    flip: bool = False,
    windows: bool = False,
    device: str | None = None,
    overwrite: bool = False,
    each: "Callable[[Prediction], None] | None" = None,
    progress: Tell | None = SHOWN,
) -> "list[Prediction]":
    """Predictions of the bundle in folder `path`, in the order of the files; folders are searched, globs expanded.

    Args:
        path: the bundle.
        files: image files, folders, globs; for a language model instructions as text, or `.json` files of them.
        out: a `.csv` or `.jsonl` file to write them to as well; of masks and boxes a folder for pictures.
        top_k: how many of the likeliest classes are named.
        route: of a palette, by name; by default the dearest that is deployed.
        weights: a moved checkpoint file of the backbone.
        download: whether what the bundle's backbone lacks on this machine may be fetched.
        batch_size: images a forward pass.
        corrupt: an unreadable image is told and left out, or fatal with `fail`.
        scales: of masks, sizes to look at with commas, relative to the model's: the mean of their scores decides.
        flip: of masks, look at the mirrored image as well.
        windows: of masks, read what is larger than the model's input in overlapping pieces of that size.
        device: `cpu`, `cuda`, `mps`.
        overwrite: replace `out`.
        each: called with every prediction as soon as it is made.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.

    Raises:
        DataError: where no image is found or can be read.
    """
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} images cannot be", hint="write for instance `--batch-size 32`")
    if top_k < 1:
        raise UsageError(f"`--top-k {top_k}` names nothing", hint="write for instance `--top-k 5`")
    check_choice("corrupt", corrupt, ("skip", "fail"))
    views = read_views(scales, flip, windows)
    target = None if out is None else Path(out)
    rows = table(target, overwrite) if target is not None and target.suffix else None
    pictures = target if rows is None else None
    found = inputs_in(path, tuple(map(str, files)))
    with told(progress) as tell:
        from tailor.deploy.predictor import Predictor
        from tailor.workflow.place import placed

        if target is not None:
            check_apart(target, (path, *files_of(found), weights_file(weights)))
        with placed(device):
            made = []
            predictor = Predictor(path, weights, top_k, download, route, views)
            if pictures is not None:
                folder_(pictures, hasattr(predictor.task, "draw"), overwrite)
            for one in predictor.stream(found, batch_size, corrupt == "fail", tell, pictures):
                made.append(one)
                if each is not None:
                    each(one)
    if not made:
        raise DataError("none of the images can be read", hint="look at the files named above")
    if rows is not None:
        write_table(rows, [one.values() for one in made])
    return made
