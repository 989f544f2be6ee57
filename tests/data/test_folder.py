import os
import shutil

import pytest

from tailor.data.images import for_evaluation, for_training, open_data
from tailor.errors import DataError


def counts(data):
    return {name: split.counts(len(data.classes)) for name, split in data.splits.items()}


def refusal(where, **kwargs):
    with pytest.raises(DataError) as caught:
        open_data(where, **kwargs)
    assert "\n" not in caught.value.message and not caught.value.message.endswith(".")
    return caught.value


def test_a_plain_folder_is_one_split(tree):
    data = open_data(tree({"dog": 3, "cat": 2}))
    assert data.classes == ("cat", "dog")
    assert counts(data) == {"all": (2, 3)}
    assert data.kind == "classes" and data.notes == ()
    assert data.splits["all"].read(0).size == (48, 40)


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "Validation", "TEST"), ("TRAIN", "valid", "testing")]
)
def test_splits_go_by_several_names(tree, names):
    train, val, test = names
    root = tree({f"{train}/cat": 3, f"{train}/dog": 2, f"{val}/cat": 1, f"{test}/dog": 4})
    assert counts(open_data(root)) == {"train": (3, 2), "val": (1, 0), "test": (0, 4)}


def test_a_class_may_be_called_train(tree):
    data = open_data(tree({"train": 2, "plane": 3, "car": 1}))
    assert data.classes == ("car", "plane", "train") and list(data.splits) == ["all"]


def test_numbered_classes_are_in_numeric_order(tree):
    data = open_data(tree({"10": 1, "9": 1, "2": 2}))
    assert data.classes == ("2", "9", "10")


def test_suffixes_in_any_case_hidden_files_links_and_depth(tree, write, tmp_path):
    root = tree({"cat": 0, "dog": 1})
    for number, name in enumerate(("a.JPG", "b.jpeg", "c.Png", "d.WEBP", "e.bmp", "f.gif", "g.tif", "h.TIFF")):
        write(root / "cat" / name, number)
    write(root / "cat" / "deeper" / "still" / "i.png", 20)
    write(root / "cat" / ".hidden.png", 21)
    write(root / "cat" / ".thumbs" / "j.png", 22)
    write(root / ".git" / "k.png", 23)
    (root / "cat" / "notes.txt").write_text("no picture")
    os.symlink(root / "cat" / "a.JPG", root / "dog" / "linked.jpg")
    data = open_data(root)
    assert data.classes == ("cat", "dog")
    assert counts(data) == {"all": (9, 2)}


def test_links_that_leave_the_data_folder_are_named_and_left_out(tree, write, tmp_path):
    root = tree({"cat": 2, "dog": 2})
    os.symlink(write(tmp_path / "elsewhere" / "l.png", 24), root / "cat" / "linked.png")
    os.symlink(tmp_path / "elsewhere", root / "fox")
    os.symlink(tmp_path / "elsewhere", root / "cat" / "more")
    data = open_data(root)
    assert data.classes == ("cat", "dog") and counts(data) == {"all": (2, 2)}
    (note,) = data.notes
    assert "leave the data folder" in note and "(3)" in note and f"{root}/fox" in note and f"{root}/cat/more" in note
    os.symlink(root, tmp_path / "by another name")
    assert counts(open_data(tmp_path / "by another name")) == {"all": (2, 2)}


@pytest.mark.parametrize("target", ["cat", ".", "cat/deeper"])
def test_links_that_lead_back_are_named_and_left_out(tree, target):
    root = tree({"cat/deeper": 2, "dog": 2})
    os.symlink(root / target, root / "cat" / "deeper" / "again")
    data = open_data(root)
    assert counts(data) == {"all": (2, 2)}
    assert "lead back" in data.notes[0] and "again" in data.notes[0]


def test_links_in_a_ring_and_in_a_web_end(tree):
    root = tree({"cat/one": 2, "cat/two": 2, "dog": 2})
    os.symlink(root / "cat" / "two", root / "cat" / "one" / "other")
    os.symlink(root / "cat" / "one", root / "cat" / "two" / "other")
    os.symlink("itself.png", root / "cat" / "itself.png")
    names = [f"dog/{i}" for i in range(24)]
    for name, following in zip(names, [*names[1:], "dog"], strict=True):
        (root / name).mkdir()
        for twice in ("a", "b"):
            os.symlink(root / following, root / name / twice)
    assert counts(open_data(root))["all"] == (5, 2)


def test_only_links_that_leave(tree, tmp_path):
    root = tree({})
    root.mkdir()
    os.symlink(tree({"cat": 2, "dog": 1}, "elsewhere"), root / "train")
    assert "leave the data folder" in refusal(root).hint


def test_a_name_too_long():
    assert "name too long" in refusal("x" * 5000).message and len(refusal("x" * 5000).message) < 400


