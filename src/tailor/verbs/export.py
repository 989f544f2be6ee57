"""`tailor export BUNDLE -o FILE`: an ONNX or torch.export file, compared with the model before it is kept."""

from dataclasses import asdict, dataclass
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
    In integers, `float32` and `int8` are the `metric` on val of the float file and of the one that was kept,
    `throughput_ratio` says how many times faster that is in ONNX Runtime, `operators` which of them are integers.
    """

    file: str
    bytes: int
    difference: float
    agreement: float | None = None
    metric: str = ""
    float32: float | None = None
    int8: float | None = None
    n: int | None = None
    throughput_ratio: float | None = None
    operators: str = ""


def export(
    path: str | Path,
    *,
    out: str | Path,
    data: str | Path | None = None,
    probabilities: bool = False,
    int8: bool = False,
    tolerance: float = 0.02,
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
        data: images on which the file is held against the model; masks, boxes and integers cannot do without.
        probabilities: end in a softmax.
        int8: compute in 8-bit integers: calibrated on train, compared on val, before the file is kept.
        tolerance: how much accuracy integers may lose: 0.02 are two in a hundred images.
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
    if int8 and (target.suffix != ".onnx" or data is None):
        raise UsageError(
            "integers are for ONNX files, and are calibrated and compared on images",
            hint="write `tailor export BUNDLE -o FILE.onnx --int8 --data DATA`",
        )
    if not 0 <= tolerance <= 1:
        raise UsageError(f"`--tolerance {tolerance:g}` is no share", hint="write for instance `--tolerance 0.02`")
    check_new(target, overwrite, (path, data, weights_file(weights)))
    with told(progress) as tell:
        from tailor.workflow.export import exported

        tell(Event("exporting", 0, 1, target.suffix))
        size, difference, agreement, integers = exported(
            Path(path),
            route,
            target,
            None if data is None else str(data),
            probabilities,
            weights,
            download,
            overwrite,
            tell,
            tolerance if int8 else None,
        )
        tell(Event("exporting", 1, 1))
    known = {} if integers is None else asdict(integers)
    return Exported(str(target), size, difference, agreement, **known)
