"""Targets of any kind: masks and boxes go where their image goes, and batches hold what the task's collate made."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from tailor.data.images import ImageData, Record, Split, ensure_validation, for_training, with_classes
from tailor.data.loading import loader
from tailor.data.targets import listed, stacked
from tailor.data.transforms import AUGMENTS, Preprocessing, eval_transform, train_transform
from tailor.errors import DataError

SIDE = 48
PLAIN = Preprocessing(size=(24, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")


def place(source):
    """Left, top, right, bottom of the bright rectangle in picture `source`."""
    number = int(source)
    return 4 + number, 6, 20 + number, 30


def picture(source):
    image = Image.new("RGB", (SIDE, SIDE))
    image.paste((255, 255, 255), place(source))
    return image


def mask(record):
    left, top, right, bottom = place(record.source)
    found = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    found[top:bottom, left:right] = 1
    return tv_tensors.Mask(found)


def objects(record):
    boxes = tv_tensors.BoundingBoxes([place(record.source)], format="XYXY", canvas_size=(SIDE, SIDE))
    return {"boxes": boxes, "labels": torch.tensor([3]), "masks": tv_tensors.Mask(mask(record)[None])}


def split(annotate, count=6):
    return Split("train", tuple(Record(str(i), None) for i in range(count)), picture, annotate)


def batch(annotate, transform, collate, **settings):
    given = {"batch_size": 6, "seed": 1, "epoch": 2, "shuffle": False, **settings}
    return next(iter(loader(split(annotate), transform, collate=collate, **given)))


@pytest.mark.parametrize("augment", [name for name in AUGMENTS if name != "strong"])
@pytest.mark.parametrize("crop", ["squash", "center"])
def test_a_mask_lies_where_the_image_says(augment, crop):
    found = batch(mask, train_transform(replace(PLAIN, crop=crop, crop_pct=0.8), augment), stacked)
    assert found.images.shape == (6, 3, 24, 32) and found.targets.shape == (6, 24, 32)
    assert found.targets.dtype == torch.int64 and type(found.targets) is torch.Tensor
    bright = found.images[:, 0]
    agree = (bright > 0.5) == (found.targets == 1)
    assert agree.float().mean() > 0.95 and (found.targets == 1).any(dim=(1, 2)).all()


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_boxes_and_outlines_lie_where_the_image_says(augment):
    found = batch(objects, train_transform(PLAIN, augment), listed)
    assert isinstance(found.targets, tuple) and len(found.targets) == 6
    for image, target in zip(found.images, found.targets, strict=True):
        assert target["labels"].tolist() == [3] and target["masks"].shape == (1, 24, 32)
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes) and target["boxes"].canvas_size == (24, 32)
        left, top, right, bottom = target["boxes"][0].tolist()
        rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert all(abs(a - float(b)) <= 1.5 for a, b in zip((left, top, right, bottom), seen, strict=True))


def test_objects_that_leave_the_image_are_left_out():
    def many(record):
        inner = [place(record.source), (0, 0, 3, 3)]
        boxes = tv_tensors.BoundingBoxes(inner, format="XYXY", canvas_size=(SIDE, SIDE))
        return {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": tv_tensors.Mask(torch.zeros(2, SIDE, SIDE))}

    found = batch(many, eval_transform(replace(PLAIN, size=(32, 32), crop="center", crop_pct=0.7)), listed)
    for target in found.targets:
        assert target["labels"].tolist() == [1] and len(target["boxes"]) == len(target["masks"]) == 1


def test_the_same_draw_with_and_without_memory_and_from_another_process():
    transform = train_transform(PLAIN, "flip")
    kept, fresh = (batch(mask, transform, stacked, memory=memory) for memory in (True, False))
    assert torch.equal(kept.images, fresh.images) and torch.equal(kept.targets, fresh.targets)
    other = batch(mask, transform, stacked, workers=1)
    assert torch.equal(kept.images, other.images) and torch.equal(kept.targets, other.targets)


def test_images_are_drawn_as_they_are_without_a_mask():
    for augment in ("flip", "crop", "fgvc"):
        with_mask = batch(mask, train_transform(PLAIN, augment), stacked)
        alone = batch(lambda record: 1, train_transform(PLAIN, augment), stacked)
        assert torch.equal(with_mask.images, alone.images)
        assert alone.targets.tolist() == [1] * 6 and alone.targets.dtype == torch.int64


def test_a_target_stays_at_full_size_where_it_is_compared_there():
    found = batch(mask, replace(eval_transform(PLAIN), moves=False), listed)
    assert found.images.shape == (6, 3, 24, 32)
    assert all(torch.equal(t, mask(Record(str(i), None))) for i, t in enumerate(found.targets))


def test_numbers_and_an_empty_share():
    found = batch(lambda record: 0.5, eval_transform(PLAIN), stacked, batch_size=1, rank=0, world=2)
    assert found.images.shape == (0, 3, 24, 32) and found.targets.shape == (0,) and found.targets.dtype == torch.float32
    none = batch(objects, eval_transform(PLAIN), listed, batch_size=1, rank=0, world=2)
    assert none.images.shape == (0, 3, 24, 32) and none.targets == ()


def test_a_mask_of_another_size_is_named():
    def small(record):
        return tv_tensors.Mask(torch.zeros(10, 12, dtype=torch.uint8))

    for memory in (True, False):
        with pytest.raises(DataError, match="`0` is 48 x 48 pixels, what is drawn on it 12 x 10"):
            batch(small, eval_transform(PLAIN), stacked, memory=memory)


def test_an_augmentation_that_cannot_move_a_mask_says_so():
    with pytest.raises(DataError, match="moves images only") as caught:
        batch(mask, train_transform(PLAIN, "strong"), stacked)
    assert "crop" in caught.value.hint


def test_validation_of_what_has_no_classes_is_a_share_of_all():
    data = ImageData("maps", ("sky", "road"), {"all": split(mask, 20)}, kind="masks")
    ready = for_training(data, seed=3)
    assert {name: len(part) for name, part in ready.splits.items()} == {"train": 16, "val": 4}
    assert "stratified" not in ready.notes[-1]
    assert ensure_validation(data, 3).splits["val"].records == ready.splits["val"].records
    with pytest.raises(DataError, match="are no classes"):
        _ = ready.splits["val"].labels


def test_classes_inside_masks_must_be_the_models():
    data = ImageData("maps", ("sky", "road"), {"all": split(mask)}, kind="masks")
    assert with_classes(data, ["sky", "road"]) is data
    with pytest.raises(DataError, match="class 0 of `maps` is `sky`, the model's is `road`"):
        with_classes(data, ["road", "sky"])
    with pytest.raises(DataError, match="has 2 classes, the model 3"):
        with_classes(data, ["sky", "road", "car"])
