"""What a name on the command line stands for: a bundle's folder, a backbone, or data. Looks at names only."""

from pathlib import Path

from tailor.errors import UsageError
from tailor.run_folder import MANIFEST

REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")


def is_bundle(name: str | Path) -> bool:
    """Whether the argument is the folder of a bundle."""
    return (Path(name) / MANIFEST).is_file()


def named_model(name: str | None) -> str:
    """The model's name, which a verb cannot do without."""
    if not name:
        raise UsageError("no model was named", hint="add `--model NAME`, for instance `--model tailor_mini_s`")
    return str(name)


def parted(text: str | None) -> tuple[str, ...]:
    """The names in a text with commas, in order."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
