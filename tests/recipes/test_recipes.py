"""Bundled configurations are found by name, read as the verb's arguments, and misspelt ones name the nearest."""

import re
import time

import pytest
import yaml

from tailor import recipes
from tailor.cli import main
from tailor.errors import UsageError


def test_a_name_and_a_path_are_read_alike(tmp_path):
    settings = recipes.read("isomorphic/deit-4.2g")
    (tmp_path / "mine.yaml").write_text(recipes.find("isomorphic/deit-4.2g").read_text())
    assert recipes.read(str(tmp_path / "mine.yaml")) == settings
    assert settings["method"] == "isomorphic" and settings["heads"] == "50%"


def test_a_misspelt_name_says_the_nearest_and_another_word_says_them_all():
    with pytest.raises(UsageError, match="no bundled configuration") as caught:
        recipes.read("isomorphic/deit-4g")
    assert "`isomorphic/deit-4.2g`" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        recipes.read("list")
    assert all(name in caught.value.hint for name in recipes.names())


@pytest.mark.parametrize(
    ("text", "says"), [(None, "there is no file"), ("- a", "holds no settings"), ("a: [", "is not YAML")]
)
def test_files_that_hold_nothing_are_told(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=says):
        recipes.read(str(path))


def test_the_command_line_takes_a_name_and_its_backbone(capsys):
    with pytest.raises(SystemExit) as done:
        main(["prune", "--config", "isomorphic/deit-0.6g", "--retrain", "none", "--print-config"])
    assert done.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    expected = recipes.read("isomorphic/deit-0.6g") | {"retrain": "none"}
    assert {key: printed[key] for key in expected} == expected
    with pytest.raises(SystemExit) as done:
        main(["prune", "--config", "isomorphic/deit-0.6g", "--retrain", "none"])
    assert done.value.code == 2
    assert "no data was named, and `taylor` needs labelled images" in capsys.readouterr().err


def refusal(tmp_path, text):
    (tmp_path / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        recipes.read(str(tmp_path / "x.yaml"))
    assert "\n" not in caught.value.message and caught.value.hint and len(caught.value.message) < 400
    return caught.value.message


LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr: 0.1\nlr: 0.2\n", "`lr` stands twice, line 2"),
        ("recipe:\n  lr: 0.1\n  epochs: 3\n  lr: 0.2\n", "`lr` stands twice, line 4"),
        ("[" * 5000 + "]" * 5000, "deeper than"),
        ("a:\n" + "".join(" " * i + f"k{i}:\n" for i in range(1, 60)), "deeper than"),
        (LAUGHS, r"refers to `\*a`, line 2"),
        ("a: &a\n  b: *a\n", "refers to"),
        ("a: 1\n" + "#" * recipes.LARGEST, "bytes, more than"),
        ("a: !!python/object/apply:os.system [true]\n", "not YAML"),
        ("a: 2026-13-40\n", "not YAML"),
        ("a: [1\n", "not YAML.*line"),
        ("? [a, b]\n: 1\n", "not YAML"),
        (b"a: \xff\n", "not YAML"),
        ("a: \x07\n", "not YAML"),
        ("- a\n- b\n", "no settings"),
        ("", "no settings"),
    ],
)
def test_a_file_of_a_stranger_is_refused_in_a_line(tmp_path, text, says):
    assert re.search(says, refusal(tmp_path, text))


def test_the_largest_file_is_read_in_bounded_time(tmp_path):
    for text in ("a: [" + "0, " * 21_000 + "0]\n", "".join(f"k{i}: {{}}\n" for i in range(6000))):
        (tmp_path / "x.yaml").write_text(text)
        began = time.process_time()
        recipes.read(str(tmp_path / "x.yaml"))
        assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "text", ["seed: 1.5", "epochs: true", "seed: .nan", "batch_size: 8.0", "seed: [1]", "lr: [1]", "lr: true"]
)
def test_a_number_that_is_not_whole_is_refused(tmp_path, capsys, text):
    (tmp_path / "x.yaml").write_text(f"{text}\nmodel: tailor_mini_s\nweights: random\n")
    with pytest.raises(SystemExit) as done:
        main(["adapt", str(tmp_path / "none"), "--config", str(tmp_path / "x.yaml"), "-o", str(tmp_path / "run")])
    message = capsys.readouterr().err
    assert done.value.code == 2 and ("integer" in message or "number" in message) and not (tmp_path / "run").exists()
