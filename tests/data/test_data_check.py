import json
import shutil

import pytest
from PIL import Image

from tailor.data.check import check, without_unreadable
from tailor.data.images import for_training, open_data
from tailor.errors import DataError


def names(paths):
    return [path.rpartition("pets/")[2] for path in paths]


def test_good_data_give_one_line(tree):
    report = check(open_data(tree({"cat": 3, "dog": 3})))
    assert report.clean and report.lines() == ["6 images, nothing to remark"]


def test_unreadable_images_are_named_with_the_reason(tree):
    root = tree({"cat": 4, "dog": 3})
    (root / "cat" / "01.png").write_bytes(b"")
    (root / "dog" / "02.png").write_text("hello")
    report = check(open_data(root))
    assert names(found.source for found in report.unreadable) == ["cat/01.png", "dog/02.png"]
    assert [found.reason for found in report.unreadable] == ["is empty (0 bytes)", "is not an image that can be read"]
    assert report.lines()[0].startswith("unreadable (2): ")


def test_the_quick_check_finds_what_needs_no_decoding(tree):
    root = tree({"cat": 4, "dog": 1})
    (root / "cat" / "01.png").write_bytes(b"")
    (root / "cat" / "02.png").write_text("hello")
    data = open_data(root)
    (root / "cat" / "03.png").unlink()
    report = check(data, deep=False)
    assert names(found.source for found in report.unreadable) == ["cat/01.png", "cat/03.png"]
    assert report.single == ("dog",) and not report.deep


def test_the_quick_check_of_generated_images():
    assert check(open_data("builtin/digits"), deep=False).clean


def test_duplicates_within_and_across_splits(tree):
    root = tree({"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    shutil.copy(root / "train/cat/00.png", root / "train/cat/09.png")
    shutil.copy(root / "train/dog/00.png", root / "test/dog/09.png")
    shutil.copy(root / "test/cat/01.png", root / "test/dog/08.png")
    Image.open(root / "train/dog/01.png").save(root / "train/dog/07.bmp")
    report = check(open_data(root))
    found = {tuple(names(d.sources)): (d.same, d.across, d.conflicting) for d in report.duplicates}
    assert found == {
        ("train/cat/00.png", "train/cat/09.png"): ("bytes", False, False),
        ("train/dog/01.png", "train/dog/07.bmp"): ("pixels", False, False),
        ("train/dog/00.png", "test/dog/09.png"): ("bytes", True, False),
        ("test/cat/01.png", "test/dog/08.png"): ("bytes", False, True),
    }
    lines = " | ".join(report.lines())
    assert "in more than one split (1)" in lines and "with more than one label (1)" in lines
    assert "several times in one split (2)" in lines


def test_pictures_of_other_shapes_with_the_same_bytes_are_no_duplicates(tree):
    root = tree({"cat": 2, "dog": 2})
    for name, size in (("x", (40, 80)), ("y", (80, 40))):
        Image.new("RGB", size, "red").save(root / "cat" / f"{name}.png")
    assert check(open_data(root)).duplicates == ()


def test_tiny_uneven_and_lonely(tree, write):
    root = tree({"cat": 25, "dog": 2, "emu": 1})
    write(root / "dog" / "small.png", 99, (8, 200))
    report = check(open_data(root))
    assert [(names([t.source])[0], t.size) for t in report.tiny] == [("dog/small.png", (8, 200))]
    (uneven,) = report.imbalance
    assert (uneven.largest, uneven.most, uneven.smallest, uneven.fewest) == ("cat", 25, "emu", 1)
    assert report.single == ("emu",)
    assert len(report.lines()) == 3


def test_a_report_is_json_and_long_lists_are_cut_for_people(tree):
    root = tree({"cat": 9, "dog": 9})
    for path in (root / "cat").iterdir():
        path.write_bytes(b"")
    report = check(open_data(root))
    table = json.loads(json.dumps(report.as_json()))
    assert len(table["unreadable"]) == 9 and table["images"] == {"all": 18}
    assert report.lines()[0].count(".png") == 5 and report.lines()[0].endswith("and 4 more")


def test_progress_counts_every_image(tree):
    seen = []
    check(open_data(tree({"cat": 2, "dog": 3})), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_the_skip_choice_leaves_out_exactly_the_unreadable(tree):
    root = tree({"train/cat": 4, "train/dog": 3, "test/cat": 2, "test/dog": 1})
    (root / "train/cat/01.png").write_bytes(b"")
    data = open_data(root)
    kept = without_unreadable(data, check(data))
    assert kept.splits["train"].counts(2) == (3, 3) and kept.splits["test"] is data.splits["test"]
    assert any("train/cat/01.png" in note for note in kept.notes)
    assert check(kept).clean
    assert without_unreadable(kept, check(kept)) is kept


def test_a_class_that_is_lost_is_noted_and_one_that_remains_alone_refused(tree):
    root = tree({"cat": 1, "dog": 3})
    (root / "cat/00.png").write_bytes(b"")
    data = open_data(root)
    kept = without_unreadable(data, check(data))
    assert any("without a readable image" in note and "cat" in note for note in kept.notes)
    with pytest.raises(DataError, match="one class, `dog`"):
        for_training(kept, 0)


def test_no_readable_image_at_all(tree):
    root = tree({"cat": 2, "dog": 2})
    for path in root.rglob("*.png"):
        path.write_text("hello")
    data = open_data(root)
    with pytest.raises(DataError) as caught:
        without_unreadable(data, check(data))
    assert "none of the 4 images of all" in caught.value.message and "00.png" in caught.value.message


@pytest.mark.shared_data
def test_the_real_flowers_hold_one_known_pair(shared):
    report = check(open_data(shared / "flowers"))
    assert not report.unreadable and len(report.duplicates) == 1 and not report.duplicates[0].across
