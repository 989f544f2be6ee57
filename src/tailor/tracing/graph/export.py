"""From a module to its ATen graph: `torch.export` without decompositions, in eval mode, within a time limit.

Operators such as `linear` and `scaled_dot_product_attention` stay whole, which is what the rules are written for.
"""

import io
import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from types import FrameType

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tailor.errors import ModelError

LIMIT = 600.0
"""Seconds for a trial cut and for a comparison, which run the whole model several times."""


class _OutOfTimeError(BaseException):
    """Raised by the alarm, past code that answers an `Exception` in its own way; never leaves this file."""


@contextmanager
def time_limit(seconds: float, doing: str) -> Iterator[None]:
    """Stop the body after `seconds` with a `ModelError`; only the main thread can be interrupted.

    Inside another limit that ends sooner, that one holds.
    """
    outer, _ = signal.getitimer(signal.ITIMER_REAL)
    if threading.current_thread() is not threading.main_thread() or seconds <= 0 or 0 < outer <= seconds:
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _OutOfTimeError

    started = time.monotonic()
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OutOfTimeError:
        raise ModelError(
            f"{doing} took more than {seconds:g} seconds",
            hint="prune by layers instead, which traces nothing: `tailor prune --method sls`; in Python raise `limit`",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - started), 1e-3))


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or dumped graphs: the exporter tells its own internals; what fails is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, and every module's own mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


def export_graph(model: nn.Module, example: Tensor, limit: float = 180.0) -> ExportedProgram:
    """The ATen graph of `model` on `example` `(B, ...)`; B is 2 or more, so that no batch looks like a size-1 axis."""
    failures: list[str] = []
    with eval_mode(model), time_limit(limit, "exporting the model"), quiet(), torch.no_grad():
        for strict in (False, True):
            try:
                return torch.export.export(model, (example,), strict=strict)
            except Exception as error:  # the exporter raises everything from TypeError to its own internal errors
                failures.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    raise ModelError(
        f"the model cannot be exported to a graph: {failures[0]}",
        hint="pruning by layers (`tailor prune --method sls`) needs no graph",
    )
