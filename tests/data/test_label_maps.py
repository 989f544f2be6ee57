"""Images with label maps: layouts, class lists, and what is wrong with files of strangers."""

import numpy as np
import pytest
import torch
from PIL import Image

from tailor.data.check import check
from tailor.data.images import open_data, with_classes
from tailor.data.sources import class_lists
from tailor.errors import DataError

IGNORE = class_lists.IGNORE


@pytest.fixture
def labelled(tmp_path, write):
    """Makes images and maps from {"train/a": array}; a map's folder is `labels`."""

    def make(maps, classes="sky\nroad\nvoid\ncar\n"):
        for number, (name, values) in enumerate(maps.items()):
            size = values.shape[:2] if values is not None else (6, 8)
            write(tmp_path / f"images/{name}.png", number, size)
            if values is not None:
                file = tmp_path / f"labels/{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(file)
        if classes:
            (tmp_path / "classes.txt").write_text(classes)
        return tmp_path

    return make


def some(*values, size=(6, 8)):
    return np.resize(np.array(values, dtype=np.uint8), size)


def test_void_is_ignored_and_the_values_behind_it_move_up(labelled):
    root = labelled({"train/a": some(0, 1, 2, 3, 255), "test/b": some(1)})
    data = open_data(root)
    assert (data.kind, data.classes) == ("masks", ("sky", "road", "car"))
    image, target = data.splits["train"].sample(0)
    assert image.size == (8, 6)
    assert target.flatten()[:5].tolist() == [0, 1, IGNORE, 2, IGNORE]


def test_a_given_val_is_reported_where_there_is_no_test(labelled):
    data = open_data(labelled({"train/a": some(0), "train/b": some(1), "val/c": some(0)}))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "test": 1}
    assert any("val is kept to report on" in note for note in data.notes)


def test_splits_may_stand_above_the_folders_or_not_at_all(labelled, tmp_path):
    one = open_data(labelled({"a": some(0)}))
    assert list(one.splits) == ["all"]
    root = tmp_path / "above"
    for split in ("train", "test"):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
            Image.fromarray(some(1)).save(root / split / folder / "x.png")
    (root / "classes.txt").write_text("a\nb\n")
    assert {name: len(split) for name, split in open_data(root).splits.items()} == {"train": 1, "test": 1}


def test_missing_and_extra_maps_are_said(labelled, tmp_path):
    root = labelled({"train/a": some(0), "train/b": None})
    Image.fromarray(some(0)).save(tmp_path / "labels/train/z.png")
    data = open_data(root)
    assert len(data.splits["train"]) == 1
    notes = " ".join(data.notes)
    assert "1 images without a map left out in train" in notes and "1 maps without an image left out" in notes
    (root / "labels/train/a.png").unlink()
    with pytest.raises(DataError, match=r"no image below .* has a label map"):
        open_data(root, kind="masks")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (some(0, 7), "has the value 7, the list of classes ends at 3"),
        (np.zeros((6, 8, 3), dtype=np.uint8), "has colours, and no list says what they mean"),
    ],
)
def test_values_that_mean_nothing_name_the_file(labelled, values, message):
    data = open_data(labelled({"train/a": values}))
    with pytest.raises(DataError, match=message):
        data.splits["train"].sample(0)
    found = check(data)
    assert message.split(",")[0].split("has ")[1] in found.unreadable[0].reason


def test_a_map_of_another_size_a_photo_or_a_broken_file(labelled, tmp_path):
    data = open_data(labelled({"train/a": some(0), "train/b": some(0), "train/c": some(0)}))
    Image.fromarray(some(0, size=(3, 8))).save(tmp_path / "labels/train/a.png")
    (tmp_path / "labels/train/b.png").write_bytes(b"not a picture")
    for index, message in ((0, "8 x 6 pixels, what is drawn on it 8 x 3"), (1, "is not an image that can be read")):
        with pytest.raises(DataError, match=message):
            data.splits["train"].sample(index)
    (tmp_path / "labels/train/c.png").unlink()
    Image.fromarray(some(0)).save(tmp_path / "labels/train/c.jpg")
    again = open_data(tmp_path)
    with pytest.raises(DataError, match="is a JPEG"):
        again.splits["train"].sample(2)


