"""Boxes and outlines: VOC's and COCO's layouts, odd boxes, and the drawn scenes."""

import importlib
import json

import numpy as np
import pytest
import torch

from tailor.data.images import open_data
from tailor.data.sources.drawn import mask
from tailor.data.sources.shapes_instances import CLASSES, VISIBLE
from tailor.errors import DataError

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]


def page(*objects, name="a.png", size=(6, 8), extra=""):
    drawn = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    shape = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>" if size else ""
    return f"{extra}<annotation><filename>{name}</filename>{shape}{drawn}</annotation>"


@pytest.fixture
def voc(tmp_path, write):
    def make(pages, lists=None):
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        for number, (stem, text) in enumerate(pages.items()):
            write(tmp_path / f"JPEGImages/{stem}.png", number, (6, 8))
            (tmp_path / f"Annotations/{stem}.xml").write_text(text)
        for split, names in (lists or {}).items():
            (tmp_path / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
        return tmp_path

    return make


def test_voc_boxes_are_cut_to_the_image_and_flat_ones_left(voc):
    boxes = [("dog", -3, 1, 4, 99), ("cat", 2, 2, 2, 5), ("cat", 20, 1, 30, 4), ("cat", 1, 1, 3, 3)]
    data = open_data(voc({"a": page(*boxes)}))
    assert (data.kind, data.classes) == ("boxes", ("cat", "dog"))
    _, target = data.splits["all"].sample(0)
    assert target["boxes"].tolist() == [[0, 1, 4, 6], [1, 1, 3, 3]]
    assert target["labels"].tolist() == [1, 0]
    assert "2 boxes without an area" in data.notes[0]


def test_voc_lists_divide_and_val_is_kept_to_report(voc):
    one = page(("cat", 1, 1, 3, 3))
    root = voc(
        {"a": one, "b": page(("cat", 1, 1, 3, 3), name="b.png"), "c": page(name="c.png")},
        {"train": ["a", "x"], "val": ["b", "c"]},
    )
    data = open_data(root)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1, "test": 2}
    assert any("1 images of train have no annotation" in note for note in data.notes)
    assert data.splits["test"].sample(1)[1]["boxes"].shape == (0, 4)


def test_a_size_that_is_not_given_is_the_images(voc):
    assert open_data(voc({"a": page(("cat", 1, 1, 3, 3), size=None)})).splits["all"].sample(0)[1][
        "boxes"
    ].canvas_size == (6, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "no annotation that can be read"),
        ("<annotation><object><name>cat</name></object></annotation>", "an object has no box"),
        (page(("cat", 1, 1, 3, 3), extra="<!DOCTYPE x [<!ENTITY a 'b'>]>"), "declares entities"),
        (page(), "draw no object"),
    ],
)
def test_voc_pages_that_cannot_be(voc, text, message):
    with pytest.raises(DataError, match=message):
        open_data(voc({"a": text}), kind="boxes")


