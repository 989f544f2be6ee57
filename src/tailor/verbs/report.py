"""`tailor report BUNDLE [OTHER...]`: one page of what a run measured, or of several side by side."""

from dataclasses import dataclass
from pathlib import Path

from tailor.errors import UsageError
from tailor.events import Tell
from tailor.workflow.destination import check_new
from tailor.workflow.telling import SHOWN, told


@dataclass(frozen=True)
class Reported:
    """The page, its bytes, and the verdict on each bundle."""

    file: str
    bytes: int
    verdicts: tuple[str, ...]


def report(
    path: str | Path,
    *others: str | Path,
    out: str | Path = "report.html",
    data: str | Path | None = None,
    exports: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    progress: Tell | None = SHOWN,
) -> Reported:
    """Write one HTML file that shows what a run measured and why it decided as it did; it needs no network.

    Args:
        path: a bundle, or a palette.
        others: more of them, shown beside it.
        out: the file to write.
        data: images on which mistakes are looked up and shown; without them the page holds no picture.
        exports: whether the model is exported to every format and held against it.
        overwrite: replace `out`.
        seed: of what the data's source itself divides.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    target = Path(out)
    if target.suffix != ".html":
        raise UsageError(f"a page is not called `{target.name}`", hint="end it in `.html`")
    check_new(target, overwrite, (path, *others, data))
    with told(progress) as tell:
        from tailor.workflow.report import report as carry_out

        places = [Path(path), *map(Path, others)]
        size, verdicts = carry_out(places, target, None if data is None else str(data), exports, seed, tell)
    return Reported(str(target), size, tuple(verdicts))
