"""The verb `bench`: what is said of one model and of two, folded and compiled; no figure decides a test."""

import importlib
import json

import pytest
import torch

import tailor
from tailor.cli import main
from tailor.deploy.runtimes.compiling import compiled
from tailor.errors import ModelError, UsageError
from tailor.inputs import Inputs
from tailor.measure.speed import PROTOCOLS, Protocol, no_gain

SPEED = importlib.import_module("tailor.measure.speed")
VIT, RES = "test_vit", "test_resnet"


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "quick", Protocol(cpu_batch=2, gpu_batch=2, warmup=1, runs=3, seconds=20.0))


def test_two_models_side_by_side():
    first, other = tailor.bench(VIT, against=RES)
    assert first.macs_ratio == other.macs / first.macs and (other.macs_ratio, other.throughput_ratio) == (1, 1)
    assert first.throughput_ratio == first.ratio["median"] and not other.ratio
    assert first.batch == other.batch == 2 and first.batch_ms * first.throughput == pytest.approx(2000)
    assert first.batch_ms_mean * first.throughput_mean == pytest.approx(2000)


@pytest.mark.parametrize(
    ("before", "after", "ratio", "says"),
    [(100, 50, 1.0, "50% fewer MACs, but not faster"), (100, 50, 1.5, ""), (100, 99, 0.9, ""), (50, 100, 0.5, "")],
)
def test_fewer_macs_that_are_not_faster_are_a_warning(before, after, ratio, says):
    assert no_gain(before, after, ratio).startswith(says) and bool(no_gain(before, after, ratio)) == bool(says)


def test_the_warning_is_a_line_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr("tailor.measure.speed.no_gain", lambda *a: "60% fewer MACs, but")
    with pytest.raises(SystemExit):
        main(["bench", VIT, "--against", RES])
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == f"warning: `{VIT}`: 60% fewer MACs, but"
    assert any(line.split()[:1] == ["name"] and line.split()[1:] == [VIT, RES] for line in lines)
    assert any(line.startswith("throughput ratio") for line in lines)


def test_folding_is_said_and_macs_are_the_plain_models(capsys):
    with pytest.raises(SystemExit):
        main(["bench", RES, "--fold", "--json"])
    row = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert row["folded"].endswith("batch norms, 0 of 0 layer norms") and not row["folded"].startswith("0 of")
    assert row["macs"] == tailor.bench(RES).macs


def test_the_folded_model_is_the_one_that_is_timed(monkeypatch):
    seen = []
    bench = importlib.import_module("tailor.workflow.bench")
    kept = bench.throughput
    monkeypatch.setattr(
        bench, "throughput", lambda models, *a, **k: seen.extend(models.values()) or kept(models, *a, **k)
    )
    tailor.bench(RES, fold=True)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in seen[0].modules())


def test_models_of_different_image_sizes_are_not_compared():
    with pytest.raises(
        UsageError, match=r"different inputs: `tailor_mini_ti` images of 3x64x64, `test_vit` images of 3x160x160"
    ):
        tailor.bench("tailor_mini_ti", against=VIT)


def test_without_a_compiler_compiling_is_a_sentence(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    torch.compiler.reset()
    with pytest.raises(ModelError, match=r"needs a C\+\+ compiler") as caught:
        compiled(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh()), Inputs.images(1, 1, 3))
    assert "--runtime eager" in caught.value.hint


def test_both_models_run_in_the_runtime_that_was_asked_for(monkeypatch):
    bench = importlib.import_module("tailor.workflow.bench")
    made = []

    def ready(model, inputs, runtime):
        made.append((model, str(runtime)))
        return torch.nn.Sequential(model)

    seen = []
    kept = bench.throughput
    monkeypatch.setattr(bench.runtimes, "ready", ready)
    monkeypatch.setattr(
        bench, "throughput", lambda models, *a, **k: seen.extend(models.values()) or kept(models, *a, **k)
    )
    rows = tailor.bench(VIT, against=RES, runtime="compile", channels_last=True)
    assert [row.runtime for row in rows] == ["compile, channels last"] * 2 == [text for _, text in made]
    assert [one[0] for one in seen] == [model for model, _ in made]


def test_the_memory_of_another_runtime_is_not_made_up():
    row = tailor.bench("test_vit", runtime="onnx", image_size=32)
    assert row.peak_memory_bytes is None and row.runtime == "onnx" and row.latency_ms > 0 and row.macs > 0


def test_the_old_flag_says_its_new_name(capsys):
    with pytest.raises(SystemExit) as done:
        main(["bench", VIT, "--compile"])
    assert done.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("`--compile` is called `--runtime compile`") and "bench ... --runtime compile" in said


def test_a_compiled_model_is_warmed_for_its_batch_before_the_clock_starts(monkeypatch):
    calls = []

    class Behind(torch.nn.Linear):
        _orig_mod = None

        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    monkeypatch.setattr(SPEED, "_rounds", lambda *a: calls.append("clock") or SPEED.np.ones((3, 1)))
    SPEED.throughput({"a": Behind(4, 4)}, Inputs.images(3, 4, 4), batch=5)
    assert calls == [5, "clock"]


def test_the_papers_protocols():
    """SLS, algorithm 1: 64 images, 100 forwards; Isomorphic Pruning: 256 on a GPU, 8 on a CPU, 20 + 100."""
    sls, isomorphic = PROTOCOLS["sls"], PROTOCOLS["isomorphic"]
    assert (sls.cpu_batch, sls.gpu_batch, sls.runs, sls.seconds) == (64, 64, 100, None)
    assert isomorphic == Protocol(cpu_batch=8, gpu_batch=256, warmup=20, runs=100)
