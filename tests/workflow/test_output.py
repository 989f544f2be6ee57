"""What stands in the place of the output goes only once the new one is whole; killed at any moment nothing is lost."""

import os
from dataclasses import dataclass

import pytest

from tailor.errors import BundleError, DataError
from tailor.training import Interrupted
from tailor.workflow import output as module
from tailor.workflow.destination import MARK, Destination
from tailor.workflow.output import output
from workflow.invented_runs import names, put, run, said


def test_the_new_one_takes_the_place_and_what_no_run_left_stays(tmp_path):
    out = put(tmp_path / "b", "old", "notes.txt", "report.html")
    (out / "mine").mkdir()
    (out / "mine" / "data.bin").write_text("mine")
    with output(Destination(out, overwrite=True)) as found:
        assert found.folder != out and said(out) == "old"
        put(found.folder, "new")
        assert said(out) == "old"
    assert said(out) == "new"
    assert names(out) == ["bundle.json", "mine", "notes.txt", "tensors.safetensors"]  # the report was the old run's
    assert (out / "notes.txt").read_text() == "mine: notes.txt" and (out / "mine" / "data.bin").read_text() == "mine"
    assert names(tmp_path) == ["b"]


def test_a_run_that_fails_leaves_the_old_one(tmp_path):
    out = put(tmp_path / "b", "old")
    with pytest.raises(DataError), output(Destination(out, overwrite=True)):
        raise DataError("no images")
    assert said(out) == "old" and names(tmp_path) == ["b"]
    with pytest.raises(DataError), output(Destination(tmp_path / "deep" / "fresh")):
        raise DataError("no images")
    assert names(tmp_path) == ["b"]  # nothing is left of a folder that nothing was written to


def test_an_interrupted_replacement_is_continued_beside_it(tmp_path):
    out = put(tmp_path / "b", "old", "notes.txt")
    with pytest.raises(Interrupted), output(Destination(out, overwrite=True)) as found:
        (found.folder / "plan.json").write_text("begun")
        raise Interrupted("stopped by SIGINT")
    assert said(out) == "old" and names(tmp_path) == [".b.partial", "b"]
    with output(Destination(out, resume=True)) as found:
        assert found.folder == tmp_path / ".b.partial" and (found.folder / "plan.json").read_text() == "begun"
        put(found.folder, "new")
    assert said(out) == "new" and names(out) == ["bundle.json", "notes.txt", "plan.json", "tensors.safetensors"]
    assert names(tmp_path) == ["b"]


def test_starting_anew_forgets_what_was_begun_beside_it(tmp_path):
    out = put(tmp_path / "b", "old")
    (tmp_path / ".b.partial").mkdir()
    for name in (MARK, "plan.json"):
        (tmp_path / ".b.partial" / name).write_text("begun")
    with output(Destination(out, overwrite=True)) as found:
        assert names(found.folder) == [MARK]
        put(found.folder, "new")
    assert said(out) == "new"


def test_without_anything_to_replace_a_run_goes_on_in_its_own_folder(tmp_path):
    with pytest.raises(Interrupted), output(Destination(tmp_path / "b")) as found:
        (found.folder / "plan.json").write_text("begun")
        raise Interrupted("stopped by SIGINT")
    with output(Destination(tmp_path / "b", resume=True)) as found:
        assert found.folder == tmp_path / "b" and names(found.folder) == ["plan.json"]
    with output(Destination(tmp_path / "nothing", resume=True)) as found:
        assert names(found.folder) == []


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_at_any_rename_nothing_is_lost_and_the_next_run_puts_it_right(tmp_path, monkeypatch, number, moment):
    out, real, count = put(tmp_path / "b", "old", "notes.txt"), os.replace, 0

    def deadly(source, target):
        nonlocal count
        count += 1
        if count == number and moment == "before":
            raise Killed
        real(source, target)
        if count == number:
            raise Killed

    with pytest.raises(Killed), output(Destination(out, overwrite=True)) as found:
        put(found.folder, "new")
        monkeypatch.setattr(os, "replace", deadly)
    monkeypatch.setattr(os, "replace", real)
    somewhere = {path.parent.name: path.read_text() for path in tmp_path.rglob("bundle.json")}
    assert "new" in somewhere.values()  # the old one goes only when the new one has its place
    if not out.exists():
        assert somewhere[".b.old"] == "old"
    with output(Destination(out, resume=True)) as found:
        assert said(found.folder) == "new"
    assert said(out) == "new" and (out / "notes.txt").read_text() == "mine: notes.txt"
    assert names(tmp_path) == ["b"]


