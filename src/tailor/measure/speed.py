"""Times forward passes on the machine at hand: latency of one model, or several compared in one interleaved run.

Times are milliseconds a forward pass, in evaluation and inference mode, on a seeded example, after warm-up; on a
GPU between CUDA events. Only the forward counts: no decoding, no transfer of images. `PROTOCOLS` holds the seeds'
settings; where those print means, `Timing` has both. Machines drift: compare only what one call returns.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tailor.errors import ModelError, UsageError, nearest
from tailor.events import Progress
from tailor.inputs import Example, Inputs

FEWEST_ROUNDS = 3  # fewer give no spread


@dataclass(frozen=True)
class Protocol:
    """How a throughput is measured: images a batch, untimed and timed rounds, and a limit where there is one."""

    cpu_batch: int
    gpu_batch: int
    warmup: int
    runs: int
    seconds: float | None = None  # then rounds, and where it must be the batch, are reduced to fit


PROTOCOLS = {
    "quick": Protocol(cpu_batch=8, gpu_batch=64, warmup=3, runs=100, seconds=20.0),
    "sls": Protocol(
        cpu_batch=64, gpu_batch=64, warmup=50, runs=100
    ),  # SLS, supplement, algorithm 1, and its code's warm-up
    "isomorphic": Protocol(cpu_batch=8, gpu_batch=256, warmup=20, runs=100),  # Isomorphic Pruning, latency tables
}


@dataclass(frozen=True)
class Spread:
    """Median, and 10th and 90th percentile, of one quantity over the rounds of a run."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Timing:
    """Milliseconds a forward pass over `batch` images, and how they were measured."""

    median: float
    mean: float
    p10: float
    p90: float
    runs: int
    batch: int
    protocol: str
    device: str
    dtype: str
    threads: int

    @property
    def images_per_second(self) -> float:
        """Throughput by the median."""
        return 1000 * self.batch / self.median

    @property
    def mean_images_per_second(self) -> float:
        """Throughput by total time, as algorithm 1 of SLS defines it."""
        return 1000 * self.batch / self.mean


@dataclass(frozen=True)
class Comparison:
    """Timings of several models taken in turns, and how many times faster than the first each is, round by round."""

    timings: Mapping[str, Timing]
    ratios: Mapping[str, Spread]
    seconds: float
    limit: float | None


def latency(
    model: nn.Module,
    inputs: Inputs,
    *,
    batch: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    protocol: str = "quick",
    seconds: float | None = None,
) -> Timing:
    """Time of one forward pass, waiting for each; batch 1 unless told (`throughput` takes the protocol's batch).

    Without `device` and `dtype` the model is measured where and as it is, else as a converted copy (the whole model,
    no autocast). `seconds` replaces the protocol's limit. Raises `ModelError` where the model does not run.
    """
    if protocol in PROTOCOLS and PROTOCOLS[protocol].seconds is None and seconds is None:
        seconds = math.inf  # no limit, but a limit is what makes every round wait for the device
    measured = throughput(
        {"model": model}, inputs, batch=batch, device=device, dtype=dtype, protocol=protocol, seconds=seconds
    )
    return measured.timings["model"]