def test_deep_grey_palettes_and_colours_are_read(labelled, tmp_path):
    listed = "sky 0 0 255\nroad 128 64 128\nvoid 0 0 0\ncar 1 2 3\n"
    colours = np.array([[0, 0, 255], [128, 64, 128], [0, 0, 0], [1, 2, 3]], dtype=np.uint8)
    data = open_data(labelled({"train/a": np.resize(colours, (2, 2, 3)), "train/b": some(0)}, listed))
    assert data.splits["train"].target(0).flatten().tolist() == [0, 1, IGNORE, 2]
    deep = Image.fromarray(some(0, 1, 3).astype(np.uint16))
    deep.save(tmp_path / "labels/train/b.png")
    assert data.splits["train"].target(1).flatten()[:3].tolist() == [0, 1, 2]
    palette = Image.fromarray(some(3, 1))
    palette.putpalette([9] * 768)
    palette.save(tmp_path / "labels/train/b.png")
    with Image.open(tmp_path / "labels/train/b.png") as stored:
        assert stored.mode == "P"
    assert data.splits["train"].target(1).flatten()[:2].tolist() == [2, 1]
    Image.fromarray(np.full((6, 8, 3), 77, dtype=np.uint8)).save(tmp_path / "labels/train/b.png")
    with pytest.raises(DataError, match=r"has the colour \(77, 77, 77\)"):
        data.splits["train"].target(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("sky\nsky\n", "names a class twice: sky"),
        ("sky 1 2\n", "line 1 of"),
        ("sky 0 0 0\nroad\n", "gives some classes no colour of their own"),
        ("\n".join(f"c{chr(97 + i % 26)}{'x' * (i // 26)}" for i in range(300)), "300 classes is too long"),
    ],
)
def test_lists_that_cannot_be(labelled, tmp_path, text, message):
    root = labelled({"train/a": some(0)})
    (root / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(root)


def test_a_folder_without_a_list_is_told_what_to_write(labelled):
    with pytest.raises(DataError, match="has no list of its classes"):
        open_data(labelled({"train/a": some(0)}, classes=None))


def test_ade_counts_from_one_and_zero_is_not_labelled(tmp_path, write):
    for split in ("training", "validation"):
        write(tmp_path / f"images/{split}/a.jpg", 0, (6, 8))
        (tmp_path / f"annotations/{split}").mkdir(parents=True)
        Image.fromarray(some(0, 1, 150)).save(tmp_path / f"annotations/{split}/a.png")
    data = open_data(tmp_path)
    assert len(data.classes) == 150
    assert data.splits["train"].target(0).flatten()[:3].tolist() == [IGNORE, 0, 149]
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t1\t1\t1\twall, paint\n")
    assert open_data(tmp_path).classes == ("wall",)
    with pytest.raises(DataError, match="the list of classes ends at 1"):
        open_data(tmp_path).splits["train"].target(0)


def test_cityscapes_ids_become_the_nineteen_classes(tmp_path, write):
    write(tmp_path / "leftImg8bit/train/bonn/bonn_0_1_leftImg8bit.png", 0, (6, 8))
    folder = tmp_path / "gtFine/train/bonn"
    folder.mkdir(parents=True)
    Image.fromarray(some(7, 33, 4, 26)).save(folder / "bonn_0_1_gtFine_labelIds.png")
    Image.fromarray(some(1)).save(folder / "bonn_0_1_gtFine_color.png")
    data = open_data(tmp_path)
    assert len(data.classes) == 19 and len(data.splits["train"]) == 1
    assert data.splits["train"].target(0).flatten()[:4].tolist() == [0, 18, IGNORE, 13]


def test_a_model_of_another_class_list_is_refused(labelled):
    data = open_data(labelled({"train/a": some(0)}))
    with pytest.raises(DataError, match=r"class 2 of .* is `car`, the model's is `bus`"):
        with_classes(data, ("sky", "road", "bus"))


@pytest.mark.shared_data
def test_camvid_is_read_as_it_lies(shared):
    data = open_data(shared / "camvid")
    assert len(data.classes) == 11 and "void" not in data.classes
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 367, "test": 101}
    assert data.splits["test"].name == "val"  # as the folder is called
    values = torch.cat([data.splits["train"].target(i).unique() for i in range(5)]).unique()
    assert set(values.tolist()) <= {*range(11), IGNORE}


@pytest.mark.shared_data
def test_a_model_of_classes_is_not_measured_on_masks(shared):
    """Their folders, `images` and `labels`, would pass for classes."""
    with pytest.raises(DataError, match=r"is data for segmentation \(.*\), the model is for classification"):
        open_data(shared / "camvid", kind="classes", classes=("cat", "dog"))
