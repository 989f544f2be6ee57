"""Folders as finished runs leave them, without a run."""

from tailor.workflow.destination import Destination
from tailor.workflow.output import output


def put(folder, text, *more):
    """What a finished run leaves, and files of somebody else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("bundle.json", "tensors.safetensors"):
        (folder / name).write_text(text)
    for name in more:
        (folder / name).write_text(f"mine: {name}")
    return folder


def said(folder):
    return (folder / "bundle.json").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(out, text="new", **flags):
    with output(Destination(out, **flags)) as found:
        put(found.folder, text)
        (found.folder / "metrics.jsonl").write_text(text)
        return found