def values(annotations, categories=({"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}), file="a.png"):
    images = [{"id": 7, "file_name": file, "height": 6, "width": 8}]
    rows = [{"id": i, "image_id": 7, "iscrowd": 0, **one} for i, one in enumerate(annotations)]
    return {"images": images, "annotations": rows, "categories": list(categories)}


def coco(tmp_path, write, content, split="train"):
    write(tmp_path / f"{split}2017/a.png", 0, (6, 8))
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_numbers_with_gaps_crowds_and_odd_boxes(tmp_path, write):
    rows = [
        {"category_id": 90, "bbox": [2, 1, 4, 3], "segmentation": SQUARE},
        {"category_id": 3, "bbox": [1, 1, 0, 3], "segmentation": SQUARE},
        {"category_id": 3, "bbox": [0, 0, 8, 6], "segmentation": {"size": [6, 8], "counts": [48]}, "iscrowd": 1},
    ]
    root = coco(tmp_path, write, values(rows))
    for kind in ("boxes", "instances"):
        data = open_data(root, kind=kind)
        assert data.classes == ("cat", "dog")
        _, target = data.splits["train"].sample(0)
        assert target["labels"].tolist() == [1] and target["boxes"].tolist() == [[2, 1, 6, 4]]
        assert "1 objects without an area" in data.notes[0] and "1 crowds" in data.notes[0]
    assert target["masks"].sum() == 12 and target["masks"][0, 1:4, 2:6].all()


def test_outlines_as_polygons_and_runs_are_the_same_mask():
    wanted = np.zeros((6, 8), dtype=np.uint8)
    wanted[1:4, 2:6] = 1
    flat = wanted.T.flatten()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    for outline in (SQUARE, {"size": [6, 8], "counts": runs}, {"size": [6, 8], "counts": compressed(runs)}):
        assert (mask(outline, (6, 8), "a") == wanted).all()


def compressed(runs):
    """COCO's letters, written down independently of the reader."""
    text = ""
    for i, run in enumerate(runs):
        x = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


def test_compressed_runs_are_those_of_the_coco_library():
    coco_eval = importlib.import_module("faster_coco_eval.core.mask")
    pixels = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (40, 50), dtype=np.uint8))
    pixels[:, 10:30] = 1
    found = coco_eval.encode(pixels)
    assert (mask({"size": [40, 50], "counts": found["counts"].decode()}, (40, 50), "a") == pixels).all()


@pytest.mark.parametrize("outline", [{"size": [6, 8], "counts": [5]}, {"size": [6, 8]}, [[1.0, 2.0, 3.0]], 7])
def test_outlines_that_cannot_be_name_the_image(outline):
    with pytest.raises(DataError, match="outline of `a` cannot be drawn"):
        mask(outline, (6, 8), "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no COCO file"),
        ({"images": [], "annotations": [], "categories": [{"id": 1}]}, "has no `id` or `name`"),
        (values([{"category_id": 5, "bbox": [0, 0, 2, 2]}]), "category 5 is not in `categories`"),
        (values([{"category_id": 3}]), "an object of .* cannot be read"),
        (values([], file="../../etc/passwd"), "name no image that is there"),
        (values([], categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "two of one name or number"),
    ],
)
def test_coco_files_that_cannot_be(tmp_path, write, content, message):
    with pytest.raises(DataError, match=message):
        open_data(coco(tmp_path, write, content), kind="boxes")


def test_two_files_of_other_categories_are_refused(tmp_path, write):
    coco(tmp_path, write, values([]))
    root = coco(tmp_path, write, values([], categories=[{"id": 3, "name": "cow"}]), split="val")
    with pytest.raises(DataError, match="other categories"):
        open_data(root, kind="boxes")


def test_scenes_are_the_same_whenever_drawn_and_their_masks_do_not_overlap():
    data = open_data("builtin/shapes-instances", seed=3)
    assert (data.kind, data.classes) == ("instances", CLASSES)
    for index in range(5):
        image, target = data.splits["val"].sample(index)
        again, _ = open_data("builtin/shapes-instances", seed=3).splits["val"].sample(index)
        assert (np.asarray(image) == np.asarray(again)).all()
        masks = target["masks"]
        assert masks.sum(0).max() <= 1 and (masks.sum((1, 2)) >= VISIBLE).all()
        assert len(masks) == len(target["labels"]) == len(target["boxes"])
        for one, box in zip(masks, target["boxes"].long().tolist()):
            inside = torch.zeros_like(one)
            inside[box[1] : box[3], box[0] : box[2]] = 1
            assert (one <= inside).all() and one[box[1]].any() and one[:, box[2] - 1].any()


def test_scenes_cannot_be_told_apart_by_one_class():
    with pytest.raises(DataError, match="has several objects an image"):
        open_data("builtin/shapes-instances", kind="classes")


@pytest.mark.shared_data
def test_blood_cells_are_read_as_they_lie(shared):
    data = open_data(shared / "bccd")
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 205, "test": 87}
    data.splits["train"].sample(0)
