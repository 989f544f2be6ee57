"""The output of a verb: refused where it is also an input, held by one writer, replaced only once the new one is whole.

Where something is to be overwritten, the run writes to a folder beside it (`.NAME.partial`), which takes its place at
the end; a run that was interrupted before is continued there.
"""

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailor.bundle.manifest import MANIFEST
from tailor.bundle.strangers import read_json
from tailor.bundle.write import PLANNED, RUN_FILES, check_ours, prepare
from tailor.errors import BundleError, TailorError, UsageError
from tailor.spec import BUNDLE
from tailor.training import Interrupted, processes_here

PLAN = PLANNED[0]
_MOST_READ = 100  # bundles of bundles: a stranger's may name more than any of ours


class Output:
    """Where a run writes (`folder`), and the folder that its results will be in (`final`)."""

    def __init__(self, final: Path, folder: Path) -> None:
        self.final, self.folder = final, folder

    def settled(self, record: Any) -> Any:
        """A result, its paths those of the final folder."""
        paths = {name: getattr(record, name, "") for name in ("bundle", "plan")}
        moved = {
            name: str(self.final / Path(path).relative_to(self.folder))
            for name, path in paths.items()
            if path and Path(path).is_relative_to(self.folder)
        }
        return replace(record, **moved)


@contextmanager
def output(
    out: str | Path, overwrite: bool, resume: bool, inputs: Sequence[Any] = (), inside: bool = False
) -> Iterator[Output]:
    """While open, `out` is this run's alone. `inside` allows an input that is the folder itself: a plan to be trained.

    Raises UsageError or BundleError before anything is touched: for contradicting flags, for an output that is also an
    input, for a folder that holds something else, that another run is writing to, or that cannot be written.
    """
    final = _followed(Path(out))
    if overwrite and resume:
        raise UsageError("`--overwrite` starts anew and `--resume` goes on", hint="leave one of them out")
    beside = final.parent / f".{final.name}.partial"
    for place in (final, beside, _old(final)):  # the last two are emptied on the way
        check_apart(place, inputs, inside)
    main = processes_here().is_main_process
    with _locked(final) if main else nullcontext():
        if main:
            _settle(final)
        processes_here().wait_for_everyone()
        held = (final / MANIFEST).exists() if inside else _held(final)
        replaces = overwrite and held
        folder = beside if replaces or (resume and beside.is_dir()) else final
        found = folder.is_dir()
        if replaces:
            check_ours(final)
        processes_here().wait_for_everyone()  # all have looked before one writes
        try:
            if main:
                _begin(final, folder, replaces, resume, inside)
            processes_here().wait_for_everyone()
            yield Output(final, folder)
        except Interrupted:
            raise
        except TailorError:
            if main and not found:
                _remove_empty(folder)
            raise
        if main and folder == beside:
            _swap(final, beside)
        processes_here().wait_for_everyone()


def _begin(final: Path, folder: Path, replaces: bool, resume: bool, inside: bool) -> None:
    """Make the folder that the run writes to; beside a folder to be replaced it starts empty, but for its plan."""
    if replaces:
        shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, resume, planned=inside)
    for name in PLANNED if replaces and inside else ():
        if (final / name).is_file():
            shutil.copy2(final / name, folder / name)


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


def _holds_data(folder: Path) -> bool:
    """Whether a folder inside the data holds something that no run left there: a class's images, say."""
    return _held(folder) and not any(os.path.lexists(folder / name) for name in (MANIFEST, PLAN, "checkpoints"))


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
            yield value.removeprefix(BUNDLE)
        elif key == "base" and isinstance(value, dict) and os.path.isabs(str(value.get("path"))):
            yield str(value.get("path"))
        elif isinstance(value, dict | list):
            yield from _named(value)


def _is_bundle_or_file(source: Path) -> bool:
    return source.is_file() or (source / "bundle.json").is_file()


def _followed(path: Path) -> Path:
    """Where a link leads, so that the folder is replaced and not the link; `.` and `..` by their names."""
    return _real(path) if path.is_symlink() or path.name in ("", "..") else path


def _real(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def _held(folder: Path) -> bool:
    """Whether there is something in the folder that is not a lock or a half of ours."""
    try:
        return folder.is_dir() and any(folder.iterdir())
    except OSError:
        return False


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # something was written: it may be resumed
        folder.rmdir()


def _swap(final: Path, beside: Path) -> None:
    """Put the new folder in the old one's place; what no run left in the old one moves along."""
    try:
        if final.exists():
            os.replace(final, _old(final))
        os.replace(beside, final)
    except OSError as error:
        raise BundleError(
            f"`{final}` cannot be replaced: {error.strerror}; the new one is in `{beside}`", hint="move it by hand"
        ) from None
    _settle(final)


def _settle(final: Path) -> None:
    """End a replacement whose renames were begun, perhaps by a run that was killed between them.

    Without a new folder in its place the old one goes back; behind it, it goes, its foreign files moved first.
    """
    old = _old(final)
    if not old.is_dir():
        return
    try:
        if not final.exists():
            os.replace(old, final)
            return
        for item in old.iterdir():
            if item.name not in RUN_FILES and not (final / item.name).exists():
                os.replace(item, final / item.name)
    except OSError as error:
        raise BundleError(
            f"`{final}` cannot be replaced: {error.strerror}; what was in it is in `{old}`", hint="move it by hand"
        ) from None
    shutil.rmtree(old, ignore_errors=True)


def _old(final: Path) -> Path:
    return final.parent / f".{final.name}.old"


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """One writer at a time: a file beside the folder names the host and process that has it."""
    lock = final.parent / f".{final.name}.lock"
    try:
        made = [p for p in (final.parent, *final.parent.parents) if not p.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        _take(lock, final)
    except OSError as error:
        raise BundleError(f"`{final}` cannot be written: {error.strerror}", hint="choose another `-o` folder") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        for folder in made:
            _remove_empty(folder)


def _take(lock: Path, final: Path) -> None:
    """Write the lock; BundleError where a living process has it. That of a dead one is taken over."""
    for _ in range(3):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            host, pid = _holder(lock)
            if host != socket.gethostname() or _alive(pid):
                raise BundleError(
                    f"another run is writing to `{final}`: process {pid} on `{host}`",
                    hint=f"choose another `-o` folder, or remove `{lock}` if that process is gone",
                ) from None
            lock.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        return
    raise BundleError(f"another run is writing to `{final}`", hint="choose another `-o` folder")


def _holder(lock: Path) -> tuple[str, int]:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
        return str(found["host"]), int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return socket.gethostname(), 0  # cut short: its writer died


def _alive(pid: int) -> bool:
    if pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    except OverflowError:  # no process can have it
        return False
    return True
