"""Where a planner looks at some images only, they stand for all."""

from tailor.data.records import Record, Split
from tailor.workflow.data import drawn


def test_the_images_are_drawn_evenly_and_stay_in_order():
    splits = [
        Split("train", tuple(Record(f"t{i}", i % 2) for i in range(40))),
        Split("val", tuple(Record(f"v{i}", 1) for i in range(20))),
    ]
    parts = drawn(splits, 30, 0)
    labels = [label for part in parts for label in part.labels]
    assert len(labels) == 30 and labels.count(0) == 10
    for part in parts:
        numbers = [int(r.source[1:]) for r in part.records]
        assert numbers == sorted(numbers)
    assert [len(p) for p in drawn(splits, 1000, 0)] == [40, 20]
