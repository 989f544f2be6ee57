"""From a module to its ATen graph: `torch.export` without decompositions, in eval mode, within a time limit.

Operators such as `linear` and `scaled_dot_product_attention` stay whole, which is what the rules are written for.
"""

import ctypes
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import nn
from torch.export import ExportedProgram

from tailor.errors import ModelError
from tailor.inputs import Example
from tailor.surgery import eval_mode

LIMIT = 600.0
"""Seconds for a trial cut and for a comparison, which run the whole model several times."""


@contextmanager
def time_limit(seconds: float, doing: str) -> Iterator[None]:
    """Stop the body after `seconds` with a `ModelError`, in whichever thread it runs; one limit may stand in another.

    CPython raises in the thread at its next step of Python code, so a single call into C is waited for. What is raised
    is no `Exception`, which the body's code might answer in its own way.
    """
    if seconds <= 0:
        yield
        return
    # Of this limit alone, so that another one inside lets it pass.
    expired: type[BaseException] = type("_Expired", (BaseException,), {})
    thread, lock, over = threading.get_ident(), threading.Lock(), threading.Event()
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def stop() -> None:
        with lock:
            if not over.is_set():
                throw(ctypes.c_ulong(thread), ctypes.py_object(expired))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            over.set()  # first, should another limit end just now
            timer.cancel()
            with lock:  # what was thrown before is met in here
                pass
    except expired:
        raise ModelError(
            f"{doing} took more than {seconds:g} seconds",
            hint="prune by layers instead, which traces nothing: `tailor prune --method sls`; in Python raise `limit`",
        ) from None


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


def export_graph(model: nn.Module, example: Example, limit: float = 180.0) -> ExportedProgram:
    """The ATen graph of `model` on `example`, of 2 samples or more, so that no batch looks like a size-1 axis."""
    failures: list[str] = []
    with eval_mode(model), time_limit(limit, "exporting the model"), quiet(), torch.no_grad():
        for strict in (False, True):
            try:
                return torch.export.export(model, example, strict=strict)
            except Exception as error:  # the exporter raises everything from TypeError to its own internal errors
                failures.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    raise ModelError(
        f"the model cannot be exported to a graph: {failures[0]}",
        hint="pruning by layers (`tailor prune --method sls`) needs no graph",
    )
