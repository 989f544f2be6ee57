"""What a person may get wrong: one line that says it, a hint that helps, exit code 2, nothing half-written."""

import json
import math
import os
import stat
import subprocess
import sys

import pytest
from PIL import Image

from tailor.cli import main
from tailor.cli.show import print_people
from tailor.verbs import VERBS


@pytest.fixture
def photos(tmp_path):
    """Two classes of six small images, not divided."""
    for index, name in enumerate(("ash", "birch")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20, 16), (40 * i, 120 * index, 90)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def run(capsys, *arguments):
    """Exit code, stdout, stderr of one command."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return done.value.code or 0, out.out, out.err


def fails(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.strip().splitlines() if line and not line.startswith("data:")]
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert len(lines) <= 2, err
    return "\n".join(lines)


MODEL = ("--model", "tailor_mini_s", "--weights", "random", "--epochs", "1")


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (("adpt", "x"), "unknown verb `adpt`", "`adapt`"),
        (("adapt", "x", "--modle", "m"), "no such flag `--modle`", "`--model`"),
        (("adapt", "builtin/digits"), "no model was named", "--model"),
        (("adapt", "builtin/digits", "--model", "tailor_mini"), "unknown model", "tailor_mini_s"),
        (("adapt", "builtin/digits", "--model", "vit_base_patch16"), "unknown model", "vit_base_patch16_224"),
        (("adapt", "builtin/digit", *MODEL), "no `builtin/digit`", "builtin/digits"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lorra"), "unknown method `lorra`", "lora"),
        (("adapt", "builtin/digits", *MODEL, "--method", "spt-lorra"), "unknown method", "spt-lora"),
        (("adapt", "builtin/digits", *MODEL, "--method", "full-3"), "takes no number", "full"),
        (("adapt", "builtin/digits", *MODEL, "--budget", "0.4"), "`--budget 0.4` is less than one", "`0.4%`"),
        (("adapt", "builtin/digits", *MODEL, "--device", "gpu"), "no device `gpu` here: no such kind", "`cuda`"),
        (("adapt", "builtin/digits", *MODEL, "--task", "dancing"), "`dancing`", "--task"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "0"), "above zero", "0.4%"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "-1%"), "not an amount", "0.4%"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "101%"), "above 100 %", "100%"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "5ms"), "is a time", "0.4%"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "10"), "too small", "--budget"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "0.000001%"), "less than one", "0.4%"),
        (("prune", "x", "--method", "isomorphic", "--macs", "50"), "leaves next to nothing", "`--macs 50%`"),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "1e400"), "no number", "0.4%"),
        (
            ("adapt", "builtin/digits", *MODEL, "--method", "lora", "--budget", "999G"),
            "more than the backbone's",
            "0.4%",
        ),
        (("adapt", "builtin/digits", *MODEL, "--method", "lora-99999999999"), "between 1 and 65536", "lora-8"),
        (("adapt", "builtin/digits", *MODEL, "--image-size", "-8"), "-8 pixels", "--image-size 224"),
        (("adapt", "builtin/digits", *MODEL, "--image-size", "0"), "0 pixels", "--image-size 224"),
        (("adapt", "builtin/digits", *MODEL, "--image-size", "100000"), "100000 pixels", "--image-size 224"),
        (("adapt", "builtin/digits", *MODEL, "--method", "bias", "--workers", "-1"), "-1 loading", "--workers 2"),
        (("predict", "no/bundle", "x.jpg", "--batch-size", "0"), "a batch of 0", "--batch-size 32"),
        (("bench", "tailor_mini_s", "--batch", "0"), "a batch of 0", "--batch 8"),
        (("adapt", "builtin/digits", *MODEL, "--lr", "fast"), "`fast` is not a valid float", "--help"),
        (("adapt", "builtin/digits", *MODEL, "--epochs", "0"), "`epochs`", "recipe"),
        (
            ("adapt", "builtin/digits", "--model", "tailor_mini_s", "--weights", "no.pth"),
            "no weights file",
            "--weights",
        ),
        (("adapt", "builtin/digits", *MODEL, "--config", "no.yaml"), "there is no file `no.yaml`", "--config"),
        (("evaluate", "no/bundle", "builtin/digits"), "no bundle", "tailor adapt"),
        (("predict", "no/bundle", "x.jpg"), "names no image", "image"),
        (("fit", "no/plan", "--data", "builtin/digits"), "plan.json", "--plan-only"),
        (("bench", "no_such_model"), "unknown model", "`tailor list models`"),
        (("bench", "no/bundle"), "`no/bundle` is neither a folder nor a model", "check the path"),
        (("prune", "no/bundle", "--data", "builtin/digits"), "`no/bundle` is neither a folder nor a model", "path"),
        (("prune", "x", "--method", "isomorphic", "--macs", "0"), "`--macs 0` must be above zero", "`50%` or `2G`"),
        (("prune", "x", "--method", "isomorphic", "--ratio", "half"), "not an amount", "write for instance `50%`"),
        (("export", "no/bundle"), "Missing option", "--help"),
    ],
)
def test_a_wrong_word_is_answered_in_a_line(capsys, tmp_path, monkeypatch, arguments, says, hint):
    monkeypatch.chdir(tmp_path)
    err = fails(capsys, *arguments)
    assert says in err
    assert hint in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("bundle.json"))


def test_a_bundle_of_one_model_is_no_damaged_palette(capsys, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "bundle.json").write_text(json.dumps({"format": 1, "spec": {}}))
    err = fails(capsys, "pick", tmp_path / "one", "--macs", "50%", "-o", tmp_path / "picked")
    assert "not a palette" in err
    assert "`tailor stitch`" in err


def test_an_unknown_key_in_the_configuration_names_the_nearest(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("modell: tailor_mini_s\n")
    err = fails(capsys, "adapt", "builtin/digits", "--config", tmp_path / "c.yaml")
    assert "`modell`" in err
    assert "`model`" in err


def test_an_unknown_recipe_key_names_the_nearest(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("recipe:\n  optimiser: adamw\n")
    err = fails(capsys, "adapt", "builtin/digits", *MODEL, "--config", tmp_path / "c.yaml", "-o", tmp_path / "r")
    assert "`optimiser`" in err
    assert "`optimizer`" in err


@pytest.mark.parametrize(("section", "value"), [("recipe", "3"), ("spt", "[1]")])
def test_a_section_that_is_none_is_said(capsys, tmp_path, section, value):
    (tmp_path / "c.yaml").write_text(f"method: spt-lora\n{section}: {value}\n")
    err = fails(capsys, "adapt", "builtin/digits", *MODEL, "--config", tmp_path / "c.yaml", "-o", tmp_path / "r")
    assert f"`{section}` in `c.yaml` is no section" in err and "hint" in err


def test_a_class_with_one_image_is_named_and_trained_on(capsys, photos, tmp_path):
    Image.new("RGB", (20, 16)).resize((20, 16)).save(photos / "ash" / "only.png")
    (photos / "yew").mkdir()
    os.rename(photos / "ash" / "only.png", photos / "yew" / "only.png")
    code, _, err = run(capsys, "adapt", photos, *MODEL, "--method", "linear", "-o", tmp_path / "r")
    assert code == 0 and "yew" in err, err


def test_no_train_split_is_said_before_anything_is_written(capsys, photos, tmp_path):
    (photos / "val").mkdir()
    (photos / "test").mkdir()
    for name in ("ash", "birch"):
        for split in ("val", "test"):
            (photos / split / name).mkdir()
            os.rename(photos / name / f"{0 if split == 'val' else 1}.png", photos / split / name / "0.png")
        for rest in (photos / name).iterdir():
            rest.unlink()
        (photos / name).rmdir()
    err = fails(capsys, "adapt", photos, *MODEL, "--plan-only", "-o", tmp_path / "r")
    assert "no `train` split" in err and "train" in err
    assert not (tmp_path / "r").exists()


def test_a_corrupt_image_of_a_large_data_set_is_left_out_while_training(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("tailor.workflow.data.LOOKED_OVER", 2)
    (photos / "ash" / "0.png").write_bytes((photos / "ash" / "1.png").read_bytes()[:40])
    for method in ("linear", "bias"):
        out = tmp_path / method
        code, _, err = run(capsys, "adapt", photos, *MODEL, "--method", method, "-o", out)
        assert code == 0 and "ash/0.png" in err, err
    err = fails(capsys, "adapt", photos, *MODEL, "--method", "bias", "--corrupt", "fail", "-o", tmp_path / "f")
    assert "ash/0.png" in err


def test_broken_yaml_is_said(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("model: [\n")
    assert "not YAML" in fails(capsys, "adapt", "x", "--config", tmp_path / "c.yaml")


def test_an_empty_folder_is_said(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    err = fails(capsys, "adapt", tmp_path / "empty", *MODEL, "-o", tmp_path / "r")
    assert "empty" in err


def test_one_class_is_said(capsys, photos, tmp_path):
    os.rename(photos / "birch", tmp_path / "away")
    err = fails(capsys, "adapt", photos, *MODEL, "-o", tmp_path / "r")
    assert "class" in err


def test_no_readable_image_is_said(capsys, tmp_path):
    for name in ("ash", "birch"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(b"not an image")
    err = fails(capsys, "adapt", tmp_path / "photos", *MODEL, "-o", tmp_path / "r")
    assert "can be read" in err or "readable" in err


def test_a_corrupt_image_is_left_out_and_named(capsys, photos, tmp_path):
    (photos / "ash" / "0.png").write_bytes((photos / "ash" / "1.png").read_bytes()[:40])
    code, out, err = run(capsys, "adapt", photos, *MODEL, "--method", "linear", "-o", tmp_path / "r", "--json")
    assert code == 0, err
    assert "ash/0.png" in err
    assert json.loads(out.splitlines()[-1])["bundle"] == str(tmp_path / "r")


def test_a_corrupt_image_is_fatal_by_choice(capsys, photos, tmp_path):
    (photos / "ash" / "0.png").write_bytes(b"")
    err = fails(capsys, "adapt", photos, *MODEL, "--corrupt", "fail", "-o", tmp_path / "r")
    assert "ash/0.png" in err
    assert "--corrupt skip" in err
    assert not (tmp_path / "r").exists()


def test_an_output_that_exists_is_kept(capsys, photos, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("years of work")
    err = fails(capsys, "adapt", photos, *MODEL, "--method", "linear", "-o", tmp_path / "r")
    assert "not empty" in err
    assert "--overwrite" in err
    assert (tmp_path / "r" / "thesis.tex").read_text() == "years of work"


def test_an_unwritable_output_is_said(capsys, photos, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid() == 0:  # root may write everywhere

        def refuse(path, *_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert "cannot be written" in fails(capsys, "adapt", photos, *MODEL, "-o", tmp_path / "locked" / "r")


def test_an_output_below_a_file_is_said(capsys, photos, tmp_path):
    (tmp_path / "file").write_text("")
    err = fails(capsys, "adapt", photos, *MODEL, "--method", "linear", "-o", tmp_path / "file" / "r")
    assert "cannot be written" in err


def test_debug_shows_the_traceback(capsys):
    code, _, err = run(capsys, "adapt", "builtin/digit", *MODEL, "--debug")
    assert code == 2
    assert "Traceback" in err


def test_version_and_help_answer(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert "0.1.0" in out
    code, out, _ = run(capsys, "adapt", "--help")
    assert code == 0
    assert "--plan-only" in out


@pytest.mark.parametrize(("verb", "takes"), [("prune", "BUNDLE|NAME\n"), ("inspect", "BUNDLE|PLAN|NAME|DATA\n")])
def test_help_says_what_a_verb_takes(capsys, verb, takes):
    assert takes in run(capsys, verb, "--help")[1]


@pytest.mark.parametrize(
    ("verb", "method", "own"),
    [("adapt", "lora", "--budget"), ("prune", "isomorphic", "--macs"), ("prune", "sls", "--alpha")],
)
def test_help_names_a_dozen_flags_first_and_those_of_the_method_apart(capsys, verb, method, own):
    text = run(capsys, verb, "--method", method, "--help")[1]
    first, _, rest = text.partition("Options:")[2].partition("Of the method:")
    mine, _, last = rest.partition("Seldom needed:")
    named = [
        [word for line in part.splitlines() for word in line.split()[:2] if word.startswith("--")]
        for part in (first, mine, last)
    ]
    assert len(named[0]) <= 14 and {"--method", "--out", "--epochs", "--config"} <= set(named[0])
    assert own in named[1] and {"--workers", "--device", "--debug"} <= set(named[2])


def test_a_flag_of_another_verb_is_told_as_that(capsys):
    code, _, said = run(capsys, "adapt", "builtin/digits", "--method", "lora", "--alpha", "3")
    assert code == 2 and "no such flag `--alpha` for `adapt`" in said and "`tailor prune --method sls`" in said


def test_every_accuracy_is_shown_in_percent(capsys):
    print_people("prune", {"accuracy_before": 0.7629, "accuracy_after": math.nan, "per_class": {"a": 0.5}})
    shown = capsys.readouterr().out
    assert "76.3%" in shown
    assert "after" not in shown


def test_a_narrow_terminal_cuts_no_figure_of_a_comparison_short(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    row = {
        "bundle": "runs/compare/spt-lora",
        "method": "spt-lora",
        "trainable_params": 12_345_678,
        "bundle_bytes": 29_700,
    }
    print_people("adapt", [row, row])
    shown = capsys.readouterr().out
    assert all(shown.count(text) == 2 for text in ("runs/compare/spt-lora", "12,345,678", "29,700"))


def test_what_is_empty_is_not_shown(capsys):
    print_people("inspect", {"plans": [{"kind": "tune", "modules": {}, "cost": 3}]})
    assert capsys.readouterr().out.split("plans")[1].strip() == "kind tune, cost 3"


def test_without_a_verb_the_verbs_are_shown(capsys):
    code, out, err = run(capsys)
    assert code == 0
    assert "adapt" in out
    assert err == ""


def test_help_names_every_verb_and_loads_none_of_them():
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tailor", "--help"], capture_output=True, text=True, check=True
    )
    for verb in VERBS:
        assert f"  {verb} " in said.stdout
    assert "torch" not in said.stderr
