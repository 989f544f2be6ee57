"""The published protocol on a miniature of the published layout."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import tasks
from PIL import Image

import tailor
from tailor.data.images import ImageData, Record, Split
from tailor.data.sources.cifar100 import RECORD


def picture(path: Path, label: int, classes: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (255 * label // classes, 128, 255 - 255 * label // classes)).save(path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """One task of VTAB with lists of the published lengths, and CIFAR-100 with three images a class."""
    root = tmp_path_factory.mktemp("published")
    for split, length in (("train800", 800), ("val200", 200), ("test", 60)):
        for label in range(4):
            picture(root / f"vtab/kitti/images/{split}/{label}.png", label, 4)
        lines = [f"images/{split}/{i % 4}.png {i % 4}" for i in range(length)]
        (root / f"vtab/kitti/{split}.txt").write_text("\n".join(lines) + "\n")
    (root / "cifar").mkdir()
    for split, length in (("train", 300), ("test", 100)):
        records = np.random.default_rng(0).integers(0, 256, (length, RECORD), dtype=np.uint8)
        records[:, 1] = np.arange(length) % 100
        (root / f"cifar/{split}.bin").write_bytes(records.tobytes())
    return root


@pytest.fixture(scope="module")
def arguments(root) -> list[str]:
    return [
        *("--vtab", str(root / "vtab"), "--cifar100", str(root / "cifar"), "--store", str(root / "rows.jsonl")),
        *("--work", str(root / "work"), "--model", "tailor_mini_ti", "--image-size", "8", "--threads", "1"),
        *("--methods", "linear", "--epochs", "1,3", "--batch-size", "200", "--lr", "0.001"),
    ]


@pytest.fixture(scope="module")
def rows(root, arguments) -> list[dict]:
    tasks.main(arguments)
    return [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]


def test_the_best_on_val_trains_again_on_both_lists_and_is_scored_on_test(root, rows):
    for task in ("vtab/kitti", "cifar100"):
        select = [row for row in rows if row["task"] == task and row["phase"] == "select"]
        (final,) = [row for row in rows if row["task"] == task and row["phase"] == "final"]
        assert [row["epochs"] for row in select] == [1, 3] and {row["split"] for row in select} == {"val"}
        assert final["epochs"] == max(select, key=lambda row: row["accuracy"])["epochs"]
        assert final["split"] == "test" and final["val"] == max(row["accuracy"] for row in select)
    with (root / "work/vtab/kitti/final.csv").open() as file:
        splits = [line["split"] for line in csv.DictReader(file)]
    assert [splits.count(name) for name in ("train", "val", "test")] == [1000, 200, 60]
    bundles = {path.name for path in (root / "work/runs").iterdir()}
    assert len(bundles) == 2 and all("-final-" in name for name in bundles)


def test_what_is_finished_is_not_run_again_and_what_is_missing_is_named(rows, arguments, monkeypatch, capsys):
    monkeypatch.setattr(tailor, "adapt", lambda *_, **__: pytest.fail("a finished training began again"), raising=False)
    tasks.main(arguments)
    said = capsys.readouterr().out
    assert "vtab/dtd is left out" in said and "cifar100 is left out" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("| linear")]
    kitti, cifar = ([r["accuracy"] for r in rows if r["task"] == t][-1] for t in ("vtab/kitti", "cifar100"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == ["-", "-", f"{100 * kitti:.1f} (1 of 8)", "-", "-", f"{100 * cifar:.1f}"]


def test_the_backbone_counts_once_and_every_task_adds_its_share(rows):
    final = [row for row in rows if row["phase"] == "final"]
    backbone = 616_512 - 64 * (8 * 8 + 1) + 64 * 2  # the position embedding of one patch instead of 64
    assert [row["head"] for row in final] == [65 * 4, 65 * 100]
    assert [row["share"] * backbone for row in final] == pytest.approx([65 * 4, 65 * 100])


def test_the_mean_of_vtab_is_that_of_its_groups():
    accuracy = {"Natural": 0.9, "Specialized": 0.6, "Structured": 0.3}
    rows = [
        {"task": task, "method": "m", "seed": seed, "accuracy": accuracy[group] + change, "share": 0.01}
        for group in accuracy
        for task in tasks.GROUPS[group]
        for seed, change in enumerate((-0.02, 0.02))
    ]
    cells = [cell.strip() for cell in tasks.table(rows).splitlines()[-1].strip("|").split("|")]
    assert cells == ["m", "1.19x (19 tasks)", "90.0", "60.0", "30.0", "60.0", "-", "-"]


def test_images_of_a_class_without_training_images_count_as_wrong(tmp_path):
    files = [str(picture(tmp_path / f"{i}.png", i, 3)) for i in range(3)]
    splits = {"train": (0, 1), "val": (0, 2), "test": (0, 1, 2, 2)}
    made = {n: Split(n, tuple(Record(files[i], i) for i in labels)) for n, labels in splits.items()}
    only_val = tasks.lists(ImageData("d", ("a", "b", "c"), made), tmp_path / "lists")
    assert only_val.unseen == (0.5, 0)  # both lists together have the third class
    made["val"] = Split("val", tuple(Record(files[0], 0) for _ in range(2)))
    assert tasks.lists(ImageData("d", ("a", "b", "c"), made), tmp_path / "lists").unseen == (0, 0.5)
