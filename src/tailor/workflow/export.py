"""A bundle's model as a file that runs without tailor."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from tailor import bundle
from tailor.bundle import peft
from tailor.deploy import export as deploy
from tailor.errors import UsageError
from tailor.workflow.opened import deployed, open_bundle


def exported(
    path: Path, target: Path, probabilities: bool, weights: str | None, download: bool, overwrite: bool
) -> tuple[int, float]:
    """The file's bytes, and the largest difference found from the eager model."""
    opened = open_bundle(path, weights, download)
    spec = bundle.read(path).spec
    if target.suffix == ".peft":
        return peft.write(target, opened.model, spec), 0.0
    model = deployed(opened)
    if probabilities:
        if not spec.head.classes:
            raise UsageError("`--probabilities` is for classes, and this head has none", hint="leave it out")
        model = nn.Sequential(model, nn.Softmax(dim=-1)).eval()
    made = deploy.export(
        model,
        (3, *spec.preprocessing.size),
        target,
        classes=spec.head.classes,
        preprocessing=asdict(spec.preprocessing),
        overwrite=overwrite,
    )
    return target.stat().st_size, float(made.difference)
