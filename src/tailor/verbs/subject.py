"""What `bench` and `inspect` are given: a bundle's folder, a backbone's name, or data."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tailor import backbones, bundle
from tailor import build as builder
from tailor.backbones import Config
from tailor.tuning.apply import merges


@dataclass(frozen=True)
class Subject:
    """A model to measure: its name, input size (C, H, W), and whether its tunes were merged."""

    name: str
    model: nn.Module
    size: tuple[int, int, int]
    merged: bool = False


def is_bundle(name: str | Path) -> bool:
    """Whether the argument is the folder of a bundle."""
    return (Path(name) / bundle.MANIFEST).is_file()


def open_subject(name: str, *, weights: str | None, image_size: int | None, merge: bool = True) -> Subject:
    """A bundle (tunes merged where they all fold exactly) or a backbone by name, in eval mode."""
    if is_bundle(name) or Path(name).is_dir():
        loaded = bundle.read(Path(name))
        model = bundle.restore(loaded, weights)
        folded = merge and all(merges(plan) for plan in loaded.spec.tuning)
        if folded:
            builder.merged_(model, loaded.spec)
        return Subject(name, model, (3, *loaded.spec.preprocessing.size), folded)
    model = backbones.create(name, weights or "random", image_size)
    config: Config = backbones.config_of(model)
    return Subject(name, model, config.input_size)
