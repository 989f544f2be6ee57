"""Whatever carries a model out computes what the model computes; what cannot be had is a sentence, told early."""

import importlib

import pytest
import torch
from torch import nn

import tailor
from tailor.deploy import packages, runtimes
from tailor.deploy.runtimes import RUNTIMES, Runtime, ready
from tailor.errors import ModelError, TailorError, UsageError
from tailor.inputs import Inputs

IMAGES = Inputs.images(3, 8, 8)


class Net(nn.Module):
    """A convolution and a layer behind it, with norms away from where they start."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(width)
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 5)
        for tensor in [*self.parameters(), *self.buffers()]:
            if tensor.is_floating_point():
                tensor.data = 0.1 + torch.rand(tensor.shape, generator=generator)
        self.eval()

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_computes_what_the_model_computes(name, last):
    if last and name not in runtimes.ARRANGED:
        with pytest.raises(UsageError, match=f"nothing to ask of `{name}`"):
            Runtime(name, channels_last=True)
        return
    model = Net()
    before = model.conv.weight.stride()
    made = ready(model, IMAGES, Runtime(name, last))
    (images,) = IMAGES.example(3, seed=4)
    with torch.no_grad():
        torch.testing.assert_close(made(images), model(images), rtol=1e-4, atol=1e-4)
    assert model.conv.weight.stride() == before, "the model itself stays as it was"
    arranged = [p for n, p in made.named_parameters() if n.endswith("conv.weight")]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in arranged) if last else True


def test_models_of_one_class_are_compiled_each():
    """The compiler keeps few versions a function and then runs the next one as it is, without a word."""
    from torch._dynamo import config
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    before = counters["stats"]["unique_graphs"]
    with config.patch(recompile_limit=1, accumulated_recompile_limit=1):
        for width in (4, 6):
            ready(Net(width), IMAGES, Runtime("compile"))
    assert counters["stats"]["unique_graphs"] - before == 2


def test_a_runtime_that_is_not_installed_is_told_before_anything_is_opened(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "onnxruntime" else object())
    for asked in (
        lambda: tailor.bench("test_vit", runtime="onnx"),
        lambda: tailor.adapt("nowhere", model="x", speed="4x", runtime="onnx", out=tmp_path / "a", progress=None),
        lambda: tailor.prune("x", method="auto", data="nowhere", speed="4x", runtime="onnx", out=tmp_path / "a"),
    ):
        with pytest.raises(TailorError, match="not installed: `onnxruntime`") as caught:
            asked()
        assert "tailor-models[export]" in caught.value.hint
    with pytest.raises(UsageError, match="no runtime is called `onxx`") as caught:
        tailor.bench("test_vit", runtime="onxx")
    assert "`onnx`" in caught.value.hint


def test_onnx_runs_on_the_cpu_only():
    with pytest.raises(ModelError, match="`onnx` runs on the CPU here, and the model is on `meta`"):
        ready(nn.Linear(3, 3, device="meta"), IMAGES, Runtime("onnx"))


def test_a_race_puts_all_models_into_its_runtime_and_the_dense_one_once(monkeypatch):
    arena = importlib.import_module("tailor.workflow.race.arena")
    asked, timed = [], []
    monkeypatch.setattr(arena, "ready", lambda model, *more: asked.append((model, *more)) or nn.Sequential(model))
    kept = arena.throughput
    monkeypatch.setattr(arena, "throughput", lambda models, *a, **k: timed.append(models) or kept(models, *a, **k))
    dense, small, runtime = Net(), Net(4), Runtime("compile")
    clock = arena.in_turns(IMAGES, runtime)
    for _ in range(2):
        clock({"dense": dense, "small": small}, 1, 0.1)
    assert [model for model, *_ in asked] == [dense, small, small] and {more[1] for _, *more in asked} == {runtime}
    assert all(type(model) is nn.Sequential for models in timed for model in models.values())
