"""What every planner promises, over the table: its fields are its flags, its section in a file and its JSON at once."""

import dataclasses
import json
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from tailor.cli import main
from tailor.errors import TailorError, UsageError
from tailor.settings import flags, section
from tailor.tuning.methods import MODULES, SELECTIONS, VARIANTS
from tailor.tuning.planner import parse
from tailor.workflow.planners import PLANNERS, asked, known, named, takes
from tailor.workflow.planners.plain import Plain

ROOT = Path(__file__).parents[2]
ROWS = [(verb, name) for verb, table in PLANNERS.items() for name in table]
EACH = pytest.mark.parametrize(("verb", "name"), ROWS, ids=[f"{verb}-{name}" for verb, name in ROWS])

METHODS_WITH_SIZE = {*VARIANTS, *(kind for kind, method in {**SELECTIONS, **MODULES}.items() if method.knob)}
SAMPLES = {"budget": "0.3%", "scores": "runs/earlier", "criterion": "taylor", "latency": "5ms", "repair": "none"}
"""A value other than the default for flags that are text; `37%` where the name is not here."""
TOGETHER = {"recover": {"steps": 4}}
"""Flags that mean something only with others."""


def sample(planner, flag):
    """A value that the flag takes and that is not its default."""
    kind, _ = flags(type(planner))[flag]
    kinds = [one for one in (typing.get_args(kind) or (kind,)) if one is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in reversed(typing.get_args(kind)) if choice != getattr(planner, flag))
    value = {int: 7, float: 0.61, bool: True}.get(kinds[0], SAMPLES.get(flag, "37%"))
    if planner.__class__.__name__ == "CutWidths" and planner.method == "random" and flag == "criterion":
        return "random"  # it draws
    return value


def plain(planner):
    return TypeAdapter(type(planner)).dump_python(planner, mode="json")


@EACH
def test_every_flag_reaches_the_planner(verb, name):
    default = PLANNERS[verb][name]
    for flag in flags(type(default)):
        value = sample(default, flag)
        made = named(verb, name, {flag: value, **TOGETHER.get(flag, {})})
        assert getattr(made, flag) == value and asked(made)[flag] == value
        rest = {key for key in plain(default) if plain(made)[key] != plain(default)[key]}
        assert rest == {flag, *TOGETHER.get(flag, {})}, "a flag changes its own field and nothing else"
    assert named(verb, name, {}) == named(verb, name, dict.fromkeys(takes(verb, name))) == default


@pytest.mark.parametrize("verb", PLANNERS)
def test_every_flag_reaches_the_command_line_and_the_file(verb, tmp_path, capsys):
    seen = set()
    for name, planner in PLANNERS[verb].items():
        if type(planner) in seen:
            continue
        seen.add(type(planner))
        values = {flag: sample(planner, flag) for flag in flags(type(planner))}
        words = [word for flag, value in values.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"method": name, **values}))
        for given in (["--method", name, *words], ["--config", str(tmp_path / "c.yaml")]):
            with pytest.raises(SystemExit) as done:
                main([verb, "builtin/digits", *given, "--print-config"])
            printed = capsys.readouterr()
            assert done.value.code == 0, printed.err
            assert values.items() <= yaml.safe_load(printed.out).items()


@EACH
def test_a_field_is_a_flag_or_the_section_or_part_of_the_name(verb, name):
    planner = PLANNERS[verb][name]
    fields = {field.name for field in dataclasses.fields(planner)}
    assert fields - {*flags(type(planner)), section(planner)} <= {"method", "size"}
    assert all(mark.help and "\n" not in mark.help for _, mark in flags(type(planner)).values())
    assert (ROOT / planner.page).exists()
    assert set(takes(verb, name)) == {*flags(type(planner)), section(planner)} - {""} <= set(known(verb))
    if verb == "prune":
        assert planner.method and planner.adapters in ("", "merge", "keep", "prune")
        assert planner.steps >= 1 and planner.recovers >= 0