def throughput(
    models: Mapping[str, nn.Module],
    inputs: Inputs,
    *,
    batch: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    protocol: str = "quick",
    seconds: float | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Times the models in turns (A B C A B C ...) on the same example, so that drift of the machine meets all of them.

    The ratios are medians over rounds of `time of the first / time of this one`. With a limit in seconds the rounds
    end in time (never below three), and a batch that was not given is halved until it fits. All models run on one
    device (of the first, unless given). Raises `UsageError` for an unknown protocol, `ModelError` for a model that
    does not run.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol: `{protocol}`", hint=nearest(protocol, tuple(PROTOCOLS)))
    if not models:
        raise UsageError("no model to measure", hint="name at least one")
    settings = PROTOCOLS[protocol]
    limit = settings.seconds if seconds is None else seconds
    place = torch.device(device) if device is not None else home(next(iter(models.values())))[0]
    began = time.perf_counter()
    with ExitStack() as stack, torch.inference_mode():
        ready = [stack.enter_context(prepared(model, place, dtype)) for model in models.values()]
        kinds = [home(model)[1] for model in ready]
        count = batch or _fitting_batch(ready, kinds, inputs, place, settings, limit)
        examples = [inputs.example(count, device=place, dtype=kind) for kind in kinds]
        if any(hasattr(model, "_orig_mod") for model in ready):
            for model, drawn in zip(ready, examples, strict=True):
                first_forward(model, drawn)  # `torch.compile` works for each shape anew: not part of it
            began = time.perf_counter()
        table = _rounds(ready, examples, settings, limit, began, progress)
    timings = {
        name: _timing(column, count, protocol, place, kind)
        for name, column, kind in zip(models, table.T, kinds, strict=True)
    }
    ratios = {name: _spread(table[:, 0] / column) for name, column in zip(models, table.T, strict=True)}
    return Comparison(timings, ratios, time.perf_counter() - began, limit)


def no_gain(macs_before: int, macs_after: int, ratio: float) -> str:
    """A sentence where clearly fewer MACs did not become faster (`ratio`: how many times), else nothing."""
    fewer = 1 - macs_after / macs_before
    return f"{fewer:.0%} fewer MACs, but not faster here" if fewer > 0.02 and ratio <= 1.02 else ""


def home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and type of the first floating parameter or buffer (CPU and the default type where there is none)."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


@contextmanager
def prepared(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> Iterator[nn.Module]:
    """The model in evaluation mode, there, in that type: itself where it is so (its modes come back), else a copy."""
    here, kind = home(model)
    if here.type == device.type and device.index in (None, here.index) and dtype in (None, kind):
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield model.eval()
        finally:
            for module, training in modes:
                module.training = training
    else:
        with torch.inference_mode(False):
            converted = copy.deepcopy(model).to(device=device, dtype=dtype)
        yield converted.eval()


def first_forward(model: nn.Module, example: Example) -> None:
    """One untimed pass, where a model that does not run is told in a sentence; waits for the device."""
    try:
        model(*example)
        _wait(example[0].device)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"a batch of {len(example[0])} does not fit into the device's memory", hint="give a smaller batch"
        ) from None
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shapes = " and ".join(str(tuple(one.shape)) for one in example)
        raise ModelError(
            f"the model does not run on a batch of shape {shapes}: {reason}",
            hint="give the image size that the model was made for",
        ) from None


def _fitting_batch(
    models: Sequence[nn.Module],
    kinds: Sequence[torch.dtype],
    inputs: Inputs,
    device: torch.device,
    settings: Protocol,
    limit: float | None,
) -> int:
    """The protocol's batch, halved until warm-up and the fewest rounds take half the limit, by trying one sample."""
    count = settings.gpu_batch if device.type == "cuda" else settings.cpu_batch
    if limit is None:
        return count
    each = 0.0
    for model, kind in zip(models, kinds, strict=True):
        one = inputs.example(1, device=device, dtype=kind)
        first_forward(model, one)  # one-off costs, not of interest
        began = time.perf_counter()
        first_forward(model, one)
        each += time.perf_counter() - began
    while count > 1 and (settings.warmup + FEWEST_ROUNDS) * each * count > limit / 2:
        count //= 2
    return count


def _rounds(
    models: Sequence[nn.Module],
    examples: Sequence[Example],
    settings: Protocol,
    limit: float | None,
    began: float,
    progress: Progress | None,
) -> np.ndarray:
    """Milliseconds `(rounds, models)`; without a limit nothing waits for a GPU between forwards, as in the seeds."""
    device = examples[0][0].device
    for _ in range(settings.warmup):
        for model, example in zip(models, examples, strict=True):
            first_forward(model, example)
        if limit is not None and time.perf_counter() - began > limit / 2:
            break
    marks: list[list[Callable[[], float]]] = []
    longest = 0.0
    for turn in range(settings.runs):
        start = time.perf_counter()
        marks.append([_timed(model, example) for model, example in zip(models, examples, strict=True)])
        if progress is not None:
            progress(turn + 1, settings.runs)
        if limit is not None:
            _wait(device)
            now = time.perf_counter()
            longest = max(longest, now - start)
            if turn + 1 >= FEWEST_ROUNDS and now + longest - began > limit:
                break
    _wait(device)
    return np.array([[read() for read in row] for row in marks])


def _timed(model: nn.Module, example: Example) -> Callable[[], float]:
    """Runs one forward; the result tells its milliseconds, on a GPU once the device has been waited for."""
    if example[0].device.type == "cuda":
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        model(*example)
        stop.record()
        return lambda: float(start.elapsed_time(stop))
    began = time.perf_counter()
    model(*example)
    took = 1000 * (time.perf_counter() - began)
    return lambda: took


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timing(column: np.ndarray, batch: int, protocol: str, device: torch.device, dtype: torch.dtype) -> Timing:
    spread = _spread(column)
    return Timing(
        median=spread.median,
        mean=float(column.mean()),
        p10=spread.p10,
        p90=spread.p90,
        runs=len(column),
        batch=batch,
        protocol=protocol,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def _spread(values: np.ndarray) -> Spread:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return Spread(median=float(middle), p10=float(low), p90=float(high))
