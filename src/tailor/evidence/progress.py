"""Progress on stderr: a bar with an estimate in a terminal, plain lines now and then in a log."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tailor.events import Event
from tailor.visible import visible

_EVERY = 15.0
"""Seconds between two lines of the same stage where there is no terminal."""


class LiveProgress:
    """A report callback that draws; use it as a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.tasks: dict[str, TaskID] = {}
        self.began: dict[str, tuple[float, int]] = {}  # a resumed stage does not begin at zero
        self.spoke: dict[str, float] = {}

    def __enter__(self) -> "LiveProgress":
        if self.live:
            self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.live:
            self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Draw or say what happened."""
        if not event.total:
            self.console.print(visible(f"{event.stage}: {event.text}"), soft_wrap=True)
        elif self.live:
            self._bar(event)
        else:
            self._line(event)

    def _bar(self, event: Event) -> None:
        if event.stage not in self.tasks:
            task = self.progress.add_task(event.stage, completed=event.done, total=event.total, text="")
            self.tasks[event.stage] = task
        self.progress.update(self.tasks[event.stage], completed=event.done, total=event.total, text=visible(event.text))
        if event.done >= event.total:  # the same stage may come again, with a clock of its own
            self.progress.remove_task(self.tasks.pop(event.stage))

    def _line(self, event: Event) -> None:
        now = time.monotonic()
        began, start = self.began.setdefault(event.stage, (now, event.done))
        last = event.done >= event.total
        if last:  # the same stage may come again, with a clock of its own
            self.began.pop(event.stage, None)
            self.spoke.pop(event.stage, None)
        if now - (began if last else self.spoke.get(event.stage, began)) < _EVERY:
            return
        if not last:
            self.spoke[event.stage] = now
        left = (now - began) / max(event.done - start, 1) * (event.total - event.done)
        tail = f", about {left:.0f} s left" if start < event.done < event.total else ""
        line = f"{event.stage}: {event.done}/{event.total}{tail}  {visible(event.text)}".rstrip()
        print(line, file=sys.stderr, flush=True)
