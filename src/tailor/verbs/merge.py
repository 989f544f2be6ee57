"""`tailor merge BUNDLE -o OUT`: fold the tunes back into the plain layers."""

from dataclasses import dataclass
from pathlib import Path

from tailor.events import Tell
from tailor.workflow.destination import Destination, weights_file
from tailor.workflow.telling import SHOWN, told


@dataclass(frozen=True)
class Merged:
    """The written bundle, its size, and the tensors in it."""

    bundle: str
    bundle_bytes: int
    tensors: int


def merge(
    path: str | Path,
    *,
    out: str | Path = "runs/merged",
    weights: str | None = None,
    download: bool = False,
    overwrite: bool = False,
    progress: Tell | None = SHOWN,
) -> Merged:
    """Write a bundle of the same function with every tensor and no tunes; PlanError where they do not fold.

    Args:
        path: the bundle.
        out: the folder to write.
        weights: a moved checkpoint file of the backbone.
        download: whether what the bundle's backbone lacks on this machine may be fetched.
        overwrite: replace what an earlier run left in `out`.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    wanted = Destination(out, overwrite, inputs=(path, weights_file(weights)), resumes=False)
    wanted.check()
    with told(progress):
        from tailor import bundle
        from tailor.workflow.opened import merged, open_bundle
        from tailor.workflow.output import output
        from tailor.workflow.train import bundle_bytes, write_bundle

        with output(wanted) as place:
            opened = merged(open_bundle(path, weights, download))
            manifest = bundle.read_manifest(Path(path))
            facts = {**manifest.provenance, "merged_from": Path(path).name}
            write_bundle(place.folder, opened, manifest.metrics, facts)
            count = len(bundle.read_manifest(place.folder).tensors)
            made = Merged(str(place.folder), bundle_bytes(place.folder), count)
            return place.settled(made)  # type: ignore[no-any-return]
