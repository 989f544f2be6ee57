"""Where a run computes, and what else hears of it: the device, and Accelerate's trackers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from tailor.errors import UsageError, nearest
from tailor.training import processes_here


@contextmanager
def placed(device: str | None) -> Iterator[None]:
    """While open, runs compute on the device (`cpu`, `cuda`, `cuda:1`, `mps`); UsageError where there is none such."""
    if device is None:
        yield
        return
    try:
        wanted = torch.device(device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        if reason.startswith("Expected one of"):
            reason = "no such kind"
        hint = "write `cpu`, `cuda`, `cuda:1` or `mps`, or leave `--device` out"
        raise UsageError(f"there is no device `{device}` here: {reason}", hint=hint) from None
    state = processes_here()  # which tells Accelerate outright that there are several
    before = state.device
    try:
        state.device = wanted
        yield
    finally:
        state.device = before


def trackers_of(names: str | None) -> tuple[str, ...]:
    """The trackers named with commas; UsageError for an unknown one, or one whose package is missing."""
    found = tuple(part.strip() for part in (names or "").split(",") if part.strip())
    for name in found:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"no tracker is called `{name}`", hint=nearest(name, [*LOGGER_TYPE_TO_CLASS]))
    return found


def started(names: tuple[str, ...], folder: Path, settings: dict[str, Any]) -> list[Any]:
    """The trackers, begun; their own files go to the run's folder."""
    found = []
    for name in names:
        kind = LOGGER_TYPE_TO_CLASS[name]
        try:
            tracker = kind(folder.name, str(folder)) if kind.requires_logging_directory else kind(folder.name)
            getattr(tracker, "start", lambda: None)()  # which older releases of Accelerate do in the constructor
        except ImportError:
            raise UsageError(f"`--log-with {name}` needs a package", hint=f"pip install {name}") from None
        plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool)}
        tracker.store_init_configuration(plain)
        found.append(tracker)
    return found
