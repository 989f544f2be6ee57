import numpy as np
import pydantic
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tailor.data.transforms import AUGMENTS, Preprocessing, eval_transform, preprocessing_of, train_transform
from tailor.errors import DataError

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def picture(height=60, width=90, number=0):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def test_squash_is_pillows_resize_and_the_normalisation():
    pre = Preprocessing((32, 48), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    expected = as_tensor(picture().resize((48, 32), Image.Resampling.BICUBIC))
    expected = (expected - torch.tensor(pre.mean)[:, None, None]) / torch.tensor(pre.std)[:, None, None]
    assert_close(eval_transform(pre)(picture()), expected)


def test_centre_resizes_the_shorter_side_and_crops():
    pre = Preprocessing((30, 30), crop="center", crop_pct=0.75, **HALF)
    resized = picture(60, 90).resize((60, 40), Image.Resampling.BICUBIC)
    expected = as_tensor(resized.crop((15, 5, 45, 35))) * 2 - 1
    assert_close(eval_transform(pre)(picture(60, 90)), expected)


def test_centre_of_an_oblong_size_is_covered_by_the_picture():
    pre = Preprocessing((30, 15), crop="center", crop_pct=0.75, **HALF)
    resized = picture(60, 90).resize((60, 40), Image.Resampling.BICUBIC)
    expected = as_tensor(resized.crop((22, 5, 37, 35))) * 2 - 1
    assert_close(eval_transform(pre)(picture(60, 90)), expected)


def test_squash_with_a_margin_is_the_fgvc_test():
    pre = Preprocessing((28, 28), crop_pct=224 / 256, **HALF)
    expected = as_tensor(picture().resize((32, 32), Image.Resampling.BICUBIC).crop((2, 2, 30, 30))) * 2 - 1
    assert_close(eval_transform(pre)(picture()), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_every_interpolation_is_its_own(interpolation):
    mode = getattr(Image.Resampling, interpolation.upper())
    pre = Preprocessing((20, 20), interpolation=interpolation, **HALF)
    assert_close(eval_transform(pre)(picture()), as_tensor(picture().resize((20, 20), mode)) * 2 - 1)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("crop", ["squash", "center"])
@pytest.mark.parametrize("shape", [(60, 90), (5, 200), (1, 1), (64, 32)])
def test_every_augmentation_gives_the_size_and_repeats_with_its_draws(augment, crop, shape):
    transform = train_transform(Preprocessing((32, 40), crop=crop, crop_pct=0.9), augment)
    torch.manual_seed(1)
    first = transform(picture(*shape))
    torch.manual_seed(1)
    assert_close(transform(picture(*shape)), first, rtol=0, atol=0)
    assert first.shape == (3, 32, 40) and first.dtype == torch.float32
    assert torch.isfinite(first).all()


def test_none_draws_nothing_and_is_the_test_transform():
    pre = Preprocessing((32, 32))
    before = torch.get_rng_state()
    drawn = train_transform(pre, "none")(picture())
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(drawn, eval_transform(pre)(picture()), rtol=0, atol=0)


@pytest.mark.parametrize("augment", sorted(set(AUGMENTS) - {"none"}))
def test_the_others_differ_between_draws(augment):
    transform = train_transform(Preprocessing((32, 32)), augment)
    torch.manual_seed(0)
    drawn = [transform(picture()) for _ in range(8)]
    assert len({t.numpy().tobytes() for t in drawn}) > 1


def test_flip_is_the_picture_or_its_mirror_image():
    transform = train_transform(Preprocessing((32, 32)), "flip")
    plain = eval_transform(Preprocessing((32, 32)))(picture())
    torch.manual_seed(0)
    flipped = [torch.equal(transform(picture()), plain.flip(-1)) for _ in range(40)]
    assert 8 < sum(flipped) < 32
    torch.manual_seed(0)
    assert all(torch.equal(transform(picture()), plain.flip(-1) if mirror else plain) for mirror in flipped)


def test_fgvc_crops_come_from_the_larger_picture():
    transform = train_transform(Preprocessing((28, 28), **HALF), "fgvc")
    larger = as_tensor(picture().resize((32, 32), Image.Resampling.BICUBIC)) * 2 - 1
    crops = [larger[:, y : y + 28, x : x + 28] for y in range(5) for x in range(5)]
    torch.manual_seed(0)
    places = set()
    for _ in range(12):
        drawn = transform(picture())
        found = [i for i, c in enumerate(crops) if any(torch.allclose(drawn, v, atol=1e-5) for v in (c, c.flip(-1)))]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 5


def test_preprocessing_survives_json():
    pre = Preprocessing((32, 48), crop="center", crop_pct=0.9, interpolation="bilinear", **HALF)
    adapter = pydantic.TypeAdapter(Preprocessing)
    assert adapter.validate_json(adapter.dump_json(pre)) == pre
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_json('{"size": [32, 32], "mode": "x"}')


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [({"size": (0, 32)}, "size"), ({"std": (0.1, 0.0, 0.1)}, "standard deviation"), ({"crop_pct": 1.5}, "crop_pct")],
)
def test_values_that_mean_nothing_are_refused(wrong, expected):
    with pytest.raises(DataError, match=expected):
        Preprocessing(**{"size": (32, 32), **wrong})


def test_a_timm_config_is_understood():
    config = {
        "input_size": (3, 224, 192),
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert preprocessing_of(config) == Preprocessing((224, 192), interpolation="bilinear", **HALF)
    centred = preprocessing_of(config, crop="center")
    assert (centred.crop, centred.crop_pct) == ("center", 0.875)


def test_an_unknown_augmentation_names_the_likely_one():
    with pytest.raises(DataError) as caught:
        train_transform(Preprocessing((8, 8)), "fgcv")
    assert "`fgvc`" in caught.value.hint