def test_killed_between_the_renames_a_plain_run_is_refused_as_before(tmp_path, monkeypatch):
    out = put(tmp_path / "b", "old", "notes.txt")
    (out / MARK).touch()
    os.replace(out, tmp_path / ".b.old")
    put(tmp_path / ".b.partial", "new", MARK)
    with pytest.raises(BundleError, match="exists and is not empty"):
        run(out)
    assert said(out) == "old" and (out / "notes.txt").exists() and not (out / MARK).exists()


@pytest.mark.parametrize("given", [".b.partial", ".b.old"])
def test_a_folder_of_somebody_s_own_is_not_emptied_on_the_way(tmp_path, given):
    """Whatever it is called: its README would pass for a run's."""
    out = put(tmp_path / "b", "old")
    (tmp_path / given).mkdir()
    (tmp_path / given / "README.md").write_text("mine")
    with pytest.raises(BundleError, match="is in the way"):
        run(out, overwrite=True)
    run(tmp_path / "b", "again", resume=True)
    assert said(out) == "again" and (tmp_path / given / "README.md").read_text() == "mine"


def test_where_nothing_is_there_to_be_resumed_a_line_says_so(tmp_path):
    told = []
    for folder in ("new", "new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with output(Destination(tmp_path / folder, resume=True), told.append) as found:
            put(found.folder, "new")
    assert [event.text for event in told] == [
        f"there is nothing to resume in `{tmp_path / name}`: starting anew" for name in ("new", "empty")
    ]


def test_where_nothing_can_be_written_it_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file"):
        run(tmp_path / "file")
    with pytest.raises(BundleError, match="cannot be written"):
        run(tmp_path / "file" / "below")
    put(tmp_path / "b", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "replace", full)
        with pytest.raises(
            BundleError, match=r"cannot be replaced: No space left on device; the new one is in"
        ) as caught:
            run(tmp_path / "b", overwrite=True)
    assert caught.value.hint and said(tmp_path / "b") == "old" and said(tmp_path / ".b.partial") == "new"


def test_a_plan_is_trained_in_its_own_folder_and_survives_a_replacement(tmp_path):
    out = tmp_path / "plan"
    out.mkdir()
    for name in ("plan.json", "plan.safetensors", "heatmap.png"):
        (out / name).write_text("planned")
    assert run(out, inside=True, inputs=(out, "builtin/digits")).folder == out
    assert said(out) == "new" and (out / "plan.json").read_text() == "planned"
    with pytest.raises(BundleError, match="holds a bundle already"):
        run(out, inside=True, inputs=(out,))
    with output(Destination(out, overwrite=True, inputs=(out,), inside=True)) as found:
        assert names(found.folder) == [MARK, "heatmap.png", "plan.json", "plan.safetensors"]
        put(found.folder, "newer")
    assert said(out) == "newer" and (out / "plan.json").read_text() == "planned" and names(tmp_path) == ["plan"]


@dataclass(frozen=True)
class Told:
    bundle: str
    plan: str = ""


def test_results_name_the_folder_that_they_will_be_in(tmp_path):
    out = put(tmp_path / "b", "old")
    with output(Destination(out, overwrite=True)) as found:
        put(found.folder, "new")
        told = found.settled(Told(str(found.folder), str(found.folder / "plan.json")))
        assert told == Told(str(out), str(out / "plan.json"))
        elsewhere = Told(str(tmp_path / "c"))
        assert found.settled(elsewhere) == elsewhere


def test_through_a_link_the_folder_is_replaced_and_the_link_stays(tmp_path):
    put(tmp_path / "b", "old", "notes.txt")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    run(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert said(tmp_path / "b") == "new" and (tmp_path / "b" / "notes.txt").exists()
    assert names(tmp_path) == ["b", "link"]
