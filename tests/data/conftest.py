"""Tiny images and folders of them. Every picture differs from every other unless it is asked to be the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def pixels(number: int, size: tuple[int, int] = (40, 48)) -> Image.Image:
    """Picture `number`, (height, width) = `size`: noise, so that no two are equal."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def write() -> Callable[..., Path]:
    """Writes picture `number` to a path, whose folders are made."""

    def write_picture(path: Path, number: int = 0, size: tuple[int, int] = (40, 48)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels(number, size).save(path)
        return path

    return write_picture


@pytest.fixture
def tree(tmp_path: Path, write: Callable[..., Path]) -> Callable[..., Path]:
    """Makes a folder from {"cat": 3, "train/dog": 2}: so many PNG files below each path."""

    def make(folders: dict[str, int], root: str = "pets") -> Path:
        number = 0
        for folder, count in folders.items():
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                number += 1
                write(tmp_path / root / folder / f"{i:02}.png", number)
        return tmp_path / root

    return make


@pytest.fixture
def shared() -> Path:
    """The real image sets beside the project; a test that asks for it is marked `shared_data`."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}")
    return SHARED
