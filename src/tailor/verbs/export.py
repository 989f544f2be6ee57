"""`tailor export BUNDLE -o FILE`: an ONNX or torch.export file, compared with the model before it is kept."""

from dataclasses import asdict, dataclass
from pathlib import Path

from tailor import build as builder
from tailor import bundle
from tailor.bundle import peft
from tailor.deploy import export as deploy
from tailor.errors import UsageError
from tailor.events import Event, Report, silent
from tailor.tuning.apply import merges


@dataclass(frozen=True)
class Exported:
    """The file (or PEFT folder), its bytes, and the largest difference from the eager model that was found."""

    file: str
    bytes: int
    difference: float


def export(
    path: str | Path,
    *,
    out: str | Path,
    weights: str | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Exported:
    """Write the bundle's model to `out`: `.onnx`, `.pt2`, or a folder named `*.peft` in the layout of the peft library.

    Tunes that fold exactly are merged first. The file has a dynamic batch; where its outputs differ from the eager
    model's by more than 1e-4 nothing is kept.
    """
    target = Path(out)
    if target.exists() and not overwrite:
        raise UsageError(f"`{target}` exists", hint="choose another `-o`, or add `--overwrite`")
    loaded = bundle.read(Path(path))
    spec = loaded.spec
    model = bundle.restore(loaded, weights)
    if target.suffix == ".peft":
        return Exported(str(target), peft.write(target, model, spec), 0.0)
    if all(merges(plan) for plan in spec.tuning):
        builder.merged_(model, spec)
    report(Event("exporting", 0, 1, target.suffix))
    made = deploy.export(
        model,
        (3, *spec.preprocessing.size),
        target,
        classes=spec.head.classes,
        preprocessing=asdict(spec.preprocessing),
        overwrite=overwrite,
    )
    report(Event("exporting", 1, 1))
    return Exported(str(target), target.stat().st_size, float(made.difference))
