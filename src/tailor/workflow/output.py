"""The output of a verb while it is written: held by one writer, replaced only once the new one is whole.

Where something is to be overwritten, the run writes to a folder beside it (`.NAME.partial`), which takes its place at
the end; a run that was interrupted before is continued there. Of several processes the main one does this, and all
hear what came of it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailor.bundle.write import prepare
from tailor.errors import BundleError, TailorError
from tailor.events import Event, Tell, silent
from tailor.run_folder import PLANNED, RUN_FILES
from tailor.training import Interrupted, by_main, processes_here
from tailor.workflow.destination import MARK, Destination
from tailor.workflow.lock import locked


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
def output(wanted: Destination, tell: Tell = silent) -> Iterator[Output]:
    """While open, the destination is this run's alone.

    Raises what `Destination.check` does, before anything is touched, and BundleError where another run is writing to
    it. Tells where there is nothing that could be resumed.
    """
    final, main = wanted.final, processes_here().is_main_process
    with ExitStack() as stack:

        def begin() -> tuple[Path, bool, bool]:
            wanted.check()
            stack.enter_context(locked(final))
            _settle(wanted)
            wanted.check()  # again: what an interrupted replacement left is in its place now
            beside = wanted.replaces or (wanted.resume and (wanted.beside / MARK).exists())
            folder = wanted.beside if beside else final
            found = folder.is_dir()
            begun = any(os.path.lexists(folder / name) for name in RUN_FILES)
            _begin(wanted, folder)
            return folder, found, begun

        folder, found, begun = by_main(begin)
        if wanted.resume and not begun:
            tell(Event("resume", text=f"there is nothing to resume in `{final}`: starting anew"))
        try:
            yield Output(final, folder)
        except Interrupted:
            raise
        except TailorError:
            if main and not found:
                _remove_empty(folder)
            raise
        if folder != final:
            by_main(lambda: _swap(wanted))


def _begin(wanted: Destination, folder: Path) -> None:
    """Make the folder that the run writes to; beside a folder to be replaced it starts empty, but for its plan."""
    if wanted.replaces:
        shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, wanted.resume, planned=wanted.inside)
    if folder != wanted.final:
        (folder / MARK).touch()
    for name in PLANNED if wanted.replaces and wanted.inside else ():
        if (wanted.final / name).is_file():
            shutil.copy2(wanted.final / name, folder / name)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # something was written: it may be resumed
        if os.listdir(folder) == [MARK]:
            (folder / MARK).unlink()
        folder.rmdir()


def _swap(wanted: Destination) -> None:
    """Put the new folder in the old one's place; what no run left in the old one moves along."""
    final, beside = wanted.final, wanted.beside
    try:
        if final.exists():
            (final / MARK).touch()
            os.replace(final, wanted.old)
        os.replace(beside, final)
    except OSError as error:
        raise BundleError(
            f"`{final}` cannot be replaced: {error.strerror}; the new one is in `{beside}`", hint="move it by hand"
        ) from None
    _settle(wanted)


def _settle(wanted: Destination) -> None:
    """End a replacement whose renames were begun, perhaps by a run that was killed between them.

    Without a new folder in its place the old one goes back; behind it, it goes, its foreign files moved first.
    """
    final, old = wanted.final, wanted.old
    try:
        if (old / MARK).exists():
            if not final.exists():
                os.replace(old, final)
            for item in old.iterdir() if old.is_dir() else ():
                if item.name not in (*RUN_FILES, MARK) and not (final / item.name).exists():
                    os.replace(item, final / item.name)
            shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError, NotADirectoryError):
            (final / MARK).unlink()
    except OSError as error:
        raise BundleError(
            f"`{final}` cannot be replaced: {error.strerror}; what was in it is in `{old}`", hint="move it by hand"
        ) from None
