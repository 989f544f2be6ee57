from collections import Counter

import pytest

from tailor.data.images import Record, Split, ensure_validation, for_evaluation, for_training, open_data, with_classes
from tailor.data.records import ImageData
from tailor.errors import DataError


def data(**splits):
    """An ImageData of classes a, b, c from split=labels."""
    made = {
        name: Split(name, tuple(Record(f"{name}{i}.png", label) for i, label in enumerate(labels)))
        for name, labels in splits.items()
    }
    return ImageData("toy", ("a", "b", "c"), made)


def sources(split):
    return {record.source for record in split.records}


def test_validation_is_a_stratified_part_of_train():
    before = data(train=[0] * 50 + [1] * 20 + [2] * 5, test=[0, 1])
    after = ensure_validation(before, seed=0)
    assert after.splits["val"].counts(3) == (10, 4, 1)
    assert after.splits["train"].counts(3) == (40, 16, 4)
    assert after.splits["test"] is before.splits["test"]
    assert sources(after.splits["train"]) | sources(after.splits["val"]) == sources(before.splits["train"])
    assert not sources(after.splits["train"]) & sources(after.splits["val"])
    assert any("20 %" in note and "seed 0" in note for note in after.notes)


def test_the_seed_draws_it_and_the_same_seed_draws_the_same():
    before = data(train=[0, 1, 2] * 30)
    one, same, other = (ensure_validation(before, seed).splits["val"] for seed in (1, 1, 2))
    assert one == same and one != other


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_every_class_keeps_a_training_image_and_gives_one_where_it_can(fraction):
    before = data(train=[0] * 1 + [1] * 2 + [2] * 30)
    after = ensure_validation(before, 0, fraction)
    train, val = after.splits["train"].counts(3), after.splits["val"].counts(3)
    assert min(train) >= 1 and val[0] == 0 and val[1] == 1 and val[2] >= 1


def test_all_becomes_train_and_val_for_training_and_stays_all_for_evaluation():
    undivided = data(all=[0, 1, 2] * 10)
    assert set(for_training(undivided, 0).splits) == {"train", "val"}
    assert for_evaluation(undivided) is undivided.splits["all"]


def test_validation_that_is_there_is_left_alone():
    before = data(train=[0, 1], val=[0, 1])
    assert ensure_validation(before, 0) is before


def test_evaluation_takes_test_then_all_then_val():
    assert for_evaluation(data(train=[0], val=[1], test=[2])).name == "test"
    assert for_evaluation(data(train=[0], val=[1])).name == "val"
    assert for_evaluation(data(train=[0])).name == "train"
    with pytest.raises(DataError):
        for_evaluation(data())


def test_what_cannot_be_divided():
    with pytest.raises(DataError, match="no class of `toy` has a second image"):
        ensure_validation(data(train=[0, 1, 2]), 0)
    with pytest.raises(DataError, match="no `train` split"):
        ensure_validation(data(test=[0, 1]), 0)
    with pytest.raises(DataError, match="between 0 and 1"):
        ensure_validation(data(train=[0, 0]), 0, 1.0)
    with pytest.raises(DataError, match="one class, `b`"):
        for_training(data(train=[1, 1, 1]), 0)
    with pytest.raises(DataError, match="no `train` split"):
        for_training(data(test=[0, 1]), 0)


def test_labels_follow_the_names_of_a_bundle():
    before = data(test=[0, 1, 2, 1])
    after = with_classes(before, ["c", "d", "b", "a"])
    assert after.classes == ("c", "d", "b", "a")
    assert after.splits["test"].labels == (3, 2, 0, 2)
    assert [r.source for r in after.splits["test"].records] == [r.source for r in before.splits["test"].records]


def test_a_class_the_bundle_does_not_know_is_named(tree):
    root = tree({"cats": 2, "dog": 3})
    with pytest.raises(DataError) as caught:
        open_data(root, classes=["cat", "dog", "emu"])
    assert "class `cats`" in caught.value.message and "`cat`" in caught.value.hint
    known = open_data(root, classes=["emu", "dog", "cats"])
    assert Counter(known.splits["all"].labels) == {2: 2, 1: 3}


def test_a_class_without_images_need_not_be_known():
    assert with_classes(data(test=[0, 0, 1]), ["a", "b"]).splits["test"].labels == (0, 0, 1)
