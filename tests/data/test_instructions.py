"""Instructions: read in Alpaca's layout, divided, and whatever else a file may hold refused with its place."""

import json
import time

import pytest

from tailor.backbones.prompts import Instruction
from tailor.data.check import check
from tailor.data.images import ensure_validation, kind_of, open_data
from tailor.data.sources import instructions
from tailor.errors import DataError

ROW = {"instruction": "Add", "input": "1 2", "output": "3"}


def file(folder, rows, name="tasks.json"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = rows if isinstance(rows, str) else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_and_lines_say_the_same(tmp_path):
    rows = [ROW, {"instruction": "Say a", "output": "a"}, {"instruction": "b", "input": None, "output": "ß"}]
    one = open_data(file(tmp_path / "a", rows))
    lines = "\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\r\n"
    two = open_data(file(tmp_path / "b", lines, "tasks.jsonl"))
    assert one.kind == two.kind == kind_of(tmp_path / "a") == "texts"
    found = [record.target for record in one.splits["all"].records]
    assert found == [Instruction("Add", "1 2", "3"), Instruction("Say a", "", "a"), Instruction("b", "", "ß")]
    assert [record.target for record in two.splits["all"].records] == found
    assert [r.source.rpartition("#")[2] for r in two.splits["all"].records] == ["1", "3", "5"]
    split = one.splits["all"]
    assert [split.read(i) for i in range(3)] == [split.target(i) for i in range(3)] == found


def test_splits_are_files_or_folders(tmp_path):
    file(tmp_path / "flat", [ROW] * 3, "train.json")
    file(tmp_path / "flat", json.dumps(ROW), "test.jsonl")
    file(tmp_path / "deep", [ROW] * 3, "train/some.json")
    file(tmp_path / "deep", [ROW], "validation/other.json")
    assert {n: len(s) for n, s in open_data(tmp_path / "flat").splits.items()} == {"train": 3, "test": 1}
    assert {n: len(s) for n, s in open_data(tmp_path / "deep").splits.items()} == {"train": 3, "val": 1}
    made = ensure_validation(open_data(file(tmp_path, [{**ROW, "input": str(i)} for i in range(10)])), 0)
    assert {n: len(s) for n, s in made.splits.items()} == {"train": 8, "val": 2}
    file(tmp_path / "flat", [ROW], "more.json")
    with pytest.raises(DataError, match="is of no split"):
        open_data(tmp_path / "flat")
    file(tmp_path / "deep", [ROW], "train.json")
    with pytest.raises(DataError, match=r"two files .* are the train split"):
        open_data(tmp_path / "deep")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no instruction with an answer"),
        ([{**ROW, "output": ""}], "no instruction with an answer"),
        ('{"instruction": "a", "output": "b"}', r"is one object, expected a list"),
        ("[", "is no JSON"),
        ([3], "#0` is a number, expected an object"),
        ([ROW, {"output": "a"}], "#1` has no `instruction`"),
        ([{**ROW, "output": 3}], "`output` of .*#0` is a number, expected text"),
        ([{**ROW, "input": ["x"]}], r"`input` of .* is a list"),
        ([{"conversations": [{"from": "human", "value": "a"}]}], r"is a conversation .`conversations`"),
        ([{"messages": []}], "is a conversation"),
        ("[" * 100 + "]" * 100, r"nested more than 16 deep"),
        ("[" * 200_000, r"nested more than 16 deep"),
        ('[{"instruction": "a", "output": "' + "[" * 100 + '\\""}, 3]', "#1` is a number"),
    ],
)
def test_what_is_no_list_of_instructions_is_refused_with_its_place(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        open_data(file(tmp_path, rows), kind="texts")


def test_large_and_foreign_files_are_refused(tmp_path, monkeypatch):
    path = file(tmp_path, [ROW] * 20)
    monkeypatch.setattr(instructions, "MOST", 10)
    with pytest.raises(DataError, match="more than 10 examples"):
        open_data(path)
    monkeypatch.setattr(instructions, "LONGEST", 2)
    with pytest.raises(DataError, match="has 3 characters"):
        open_data(path)
    monkeypatch.setattr(instructions, "LARGEST", 50)
    with pytest.raises(DataError, match="is larger"):
        open_data(path)
    (tmp_path / "x.json").write_bytes(b'[{"instruction": "\xff"}]')
    with pytest.raises(DataError, match=r"not UTF-8 text .byte 18"):
        open_data(tmp_path / "x.json", kind="texts")
    with pytest.raises(DataError, match="does not exist"):
        open_data(tmp_path / "none.json", kind="texts")


def test_many_examples_are_read_in_bounded_time(tmp_path):
    path = file(tmp_path, [{**ROW, "input": str(i)} for i in range(20_000)])
    began = time.monotonic()
    assert len(open_data(path).splits["all"]) == 20_000
    assert time.monotonic() - began < 10


def test_the_same_instruction_in_two_splits_or_with_two_answers_is_told(tmp_path):
    file(tmp_path, [ROW, {**ROW, "output": "4"}, {**ROW, "input": "5"}], "train.json")
    file(tmp_path, [{**ROW, "input": "5"}], "test.json")
    found = check(open_data(tmp_path))
    assert found.what == "examples" and not found.clean
    assert any("in more than one split" in line and "test.json#0" in line for line in found.lines())
    assert any("with more than one label" in line and "train.json#1" in line for line in found.lines())
    alone = check(open_data(file(tmp_path / "b", [ROW])))
    assert alone.clean and alone.lines() == ["1 examples, nothing to remark"]
