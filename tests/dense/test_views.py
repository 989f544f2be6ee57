"""Several looks at an image: scales, mirrored images and windows, and their mean before anything is decided."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import tiny
from tailor.dense import DECODERS, decode
from tailor.dense.attach import attach_
from tailor.dense.predictions import PixelPredictions, ScorePredictions
from tailor.dense.several import Several, starts
from tailor.dense.views import Views, read_views
from tailor.errors import UsageError
from tailor.preprocessing import Preprocessing
from tailor.tasks import TASKS, viewed
from tailor.tasks.detection import DetectorHead

SMALL = {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 2}


class Colours(nn.Module):
    """Logits of a pixel from its colour alone, so that neighbours do not matter."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return PixelPredictions(self.mix(images))


def segmenter():
    return tiny.shake_(attach_(tiny.vit(), DECODERS["masks"](**SMALL), 4, seed=0)).eval()


def looked(model, images, views, own):
    with torch.no_grad():
        return Several(model, views, own)(images).values


@pytest.mark.parametrize(("length", "window"), [(32, 32), (33, 32), (96, 32), (100, 32), (7, 1), (6000, 512)])
def test_windows_cover_everything_and_overlap_by_a_third(length, window):
    found = starts(length, window)
    assert found[0] == 0 and found[-1] == length - window
    assert all(0 < b - a <= max(1, 2 * window / 3) + 1 for a, b in itertools.pairwise(found))


def test_windows_of_a_model_that_sees_a_pixel_at_a_time_change_nothing():
    model, images = Colours(), torch.randn(2, 3, 96, 144)
    wanted = decode.scores(model(images), (96, 144))
    assert_close(looked(model, images, Views((3.0,), windows=True), (32, 48)), wanted)


def test_a_pixel_is_the_mean_of_the_windows_that_see_it():
    model, images = segmenter(), torch.randn(1, 3, 64, 64)
    total, seen = torch.zeros(1, 4, 64, 64), torch.zeros(64, 64)
    with torch.no_grad():
        for top, left in itertools.product((0, 16, 32), (0, 16, 32)):
            here = (..., slice(top, top + 32), slice(left, left + 32))
            total[here] += decode.scores(model(images[here]), (32, 32))
            seen[here] += 1
    assert_close(looked(model, images, Views((2.0,), windows=True), (32, 32)), total / seen)


def test_looks_at_several_scales_and_mirrored_are_averaged():
    model, images = segmenter(), torch.randn(2, 3, 64, 64)
    wanted = torch.zeros(2, 4, 64, 64)
    for side in (32, 64):
        given = images if side == 64 else F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
        for turned in (False, True):
            seen = given.flip(-1) if turned else given
            with torch.no_grad():
                values = decode.scores(model(seen), (side, side))
            wanted += F.interpolate(values.flip(-1) if turned else values, (64, 64), mode="bilinear") / 4
    found = looked(model, images, Views((1.0, 2.0), flip=True), (32, 32))
    assert_close(found, wanted)
    assert_close(looked(model, images.flip(-1), Views((1.0, 2.0), flip=True), (32, 32)).flip(-1), found)


def test_the_class_is_chosen_at_the_size_of_the_image():
    found = ScorePredictions(torch.tensor([[[[0.9, 0.1]], [[0.3, 0.7]]]]))
    wide = F.interpolate(found.values, (1, 8), mode="bilinear")
    assert torch.equal(decode.label_maps(found, [(1, 8)])[0], wide[0].argmax(0))


def test_sizes_keep_the_shape_and_images_are_read_at_the_largest():
    views = Views((0.5, 1.25), flip=True)
    assert views.sizes((128, 160)) == ((64, 80), (160, 200)) and views.size((128, 160)) == (160, 200)
    assert Views().sizes((36, 48)) == ((36, 48),)  # as without any
    assert Views((4.0,)).share(64) == 4 and Views((0.5,)).share(64) == 64 and Views((9.0,)).share(2) == 1
    with pytest.raises(UsageError, match=r"more than 16,384 a side"):
        Views((64.0,)).size((512, 512))


@pytest.mark.parametrize(
    ("scales", "message"),
    [("a,1", "no list of numbers"), ("0", "looked at in"), ("nan", "looked at"), ("1,", "no list")],
)
def test_scales_that_cannot_be(scales, message):
    with pytest.raises(UsageError, match=message):
        read_views(scales, False, False)


def test_a_task_without_scores_looks_once():
    task, model = TASKS["detection"](), nn.Identity()
    pre = Preprocessing((32, 32))
    assert viewed(task, model, DetectorHead(("a",)), pre, Views()) == (model, pre)
    with pytest.raises(UsageError, match="detection looks at an image once"):
        viewed(task, model, DetectorHead(("a",)), pre, Views(flip=True))
