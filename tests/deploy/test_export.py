"""Exported files compute what the model computes, for any batch, or do not exist."""

import importlib.util
import os
import resource
import stat
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

from tailor.deploy import export as module
from tailor.deploy.export import export, read_metadata
from tailor.errors import ModelError, TailorError, UsageError
from tailor.inputs import Inputs

IMAGES = Inputs.images(3, 32, 32)
SUFFIXES = (".pt2", ".onnx")


def shaken(model: nn.Module) -> nn.Module:
    """Norms, biases, scales and running statistics away from the values that hide bugs."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand(tensor.shape, generator=generator)
    return model.eval()


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    )


def swin() -> nn.Module:
    shape = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **shape)


def convnext() -> nn.Module:
    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=5)


def resnet() -> nn.Module:
    return timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 24, 32), num_classes=5)


FAMILIES = {f.__name__: f for f in (vit, swin, convnext, resnet)}


def run(path: Path, batch: Tensor) -> Tensor:
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(batch).detach()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_file_computes_the_same_for_any_batch(
    family: Callable[[], nn.Module], suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = shaken(family())
    exported = export(model, IMAGES, tmp_path / f"model{suffix}")
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == [f"model{suffix}"]
    assert exported.bytes == exported.path.stat().st_size
    assert exported.difference < 1e-4
    batch = torch.randn(7, *IMAGES.image, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(run(exported.path, batch), model(batch), rtol=1e-4, atol=1e-4)


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return 2 * x @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return 2 * gradient @ weight, 2 * gradient.T @ x


class Custom(nn.Module):
    """A custom autograd Function in forward, and an output of several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 48))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": Scale.apply(x.flatten(1), self.weight), "mean": x.mean((1, 2, 3))}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_custom_functions_and_several_outputs_are_exported(suffix: str, tmp_path: Path) -> None:
    assert export(Custom(), Inputs.images(3, 4, 4), tmp_path / f"model{suffix}").difference < 1e-5


class TwoFaced(nn.Module):
    """Computes something else while it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + (1.0 if torch.compiler.is_exporting() else 0.0)


class Loud(nn.Linear):
    """Prints and warns while it is traced, as exporters do."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            print("tracing")
            warnings.warn("an old name is used", FutureWarning, stacklevel=1)
        return super().forward(x)


def test_noise_of_the_exporters_does_not_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(Loud(32, 4), IMAGES, tmp_path / "model.pt2")  # warnings are errors here
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mismatch_leaves_no_file_or_the_old_one(suffix: str, existing: bool, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    if existing:
        path.write_text("old")
    with pytest.raises(ModelError, match=r"difference [1-9].* of the largest output, at most 0.0001 is accepted"):
        export(TwoFaced(), IMAGES, path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if existing else [])
    assert not existing or path.read_text() == "old"


def test_nan_is_a_difference(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * float("nan")

    with pytest.raises(ModelError, match="difference nan"):
        export(Broken(), IMAGES, tmp_path / "model.pt2")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_class_names_and_preprocessing_travel_inside(suffix: str, tmp_path: Path) -> None:
    preprocessing = {"mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    path = export(
        resnet(),
        IMAGES,
        tmp_path / f"m{suffix}",
        classes=["Rose", "Nelke ä"],
        preprocessing=preprocessing,
    ).path
    assert read_metadata(path) == {
        "classes": ["Rose", "Nelke ä"],
        "preprocessing": preprocessing,
        "image_size": [*IMAGES.image],
        "output": "logits",
    }


def test_a_foreign_file_has_no_metadata_or_is_refused(tmp_path: Path) -> None:
    onnx.save(onnx.ModelProto(), tmp_path / "a.onnx")
    assert read_metadata(tmp_path / "a.onnx") == {}
    for suffix in SUFFIXES:
        (tmp_path / f"b{suffix}").write_bytes(b"\xff\xfe no model")
        with pytest.raises(UsageError, match="is no exported model"):
            read_metadata(tmp_path / f"b{suffix}")
        with pytest.raises(UsageError, match="cannot read"):
            read_metadata(tmp_path / f"missing{suffix}")


def test_the_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = resnet().train()
    model.fc.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export(model, IMAGES, tmp_path / "model.pt2")
    assert model.training
    assert not model.fc.weight.requires_grad
    assert model.conv1.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.randn(2, *IMAGES.image)).sum().backward()


def test_a_half_precision_model_is_exported_in_single(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).half()
    path = export(model, Inputs.images(3, 4, 4), tmp_path / "model.pt2").path
    assert run(path, torch.randn(1, 3, 4, 4)).dtype == torch.float32
    assert model[1].weight.dtype == torch.float16


def test_one_file_of_one_name_and_ordinary_rights(tmp_path: Path) -> None:
    path = export(resnet(), IMAGES, tmp_path / "new" / "folder" / "model.onnx").path
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert not onnx.load(path, load_external_data=False).graph.initializer[0].external_data


def test_what_cannot_be_exported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Peeks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(UsageError, match="its suffix names no format"):
        export(resnet(), IMAGES, tmp_path / "model.tflite")
    with pytest.raises(ModelError, match=r"cannot be exported to `\.pt2`"):
        export(Peeks(), IMAGES, tmp_path / "model.pt2")
    with pytest.raises(ModelError, match="does not run on a batch of shape"):
        export(vit(), Inputs.images(3, 30, 30), tmp_path / "model.pt2")
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 1000)
    with pytest.raises(ModelError, match=r"one ONNX file holds at most 2 GB\nhint: export to `\.pt2`"):
        export(resnet(), IMAGES, tmp_path / "model.onnx")
    (tmp_path / "taken.pt2").write_text("old")
    with pytest.raises(UsageError, match="there is a file already"):
        export(resnet(), IMAGES, tmp_path / "taken.pt2")
    with pytest.raises(UsageError, match="cannot write"):
        export(resnet(), IMAGES, tmp_path / "taken.pt2" / "model.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["taken.pt2"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert importlib.util.find_spec("onnxruntime") is None
    with pytest.raises(TailorError, match=r"not installed: `onnxruntime`\nhint: pip install 'tailor-models\[export\]'"):
        export(resnet(), IMAGES, tmp_path / "model.onnx")
    export(resnet(), IMAGES, tmp_path / "model.pt2")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, suffix):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # writing more fails as on a full disk
    try:
        with pytest.raises(UsageError, match="cannot write"):
            export(shaken(vit()), IMAGES, tmp_path / f"m{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_swept_by_the_next(tmp_path):
    dead, alive = 10**30, os.getpid() if os.getppid() <= 1 else os.getppid()
    for number in (dead, alive):
        (tmp_path / f".m.pt2.{number}.partial").mkdir()
        (tmp_path / f".m.pt2.{number}.partial" / "m.pt2").write_text("half")
    (tmp_path / ".m.pt2.mine.partial").mkdir()
    export(vit(), IMAGES, tmp_path / "m.pt2")
    assert {path.name for path in tmp_path.iterdir()} == {"m.pt2", f".m.pt2.{alive}.partial", ".m.pt2.mine.partial"}
