"""Order, limits and bookkeeping of the timing; no test depends on how fast the machine is."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tailor.errors import ModelError, UsageError
from tailor.inputs import Inputs
from tailor.measure import speed
from tailor.measure.speed import PROTOCOLS, Spread, latency, throughput

IMAGES = Inputs.images(3, 4, 4)


class Clock:
    """Stands in for the machine's clock: it moves only where a forward moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=clock))
    return clock


class Recorder(nn.Module):
    """Notes who was called, with what, and how; each call takes the next of `milliseconds` an image, in turns."""

    def __init__(self, name: str, calls: list[str], clock: Clock | None = None, *milliseconds: float) -> None:
        super().__init__()
        self.name, self.calls, self.clock, self.milliseconds = name, calls, clock, milliseconds
        self.linear = nn.Linear(4, 2)
        self.batches: list[Tensor] = []
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(self.name)
        self.batches.append(x)
        self.modes.add((self.training, torch.is_inference_mode_enabled()))
        if self.clock is not None:
            self.clock.now += self.milliseconds[(len(self.batches) - 1) % len(self.milliseconds)] * len(x) / 1000
        return self.linear(x)


def test_models_take_turns_and_see_the_same_images() -> None:
    calls: list[str] = []
    models = {name: Recorder(name, calls) for name in "abc"}
    compared = throughput(models, IMAGES, batch=2)
    rounds = compared.timings["a"].runs + PROTOCOLS["quick"].warmup
    assert calls == list("abc") * rounds
    assert all(torch.equal(model.batches[-1], models["a"].batches[0]) for model in models.values())
    assert models["a"].batches[0].shape == (2, *IMAGES.image)


def test_models_run_in_evaluation_and_inference_mode_and_come_back_as_they_were() -> None:
    model = Recorder("a", []).train()
    model.linear.eval()
    latency(model, IMAGES)
    assert model.modes == {(False, True)}
    assert model.training
    assert not model.linear.training


@pytest.mark.parametrize("protocol", ["sls", "isomorphic"])
def test_the_seeds_protocols_run_as_written(protocol: str) -> None:
    calls: list[str] = []
    timing = throughput({"a": Recorder("a", calls)}, IMAGES, protocol=protocol).timings["a"]
    assert (timing.batch, timing.runs, len(calls)) == {"sls": (64, 100, 150), "isomorphic": (8, 100, 120)}[protocol]
    assert timing.protocol == protocol


def test_ratios_are_times_of_the_first_over_times_of_this_round_by_round(clock: Clock) -> None:
    drifting, steady = Recorder("a", [], clock, 8.0, 80.0, 8.0), Recorder("b", [], clock, 2.0, 20.0, 4.0)
    compared = throughput({"a": drifting, "b": steady}, IMAGES, batch=5)
    assert compared.timings["a"].runs == 93  # 3 rounds take 0.61 s; a round that may take 0.5 s starts before 19.5 s
    assert compared.ratios["a"] == Spread(1.0, 1.0, 1.0)
    assert compared.ratios["b"].median == pytest.approx(4.0)
    assert compared.ratios["b"].p10 == pytest.approx(2.0)
    timing = compared.timings["a"]
    assert (timing.median, timing.p10, timing.p90) == pytest.approx((40.0, 40.0, 400.0))
    assert timing.mean == pytest.approx(160.0)
    assert timing.images_per_second == pytest.approx(5 / 0.040)
    assert timing.mean_images_per_second == pytest.approx(5 / 0.160)


def test_a_limit_ends_the_rounds_and_shrinks_a_batch_that_was_not_given(clock: Clock) -> None:
    compared = throughput({"a": Recorder("a", [], clock, 40.0)}, IMAGES, seconds=1.0)
    assert compared.timings["a"].batch == 2  # (3 warm-up + 3 timed rounds) x 40 ms x 2 images <= half a second
    assert compared.timings["a"].runs == 8  # what 1 s leaves after two one-image trials and the warm-up, in 80 ms steps
    assert clock.now <= compared.limit == 1.0


def test_three_rounds_are_taken_whatever_the_limit(clock: Clock) -> None:
    assert latency(Recorder("a", [], clock, 5.0), IMAGES, seconds=0.001).runs == 3


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    throughput(
        {"a": Recorder("a", [])},
        IMAGES,
        protocol="sls",
        progress=lambda done, planned: seen.append((done, planned)),
    )
    assert seen == [(done, 100) for done in range(1, 101)]


def test_another_type_is_measured_on_a_copy() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    timing = latency(model, IMAGES, dtype=torch.bfloat16)
    assert (timing.dtype, timing.device, timing.batch) == ("bfloat16", "cpu", 1)
    assert timing.threads == torch.get_num_threads()
    assert model[1].weight.dtype == torch.float32
    model(torch.randn(1, *IMAGES.image)).sum().backward()  # the model is still an ordinary, trainable one


def test_latency_waits_for_the_device_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr(speed, "_wait", waits.append)
    latency(Recorder("a", []), IMAGES, protocol="isomorphic")
    assert len(waits) > 100
    waits.clear()
    throughput({"a": Recorder("a", [])}, IMAGES, protocol="isomorphic")
    assert len(waits) == PROTOCOLS["isomorphic"].warmup + 1


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(UsageError, match="unknown protocol: `quik`\nhint: did you mean `quick`"):
        latency(nn.Identity(), IMAGES, protocol="quik")
    with pytest.raises(UsageError, match="no model to measure"):
        throughput({}, IMAGES)
    with pytest.raises(UsageError, match="at least one sample, not -1"):
        latency(nn.Identity(), IMAGES, batch=-1)
    with pytest.raises(ModelError, match=r"does not run on a batch of shape \(2, 3, 4, 4\)"):
        latency(nn.Linear(5, 2), IMAGES, batch=2)
