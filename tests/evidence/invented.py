"""Runs that never were, with every section filled: what the page is tried on."""

import base64
import io
import math
import random

from PIL import Image

from tailor.bundle.evidence import (
    HERE,
    Asked,
    Budget,
    CandidateRecord,
    CostRecord,
    Epoch,
    Evidence,
    Judged,
    Layers,
    Map,
    ModelCost,
    Network,
    Score,
    Width,
)
from tailor.evidence.page import Mistake, PageRun, Parity

BLOCKS = 12
OPERATIONS = ("q", "k", "v", "proj", "fc1", "fc2", "norm1", "norm2")
CLASSES = ("anemone", "bluebell", "cornflower", "daisy", "edelweiss", "foxglove", "gentian", "hyacinth", "iris")


def candidates(count=24):
    dice = random.Random(0)
    found = []
    for i in range(count):
        share = 0.15 + 0.8 * i / count
        cut = 0.66 - 0.3 * math.exp(-4 * share) - 0.08 * dice.random()
        scores = {"recovered": round(cut, 4)}
        if i % 3 != 1:
            scores["retrained"] = round(cut + 0.06 + 0.03 * dice.random(), 4)
        found.append(
            CandidateRecord(
                f"depth {12 - i % 5}, widths {share:.0%}",
                f"layers: {12 - i % 5} of 12 blocks; width: {share:.0%} of the units",
                round(1.2 + 6 * share + dice.random(), 3),
                int(1.2e8 * share),
                int(2.1e6 * share),
                scores,
                i == 6,
                Asked("prune", (HERE,), {"method": "isomorphic", "macs": f"{share:.0%}", "out": "runs/one"}),
            )
        )
    return tuple(found)


def evidence(**changed):
    dice = random.Random(1)
    felt = [[dice.random() ** 3 * (1 + b) for _ in OPERATIONS] for b in range(BLOCKS)]
    share = [[cell * dice.random() for cell in row] for row in felt]
    all_felt, all_share = sum(map(sum, felt)), sum(map(sum, share))
    labels = tuple(i % len(CLASSES) for i in range(180))
    spots = [(dice.random(), dice.random()) for _ in CLASSES]

    def blob(tight):
        return Map(
            tight,
            tuple(int(1000 * min(max(spots[c][0] + dice.gauss(0, 0.5 / tight), 0), 1)) for c in labels),
            tuple(int(1000 * min(max(spots[c][1] + dice.gauss(0, 0.5 / tight), 0), 1)) for c in labels),
        )

    sections = {
        "versions": {"tailor": "0.1.0", "torch": "2.9.0"},
        "machine": {"cpu": "Example CPU 3000", "cores": 2, "threads": 1, "torch": "2.9.0", "gpu": None},
        "asked": Asked(
            "prune",
            ("runs/photos",),
            {"data": "photos", "method": "auto", "speed": "4x", "epochs": 40},
            {"recipe": {"drop_path": 0.2}},
        ),
        "seconds": 412.5,
        "score": Score("accuracy", True, "test", 1020, 0.6382, 0.6402, 0.512, True),
        "costs": CostRecord(
            ModelCost(27_000_000, 520_000, 2304.1, 1.31),
            ModelCost(121_000_000, 2_100_000, 562.0, 3.92),
            4.1,
            3.9,
            4.2,
            64,
        ),
        "network": Network(
            tuple(f"blocks.{b}" for b in range(BLOCKS)),
            ("blocks.7", "blocks.10", "blocks.11"),
            (
                Width("embedding", 192, 144),
                *(Width(f"blocks.{b}.attn.heads", 3, 2) for b in range(BLOCKS)),
                *(Width(f"blocks.{b}.mlp.hidden", 768, 120 + 40 * b) for b in range(BLOCKS)),
            ),
            tuple("none" if b == 9 else "conv3" if b < 2 else "attention" for b in range(BLOCKS)),
        ),
        "budget": Budget(
            "spt-lora",
            9_812,
            OPERATIONS,
            tuple(tuple(cell / all_share for cell in row) for row in share),
            tuple(tuple(cell / all_felt for cell in row) for row in felt),
            tuple(tuple(cell / all_share > 0.03 for cell in row) for row in share),
        ),
        "layers": Layers(
            (None, None, None, None, -0.05, 0.02, 0.09, 0.14, 0.22, 0.31, 0.36, 0.38),
            0.114,
            8,
            "block 7 has SC 0.090, below 0.114",
            labels,
            (blob(5), blob(7), blob(8), blob(12)),
        ),
        "epochs": tuple(Epoch(e, 4 * math.exp(-e / 7) + 0.3, 0.66 - 0.5 * math.exp(-e / 5)) for e in range(1, 31)),
        "chosen": 27,
        "confusion": tuple(
            tuple(90 - 4 * i if i == j else (i * 7 + j * 5) % 4 for j in range(len(CLASSES)))
            for i in range(len(CLASSES))
        ),
        "candidates": candidates(),
        "judged": Judged("val", 64),
    }
    return Evidence(**(sections | changed))


def picture(colour):
    held = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(held, "JPEG")
    return base64.b64encode(held.getvalue()).decode()


def run(name="runs/fast", **changed):
    given = {
        "evidence": evidence(),
        "backbone": "tailor_mini_s",
        "task": "classification, 9 classes",
        "classes": CLASSES,
        "bytes": 1_412_000,
        "made_by": {"tailor": "0.1.0", "data": "photos", "seed": "0"},
        "plans": ("tune: spt-lora, 9,812 trainable parameters without the classifier", "layers: auto, 9 of 12 blocks"),
        "mistakes": tuple(
            Mistake(f"test/iris/{i}.jpg", 6.1 - i / 3, CLASSES[i % 9], 0.97 - i / 30, CLASSES[(i + 3) % 9], picture(c))
            for i, c in enumerate(("#8a4fbf", "#d9c14a", "#3b7d3b", "#c0392b", "#2c6fbb", "#dddddd", "#e08bb5"))
        ),
        "parity": (Parity("ONNX", 3.1e-6), Parity("torch.export", reason="the operator `roll` has no such form")),
    }
    return PageRun(name, **(given | changed))
