"""Who hears of progress: a callback, nobody, or, where a person is looking, a drawn bar."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tailor.events import Event, Tell, silent


def SHOWN(event: Event) -> None:
    """Stands for `draw it`, in a terminal or a notebook."""


@contextmanager
def told(progress: Tell | None) -> Iterator[Tell]:
    """While open, the function that events go to. Only the main process of several tells."""
    if progress is None or int(os.environ.get("RANK", "0")) != 0:
        yield silent
    elif progress is not SHOWN:
        yield progress
    elif not _watched():
        yield silent
    else:
        from tailor.evidence.progress import LiveProgress

        with LiveProgress() as drawn:
            yield drawn


def _watched() -> bool:
    """Whether standard error is a terminal, or the caller a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