def test_names_with_spaces(tree):
    data = open_data(tree({"great cat": 2, "tiny dog": 2}, root="my own pets"))
    assert data.classes == ("great cat", "tiny dog")
    assert data.splits["all"].read(3).mode == "RGB"


def test_the_order_is_that_of_the_names_not_of_the_disk(tree, tmp_path):
    root = tree({"cat": 5, "dog": 5})
    copy = tmp_path / "copy"
    for path in sorted(root.rglob("*.png"), reverse=True):
        (copy / path.relative_to(root).parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(root))
    first, second = open_data(root).splits["all"], open_data(copy).splits["all"]
    names = [record.source.removeprefix(str(root)) for record in first.records]
    assert names == sorted(names) == [record.source.removeprefix(str(copy)) for record in second.records]


def test_a_missing_folder_names_its_likely_sibling(tree):
    root = tree({"cat": 1, "dog": 1}, root="flowers")
    error = refusal(root.parent / "flower")
    assert "does not exist" in error.message and "`flowers`" in error.hint


def test_an_empty_folder(tmp_path):
    assert "no image found" in refusal(tmp_path).message


def test_a_folder_of_empty_classes(tree):
    assert "no image found" in refusal(tree({"cat": 0, "dog": 0})).message


def test_one_class_is_enough_to_look_at_and_not_to_train_on(tree):
    data = open_data(tree({"cat": 3}), classes=["cat", "dog"])
    assert for_evaluation(data).labels == (0, 0, 0)
    with pytest.raises(DataError) as caught:
        for_training(open_data(tree({"cat": 3})), 0)
    assert "one class, `cat`" in caught.value.message and caught.value.hint


def test_an_empty_class_is_left_out_and_noted(tree):
    data = open_data(tree({"cat": 2, "dog": 2, "emu": 0}))
    assert data.classes == ("cat", "dog")
    assert any("emu" in note for note in data.notes)


def test_a_class_with_one_image_is_noted(tree):
    data = open_data(tree({"cat": 1, "dog": 3}))
    assert any("cat" in note and "one image" in note for note in data.notes)


def test_images_without_class_folders(tree, write):
    root = tree({})
    write(root / "a.png")
    error = refusal(root)
    assert "1 images but no class folder" in error.message and "per class" in error.hint


def test_splits_without_class_folders(tree):
    assert "without class folders" in refusal(tree({"train": 2, "test": 2})).message


def test_loose_images_and_folders_are_noted(tree, write):
    root = tree({"train/cat": 2, "train/dog": 2, "extra/owl": 1})
    write(root / "train" / "loose.png", 9)
    notes = " ".join(open_data(root).notes)
    assert "extra" in notes and "loose.png" in notes


def test_a_test_class_that_train_lacks(tree):
    error = refusal(tree({"train/cat": 2, "train/dog": 2, "test/Cat": 1}))
    assert "`Cat` is in test but not in train" in error.message and "`cat`" in error.hint


def test_two_folders_for_one_split(tree):
    error = refusal(tree({"train/cat": 2, "train/dog": 2, "val/cat": 1, "valid/cat": 1}))
    assert "both the val split" in error.message


def test_a_file_instead_of_a_folder(write, tmp_path):
    assert "predict" in refusal(write(tmp_path / "cat.png")).hint
    (tmp_path / "list.txt").write_text("x")
    assert "is a file" in refusal(tmp_path / "list.txt").message


def test_parquet_points_to_hfds(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    assert refusal(tmp_path).hint == f"try `hfds/{tmp_path}`"


def test_another_kind_and_no_name(tree):
    assert "not supported" in refusal(tree({"cat": 1, "dog": 1}), kind="sounds").message
    assert "empty" in refusal("").message


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "classes"), [("flowers", 5), ("cifar10", 10)])
def test_the_real_sets(shared, name, classes):
    data = open_data(shared / name)
    assert len(data.classes) == classes
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 800, "val": 200, "test": 1000}
    assert all(min(split.counts(classes)) > 0 for split in data.splits.values())


def test_a_class_named_in_another_encoding_has_a_name_that_can_be_stored(tree, write):
    root = tree({"cat": 2})
    write(root / "caf\udce9" / "\udce9.png", 9)
    data = open_data(root)
    assert data.classes == ("caf\\xe9", "cat") and counts(data) == {"all": (1, 2)}
    assert data.splits["all"].read(0).size == (48, 40)
    assert open_data(root, classes=data.classes).splits["all"].labels == (0, 1, 1)


def test_folders_without_an_image_are_named_with_what_lies_there_instead(tree):
    root = tree({"ash": 1, "birch": 1})
    for image in root.rglob("*.*"):
        image.unlink()
    error = refusal(root)
    assert "in none of its folders: `ash`, `birch`" in error.message and "CLASS" in error.hint
    (root / "birch" / "1.heic").write_bytes(b"")
    assert "1.heic` is no image that can be read" in refusal(root).hint and ".jpg" in refusal(root).hint
