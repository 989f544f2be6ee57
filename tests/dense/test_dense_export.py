"""Decoders as files: every one becomes an ONNX graph with a dynamic batch, and computes the same there."""

import pytest

import tiny
from tailor.dense import DECODERS
from tailor.dense.attach import attach_
from tailor.dense.detectors import Cells
from tailor.deploy import export
from tailor.inputs import Inputs
from tailor.tasks.instances import Queries
from tailor.tasks.segmentation import PixelScores, Segmentation

SMALL = {
    "masks": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 2},
    "mask2former": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 4, "encoder_layers": 1},
    "faseg": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 5, "encoder_layers": 1},
    "setr-pup": {"width": 16},
    "mlp": {"width": 16},
    "fcos": {"width": 64},
}


def exported(kind, wrap, file, family="vit"):
    model = attach_(tiny.MODELS[family](), DECODERS[kind](**SMALL.get(kind, {})), 4, seed=0)
    return export.export(wrap(tiny.shake_(model)).eval(), Inputs.images(3, 32, 64), file)


def test_the_default_becomes_a_graph_of_plain_operators(tmp_path):
    assert exported("masks", PixelScores, tmp_path / "a.pt2").difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", Segmentation.decoders)
def test_every_decoder_becomes_an_onnx_file(kind, tmp_path):
    assert exported(kind, PixelScores, tmp_path / "a.onnx").difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wrap"), [("fcos", Cells), ("masks", Queries)])
def test_boxes_and_objects_become_onnx_files(kind, wrap, tmp_path):
    assert exported(kind, wrap, tmp_path / "a.onnx").difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["swin", "convnext", "resnet"])
def test_other_families_export_with_faseg(family, tmp_path):
    assert exported("faseg", PixelScores, tmp_path / "a.onnx", family).difference < 1e-4
