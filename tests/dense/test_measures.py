"""Counts of label maps: the two conventions for absent classes, images apart, borders."""

import torch

from tailor.dense import decode
from tailor.dense.measures import Borders, PixelConfusion, _dilated, figures, mean_iou
from tailor.dense.predictions import IGNORE, PixelPredictions


def counted(*pairs, classes=3):
    metric = PixelConfusion(classes)
    for guess, truth in pairs:
        metric.update(torch.tensor([guess]), torch.tensor([truth]))
    return metric.compute()


def test_absent_classes_are_left_out_or_count_zero():
    truth = [0, 0, 1, 1, IGNORE, IGNORE]
    same = counted(([0, 1, 1, 1, 2, 0], truth))["pixels"]
    assert round(float(mean_iou(same)) * 100, 2) == round(float(mean_iou(same, absent=True)) * 100, 2) == 58.33
    apart = counted(([0, 2, 1, 1, 2, 0], truth))["pixels"]
    assert (float(mean_iou(apart)), float(mean_iou(apart, absent=True))) == (0.75, 0.5)


def test_classes_are_averaged_over_the_set_and_not_over_images():
    found = counted(([0, 0], [0, 0]), ([1, 0], [1, 1]))
    assert float(mean_iou(found["pixels"])) == (2 / 3 + 1 / 2) / 2
    assert found["images"].tolist() == [1.0, 0.5]


def test_a_set_nothing_is_known_of_has_figures():
    borders = Borders()
    borders.update(torch.tensor([[0, 1]]), torch.tensor([[IGNORE, IGNORE]]))
    values = figures({**counted(([0, 1], [IGNORE, IGNORE])), "borders": borders.compute()}, ("a", "b", "c"))
    assert values["miou"] == 0.0 and values["per_class"] == {} and values["pixel_accuracy"] == 0.0


def test_borders_count_within_reach_and_not_beside_what_is_unknown():
    truth = torch.zeros(40, 40, dtype=torch.long)
    truth[:, 20:] = 1
    near, far = truth.roll(1, 1), truth.roll(9, 1)
    near[:, 0] = far[:, :9] = 0
    scores = []
    for guess in (truth, near, far):
        metric = Borders()
        metric.update(guess, truth)
        scores.append(float(metric.compute()))
    assert scores == [1.0, 1.0, 0.0]
    hidden = truth.clone()
    hidden[:, 18:22] = IGNORE
    metric = Borders()
    metric.update(truth, hidden)
    assert metric.counts.sum() == 0


def test_scores_are_resized_before_the_choice(monkeypatch):
    logits = torch.tensor([[[[4.0, -4.0]], [[0.0, 1.0]]]])
    found = PixelPredictions(logits)
    wide = decode.label_maps(found, [(1, 8)])[0]
    assert wide.shape == (1, 8) and wide[0, 4] == 1 and wide[0, 3] == 0 and wide[0, 0] == 0
    resized = torch.nn.functional.interpolate(logits.softmax(1), size=(1, 8), mode="bilinear", align_corners=False)
    assert torch.equal(wide, resized[0].argmax(0))
    monkeypatch.setattr(decode, "BAND", 1)
    assert torch.equal(decode.label_maps(found, [(1, 8)])[0], wide)


def test_lines_grow_as_a_maximum_over_squares():
    line = torch.rand(23, 41, generator=torch.Generator().manual_seed(0)) > 0.97
    for reach in (1, 3, 30):
        wanted = torch.nn.functional.max_pool2d(line[None, None].float(), 2 * reach + 1, stride=1, padding=reach)[0, 0]
        assert torch.equal(_dilated(line, reach), wanted > 0)
