import json

import pytest

from tailor.data.images import open_data
from tailor.data.sources.benchmarks import FGVC, VTAB
from tailor.errors import DataError


def refusal(where):
    with pytest.raises(DataError) as caught:
        open_data(where)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.fixture
def vtab(write, tmp_path):
    """Writes a task of the usual form; `change` edits its lists (stem -> lines) first."""

    def make(folder="dtd", classes=47, change=lambda lists: None, image="images/{split}/{i:06}.jpg"):
        sizes = {"train800": 800, "val200": 200, "train800val200": 1000, "test": 30}
        lists = {
            split: [f"{image.format(split=split, i=i)} {i % classes}" for i in range(size)]
            for split, size in sizes.items()
        }
        change(lists)
        for split, lines in lists.items():
            first = tmp_path / "vtab" / folder / (lines[0].rpartition(" ")[0] if lines else "x.jpg")
            write(first)  # the only one that is looked for when the lists are read
            (tmp_path / "vtab" / folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        return tmp_path / "vtab"

    return make


def test_the_tables_are_those_of_the_papers():
    assert len(VTAB) == 19 and sum(task.classes for task in VTAB.values()) == 940
    groups = [task.group for task in VTAB.values()]
    assert [groups.count(g) for g in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert [task.classes for task in FGVC.values()] == [200, 555, 102, 120, 196]


def test_a_task_has_train_val_and_test(vtab):
    data = open_data(f"vtab/dtd@{vtab()}")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 800, "val": 200, "test": 30}
    assert data.classes == tuple(str(i) for i in range(47))
    assert data.splits["train"].labels[:50] == tuple(i % 47 for i in range(50))
    assert data.splits["val"].read(0).mode == "RGB"


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar", "cifar100"), ("cifar100", "cifar"), ("oxford_pet", "oxford_iiit_pet")]
)
def test_a_task_goes_by_its_other_names(vtab, name, folder):
    root = vtab(folder, classes=37)
    assert len(open_data(f"vtab/{name}@{root}").splits["train"]) == 800
    assert len(open_data(f"vtab/{name}@{root / folder}").splits["train"]) == 800


def test_classes_without_an_image_keep_their_number(vtab):
    data = open_data(f"vtab/sun397@{vtab('sun397', classes=40)}")
    assert len(data.classes) == 397 and max(data.splits["train"].labels) == 39


def test_paths_may_hold_spaces(vtab):
    data = open_data(f"vtab/dtd@{vtab(image='images/{split}/picture no {i}.jpg')}")
    assert data.splits["test"].records[7].source.endswith("images/test/picture no 7.jpg")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lists: lists["train800"].pop(), "has 799 lines instead of 800"),
        (lambda lists: lists["val200"].append("images/val200/x.jpg 1"), "has 201 lines instead of 200"),
        (lambda lists: lists["train800val200"].pop(), "has 999 lines instead of 1000"),
        (lambda lists: lists["test"].__setitem__(4, "images/test/x.jpg 47"), "line 5 of"),
        (lambda lists: lists["test"].__setitem__(4, "images/test/x.jpg"), "is not `PATH LABEL`"),
        (lambda lists: lists["test"].__setitem__(4, "images/test/x.jpg -1"), "is not `PATH LABEL`"),
        (
            lambda lists: lists["val200"].__setitem__(3, lists["train800"][9]),
            "in both train and val: images/train800/000009",
        ),
    ],
)
def test_lists_that_are_not_right_are_refused(vtab, change, expected):
    assert expected in refusal(f"vtab/dtd@{vtab(change=change)}").message


def test_a_label_out_of_range_says_the_range(vtab):
    error = refusal(f"vtab/eurosat@{vtab('eurosat', classes=47)}")
    assert "has label 10, but the task has 10 classes" in error.message and "0 to 9" in error.hint


def test_unknown_tasks_and_missing_roots(vtab, tmp_path):
    root = vtab()
    assert "`dtd`" in refusal(f"vtab/dtt@{root}").hint
    assert refusal("vtab/dtd").hint == "vtab/dtd@FOLDER"
    assert refusal("vtab/dtd@").hint == "vtab/dtd@FOLDER"
    assert "does not exist" in refusal(f"vtab/dtd@{tmp_path / 'vtap'}").message
    assert "has no `train800.txt`" in refusal(f"vtab/svhn@{root}").message
    (root / "dtd" / "val200.txt").unlink()
    assert "val200.txt` does not exist" in refusal(f"vtab/dtd@{root}").message


def test_lists_of_images_that_are_elsewhere(vtab):
    root = vtab()
    (root / "dtd" / "images" / "test" / "000000.jpg").unlink()
    assert "does not exist" in refusal(f"vtab/dtd@{root}").message


@pytest.fixture
def fgvc(write, tmp_path):
    """Writes VPT's JSON lists of the task `cub` below CUB_200_2011, images in `images`."""

    def make(change=lambda lists: None):
        ids = {"train": range(1, 201), "val": range(1, 201, 2), "test": range(2, 201)}
        lists = {split: {f"{k:03}.bird/{split}.jpg": k for k in numbers} for split, numbers in ids.items()}
        change(lists)
        for split, table in lists.items():
            write(tmp_path / "fgvc" / "CUB_200_2011" / "images" / next(iter(table)))
            (tmp_path / "fgvc" / "CUB_200_2011" / f"{split}.json").write_text(json.dumps(table))
        return tmp_path / "fgvc"

    return make


def test_a_class_missing_from_a_split_shifts_no_label(fgvc):
    data = open_data(f"fgvc/cub@{fgvc()}")
    assert data.classes == tuple(str(i) for i in range(1, 201))
    for split, classes in (("train", range(1, 201)), ("val", range(1, 201, 2)), ("test", range(2, 201))):
        assert [int(data.classes[label]) for label in data.splits[split].labels] == list(classes)
    assert data.splits["val"].read(0).mode == "RGB"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lists: lists["train"].popitem(), "has 199 classes, but `fgvc/cub` has 200"),
        (lambda lists: lists["test"].update({"999.bird/x.jpg": 999}), "class `999` is in test but not in train"),
        (lambda lists: lists["val"].update({"001.bird/train.jpg": 1}), "1 images of"),
        (lambda lists: lists["val"].update({"001.bird/x.jpg": None}), "no number"),
    ],
)
def test_fgvc_lists_that_are_not_right_are_refused(fgvc, change, expected):
    assert expected in refusal(f"fgvc/cub@{fgvc(change)}").message


def test_fgvc_files_that_are_no_tables(fgvc):
    root = fgvc()
    (root / "CUB_200_2011" / "val.json").write_text("{")
    assert "is not JSON" in refusal(f"fgvc/cub@{root}").message
    (root / "CUB_200_2011" / "val.json").write_text("[]")
    assert "is not a table" in refusal(f"fgvc/cub@{root}").message
    assert "`cars`" in refusal(f"fgvc/car@{root}").hint
