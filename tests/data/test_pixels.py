import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailor.data.images import read_image
from tailor.data.pixels import MOST_BYTES, MOST_RATIO, MOST_SIDE, SUFFIXES
from tailor.errors import DataError


def grey_ramp(dtype, top):
    return np.linspace(0, top, 40 * 48).reshape(40, 48).astype(dtype)


def test_a_plain_picture_is_read_as_it_is(write, tmp_path):
    path = write(tmp_path / "a.png", 3)
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(Image.open(path)))


@pytest.mark.parametrize("top", [65535, 4095])
def test_sixteen_bit_grey_keeps_its_range(tmp_path, top):
    values = grey_ramp(np.uint16, top)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = np.asarray(read_image(tmp_path / "deep.png"))
    assert image.shape == (40, 48, 3)
    assert np.abs(image[:, :, 0] - values / 257.0).max() <= 0.5


@pytest.mark.parametrize("top", [1.0, 255.0, 1000.0])
def test_float_grey_fills_the_range_it_comes_in(tmp_path, top):
    values = grey_ramp(np.float32, top)
    Image.fromarray(values).save(tmp_path / "float.tiff")
    image = np.asarray(read_image(tmp_path / "float.tiff"))[:, :, 1]
    assert np.abs(image - values * (255 / top)).max() <= 0.51


def test_an_all_black_deep_picture_is_black(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "black.tiff")
    assert np.asarray(read_image(tmp_path / "black.tiff")).max() == 0


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("RGBA", (200, 10, 10, 255), (200, 10, 10)),
        ("RGBA", (200, 10, 10, 0), (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (90, 255), (90, 90, 90)),
    ],
)
def test_every_mode_becomes_rgb_on_white(tmp_path, mode, colour, expected):
    suffix = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    Image.new(mode, (20, 10), colour).save(tmp_path / f"x.{suffix}")
    image = np.asarray(read_image(tmp_path / f"x.{suffix}")).astype(int)
    assert image.shape == (10, 20, 3)
    assert np.abs(image - np.array(expected)).max() <= 2


def test_a_transparent_palette_colour_is_white(tmp_path):
    image = Image.new("P", (20, 10), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "p.png", transparency=bytes([255, 0]))
    read = np.asarray(read_image(tmp_path / "p.png"))
    assert tuple(read[0, 0]) == (10, 20, 30)
    assert tuple(read[5, 5]) == (255, 255, 255)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(np.asarray(read_image(tmp_path / "a.gif"))[0, 0]) == (255, 0, 0)


def test_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (30, 10), "black")
    image.paste("white", (0, 0, 15, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # turn a quarter to the right to view
    image.save(tmp_path / "turned.png", exif=exif)
    read = np.asarray(read_image(tmp_path / "turned.png"))
    assert read.shape == (30, 10, 3)
    assert read[:14].min() == 255 and read[16:].max() == 0


def refusal(path):
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "zero.jpg").touch()
    assert "0 bytes" in refusal(tmp_path / "zero.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_named(write, tmp_path, suffix, keep):
    path = write(tmp_path / f"cut.{suffix}", 1)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    refusal(path)


def test_a_text_file_with_an_image_name_is_named(tmp_path):
    (tmp_path / "note.png").write_text("not a picture at all")
    assert "not an image" in refusal(tmp_path / "note.png")


def test_noise_never_gets_past_as_another_error(write, tmp_path):
    whole = bytearray(write(tmp_path / "a.png", 1).read_bytes())
    rng = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(8, len(damaged), 4):
            damaged[at] = int(rng.integers(256))
        path = tmp_path / f"damaged{number}.png"
        path.write_bytes(damaged)
        try:
            read_image(path)
        except DataError as error:
            assert str(path) in error.message


def test_a_missing_file_is_named(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.png")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    assert "million pixels" in refusal(path)


def test_the_limit_can_be_raised(write, tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", size=(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    assert "million pixels" in refusal(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
    assert read_image(path).size == (40, 40)


@pytest.mark.parametrize("size", [(88_000_000, 1), (1, 70_000), (3, 400)])
def test_a_picture_too_long_to_be_resized_is_refused(tmp_path, size):
    Image.new("1", size).save(tmp_path / "long.png")
    assert f"{size[0]} x {size[1]} pixels" in refusal(tmp_path / "long.png")


def test_a_long_picture_within_the_limit_is_read(tmp_path):
    Image.new("1", (400, 4)).save(tmp_path / "long.png")
    assert read_image(tmp_path / "long.png").size == (400, 4)


def test_postscript_starts_no_other_program(tmp_path, monkeypatch):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was called"))
    assert "not an image that can be read" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".jpeg"])
def test_every_suffix_has_its_format(write, tmp_path, suffix):
    wrong = write(tmp_path / f"a{suffix}").rename(tmp_path / "b.png")
    assert read_image(wrong).size == (48, 40)


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "no ordinary file" in refusal(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    assert "no ordinary file" in refusal(tmp_path / "zero.png")


def test_a_file_larger_than_an_image_is_refused(write, tmp_path):
    path = write(tmp_path / "a.png")
    os.truncate(path, 5 * 10**9)  # takes no space
    assert "5.0 GB" in refusal(path)


def test_memory_that_is_lacking_is_said(write, tmp_path, monkeypatch):
    path = write(tmp_path / "a.png")

    def none(image):
        raise MemoryError

    monkeypatch.setattr("tailor.data.pixels.to_rgb", none)
    assert "memory" in refusal(path)


def test_reading_leaves_the_warning_filters_alone(write, tmp_path):
    before = list(warnings.filters)
    read_image(write(tmp_path / "a.png"))
    assert warnings.filters == before


def test_errors_survive_pickling_by_their_parts(tmp_path):
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "absent.png")
    copy = pickle.loads(pickle.dumps((caught.value.message, caught.value.hint)))
    assert DataError(*copy).message == caught.value.message


@pytest.mark.parametrize("page", ["docs/data.md", "SECURITY.md"])
def test_the_pages_say_the_limits_that_hold(page):
    text = (Path(__file__).parents[2] / page).read_text().replace("\n", " ")
    (pixels,), (size,) = re.findall(r"ore than (\d+) million pixels", text), re.findall(r"file above (\d+) GB", text)
    assert (int(pixels), int(size) << 30) == (round(Image.MAX_IMAGE_PIXELS / 1e6), MOST_BYTES)
    (side, ratio), *_ = re.findall(r"(\d+,\d+)(?: a side or a side| or) (\d+) times the other", text)
    assert (int(side.replace(",", "")), int(ratio)) == (MOST_SIDE, MOST_RATIO)
