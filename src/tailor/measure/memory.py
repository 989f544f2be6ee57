"""Peak memory of one forward pass: weights + buffers + inputs + the most that the pass holds on top of them at once.

One definition for both devices: the growth is the peak of the CUDA allocator on a GPU, and on the CPU that of the
profiler's record of every allocation and release by torch's CPU allocator (RSS would miss what is reused, and count
what others do). Not counted: interpreter and libraries, an allocator's reserve, what oneDNN or BLAS take by themselves;
with these the resident set of a ViT-S forward grew 1.8 to 2.0 times as much on glibc (batch 32 and 8).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tailor.inputs import Example, Inputs
from tailor.measure.speed import first_forward, home, prepared


def peak_memory_bytes(
    model: nn.Module,
    inputs: Inputs,
    *,
    batch: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> int:
    """Bytes as the module docstring defines them, for a forward over `batch` samples in evaluation and inference mode.

    The first pass is not measured: what it allocates to stay (caches, workspaces) is not the forward's. Without
    `device` and `dtype` the model is measured where and as it is. Raises `ModelError` where the model does not run.
    """
    place = torch.device(device) if device is not None else home(model)[0]
    with prepared(model, place, dtype) as ready, torch.inference_mode():
        example = inputs.example(batch, device=place, dtype=home(ready)[1])
        first_forward(ready, example)
        grown = _growth_on_gpu(ready, example) if place.type == "cuda" else _growth_on_cpu(ready, example)
        return held_bytes(ready) + sum(one.nbytes for one in example) + grown


def held_bytes(model: nn.Module) -> int:
    """Bytes of the model's parameters and buffers, shared storage once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in [*model.parameters(), *model.buffers()]
    }
    return sum(storages.values())


def _growth_on_gpu(model: nn.Module, example: Example) -> int:
    torch.cuda.synchronize(example[0].device)
    torch.cuda.reset_peak_memory_stats(example[0].device)
    before = torch.cuda.memory_allocated(example[0].device)
    model(*example)
    torch.cuda.synchronize(example[0].device)
    return torch.cuda.max_memory_allocated(example[0].device) - before


def _growth_on_cpu(model: nn.Module, example: Example) -> int:
    return growth(lambda: model(*example))


def growth(run: Callable[[], Any]) -> int:
    """The most bytes that `run` holds at once on the CPU on top of what was held before, by torch's allocator."""
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    results = record.profiler.kineto_results if record.profiler is not None else None
    assert results is not None, "a finished profile has results"
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    return max(accumulate((size for _, size in changes), initial=0))


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """The profiler writes notes to stderr by itself unless this variable says otherwise when it starts."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
