"""Bundled configurations are found by name, read as the verb's arguments, and misspelt ones name the nearest."""

import pytest

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
        main(["prune", "--config", "isomorphic/deit-0.6g", "--retrain", "none", "--criterion", "l1"])
    assert done.value.code == 2
    assert "`deit_tiny_distilled_patch16_224.fb_in1k` has no classes yet" in capsys.readouterr().err
