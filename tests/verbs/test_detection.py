"""Boxes and outlined objects through the same verbs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import tailor
from tailor.dense import average_precision, detectors, fcos
from tailor.dense.boxes import scaled
from tailor.errors import ModelError, PlanError, TailorError
from tailor.tasks import TASKS
from tailor.tasks.detection import DetectorHead

SHORT = {"model": "tailor_mini_ti", "image_size": 32, "epochs": 1, "batch_size": 4, "progress": None}
SMALL = {
    "fcos": {"width": 64, "least": 0.0},
    "faster-rcnn": {"width": 16, "hidden": 32, "least": 0.0},
    "masks": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 2},
}


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A bright square or bar an image, in VOC's layout; one image has none."""
    root = tmp_path_factory.mktemp("squares")
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = {"train": [f"a{i}" for i in range(8)], "test": [f"b{i}" for i in range(3)]}
    for split, stems in names.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
        for i, stem in enumerate(stems):
            image = rng.integers(0, 40, (36, 48, 3), dtype=np.uint8)
            x, y, width = int(rng.integers(1, 20)), int(rng.integers(1, 14)), 20 if i % 2 else 8
            image[y : y + 20, x : x + width] = 230
            box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + width}</xmax><ymax>{y + 20}</ymax>"
            drawn = f"<object><name>{'square' if i % 2 else 'bar'}</name><bndbox>{box}</bndbox></object>"
            size = "<size><width>48</width><height>36</height></size>"
            (root / f"Annotations/{stem}.xml").write_text(
                f"<annotation><filename>{stem}.png</filename>{size}{'' if stem == 'a0' else drawn}</annotation>"
            )
            Image.fromarray(image).save(root / f"JPEGImages/{stem}.png")
    return str(root)


@pytest.fixture(scope="module")
def adapted(squares, tmp_path_factory):
    out = tmp_path_factory.mktemp("det") / "a"
    return tailor.adapt(squares, method="eva-2", out=out, decoders={"fcos": SMALL["fcos"]}, **{**SHORT, "epochs": 2})


def test_boxes_are_learnt_and_measured_by_coco_s_rules(adapted, squares):
    assert adapted.metric == "map" and 0 <= adapted.map <= 1
    again = tailor.evaluate(adapted.bundle, squares, progress=None)
    assert again.map == adapted.map and again.n == 3
    assert set(again.per_class) == {"square", "bar"}


def test_boxes_are_told_as_shares_and_drawn(adapted, squares, tmp_path):
    found = tailor.predict(adapted.bundle, f"{squares}/JPEGImages/b0.png", out=tmp_path / "drawn", progress=None)[0]
    label, score, *box = found.boxes[0]
    assert label in ("square", "bar") and 0 <= score <= 1 and all(0 <= side <= 1 for side in box)
    with Image.open(found.overlay) as picture:
        assert picture.size == (48, 36)


def test_two_stages_train_too_but_are_not_exported(squares, tmp_path):
    made = tailor.adapt(
        squares,
        method="linear",
        decoder="faster-rcnn",
        out=tmp_path / "a",
        decoders={"faster-rcnn": SMALL["faster-rcnn"]},
        **SHORT,
    )
    assert 0 <= made.map <= 1
    with pytest.raises(ModelError, match="another number of boxes for each image"):
        tailor.export(made.bundle, out=tmp_path / "a.onnx", data=squares, progress=None)


def test_objects_are_learnt_from_drawn_scenes(tmp_path, monkeypatch):
    from tailor.data.sources import shapes_instances

    monkeypatch.setattr(shapes_instances, "SIZES", {"train": 8, "val": 4, "test": 4})
    made = tailor.adapt(
        "builtin/shapes-instances", method="linear", out=tmp_path / "a", decoders={"masks": SMALL["masks"]}, **SHORT
    )
    assert made.metric == "map" and 0 <= made.map <= 1
    again = tailor.evaluate(made.bundle, "builtin/shapes-instances", progress=None)
    assert again.map == made.map
    picture = tmp_path / "one.png"
    Image.new("RGB", (50, 40)).save(picture)
    found = tailor.predict(made.bundle, picture, out=tmp_path / "drawn", progress=None)[0]
    assert found.count == len(found.objects)


def test_a_perfect_answer_has_an_average_precision_of_one():
    task = TASKS["detection"]()
    head = DetectorHead(("a", "b"))
    metrics = task.metrics(head)
    boxes, labels = torch.tensor([[4.0, 4, 20, 20], [10, 2, 40, 30]]), torch.tensor([0, 1])
    target = {"boxes": boxes, "labels": labels, "size": torch.tensor([36, 48])}
    metrics.update([{"boxes": boxes, "labels": labels, "scores": torch.ones(2)}], [target])
    found = task.figures(metrics.compute(), head)
    assert found["map"] == 1.0 and found["per_class"] == {"a": 1.0, "b": 1.0}


def test_cells_that_say_the_truth_are_chosen_and_cost_little():
    """Where each cell inside of a box gives its distances, the boxes come back."""
    judge = fcos.rules(2)
    anchors = torch.cat([_cells(8, 8), _cells(4, 16), _cells(2, 32), _cells(1, 64)])
    box = torch.tensor([[8.0, 8, 40, 40]])
    targets = [{"boxes": box, "labels": torch.tensor([1])}]
    logits = torch.full((1, len(anchors), 2), -9.0)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = ((centre > box[:, :2]) & (centre < box[:, 2:])).all(1)
    logits[0, inside, 1] = 9.0
    deltas = judge.head.box_coder.encode(anchors, box.expand(len(anchors), -1))[None]
    found = fcos.CellPredictions(
        logits, deltas, torch.full((1, len(anchors), 1), 4.0), anchors, (64, 16, 4, 1), (64, 64)
    )
    best = detectors.chosen(found)[0]
    assert_close(best.boxes[0], box[0])
    assert best.labels[0] == 1
    wrong = found._replace(boxes=deltas + 1.0)
    assert detectors.loss(found, targets) < detectors.loss(wrong, targets)


def _cells(count, stride):
    corner = torch.arange(count) * stride * 1.0
    x, y = corner.repeat(count), corner.repeat_interleave(count)
    half = stride / 2
    return torch.stack([x - half, y - half, x + half, y + half], 1) + half * 0


def test_boxes_move_between_sizes():
    boxes = torch.tensor([[10.0, 4, 20, 8]])
    assert_close(scaled(boxes, (8, 40), (16, 20)), torch.tensor([[5.0, 8, 10, 16]]))


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setattr(average_precision.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TailorError, match="faster-coco-eval"):
        average_precision.metric("bbox")


@pytest.mark.parametrize(
    ("task", "decoder"), [("detection", "masks"), ("segmentation", "fcos"), ("instances", "linear")]
)
def test_heads_with_a_decoder_of_another_kind_are_refused(task, decoder):
    from tailor.dense import DECODERS

    with pytest.raises(PlanError, match=f"`{decoder}` gives no"):
        TASKS[task].head_type(("a", "b"), DECODERS[decoder]())
