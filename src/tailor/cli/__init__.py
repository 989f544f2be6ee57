"""The command line: parse, call one verb, print.

Data on stdout, progress on stderr, errors as one line and a hint with exit code 2.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from tailor import __version__
from tailor.cli.command import command
from tailor.cli.options import RENAMED, SUMMARY
from tailor.errors import TailorError, nearest
from tailor.visible import visible

_INTERRUPTED = 130
_LONGEST = 2000
"""Characters of an error that are shown; a hint may list forty names."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `tailor` and exit: 0 done, 2 an error that the user can put right (or go on from: a training that Ctrl-C
    stopped after a checkpoint), 130 interrupted otherwise.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal shows `\\xe9` for what it cannot
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _exit_code(given)
        sys.stdout.flush()  # here, where a full disk can still be told
    except BrokenPipeError:
        _to_nowhere()
        code = 0
    except OSError as error:
        _to_nowhere()
        what = f"`{error.filename}`" if error.filename else "the output"
        code = _say(f"{what} cannot be read or written: {error.strerror or error}", "make room, or name another place")
        if "--debug" in given:
            traceback.print_exc()
    sys.exit(code)


def _exit_code(given: Sequence[str]) -> int:
    """Run a command; what it was told, it says on stderr."""
    try:
        return int(_group(given).main(args=list(given), prog_name="tailor", standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.NoSuchOption as error:
        return _say(*_no_such_flag(error))
    except click.ClickException as error:
        return _say(error.format_message().rstrip(".").replace("'", "`"), _help_hint(error))
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except TailorError as error:
        if "--debug" in given:
            traceback.print_exc()
        return _say(error.message, error.hint)


def _to_nowhere() -> None:
    """What is still to be written to stdout goes nowhere, so that leaving does not fail as well."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _group(given: Sequence[str]) -> click.Group:
    """The verbs as a group; the heavy imports happen only where a verb is really called for."""
    group = _Verbs(
        given,
        "tailor",
        help="Fit a large pre-trained model to your data and your hardware.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    return click.version_option(__version__, prog_name="tailor")(group)


class _Verbs(click.Group):
    """Loads a verb when it is asked for: `tailor --help` and `--version` answer at once, without torch."""

    def __init__(self, given: Sequence[str], *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.given = given

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the verbs."""
        return list(SUMMARY)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """A line a verb."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARY.items()))

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, or an error that says which is near."""
        if name not in SUMMARY:
            raise click.UsageError(f"unknown verb `{name}`; {nearest(name, list(SUMMARY))}")
        from tailor.verbs import VERBS

        return command(name, VERBS[name], _run, self.given)


def _run(name: str, verb: Callable[..., Any], arguments: dict[str, Any], as_json: bool, debug: bool) -> None:
    """Call the verb with a progress display, then print what it returned."""
    from tailor.cli.show import print_json, print_people, print_prediction
    from tailor.evidence.progress import LiveProgress

    many = next((key for key in ("files", "others") if key in arguments), "")
    files = arguments.pop(many, ())
    path = (arguments.pop("path"),) if files else ()
    main_process = int(os.environ.get("RANK", "0")) == 0
    if name == "predict" and main_process:
        arguments["each"] = lambda one: print_prediction(one, as_json)
    if name == "list":
        print_names(verb(**arguments), as_json)
        return
    with LiveProgress() as drawn:
        result = verb(*path, *files, **arguments, progress=drawn)
    if main_process and name != "predict":
        (print_json if as_json else print_people)(name, result)


def print_names(names: Sequence[str], as_json: bool) -> None:
    """One name a line."""
    print(json.dumps(list(names)) if as_json else "\n".join(names))


def _no_such_flag(error: click.NoSuchOption) -> tuple[str, str]:
    """The error for an unknown flag: one of another method, or of another verb's, is told as that."""
    from tailor.workflow.planners import PLANNERS, known

    context = getattr(error, "ctx", None)
    verb = str(context.info_name) if context else ""
    if (verb, error.option_name) in RENAMED:
        now = RENAMED[verb, error.option_name]
        return f"`{error.option_name}` is called `{now}`", f"write `tailor {verb} ... {now}`"
    flag, plain = f"`{error.option_name}`", error.option_name.lstrip("-").replace("-", "_")
    takers = {other: known(other).get(plain) for other in sorted(PLANNERS, key=lambda other: other != verb)}
    other, method = next(((other, method) for other, method in takers.items() if method), ("", ""))
    if other and other == verb:
        return f"no such flag {flag} for this method", f"it is one of `--method {method}`"
    near = " or ".join(f"`{p}`" for p in sorted(error.possibilities or ()) if p != "--help")
    if near:
        return f"no such flag {flag}", f"did you mean {near}?"
    if other and verb in PLANNERS:
        return f"no such flag {flag} for `{verb}`", f"it is one of `tailor {other} --method {method}`"
    return f"no such flag {flag}", _help_hint(error)


def _help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context else "see `tailor --help`"


def _say(message: str, hint: str) -> int:
    print(_shortened(visible(message)), file=sys.stderr)
    if hint:
        print(f"hint: {_shortened(visible(hint))}", file=sys.stderr)
    return 2


def _shortened(text: str) -> str:
    """A name of thousands of characters does not fill the screen: what it begins and ends with is enough."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
