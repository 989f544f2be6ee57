"""Annotations of strangers: whatever stands where a number, a name or a list should, is data or an error."""

import copy
import json
import random
import time

import numpy as np
import pytest
from PIL import Image

from tailor.data.check import check
from tailor.data.images import open_data
from tailor.errors import DataError

NASTY = (
    *(None, True, -1, 0, 1.5, 10**12, 10**400, -(10**30), float("nan"), float("inf"), float("-inf")),
    *("", "x", "../../etc/passwd", "/etc/passwd", "a\x00b", "x" * 5000, "\udce9", "9" * 5000),
    *([], {}, [[]], [[[[]]]], [None], {"size": [10**6, 10**6], "counts": [10**12]}, {"size": "x", "counts": "oooo"}),
    *([1e300] * 6, [float("nan")] * 6, [float("inf")] * 6, ["x"] * 6, [[float("inf")] * 6], [[float("nan")] * 6]),
)
COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(3)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {"image_id": 0, "category_id": 1, "bbox": [1, 2, 9, 9], "segmentation": [[1, 2, 9, 2, 9, 9]], "iscrowd": 0},
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5], "segmentation": {"size": [20, 30], "counts": [0, 600]}},
        {"image_id": 2, "category_id": 7, "bbox": [2, 2, 5, 5], "segmentation": {"size": [20, 30], "counts": "X1l1d?"}},
    ],
}


def places(value, path=()):
    """The path of everything in it."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    value = copy.deepcopy(value)
    at = value
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return value


def looked_through(root, kind):
    """Open and read everything; only a DataError may come of it."""
    try:
        data = open_data(root, kind=kind)
        check(data)
        for split in data.splits.values():
            for index in range(len(split)):
                split.sample(index)
    except DataError as error:
        assert "\n" not in error.message and error.hint
        return error.message
    return ""


@pytest.fixture
def pictures(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((20, 30, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("kind", ["boxes", "instances"])
def test_a_coco_file_of_anything(pictures, kind):
    (pictures / "x.json").write_text(json.dumps(COCO))
    assert looked_through(pictures, kind) == ""
    draw = random.Random(0)
    cases = [(path, new) for path in places(COCO) for new in NASTY]
    began = time.process_time()
    for path, new in draw.sample(cases, 300):
        (pictures / "x.json").write_text(json.dumps(changed(COCO, path, new)))
        looked_through(pictures, kind)
    assert time.process_time() - began < 60


VOC = (
    "<annotation><filename>{0}</filename><size><width>{1}</width><height>{2}</height></size>"
    "<object><name>{3}</name><bndbox><xmin>{4}</xmin><ymin>{5}</ymin><xmax>{6}</xmax><ymax>{7}</ymax></bndbox></object>"
    "</annotation>"
)
PLAIN = ("0.png", "30", "20", "cat", "1", "2", "9", "9")
TEXTS = ("", "x", "nan", "inf", "-1", "1e400", "9" * 5000, "../../etc/passwd", "&amp;#0;", "<a/>", "\U0001f339")


def test_a_voc_file_of_anything(pictures):
    (pictures / "Annotations").mkdir()
    (pictures / "JPEGImages").mkdir()
    (pictures / "0.png").rename(pictures / "JPEGImages" / "0.png")
    file = pictures / "Annotations" / "0.xml"
    file.write_text(VOC.format(*PLAIN))
    assert looked_through(pictures, "boxes") == ""
    for place in range(len(PLAIN)):
        for new in TEXTS:
            file.write_text(VOC.format(*PLAIN[:place], new, *PLAIN[place + 1 :]))
            looked_through(pictures, "boxes")
    laughs = "<!DOCTYPE a [<!ENTITY a 'x'>" + "".join(f"<!ENTITY b{i} '&a;&a;'>" for i in range(9)) + "]><annotation/>"
    outside = "<!DOCTYPE a [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><annotation><filename>&a;</filename></annotation>"
    for text in (laughs, outside, "<a>" * 3000 + "</a>" * 3000, "", "<annotation>", "\x00"):
        file.write_text(text)
        assert "annotation" in looked_through(pictures, "boxes")


def test_a_label_map_of_anything(pictures):
    for name in ("images", "masks"):
        (pictures / name).mkdir()
    (pictures / "0.png").rename(pictures / "images" / "0.png")
    (pictures / "classes.txt").write_text("sky\nroad\n")
    target = pictures / "masks" / "0.png"
    Image.fromarray(np.ones((20, 30), np.uint8)).save(target)
    assert looked_through(pictures, "masks") == ""
    whole = target.read_bytes()
    for content in (b"", b"x", whole[: len(whole) // 2], whole[:-1], b"%!PS-Adobe"):
        target.write_bytes(content)
        looked_through(pictures, "masks")
    for values in (
        np.full((20, 30), 2, np.uint8),
        np.full((20, 30), 60_000, np.uint16),
        np.full((20, 30), np.nan, np.float32),
        np.full((20, 30, 3), 9, np.uint8),
        np.full((20, 30, 4), 9, np.uint8),
        np.ones((10, 30), np.uint8),
    ):
        Image.fromarray(values).save(target, format="TIFF")
        assert looked_through(pictures, "masks") or values.dtype == np.float32
    for text in ("", "sky", "sky\nsky\n", "sky 1 2\n", "\n" * 9, "x" * 9999, "a\n" * 300, "255\n", "sky 1 2 3\nroad\n"):
        (pictures / "classes.txt").write_text(text)
        looked_through(pictures, "masks")
    (pictures / "classes.txt").write_bytes(b"\xff\xfe")
    assert "classes.txt" in looked_through(pictures, "masks")
