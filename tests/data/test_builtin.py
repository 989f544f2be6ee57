import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from tailor.data.images import open_data
from tailor.errors import DataError

SHAPES = ("location", "orientation", "count")


def array(split, indices):
    return np.stack([np.asarray(split.read(i)) for i in indices])


def test_digits_are_all_there_once_and_stratified():
    data = open_data("builtin/digits")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 800, "val": 200, "test": 797}
    sources = [record.source for split in data.splits.values() for record in split.records]
    assert len(set(sources)) == 1797
    share = np.array(np.bincount(load_digits().target)) / 1797
    for split in data.splits.values():
        assert np.abs(np.array(split.counts(10)) - share * len(split)).max() <= 1.5


def test_a_digit_is_the_one_its_label_says():
    split = open_data("builtin/digits", seed=5).splits["val"]
    raw = load_digits()
    for index in (0, 99):
        number = int(split.records[index].source.rpartition("#")[2])
        assert raw.target[number] == split.labels[index]
        image = np.asarray(split.read(index))
        assert image.shape == (64, 64, 3)
        small = image[:, :, 0].reshape(8, 8, 8, 8).mean(axis=(1, 3)) * (16 / 255)
        assert np.corrcoef(small.ravel(), raw.images[number].ravel())[0, 1] > 0.97


def test_the_division_of_digits_does_not_move_with_the_seed():
    assert open_data("builtin/digits", seed=1).splits == open_data("builtin/digits", seed=2).splits


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_have_even_classes_and_fixed_sizes(kind):
    data = open_data(f"builtin/shapes-{kind}")
    classes = len(data.classes)
    assert classes == (8 if kind == "count" else 16)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 800, "val": 200, "test": 1000}
    for split in data.splits.values():
        counts = split.counts(classes)
        assert max(counts) - min(counts) <= 1
    assert data.splits["train"].read(0).size == (64, 64)


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_are_a_function_of_the_seed(kind):
    name = f"builtin/shapes-{kind}"
    one, same, other = (open_data(name, seed=s) for s in (3, 3, 4))
    some = range(0, 800, 200)
    assert one.splits["train"].labels == same.splits["train"].labels
    assert np.array_equal(array(one.splits["train"], some), array(same.splits["train"], some))
    assert one.splits["train"].labels != other.splits["train"].labels
    alike = [i for i in range(100) if one.splits["train"].labels[i] == other.splits["train"].labels[i]]
    for index in alike[:3]:
        assert not np.array_equal(array(one.splits["train"], [index]), array(other.splits["train"], [index]))


@pytest.mark.parametrize("kind", SHAPES)
def test_no_two_scenes_are_the_same(kind):
    data = open_data(f"builtin/shapes-{kind}")
    scenes = {split.read(i).tobytes() for split in data.splits.values() for i in range(60)}
    assert len(scenes) == 180


def object_mask(image):
    """Pixels far from the background, which fills the border."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(float)
    return np.abs(image - np.median(border, axis=0)).max(axis=2) > 70


def test_location_is_the_bin_of_the_centre():
    split = open_data("builtin/shapes-location").splits["train"]
    errors = []
    for index in range(150):
        columns = np.nonzero(object_mask(np.asarray(split.read(index))))[1]
        if len(columns):
            errors.append((np.median(columns) - 6) / (52 / 16) - 0.5 - split.labels[index])
    assert np.median(np.abs(errors)) < 0.6 and len(errors) > 140


def test_orientation_is_not_that_of_a_symmetric_shape():
    """The mean scene of a class is not the mean scene of the opposite one."""
    split = open_data("builtin/shapes-orientation").splits["train"]
    means = {}
    for label in (0, 8):
        masks = [object_mask(np.asarray(split.read(i))) for i, found in enumerate(split.labels) if found == label]
        skews = []
        for mask in masks:
            columns = np.nonzero(mask)[1]
            if len(columns) > 20:
                skews.append(np.mean(columns) - (columns.min() + columns.max()) / 2)
        means[label] = np.mean(skews)
    assert means[0] < -0.5 and means[8] > 0.5  # most of every shape lies behind its tip


def test_more_objects_cover_more():
    split = open_data("builtin/shapes-count").splits["train"]
    covered = [object_mask(np.asarray(split.read(i))).sum() for i in range(200)]
    assert np.corrcoef(covered, split.labels[:200])[0, 1] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_can_be_learnt_from_pixels_but_not_by_heart(kind):
    data = open_data(f"builtin/shapes-{kind}")
    train, test = data.splits["train"], data.splits["test"]

    def features(split, count):
        masks = np.stack([object_mask(np.asarray(split.read(i))) for i in range(count)])
        return np.concatenate([masks.sum(axis=1), masks.sum(axis=2)], axis=1)

    forest = RandomForestClassifier(200, random_state=0).fit(features(train, 800), train.labels)
    score = forest.score(features(test, 1000), test.labels)
    assert 2.5 / len(data.classes) < score < 0.98


def test_unknown_builtins_name_the_likely_one():
    for wrong, right in (("builtin/digit", "builtin/digits"), ("builtin/shapes-locations", "builtin/shapes-location")):
        with pytest.raises(DataError) as caught:
            open_data(wrong)
        assert f"`{right}`" in caught.value.hint
