"""An output is refused where it is an input, held by one writer, and replaced only once the new one is whole."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from threading import Barrier, Thread

import pytest

from tailor.cli import main
from tailor.errors import BundleError, DataError, UsageError
from tailor.training import Interrupted, Recipe
from tailor.workflow import output as module
from tailor.workflow.destination import MARK, Destination
from tailor.workflow.lock import locked
from tailor.workflow.output import output
from tailor.workflow.train import check_palette


def put(folder, text, *more):
    """What a finished run leaves, and files of somebody else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("bundle.json", "tensors.safetensors"):
        (folder / name).write_text(text)
    for name in more:
        (folder / name).write_text(f"mine: {name}")
    return folder


def said(folder):
    return (folder / "bundle.json").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(out, text="new", **flags):
    with output(Destination(out, **flags)) as found:
        put(found.folder, text)
        (found.folder / "metrics.jsonl").write_text(text)
        return found


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


HOLD = """
import fcntl, json, socket, os, sys, time
handle = open(sys.argv[1], "w")
fcntl.flock(handle, fcntl.LOCK_EX)
json.dump({"host": socket.gethostname(), "pid": os.getpid()}, handle, )
handle.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_one_writer_at_a_time(tmp_path):
    out, lock = tmp_path / "b", tmp_path / ".b.lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BundleError, match=f"another run is writing to `.*b`: process {other.pid} on") as caught:
            run(out)
        assert str(lock) in caught.value.hint and names(tmp_path) == [".b.lock"]
    finally:
        other.kill()
        other.communicate()
    run(out)  # its writer is dead: the lock is taken over
    assert said(out) == "new" and names(tmp_path) == ["b"]


def test_of_several_that_take_a_dead_one_s_lock_over_at_once_one_gets_it(tmp_path):
    """Threads of one process too: its own number in the file says nothing of who has it."""
    for text in ("", json.dumps({"host": socket.gethostname(), "pid": os.getpid()})):
        (tmp_path / ".b.lock").write_text(text)
        start, done, told = Barrier(6), Barrier(6), []

        def take(start=start, done=done, told=told):
            start.wait()
            try:
                with locked(tmp_path / "b"):
                    told.append("had it")
                    done.wait()
            except BundleError as error:
                told.append(error.message)
                done.wait()

        threads = [Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told.count("had it") == 1 and sum("another run is writing" in one for one in told) == 5
        assert names(tmp_path) == []


def test_a_lock_that_is_no_file_is_a_sentence(tmp_path):
    os.mkfifo(tmp_path / ".b.lock")
    with pytest.raises(BundleError, match=r"`.*\.b\.lock` is no file"):
        run(tmp_path / "b")


def test_a_read_only_folder_around_the_output_is_said(tmp_path, monkeypatch):
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: str(path) != str(tmp_path))  # root may write everywhere
    with pytest.raises(BundleError, match="is read-only") as caught:
        run(tmp_path / "mounted")
    assert caught.value.hint == f"write into the folder instead: `-o {tmp_path / 'mounted' / 'run'}`"
    assert names(tmp_path) == ["mounted"]


def test_where_nothing_is_there_to_be_resumed_a_line_says_so(tmp_path):
    told = []
    for folder in ("new", "new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with output(Destination(tmp_path / folder, resume=True), told.append) as found:
            put(found.folder, "new")
    assert [event.text for event in told] == [
        f"there is nothing to resume in `{tmp_path / name}`: starting anew" for name in ("new", "empty")
    ]


def test_the_hint_names_no_flag_that_the_verb_lacks(tmp_path):
    put(tmp_path / "b", "old")
    for resumes in (True, False):
        with pytest.raises(BundleError) as caught:
            Destination(tmp_path / "b", resumes=resumes).check()
        assert ("--resume" in caught.value.hint) == resumes and "--overwrite" in caught.value.hint


@pytest.mark.parametrize("held", ["", "{", "[]", '{"host": 3}', '{"host": "here", "pid": "x"}'])
def test_a_lock_that_was_cut_short_is_taken_over(tmp_path, held):
    (tmp_path / ".b.lock").write_text(held)
    run(tmp_path / "b")
    assert names(tmp_path) == ["b"]


def test_the_lock_of_another_machine_is_respected(tmp_path):
    (tmp_path / ".b.lock").write_text(json.dumps({"host": "elsewhere.invalid", "pid": 1}))
    with pytest.raises(BundleError, match=r"process 1 on `elsewhere\.invalid`"):
        run(tmp_path / "b")


def test_the_lock_is_held_while_the_run_lasts_and_says_who_has_it(tmp_path):
    with output(Destination(tmp_path / "b")):
        held = json.loads((tmp_path / ".b.lock").read_text())
        assert held == {"host": socket.gethostname(), "pid": os.getpid()}
    assert names(tmp_path) == ["b"]


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


def test_through_a_link_the_folder_is_replaced_and_the_link_stays(tmp_path):
    put(tmp_path / "b", "old", "notes.txt")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    run(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert said(tmp_path / "b") == "new" and (tmp_path / "b" / "notes.txt").exists()
    assert names(tmp_path) == ["b", "link"]


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


def test_the_lock_of_a_process_that_cannot_be_is_taken_over(tmp_path):
    (tmp_path / ".b.lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 10**30}))
    run(tmp_path / "b")
    assert said(tmp_path / "b") == "new"


def test_a_finished_palette_is_not_finished_with_another_recipe(tmp_path):
    (tmp_path / "bundle.json").write_text(json.dumps({"provenance": {"epochs": 1, "lr": 1e-3}}))
    check_palette(tmp_path, Recipe(epochs=1, lr=1e-3))
    with pytest.raises(BundleError, match="with epochs 1, not 2"):
        check_palette(tmp_path, Recipe(epochs=2, lr=1e-3))
