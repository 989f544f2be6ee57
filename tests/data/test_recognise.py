"""What a folder holds is told by its layout; two layouts that fit are named, none is guessed."""

import json

import pytest

from tailor.data.images import kind_of, open_data
from tailor.data.recognise import recognise
from tailor.errors import DataError

BOX = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}
OUTLINED = {"images": BOX["images"], "annotations": [{"bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4, 5, 6]]}]}
HOLLOW = {"images": BOX["images"], "annotations": [{"bbox": [1, 2, 3, 4], "segmentation": []}]}
SAID = {"instruction": "say hello", "input": "", "output": "hello"}


def written(root, name, value):
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return root


@pytest.mark.parametrize(
    "folders",
    [
        {"images": 2, "labels": 2},
        {"images": 2, "Masks": 2},
        {"images/train": 2, "annotations/train": 2, "images/val": 1, "annotations/val": 1},
        {"train/images": 2, "train/masks": 2, "test/images": 1, "test/masks": 1},
        {"JPEGImages": 2, "SegmentationClass": 2, "SegmentationObject": 2, "ImageSets": 0},
    ],
)
def test_maps_beside_images(tree, folders):
    assert recognise(tree(folders)).kind == "masks"


def test_drawings_of_voc(tree):
    root = written(tree({"JPEGImages": 2, "ImageSets": 0}), "Annotations/a.xml", "<annotation/>")
    assert recognise(root).kind == "boxes"


@pytest.mark.parametrize("file", ["annotations/instances_val2017.json", "boxes.json", "train/_annotations.coco.json"])
@pytest.mark.parametrize(("value", "kind"), [(BOX, "boxes"), (OUTLINED, "instances"), (HOLLOW, "boxes")])
def test_coco_by_what_its_file_holds(tree, file, value, kind):
    assert recognise(written(tree({"train": 2, "val2017": 2}), file, value)).kind == kind


def test_a_coco_file_by_itself(tmp_path):
    assert recognise(written(tmp_path, "x.json", BOX) / "x.json").kind == "boxes"


def test_an_outline_across_two_pieces_is_seen(tmp_path, monkeypatch):
    root = written(tmp_path, "x.json", OUTLINED)
    for size in range(20, 60):
        monkeypatch.setattr("tailor.data.recognise._CHUNK", size)
        assert recognise(root).kind == "instances"


@pytest.mark.parametrize("text", [json.dumps(SAID) + "\n" + json.dumps(SAID), json.dumps([SAID, SAID])])
def test_instructions(tmp_path, text):
    name = "said.json" if text.startswith("[") else "said.jsonl"
    assert recognise(written(tmp_path, name, text)).kind == "texts"
    assert recognise(tmp_path / name).kind == "texts"


@pytest.mark.parametrize(
    "folders", [{"cat": 1, "dog": 1}, {"train/cat": 1, "train/dog": 1}, {"images": 2}, {"labels": 1, "masks": 1}]
)
def test_anything_else_is_classes(tree, folders):
    assert recognise(tree(folders)).kind == "classes"


def test_json_of_something_else_is_nothing(tree):
    assert recognise(written(tree({"cat": 1, "dog": 1}), "notes.json", {"images": 3})).kind == "classes"


def test_two_layouts_are_named(tree):
    both = tree({"images": 2, "masks": 2, "cat": 1, "dog": 1}, "both")
    voc = written(tree({"JPEGImages": 2, "SegmentationClass": 2}, "voc"), "Annotations/a.xml", "<annotation/>")
    photos = written(tree({"cat": 1, "dog": 1}, "photos"), "said.jsonl", SAID)
    for root, tasks in (
        (both, ("segmentation", "classification")),
        (voc, ("segmentation", "detection")),
        (photos, ("language", "classification")),
    ):
        with pytest.raises(DataError) as caught:
            kind_of(root)
        assert all(task in caught.value.message and f"`--task {task}`" in caught.value.hint for task in tasks)


def test_the_kind_that_is_asked_for_is_not_recognised_again(tree):
    root = tree({"images": 2, "masks": 2, "cat": 1, "dog": 1})
    assert open_data(root, kind="classes").classes == ("cat", "dog", "images", "masks")


def test_boxes_of_yolo_are_refused_by_name(tree):
    root = written(tree({"images": 2}), "labels/a.txt", "0 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match="YOLO") as caught:
        recognise(root)
    assert "COCO" in caught.value.hint


def test_numbers_where_they_are_asked_for(tree, tmp_path, write):
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    table = written(tmp_path, "t.csv", "path,label,split\n0.png,0.5,train\n1.png,-2,train\n2.png,7e3,test\n") / "t.csv"
    data = open_data(table, kind="numbers")
    assert data.kind == "numbers" and data.classes == ()
    assert [record.target for record in data.splits["train"].records] == [0.5, -2.0]
    assert [record.target for record in data.splits["test"].records] == [7000.0]
    ages = open_data(tree({"3": 2, "41": 1}), kind="numbers")
    assert [record.target for record in ages.splits["all"].records] == [3.0, 3.0, 41.0]


@pytest.mark.parametrize("text", ["cat", "nan", "inf", "1,5"])
def test_what_is_no_number_is_named(tmp_path, write, text):
    write(tmp_path / "0.png")
    table = written(tmp_path, "t.csv", f'path,label\n0.png,"{text}"\n') / "t.csv"
    with pytest.raises(DataError, match="is not a number") as caught:
        open_data(table, kind="numbers")
    assert "0.png" in caught.value.message and text in caught.value.message


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "kind"), [("bccd", "boxes"), ("camvid", "masks"), ("flowers", "classes")])
def test_the_real_sets(shared, name, kind):
    assert recognise(shared / name).kind == kind


@pytest.mark.parametrize(
    "line", ['{"prompt": "a", "completion": "b"}', json.dumps({**SAID, "input": "x" * (1 << 17)}), "["]
)
def test_lines_that_are_named_are_instructions_whatever_they_begin_with(tmp_path, line):
    assert recognise(written(tmp_path, "a.jsonl", line) / "a.jsonl").kind == "texts"
