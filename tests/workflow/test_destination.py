"""An output is refused where it is an input, or where somebody's own files lie; the sentence says what may be done."""

import json
import os

import pytest

from tailor.cli import main
from tailor.errors import BundleError, UsageError
from tailor.training import Recipe
from tailor.workflow.destination import Destination
from tailor.workflow.train import check_palette
from workflow.invented_runs import names, put, run, said


@pytest.mark.parametrize(
    ("out", "given"),
    [
        ("b", "b"),
        ("b/inside", "b"),
        (".", "b"),
        ("link", "b"),
        ("b", "link"),
        ("../{here}/b", "b"),
        ("photo.png", "photo.png"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_read_is_never_written_over(tmp_path, monkeypatch, out, given, overwrite):
    put(tmp_path / "b", "old")
    (tmp_path / "photo.png").write_text("p")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"is what is read, and `.*` would be written over it") as caught:
        run(out.format(here=tmp_path.name), overwrite=overwrite, inputs=("builtin/digits", None, given))
    assert "-o" in caught.value.hint
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before and said(tmp_path / "b") == "old"


def test_beside_an_input_and_inside_a_folder_of_images_is_free(tmp_path):
    put(tmp_path / "b", "old")
    (tmp_path / "photos").mkdir()
    run(tmp_path / "c", inputs=(tmp_path / "b",))
    run(tmp_path / "photos" / "run", inputs=(tmp_path / "photos",))
    assert said(tmp_path / "c") == said(tmp_path / "photos" / "run") == "new"


def test_a_class_s_folder_inside_the_data_is_no_output(tmp_path):
    (tmp_path / "photos" / "rose").mkdir(parents=True)
    (tmp_path / "photos" / "rose" / "1.png").write_bytes(b"")
    with pytest.raises(UsageError, match="is what is read"):
        run(tmp_path / "photos" / "rose", overwrite=True, inputs=(tmp_path / "photos",))
    assert names(tmp_path / "photos" / "rose") == ["1.png"]


def test_what_an_input_is_made_from_is_never_written_over(tmp_path):
    """A bundle that stores a difference is nothing without the one it differs from, a palette without its base."""
    for name in ("first", "second", "base"):
        put(tmp_path / name, "{}")
    put(tmp_path / "second", json.dumps({"spec": {"backbone": {"weights": f"bundle:{tmp_path / 'first'}"}}}))
    put(tmp_path / "third", json.dumps({"anchors": [{"weights": f"bundle:{tmp_path / 'second'}"}]}))
    put(tmp_path / "palette", json.dumps({"base": {"path": str(tmp_path / "base")}}))
    for out, given in (("first", "second"), ("first", "third"), ("base", "palette")):
        with pytest.raises(UsageError, match="is what is read"):
            run(tmp_path / out, overwrite=True, inputs=(tmp_path / given,))
        assert said(tmp_path / out) == "{}"


@pytest.mark.parametrize("given", [".b.partial", ".b.old"])
def test_an_input_that_would_be_emptied_on_the_way_is_kept(tmp_path, given):
    put(tmp_path / "b", "old")
    put(tmp_path / given, "mine")
    with pytest.raises(UsageError, match="is what is read"):
        run(tmp_path / "b", overwrite=True, inputs=(tmp_path / given,))
    assert said(tmp_path / given) == "mine"


def test_overwriting_and_going_on_contradict_each_other(tmp_path):
    put(tmp_path / "b", "old")
    with pytest.raises(UsageError, match="`--overwrite` starts anew and `--resume` goes on"):
        run(tmp_path / "b", overwrite=True, resume=True)
    assert said(tmp_path / "b") == "old" and names(tmp_path) == ["b"]


def test_a_file_cannot_ask_to_overwrite(tmp_path, capsys):
    for key in ("overwrite", "resume"):
        (tmp_path / "c.yaml").write_text(f"name: {tmp_path}\n{key}: true\n")
        with pytest.raises(SystemExit) as done:
            main(["prune", "--config", str(tmp_path / "c.yaml")])
        assert done.value.code == 2
        said = capsys.readouterr().err
        assert f"`{key}` in `c.yaml` counts as a flag only" in said and f"hint: write `--{key}` instead" in said


def test_a_folder_with_anything_in_it_is_not_written_to_without_leave(tmp_path):
    put(tmp_path / "b", "old")
    with pytest.raises(BundleError, match="exists and is not empty"):
        run(tmp_path / "b")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    with pytest.raises(BundleError, match="nothing that shows a run left it"):
        run(tmp_path / "other", overwrite=True)
    assert (
        said(tmp_path / "b") == "old"
        and names(tmp_path) == ["b", "other"]
        and names(tmp_path / "other") == ["README.md"]
    )


def test_a_read_only_folder_around_the_output_is_said(tmp_path, monkeypatch):
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: str(path) != str(tmp_path))  # root may write everywhere
    with pytest.raises(BundleError, match="is read-only") as caught:
        run(tmp_path / "mounted")
    assert caught.value.hint == f"write into the folder instead: `-o {tmp_path / 'mounted' / 'run'}`"
    assert names(tmp_path) == ["mounted"]


def test_the_hint_names_no_flag_that_the_verb_lacks(tmp_path):
    put(tmp_path / "b", "old")
    for resumes in (True, False):
        with pytest.raises(BundleError) as caught:
            Destination(tmp_path / "b", resumes=resumes).check()
        assert ("--resume" in caught.value.hint) == resumes and "--overwrite" in caught.value.hint


@pytest.mark.parametrize("name", ["base", "history.png", "palette.png"])
def test_a_name_that_others_use_as_well_shows_no_run(tmp_path, name):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_text("mine")
    with pytest.raises(BundleError, match="nothing that shows a run"):
        run(tmp_path / "b", overwrite=True)
    assert (tmp_path / "b" / name).read_text() == "mine"


def test_the_base_of_palettes_is_no_runs_to_replace(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("base.json", "tensors.safetensors"):
        (tmp_path / "b" / name).write_text("mine")
    with pytest.raises(BundleError, match="palettes need"):
        run(tmp_path / "b", overwrite=True)
    assert (tmp_path / "b" / "tensors.safetensors").read_text() == "mine"


def test_a_finished_palette_is_not_finished_with_another_recipe(tmp_path):
    (tmp_path / "bundle.json").write_text(json.dumps({"provenance": {"epochs": 1, "lr": 1e-3}}))
    check_palette(tmp_path, Recipe(epochs=1, lr=1e-3))
    with pytest.raises(BundleError, match="with epochs 1, not 2"):
        check_palette(tmp_path, Recipe(epochs=2, lr=1e-3))
