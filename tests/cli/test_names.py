"""Names are printed as they are: no markup, no emoji codes, no escape obeyed, one image one line, on any terminal."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

import tailor.cli as cli
from tailor.cli.evaluation import print_evaluation
from tailor.cli.show import print_json, print_people, print_prediction
from tailor.events import Event
from tailor.evidence.progress import LiveProgress

ODD = {
    "a [web].jpg": "a [web].jpg",
    "c:rose:.jpg": "c:rose:.jpg",
    "d[/x]/q.jpg": "d[/x]/q.jpg",
    "[bold]b[/bold]": "[bold]b[/bold]",
    "e\x1b[31m\x9b.jpg": "e\\x1b[31m\\x9b.jpg",
    "f\ng.jpg": "f\\ng.jpg",
    "caf\udce9.jpg": "caf\\xe9.jpg",
    "gpj.\u202eexe": "gpj.\\u202eexe",
    "日本 straße.jpg": "日本 straße.jpg",
}


@pytest.fixture(params=ODD, ids=[str(i) for i in range(len(ODD))])
def name(request):
    return request.param


def test_a_prediction_is_one_line(capsys, name):
    print_prediction({"path": name, "label": name, "score": 0.5}, False)
    assert capsys.readouterr().out == f"{ODD[name]}  {ODD[name]}  50.0%\n"


def test_json_gives_the_name_back_and_no_escape_to_the_terminal(capsys, name):
    print_prediction({"path": name, "label": name}, True)
    print_json("bench", {name: [name]})
    one, two = capsys.readouterr().out.split("\n")[:2]
    assert json.loads(one)["path"] == name and json.loads(two) == {name: [name]}
    assert (one + two).isprintable()


def test_tables_and_lists(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "300")
    print_people("inspect", {"kind": "data", "classes": [name, "b"], "splits": {name: 3}, "findings": [name * 8]})
    out = capsys.readouterr().out
    assert out.count(ODD[name]) == 10 and all(line.isprintable() for line in out.splitlines())
    print_people("bench", [{"name": name, "macs": 3, "warning": name}, {"name": "b", "macs": 4, "warning": ""}])
    print_people("adapt", [{"method": name, "accuracy": 0.5, "warning": ""}])
    out = capsys.readouterr().out
    assert out.count(ODD[name]) == 3 and all(line.isprintable() for line in out.splitlines())


def test_an_evaluation(capsys, name):
    values = {
        "accuracy": 0.5,
        "n": 2,
        "split": "all",
        "per_class": {name: 0.5, "b": 0.5},
        "precision": {name: 0.5},
        "confusion": [[1, 0], [1, 0]],
        "worst": [{"source": name, "label": name, "loss": 1.0}],
    }
    print_evaluation(Console(markup=False, emoji=False, highlight=False, width=200), values)
    out = capsys.readouterr().out
    assert out.count(ODD[name]) == 4 and all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(capsys, monkeypatch, name, terminal):
    drawn = LiveProgress()
    stream = io.StringIO()
    drawn.console.file, drawn.console.width, drawn.console._force_terminal = stream, 300, terminal
    drawn.live = terminal
    drawn(Event("data", text=name))
    if terminal:
        drawn(Event("training", 1, 2, name))
        drawn.console.print(drawn.progress.get_renderable())
    shown = stream.getvalue()
    assert shown.count(ODD[name]) == (2 if terminal else 1)
    assert shown.splitlines()[0] == f"data: {ODD[name]}"


def test_an_error_names_it(capsys, name):
    with pytest.raises(SystemExit) as done:
        cli.main(["predict", "nowhere", name])
    assert done.value.code == 2
    message = capsys.readouterr().err
    assert ODD[name] in message or "nowhere" in message
    assert all(line.isprintable() for line in message.splitlines()) and message.count("\n") <= 2


SHOW = """
import sys
from tailor import cli
from tailor.cli import show
cli.command = None
def run(given):
    show.print_prediction({"path": "caf\\udce9 stra\\xdfe", "label": "\\u65e5"}, "--json" in given)
    return 0
cli._exit_code = run
cli.main()
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_terminal_that_holds_little(encoding, flags):
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *flags], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    if flags:
        assert json.loads(text) == {"path": "caf\udce9 straße", "label": "日"}
    else:
        assert text.startswith("caf\\xe9 stra") and text.count("\n") == 1


@pytest.mark.parametrize("command", [["--help"], ["list", "methods"], ["list", "methods", "--json"]])
def test_a_full_disk_behind_stdout(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tailor", *command], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert (
        done.stderr
        == "the output cannot be read or written: No space left on device\nhint: make room, or name another place\n"
    )


def test_a_name_of_thousands_of_characters_does_not_fill_the_screen(capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "b" * 5000, "x" * 5000])
    message = capsys.readouterr().err
    assert "bbb ... bbb" in message.replace("`", "") or "xxx" in message
    assert len(message) < 4200 and message.count("\n") == 2
