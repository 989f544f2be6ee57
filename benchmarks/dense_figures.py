"""Pictures of what the segmenters of `benchmarks.dense_ladder` found, from the bundles that it keeps.

`masks`: image, truth, and decoders side by side. `looks`: where one query of FASeg looks in its last three blocks that
read a whole map, with learned positions, dynamic anchors and DFPQ; of each net the query whose mask and class meet the
scene's largest object of the classes in `THINGS` best.

    python -m benchmarks.dense_figures masks docs/images/dense_masks.png
    python -m benchmarks.dense_figures looks docs/images/dense_attention.png
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

import tailor
from benchmarks.dense_ladder import ANCHORS, KEPT, LEARNED, MINI, SCENES
from tailor.data.images import open_data
from tailor.dense import drawing
from tailor.dense.attended import attended
from tailor.dense.predictions import IGNORE

MASKS = {"masks (the default)": "masks", "Mask2Former": "mask2former", "FASeg": "faseg"}
"""What stands above a picture, and the decoder that it is of."""
LOOKS = {"learned": LEARNED, "dynamic anchors": ANCHORS, "DFPQ": f"{MINI}-faseg-linear"}
"""Kind of positional query, and the bundle's name."""
THINGS = ("car", "pedestrian", "bicyclist", "tree", "building")
HEAD = 18


def masks(kept: Path, scenes: str, count: int = 3) -> Image.Image:
    """Image, truth, and what the decoders that are kept found, for scenes of the split that is reported on."""
    data = open_data(scenes)
    split = data.splits["test"]
    places = {title: kept / f"{MINI}-{name}-linear" for title, name in MASKS.items()}
    models = {title: tailor.Predictor(place) for title, place in places.items() if (place / "bundle.json").is_file()}
    rows = []
    for index in _spread(len(split), count):
        image, truth = split.sample(index)
        shown = [image, drawing.overlay(image, _known(truth, len(data.classes)), (*data.classes, "void"))]
        for predictor in models.values():
            given = predictor.transform(image)[None]
            with torch.inference_mode():
                drawn = predictor.task.draw(predictor.model(given), predictor.spec.head, [image])[0]
            shown.append(drawn["overlay"])
        rows.append(shown)
    return sheet(rows, ("image", "truth", *models))


def looks(kept: Path, scenes: str, count: int = 2) -> Image.Image:
    """For each scene a row a kind of positional query: the object, and the weights of the last three blocks."""
    data = open_data(scenes)
    split = data.splits["test"]
    models = {name: tailor.Predictor(kept / place) for name, place in LOOKS.items()}
    rows, names = [], ("object",)
    for index in _spread(len(split), count):
        image, truth = split.sample(index)
        labels = truth.as_subclass(Tensor).long()
        thing = _largest(labels, data.classes)
        there = labels == thing
        for name, predictor in models.items():
            found, weights = attended(predictor.model, predictor.transform(image)[None])
            query = answering(found.classes[-1][0], found.masks()[0], thing, there)
            titled = drawing.heated(image, there.numpy().astype(np.float32))
            drawing.legend(titled, [(f"{data.classes[thing]}: {name}", np.array([255, 0, 0]))])
            rows.append([titled, *(drawing.heated(image, one[0, query].numpy()) for one in weights.values())])
            names = ("object", *(f"block {number}" for number in weights))
    return sheet(rows, names)


def answering(classes: Tensor, logits: Tensor, thing: int, there: Tensor) -> int:
    """The query whose chance of the class and overlap with where it is multiply to most.

    `classes` (N, C + 1), `logits` (N, h, w), `there` (H, W) bool.
    """
    resized = F.interpolate(logits[None], size=there.shape, mode="bilinear", align_corners=False)[0].sigmoid()
    inside = (resized * there).sum((1, 2))
    overlap = inside / (resized.sum((1, 2)) + there.sum() - inside)
    return int((classes.softmax(-1)[:, thing] * overlap).argmax())


def _largest(labels: Tensor, classes: tuple[str, ...]) -> int:
    counts = {classes.index(name): int((labels == classes.index(name)).sum()) for name in THINGS if name in classes}
    return max(counts, key=lambda label: counts[label])


def _spread(length: int, count: int) -> list[int]:
    return [length * (2 * i + 1) // (2 * count) for i in range(count)]


def _known(truth: Tensor, void: int) -> np.ndarray:
    labels = truth.numpy().copy()
    labels[labels == IGNORE] = void
    return labels


def sheet(rows: list[list[Image.Image]], names: tuple[str, ...]) -> Image.Image:
    """Pictures of one size in rows and columns, a name above each column."""
    width, height = rows[0][0].size
    made = Image.new("RGB", (width * len(names), height * len(rows) + HEAD), "white")
    pen = ImageDraw.Draw(made)
    for column, name in enumerate(names):
        pen.text((column * width + 4, 2), name, fill="black")
        for row, shown in enumerate(rows):
            made.paste(shown[column], (column * width, HEAD + row * height))
    return made


FIGURES = {"masks": masks, "looks": looks}


def main() -> None:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--scenes", default=SCENES)
    arguments = parser.parse_args()
    FIGURES[arguments.figure](arguments.kept, arguments.scenes).quantize(256).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
