"""What people point dense verbs at: nothing known, one pixel, grey, sixteen bits, a pixel of an image, a photograph."""

import json

import numpy as np
import pytest
from PIL import Image

import tailor

MASKS = {"masks": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 2}}
BOXES = {"fcos": {"width": 64, "least": 0.0}}
SHORT = {
    "model": "tailor_mini_ti",
    "image_size": 32,
    "epochs": 1,
    "batch_size": 4,
    "method": "linear",
    "progress": None,
}
LARGE = (6000, 4000)


def pictures(folder):
    """Files of every odd kind that can be read, and their sizes (H, W)."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = {
        "pixel": np.full((1, 1, 3), 90, np.uint8),
        "line": rng.integers(0, 255, (1, 60, 3), dtype=np.uint8),
        "grey": rng.integers(0, 255, (30, 40), dtype=np.uint8),
        "deep": rng.integers(0, 60_000, (30, 40), dtype=np.uint16),
        "seen_through": rng.integers(0, 255, (20, 30, 4), dtype=np.uint8),
    }
    for name, values in kinds.items():
        Image.fromarray(values).save(folder / f"{name}.png")
    Image.new("RGB", LARGE, (120, 90, 60)).save(folder / "photograph.jpg")
    return {name: values.shape[:2] for name, values in kinds.items()} | {"photograph": LARGE[::-1]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Of six images to learn from one is all unknown, one shows a single pixel of a class, one is grey, one a pixel."""
    root = tmp_path_factory.mktemp("odd")
    (root / "classes.txt").write_text("ground\nsquare\n")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            size = (1, 1) if (split, i) == ("train", 5) else (24, 32)
            labels = np.zeros(size, np.uint8)
            labels[4:16, 4 + i : 20] = 1
            if i == 1:
                labels[:] = 255
            if i == 2:
                labels[:] = 0
                labels[7, 9] = 1
            image = rng.integers(0, 255, size if i == 3 else (*size, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{i}.png")
            Image.fromarray(labels).save(root / "labels" / split / f"{i}.png")
    return str(root)


@pytest.mark.parametrize("method", ["linear", "lora-2"])
def test_unknown_maps_single_pixels_and_a_pixel_of_an_image_are_learnt_from(scenes, tmp_path, method):
    made = tailor.adapt(scenes, out=tmp_path / "a", decoders=MASKS, **{**SHORT, "method": method})
    assert 0 <= made.miou <= 1
    again = tailor.evaluate(made.bundle, scenes, progress=None)
    assert again.miou == made.miou and again.n == 3


def test_pictures_of_any_size_and_depth_get_masks_of_their_size(scenes, tmp_path):
    made = tailor.adapt(scenes, out=tmp_path / "a", decoders=MASKS, **SHORT)
    sizes = pictures(tmp_path / "new")
    found = tailor.predict(made.bundle, tmp_path / "new", out=tmp_path / "drawn", progress=None)
    assert len(found) == len(sizes)
    for one in found:
        with Image.open(one.mask) as mask, Image.open(one.overlay) as overlay:
            name = mask.filename.rsplit("/", 1)[1].split(".")[0]
            assert mask.size == overlay.size == sizes[name][::-1]
            assert max(extreme for extreme in mask.getextrema()) <= 1


def test_pictures_of_any_size_and_depth_get_boxes(tmp_path):
    root = tmp_path / "boxes"
    root.mkdir()
    images, objects = [], []
    for i, box in enumerate(([2, 3, 10, 9], [5, 5, 1, 1], [-4, -4, 400, 400], [3, 3, 0, 5], None)):
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(root / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 20, "width": 30})
        if box is not None:
            objects.append({"id": i, "image_id": i, "category_id": 40 if i else 7, "bbox": box, "iscrowd": 0})
    names = [{"id": 7, "name": "cat"}, {"id": 40, "name": "dog"}]
    (root / "boxes.json").write_text(json.dumps({"images": images, "annotations": objects, "categories": names}))
    made = tailor.adapt(str(root), task="detection", out=tmp_path / "a", decoders=BOXES, **SHORT)
    assert 0 <= made.map <= 1
    sizes = pictures(tmp_path / "new")
    found = tailor.predict(made.bundle, tmp_path / "new", out=tmp_path / "drawn", progress=None)
    assert len(found) == len(sizes) and all(0 <= side <= 1 for one in found for box in one.boxes for side in box[2:])
