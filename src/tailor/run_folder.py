"""What a run leaves in its folder, by name, and whether a folder may be written to. Looks only; loads no torch."""

import os
from pathlib import Path

from tailor.errors import BundleError

MANIFEST, TENSORS, CARD = "bundle.json", "tensors.safetensors", "README.md"
RUN_FILES = (
    MANIFEST,
    TENSORS,
    CARD,
    "plan.json",
    "plan.safetensors",
    "metrics.jsonl",
    "config.yaml",
    "report.html",
    "evidence.json",
    "data.json",
    "sensitivity.safetensors",
    "heatmap.png",
    "layers.png",
    "tsne.png",
    "history.png",
    "operations.png",
    "decided.safetensors",
    "checkpoints",
    "supernet",
    "steps",
    "race",
    "adapted",
    "base",
    "stitch.json",
    "sizes.json",
    "answers.jsonl",
    "palette.png",
)
"""Everything a run may leave in its folder, `bundle.json` first: what `--overwrite` replaces, and nothing else."""

PLANNED = ("plan.json", "plan.safetensors", "sensitivity.safetensors", "heatmap.png")
_ANYONES = (
    CARD,
    "config.yaml",
    "report.html",
    "evidence.json",
    "data.json",
    "checkpoints",
    "steps",
    "race",
    "adapted",
    "supernet",
    "base",
    "sizes.json",
    "answers.jsonl",
    "layers.png",
    "tsne.png",
    "history.png",
    "operations.png",
    "palette.png",
)
"""Names that a folder of other work may hold: they are removed only beside what no one else writes."""


def is_held(folder: Path) -> bool:
    """Whether there is something in the folder."""
    try:
        return folder.is_dir() and any(folder.iterdir())
    except OSError:
        return False


def check_free(out: Path, planned: bool = False, resumes: bool = True) -> None:
    """BundleError where the folder holds something already; `planned`: the plan that will be trained may lie there.

    `resumes` says whether the verb has the flag.
    """
    try:
        held = out.is_dir() and ((out / MANIFEST).exists() if planned else any(out.iterdir()))
    except OSError as error:
        raise BundleError(f"`{out}` cannot be written: {error.strerror}", hint="choose another `-o` folder") from None
    if held:
        more = ", add `--overwrite`, or continue it with `--resume`" if resumes else ", or add `--overwrite`"
        raise BundleError(
            f"`{out}` holds a bundle already" if planned else f"`{out}` exists and is not empty",
            hint=f"choose another `-o` folder{more}",
        )


def check_folder(out: Path) -> None:
    """BundleError where a file is in the folder's place."""
    if os.path.lexists(out) and not out.is_dir():
        raise BundleError(f"`{out}` is a file, not a folder", hint="choose another `-o` folder")


def check_ours(out: Path) -> None:
    """BundleError where what lies in the folder under the names of a run's files may be somebody else's."""
    present = [name for name in RUN_FILES if os.path.lexists(out / name)]
    if (out / "base.json").is_file() and MANIFEST not in present:
        raise BundleError(f"`{out}` is a base that palettes need", hint="choose another `-o` folder")
    if present and all(name in _ANYONES for name in present) and not (out / "steps" / "1").exists():
        raise BundleError(
            f"`{out}` holds `{present[0]}`, and nothing that shows a run left it there",
            hint="choose another `-o` folder",
        )