@EACH
def test_settings_survive_json(verb, name):
    planner = PLANNERS[verb][name]
    adapter = TypeAdapter(type(planner))
    made = named(verb, name, {flag: sample(planner, flag) for flag in list(flags(type(planner)))[:1]})
    assert adapter.validate_json(adapter.dump_json(made)) == made
    assert json.loads(json.dumps(asked(made)))["method"] == asked(made)["method"]


@EACH
def test_an_unknown_setting_is_refused_with_the_nearest(verb, name):
    own = takes(verb, name)
    near = [flag for flag in own if flag != section(PLANNERS[verb][name])][:1]
    for flag in near:
        with pytest.raises(UsageError, match=f"`{name}` has no setting `{flag}z`") as caught:
            named(verb, name, {f"{flag}z": 3})
        assert f"`{flag}`" in caught.value.hint
    for setting, owner in known(verb).items():
        if setting in own:
            continue
        with pytest.raises(UsageError, match=f"is not for `{name}`") as caught:
            named(verb, name, {setting: {"a": 1} if setting == section(PLANNERS[verb][owner]) else "3"})
        assert f"--method {owner}" in caught.value.hint


@EACH
def test_a_section_is_read_strictly(verb, name):
    planner = PLANNERS[verb][name]
    inner = section(planner)
    if not inner:
        return
    settings, closed = getattr(planner, inner), getattr(planner, "closed", ("kind",))
    fields = [field.name for field in dataclasses.fields(settings) if field.name not in closed]
    assert getattr(named(verb, name, {inner: {}}), inner) == settings
    with pytest.raises(UsageError, match=f"`{inner}:` has no setting `{fields[0]}z`") as caught:
        named(verb, name, {inner: {f"{fields[0]}z": 1}})
    assert f"`{fields[0]}`" in caught.value.hint
    for field in closed:
        with pytest.raises(UsageError, match=f"`{inner}:` has no setting `{field}`"):
            named(verb, name, {inner: {field: getattr(settings, field, "x")}})
    with pytest.raises(TailorError) as caught:
        named(verb, name, {inner: {fields[0]: object()}})
    assert "\n" not in caught.value.message and caught.value.hint
    with pytest.raises(TypeError):
        named(verb, name, {inner: 3})
    same = {field: getattr(settings, field) for field in fields}
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in same.items()}
    assert named(verb, name, {inner: listed}) == planner  # as YAML has it: lists


@EACH
def test_a_wrong_value_is_a_sentence_that_names_it(verb, name):
    for flag in flags(type(PLANNERS[verb][name])):
        with pytest.raises(TailorError) as caught:
            named(verb, name, {flag: ["no", "flag", "takes", "this"]})
        assert flag in caught.value.message and "\n" not in caught.value.message and caught.value.hint


@EACH
def test_a_number_in_the_name_is_its_size_or_is_refused(verb, name):
    try:
        made = named(verb, f"{name}-4", {})
    except UsageError as error:
        assert f"`{name}-4`" in error.message and "--method" in error.hint
        return
    assert made != PLANNERS[verb][name]
    with pytest.raises(TailorError):
        named(verb, f"{name}-0", {}), parse(f"{name}-0")
    if isinstance(made, Plain) and name not in METHODS_WITH_SIZE:  # whose files are not read before they are needed
        with pytest.raises(UsageError, match=f"`{name}` takes no number"):
            parse(f"{name}-4")


@pytest.mark.parametrize("verb", PLANNERS)
def test_an_unknown_method_names_the_nearest(verb):
    for name in PLANNERS[verb]:
        with pytest.raises(UsageError, match=f"unknown method `{name}q`") as caught:
            named(verb, f"{name}q", {})
        assert f"`{name}`" in caught.value.hint


def test_planners_are_named_and_refused_without_torch():
    code = """
import sys
from tailor.errors import TailorError
from tailor.workflow.planners import PLANNERS, known, named, takes
for verb, table in PLANNERS.items():
    known(verb)
    for name in table:
        named(verb, name, {}), takes(verb, name)
        try:
            named(verb, name, {"nonsense": 1})
        except TailorError:
            pass
assert "torch" not in sys.modules and "timm" not in sys.modules, "torch was loaded"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
