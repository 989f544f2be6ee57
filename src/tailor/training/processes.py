"""What several processes must agree on: gradients, running statistics, whether to stop; and how a run is stopped.

Gradients are summed here and not by DistributedDataParallel: its mean over processes is wrong for shares of unequal
size, it cannot take a process without images or one that left a parameter unused, and what trains is small anyway.
"""

import atexit
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, parse_flag_from_env, reduce
from torch import Tensor, nn

from tailor.errors import TailorError, TrainingError

T = TypeVar("T")


class Interrupted(TrainingError):  # noqa: N818  # not an error of the user
    """A run that was told to stop (Ctrl-C, SIGTERM), and did after a whole step and a checkpoint."""


def processes_here() -> PartialState:
    """The processes this one was started with, and its device: the CPU where there is no other, or Accelerate says so.

    Accelerate must be told outright: without an accelerator it would take each of several processes for a lone one.
    """
    processes = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    if processes.num_processes > 1:
        atexit.unregister(_leave)  # once is enough, and the last that registers runs first
        atexit.register(_leave)
    return processes


def _leave() -> None:
    """Take the process group down while the interpreter still stands.

    Its threads would otherwise outlive it: now and then a process whose work is done and written aborts (SIGABRT).
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def by_main(work: Callable[[], T]) -> T:
    """What `work` returns in the main process, in every process; where it raises there, all of them raise.

    A barrier that one process never reaches would keep the others until they are killed.
    """
    state = processes_here()
    if state.num_processes == 1:
        return work()
    told: list[Any] = [None, None]
    own: BaseException | None = None
    if state.is_main_process:
        try:
            told[0] = work()
        except BaseException as error:
            own, told[1] = error, _told(error)
    broadcast_object_list(told)
    if own is not None:
        raise own
    if told[1] is not None:
        raise told[1]
    return told[0]  # type: ignore[no-any-return]


def _told(error: BaseException) -> TailorError:
    """The error as the others can raise it."""
    if isinstance(error, TailorError):
        return type(error)(error.message, error.hint)
    return TrainingError(f"the main process stopped: {type(error).__name__}", hint="see what it says")


@dataclass
class Stop:
    """Whether a signal has come, and which."""

    signal: str = ""


@contextmanager
def stopping() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second Ctrl-C interrupts at once.

    Signals belong to the main thread; in another one nothing is caught.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, _: FrameType | None) -> None:
        if stop.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seed_(device: torch.device, *words: int) -> None:
    """Seed torch's default generator of the CPU and of `device` from `words`."""
    _seed_(device, stream(*words))


def stream(*words: int) -> int:
    """The seed that `words` stand for."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def drawing(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, torch's default generators are those of `seed`; afterwards they go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _seed_(device, seed)
        yield


def _seed_(device: torch.device, number: int) -> None:
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def total(processes: PartialState, *values: float) -> list[float]:
    """Each value summed over the processes."""
    if processes.num_processes == 1:
        return list(values)
    exact = torch.float32 if processes.device.type == "mps" else torch.float64
    return reduce(torch.tensor(values, dtype=exact, device=processes.device), "sum").tolist()


def first(processes: PartialState, values: list[float]) -> list[float]:
    """The main process's values, everywhere."""
    if processes.num_processes == 1 or not values:
        return values
    return broadcast(torch.tensor(values, dtype=torch.float64, device=processes.device)).tolist()


def same_(processes: PartialState, tensors: Iterable[Tensor]) -> None:
    """Give every process the main one's tensors."""
    if processes.num_processes > 1:
        for tensor in tensors:
            tensor.data.copy_(broadcast(tensor.detach().contiguous()))


def sum_gradients_(processes: PartialState, parameters: list[nn.Parameter]) -> None:
    """Sum the gradients over the processes, in place; what no process used keeps none, as in one process."""
    if processes.num_processes == 1:
        return
    used = total(processes, *(p.grad is not None for p in parameters))
    mine = [p for p, count in zip(parameters, used, strict=True) if count]
    for parameter in mine:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for dtype in sorted({p.dtype for p in mine}, key=str):
        gradients = [p.grad for p in mine if p.dtype == dtype and p.grad is not None]
        flat = reduce(torch.cat([g.reshape(-1) for g in gradients]), "sum")
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def mean_(processes: PartialState, buffers: Iterable[Tensor]) -> None:
    """Average running statistics over the processes, in place; counters are equal already."""
    if processes.num_processes > 1:
        for buffer in buffers:
            if buffer.is_floating_point():
                buffer.copy_(reduce(buffer, "mean"))
