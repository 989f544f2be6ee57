"""Where a verb is asked to write, and why it may not: told before anything is touched, and before torch is loaded."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailor.errors import BundleError, TailorError, UsageError
from tailor.run_folder import MANIFEST, PLANNED, check_folder, check_free, check_ours, is_held
from tailor.strangers import read_json

PLAN = PLANNED[0]
MARK = ".tailor"
"""A file of this name says that a run made the folder `.NAME.partial` or `.NAME.old`, which may be emptied."""
_MOST_READ = 100  # bundles of bundles: a stranger's may name more than any of ours
_BUNDLE = "bundle:"  # before the path of a backbone that is a bundle


@dataclass(frozen=True)
class Destination:
    """The folder `out`, what is read while it is written, and the flags about what lies there.

    `inside` allows an input that is the folder itself: a plan to be trained. `resumes`: the verb has that flag.
    """

    out: str | Path
    overwrite: bool = False
    resume: bool = False
    inputs: Sequence[Any] = ()
    inside: bool = False
    resumes: bool = True

    @property
    def final(self) -> Path:
        """The folder, so that it is replaced and not a link to it; `.` and `..` by their names."""
        path = Path(self.out)
        return _real(path) if path.is_symlink() or path.name in ("", "..") else path

    @property
    def beside(self) -> Path:
        """Where what replaces it is written."""
        return self.final.parent / f".{self.final.name}.partial"

    @property
    def old(self) -> Path:
        """Where what is replaced stands for a moment."""
        return self.final.parent / f".{self.final.name}.old"

    @property
    def replaces(self) -> bool:
        """Whether there is something to be overwritten, with leave."""
        held = (self.final / MANIFEST).exists() if self.inside else is_held(self.final)
        return self.overwrite and held

    def check(self) -> None:
        """UsageError or BundleError for contradicting flags, for an output that is also an input, and for a folder
        that holds something else or cannot be written."""
        if self.overwrite and self.resume:
            raise UsageError("`--overwrite` starts anew and `--resume` goes on", hint="leave one of them out")
        final = self.final
        for place in (final, self.beside, self.old):  # the last two are emptied on the way
            check_apart(place, self.inputs, self.inside)
        check_folder(final)
        if self.replaces:
            check_ours(final)
            for place in (self.beside, self.old):
                _check_marked(place)
        elif not self.resume:
            check_free(final, self.inside, self.resumes)
        _check_parent(final)


def weights_file(weights: str | None) -> str | None:
    """The file that `--weights` names, None where it says in a word what they are."""
    return None if weights in (None, "pretrained", "random") else weights


def check_apart(out: Path, inputs: Sequence[Any], inside: bool = False) -> None:
    """UsageError where the output is one of the inputs or of what they are made from, lies in one, or holds one.

    `inside`: it may be the first input itself.
    """
    place = _real(out)
    for number, given in enumerate(inputs):
        if given is None:
            continue
        for read in _made_from(str(given)):
            source = _real(Path(read))
            if inside and number == 0 and read == str(given):
                continue
            within = source in place.parents and (_is_bundle_or_file(source) or _holds_data(place))
            if place == source or within or place in source.parents:
                raise UsageError(
                    f"`{read}` is what is read, and `{out}` would be written over it",
                    hint="choose another `-o`",
                )


def check_new(file: Path, overwrite: bool, inputs: Sequence[Any]) -> None:
    """UsageError where a single file is one of the inputs, or is there already."""
    check_apart(file, inputs)
    if os.path.lexists(file) and not overwrite:
        raise UsageError(f"`{file}` exists", hint="choose another `-o`, or add `--overwrite`")


def _check_marked(place: Path) -> None:
    """BundleError where the place that is emptied on the way holds what no run left there."""
    if os.path.lexists(place) and not (place.is_dir() and (not is_held(place) or (place / MARK).exists())):
        raise BundleError(
            f"`{place}` is in the way: what is replaced passes through it", hint="move it, or choose another `-o`"
        )


def _check_parent(final: Path) -> None:
    """BundleError where nothing can be put beside the folder."""
    try:
        parent = next(p for p in (final.absolute().parent, *final.absolute().parent.parents) if os.path.lexists(p))
    except OSError as error:  # a name too long
        raise BundleError(f"`{final}` cannot be written: {error.strerror}", hint="choose another `-o` folder") from None
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return
    if not parent.is_dir():
        raise BundleError(f"`{final}` cannot be written: `{parent}` is a file", hint="choose another `-o` folder")
    writable = final.is_dir() and os.access(final, os.W_OK | os.X_OK)
    raise BundleError(
        f"`{final}` cannot be written: a run needs a place beside it, and `{parent}` is read-only",
        hint=f"write into the folder instead: `-o {final / 'run'}`" if writable else "choose another `-o` folder",
    )


def _holds_data(folder: Path) -> bool:
    """Whether a folder inside the data holds something that no run left there: a class's images, say."""
    return is_held(folder) and not any(os.path.lexists(folder / name) for name in (MANIFEST, PLAN, "checkpoints"))


def _made_from(given: str) -> list[str]:
    """The input where it exists, and the bundles and bases that bundles and plans on the way name as their own."""
    found = [given] if os.path.lexists(given) else []
    for one in found:
        for name in (MANIFEST, PLAN):
            if len(found) < _MOST_READ and (Path(one) / name).is_file():
                with suppress(TailorError):  # a bundle that cannot be read is told by who opens it
                    named = _named(read_json(Path(one) / name))
                    found += [path for path in dict.fromkeys(named) if path not in found and os.path.lexists(path)]
    return found


def _named(values: Any) -> Iterator[str]:
    """Paths that a manifest or plan names: a backbone's bundle, a palette's base."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if key == "weights" and isinstance(value, str) and value not in ("pretrained", "random"):
            yield value.removeprefix(_BUNDLE)
        elif key == "base" and isinstance(value, dict) and os.path.isabs(str(value.get("path"))):
            yield str(value.get("path"))
        elif isinstance(value, dict | list):
            yield from _named(value)


def _is_bundle_or_file(source: Path) -> bool:
    return source.is_file() or (source / MANIFEST).is_file()


def _real(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError):
        return path.absolute()
