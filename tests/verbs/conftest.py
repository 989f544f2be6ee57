"""Small data for the verbs, and no waiting for timings."""

import importlib

import pytest
import torch
from PIL import Image

PRUNE = importlib.import_module("tailor.workflow.prune")


@pytest.fixture
def hurried(monkeypatch):
    """Dense and pruned are timed within a fifth of a second."""
    monkeypatch.setattr(PRUNE, "SECONDS", 0.2)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three classes of flat colours in train, val and test."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 3), ("test", 4)):
        for index, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(0, 60, (24, 24, 3), generator=generator, dtype=torch.uint8)
                noise[..., index] += 180
                Image.fromarray(noise.numpy()).save(root / split / name / f"{i}.png")
    return str(root)
