"""The published code's classes: its table of groups, and where our own labels differ. Nothing has values here."""

from collections import Counter

import pytest
import timm
import torch

from tailor.tracing import as_published, trace


def traced(name, **settings):
    with torch.device("meta"):
        model = timm.create_model(name, **settings).eval()
    return trace(model, (torch.empty(2, 3, 224, 224, device="meta"),))


def classes(groups, *labels):
    """The number of groups in each class, heads apart (they are a ranking of their own there), largest first."""
    counts = Counter(group.kind for group in groups.groups if group.label in labels)
    return sorted(counts.values(), reverse=True)


WIDTHS = ("embedding", "hidden", "head dim")
TABLE = {
    "deit_tiny_distilled_patch16_224": [12, 12, 1],
    "resnet50": [32, 1, 1, 1, 1, 1],
    "mobilenetv2_100": [17, 3, 2, 1, 1, 1],
    "convnext_base": [36, 1, 1, 1, 1],
    "swin_base_patch4_window7_224": [24, 11, 11, 2, 1, 1, 1, 1],
}
"""What DeiT, ResNet-50, MobileNet-v2, ConvNeXt-B and Swin-B were found to be divided into."""


@pytest.mark.parametrize("name", TABLE)
def test_the_classes_are_those_of_the_published_code(name):
    found = traced(name)
    groups = as_published(found)
    assert classes(groups, *WIDTHS) == TABLE[name]
    assert len(classes(groups, "heads")) == (1 if "heads" in {g.label for g in groups.groups} else 0)
    assert [(g.id, g.members) for g in groups.groups] == [(g.id, g.members) for g in found.groups.groups]
    if "swin" in name:  # our own labels do not see the shift of the windows
        assert classes(found.groups, "head dim") == classes(found.groups, "heads") == [24]


def test_mobilenets_projections_are_told_apart_by_how_many_blocks_add_to_them():
    groups = as_published(traced("mobilenetv2_100"))
    by_kind = {}
    for group in groups.groups:
        by_kind.setdefault(group.kind, set()).add(group.size)
    assert {16, 320} in by_kind.values() and {32, 96, 160} in by_kind.values()
    assert {24} in by_kind.values() and {64} in by_kind.values()
