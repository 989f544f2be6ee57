"""`tailor export BUNDLE -o FILE`: an ONNX or torch.export file, compared with the model before it is kept."""

from dataclasses import dataclass
from pathlib import Path

from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.workflow.destination import check_new, weights_file
from tailor.workflow.telling import SHOWN, told

FORMATS = (".onnx", ".pt2", ".peft")


@dataclass(frozen=True)
class Exported:
    """The file (or PEFT folder), its bytes, and the largest difference from the eager model that was found.

    `agreement` is the share of pixels of real images for which both choose the same class, where that was asked.
    """

    file: str
    bytes: int
    difference: float
    agreement: float | None = None


def export(
    path: str | Path,
    *,
    out: str | Path,
    data: str | Path | None = None,
    probabilities: bool = False,
    route: str | None = None,
    weights: str | None = None,
    download: bool = False,
    overwrite: bool = False,
    progress: Tell | None = SHOWN,
) -> Exported:
    """Write the bundle's model to a file that runs without tailor. Its batch is dynamic.

    Tunes that fold exactly are merged first. Where the file's outputs differ from the eager model's by more than 1e-4
    nothing is kept.

    Args:
        path: the bundle.
        out: `.onnx`, `.pt2`, or a folder named `*.peft` in the layout of the peft library.
        data: images on which the file is held against the model; masks and boxes cannot do without.
        probabilities: end in a softmax.
        route: of a palette, by name; by default the dearest that is deployed.
        weights: a moved checkpoint file of the backbone.
        download: whether what the bundle's backbone lacks on this machine may be fetched.
        overwrite: replace `out`.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    target = Path(out)
    if target.suffix not in FORMATS:
        raise UsageError(
            f"cannot export to `{target.name}`: its suffix names no format", hint="end it in `.onnx`, `.pt2` or `.peft`"
        )
    check_new(target, overwrite, (path, data, weights_file(weights)))
    with told(progress) as tell:
        from tailor.workflow.export import exported

        tell(Event("exporting", 0, 1, target.suffix))
        made = exported(
            Path(path),
            route,
            target,
            None if data is None else str(data),
            probabilities,
            weights,
            download,
            overwrite,
            tell,
        )
        tell(Event("exporting", 1, 1))
    return Exported(str(target), *made)
