"""`builtin/digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, enlarged; real data without a download."""

from functools import cache

import numpy as np
from PIL import Image

from tailor.data.sources.assemble import Listing

SIDE = 64
TRAIN, VAL = 800, 200  # the other 797 are test


def load(where: str, seed: int) -> Listing:
    """800 / 200 / 797 images, stratified. The division is part of the data set, so `seed` does not move it."""
    from sklearn.model_selection import train_test_split  # a second of imports that no other source needs

    labels = _digits()[1]
    train, rest = train_test_split(np.arange(len(labels)), train_size=TRAIN, stratify=labels, random_state=0)
    val, test = train_test_split(rest, train_size=VAL, stratify=labels[rest], random_state=0)
    rows = {
        split: [(f"builtin/digits#{i}", str(labels[i])) for i in sorted(indices.tolist())]
        for split, indices in (("train", train), ("val", val), ("test", test))
    }
    return Listing("builtin/digits", rows, opener=read_digit)


def read_digit(source: str) -> Image.Image:
    """Digit n of `builtin/digits#n`, light on dark, 64 x 64."""
    image = _digits()[0][int(source.rpartition("#")[2])]
    grey = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
    return grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target
