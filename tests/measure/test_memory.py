"""The memory figure against what can be worked out by hand."""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tailor.inputs import Inputs
from tailor.measure.memory import held_bytes, peak_memory_bytes

IMAGES = Inputs.images(3, 16, 16)


class Steps(nn.Module):
    """Holds at most `live` tensors of the size of its input beyond the input."""

    def __init__(self, live: int) -> None:
        super().__init__()
        self.live = live

    def forward(self, x: Tensor) -> Tensor:
        held = [x + step for step in range(self.live)]
        del held
        return x.sum()


@pytest.mark.parametrize("live", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_peak_is_the_most_that_is_alive_at_once(live: int, batch: int) -> None:
    image = batch * 3 * 16 * 16 * 4
    measured = peak_memory_bytes(Steps(live), IMAGES, batch=batch)
    assert image * (live + 1) <= measured <= image * (live + 1) + 512  # and a few scalars


def test_released_memory_counts_once() -> None:
    chain = nn.Sequential(*[nn.Sigmoid() for _ in range(9)])
    image = 8 * 3 * 16 * 16 * 4
    assert peak_memory_bytes(chain, IMAGES, batch=8) == 3 * image  # images, and input and output of one layer


def test_the_peak_grows_with_the_batch_and_with_the_type() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    figures = [peak_memory_bytes(model, IMAGES, batch=batch) for batch in (1, 2, 4, 8)]
    assert figures == sorted(set(figures))
    assert peak_memory_bytes(model, IMAGES, batch=8, dtype=torch.float64) > figures[-1]


def test_weights_count_and_shared_ones_once() -> None:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    model = nn.Sequential(first, second, nn.BatchNorm2d(3))
    separate = held_bytes(model)
    assert separate == 4 * (2 * (16 * 16 + 16) + 4 * 3) + 8
    second.weight = first.weight
    assert held_bytes(model) == separate - 4 * 16 * 16
    assert peak_memory_bytes(model, IMAGES) > separate - 4 * 16 * 16


def test_nothing_is_written_and_the_environment_stays(capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    peak_memory_bytes(nn.Linear(16, 4), IMAGES)
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("build", [lambda: Steps(3), lambda: nn.Sigmoid()])
def test_both_devices_agree(build: Callable[[], nn.Module]) -> None:
    cpu, gpu = (
        peak_memory_bytes(build(), Inputs.images(3, 64, 64), batch=8, device=device) for device in ("cpu", "cuda")
    )
    assert gpu == pytest.approx(cpu, rel=0.01)
