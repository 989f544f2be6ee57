"""Integers: the same inputs, result and metadata as the float file, kept only where they are nearly as good."""

import logging
from pathlib import Path

import onnx
import pytest
import torch

import tailor
from tailor.deploy import export as deploy
from tailor.deploy.export import opened, read_metadata
from tailor.deploy.quantise import WAYS, quantised
from tailor.errors import ModelError, UsageError
from tailor.inputs import Inputs
from tailor.workflow import quantise

IMAGES = Inputs.images(3, 8, 8)


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    ).eval()
    return deploy.export(model, IMAGES, tmp_path_factory.mktemp("f") / "f.onnx", classes=list("abcde")).path


@pytest.mark.parametrize("way", WAYS)
def test_integers_compute_nearly_the_same_under_the_same_names(floats, tmp_path, way):
    logging.root.handlers[:], kept = [], logging.root.handlers[:]
    try:
        made = quantised(floats, tmp_path / "q.onnx", [IMAGES.example(64, seed=s) for s in (1, 2)], way)
        assert not logging.root.handlers, "nothing sets up logging for the whole process"
    finally:
        logging.root.handlers[:] = kept
    example = IMAGES.example(7, seed=3)
    (whole,), (found,) = opened(floats)(example), opened(made)(example)
    assert 0 < float((whole - found).abs().max()) < 0.1 * float(whole.abs().max())
    assert read_metadata(made) == read_metadata(floats) and read_metadata(made)["classes"] == list("abcde")
    graph = onnx.load(made).graph
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    (weight,) = [
        one for one in graph.initializer if one.data_type == onnx.TensorProto.INT8 and list(one.dims)[1:] == [3, 3, 3]
    ]
    scales = [
        one
        for one in graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT and list(one.dims) == [weight.dims[0]]
    ]
    assert scales, "every output channel of a weight has a scale of its own"
    assert made.stat().st_size < floats.stat().st_size


@pytest.fixture(scope="module")
def bundle(photos, tmp_path_factory):
    settings = {"weights": "random", "image_size": 32, "method": "linear", "epochs": 1, "progress": None}
    return tailor.adapt(photos, model="test_vit", out=tmp_path_factory.mktemp("a") / "a", **settings).bundle


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 4), ("val", 3)):
        for number, name in enumerate(("red", "green")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (24, 24), (200 - 150 * number, 50 + 150 * number, 10 * i)).save(
                    root / split / name / f"{i}.png"
                )
    return str(root)


def test_the_last_step_compares_on_val_and_keeps_or_refuses(bundle, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "SECONDS", 0.1)
    heard, file = [], tmp_path / "m.onnx"
    made = tailor.export(bundle, out=file, int8=True, data=photos, tolerance=1.0, progress=heard.append)
    assert made.metric == "accuracy" and made.n == 6 and made.throughput_ratio > 0 and made.operators in WAYS
    assert made.int8 == _scored(file, bundle, photos) and made.bytes == file.stat().st_size
    told = [event.text for event in heard if event.stage == "quantising" and "on val" in event.text]
    assert [text.partition(":")[0] for text in told] == [*WAYS] and f"in float32 {made.float32:.3f}" in told[0]
    assert read_metadata(file)["classes"] == ["green", "red"]
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]

    scores = iter([0.9, 0.8, 0.7])
    monkeypatch.setattr(quantise.Quantiser, "_score", lambda self, model: next(scores))
    with pytest.raises(ModelError, match=r"falls from 0.900 to 0.800, by 0.100; at most 0.05 is tolerated") as caught:
        tailor.export(bundle, out=tmp_path / "n.onnx", int8=True, data=photos, tolerance=0.05, progress=None)
    assert "--tolerance" in caught.value.hint and not (tmp_path / "n.onnx").exists()
    scores = iter([0.9, 0.7, 0.88])
    made = tailor.export(bundle, out=tmp_path / "n.onnx", int8=True, data=photos, progress=None)
    assert (made.float32, made.int8, made.operators) == (0.9, 0.88, "all")


def _scored(file: Path, bundle: str, photos: str) -> float:
    found = tailor.evaluate(bundle, photos, progress=None)  # its classes and preprocessing
    assert found.n
    from tailor.data.images import read_image

    transform, run = tailor.load(bundle).transform, opened(file)
    right = []
    for name, label in (("green", 0), ("red", 1)):
        for one in sorted((Path(photos) / "val" / name).iterdir()):
            (logits,) = run((transform(read_image(str(one)))[None],))
            right.append(int(logits.argmax()) == label)
    return sum(right) / len(right)


def test_what_integers_cannot_be_is_told_before_anything_is_opened(tmp_path):
    for out, given in (("m.pt2", {"data": "photos"}), ("m.onnx", {})):
        with pytest.raises(UsageError, match="integers are for ONNX files"):
            tailor.export("nowhere", out=tmp_path / out, int8=True, **given)
    with pytest.raises(UsageError, match="`--tolerance 2` is no share"):
        tailor.export("nowhere", out=tmp_path / "m.onnx", int8=True, data="photos", tolerance=2)
