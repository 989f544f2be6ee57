"""A click command made from a verb's signature and its planners' flags: what Python can pass, the command line can.

click rather than jsonargparse or tyro: flags with hyphens, "did you mean", a configuration file as the default map, and
errors whose form is ours to set, without a parser of our own.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import yaml

from tailor import recipes
from tailor.cli.options import HELP, INSPECTED, METAVAR, POSITIONAL, SELDOM, SHORT, SUMMARY
from tailor.errors import UsageError, nearest
from tailor.settings import flags, section
from tailor.workflow import planners

_FILE_ONLY = ("recipe", "classifier", "decoders")
_INNER = ("progress", "each", *_FILE_ONLY)
"""Parameters of a verb that are no flags: the callbacks, and what only a configuration file can hold."""
_FLAG_ONLY = ("overwrite", "resume")
"""What no file may say: it would destroy, or go on with, something that the command does not show."""


def command(name: str, verb: Callable[..., Any], run: Callable[..., None], given: Sequence[str]) -> click.Command:
    """The command `name`; `run(verb, arguments, as_json, debug)` is called with what was parsed of `given`.

    Of a verb with planners, the flags are those of the methods that `given` names.
    """
    signature = inspect.signature(verb)
    hints = typing.get_type_hints(verb, localns=_Anything())
    positional = POSITIONAL[name]
    parameters: list[click.Parameter] = []
    for key in positional:
        many = signature.parameters[key].kind is inspect.Parameter.VAR_POSITIONAL
        metavar = INSPECTED if name == "inspect" else METAVAR[key]
        parameters.append(click.Argument([key], nargs=-1 if many else 1, required=metavar[0] != "[", metavar=metavar))
    own = []
    for key, parameter in signature.parameters.items():
        plain = parameter.kind is not inspect.Parameter.VAR_KEYWORD
        if key not in positional and key not in _INNER and plain:
            own.append(_option(key, hints[key], parameter.default, HELP[key]))
    settings = _file(given)
    added, sections = _of_planners(name, signature, settings, given)
    parameters += [*own, *added]
    known = (*signature.parameters, *(one.name for one in added if one.name), *sections)
    names = tuple(key for key in known if key not in ("progress", "each", "settings"))
    parameters += _common(names, sections, planners.known(name) if name in planners.PLANNERS else {})

    def callback(as_json: bool, debug: bool, print_config: bool, **arguments: Any) -> None:
        context = click.get_current_context()
        for key in (*(set(_FILE_ONLY) & signature.parameters.keys()), *sections):
            arguments[key] = context.meta.get(f"tailor.{key}")
        if print_config:
            click.echo(yaml.safe_dump(_plain_values(arguments), sort_keys=False).rstrip())
            return
        run(name, verb, arguments, as_json, debug)

    text = inspect.cleandoc(verb.__doc__ or "").split("\n\nArgs:")[0]
    asked = tuple(one.name for one in added if one.name)
    return _Command(asked, name, params=parameters, callback=callback, help=text, short_help=SUMMARY[name])


class _Command(click.Command):
    """Help in three parts: what a first run needs, what the method takes, the rest."""

    def __init__(self, of_method: Sequence[str], *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.of_method = of_method

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The flags, part by part."""
        parts: dict[str, list[tuple[str, str]]] = {"Options": [], "Of the method": [], "Seldom needed": []}
        for one in self.get_params(context):
            record = one.get_help_record(context)
            if record is not None and record[1]:  # arguments stand in the line above
                seldom = "Seldom needed" if one.name in SELDOM else "Options"
                parts["Of the method" if one.name in self.of_method else seldom].append(record)
        for title, records in parts.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class _Anything(dict[str, Any]):
    """Names that a signature mentions and that are imported only for type checkers."""

    def __missing__(self, key: str) -> Any:
        if key in ("Prediction",):
            return Any
        raise KeyError(key)


def _common(known: tuple[str, ...], sections: Sequence[str], others: Mapping[str, str]) -> list[click.Parameter]:
    """The flags that every verb has."""
    return [
        click.Option(
            ["--config"],
            metavar="FILE|NAME",
            is_eager=True,
            expose_value=False,
            callback=_configured(known, sections, others),
            help="a YAML file (flags, and sections such as `recipe:`), or a bundled one: `isomorphic/deit-4.2g`",
        ),
        click.Option(["--print-config"], is_flag=True, help="print what the flags and the file come to, and stop"),
        click.Option(["--json", "as_json"], is_flag=True, help="make the last line of stdout one JSON object"),
        click.Option(["--debug"], is_flag=True, help="show a traceback where something fails"),
    ]


def _of_planners(
    verb: str, signature: inspect.Signature, settings: Mapping[str, Any], given: Sequence[str]
) -> tuple[list[click.Option], tuple[str, ...]]:
    """The flags of the methods that are named, and the names of their sections in a file."""
    if verb not in planners.PLANNERS:
        return [], ()
    asked = _value("--method", given) or str(settings.get("method") or signature.parameters["method"].default)
    found: dict[str, click.Option] = {}
    sections: dict[str, None] = {}
    for name in filter(None, (part.strip() for part in asked.split(","))):
        planner = planners.named(verb, name, {})
        for key, (kind, flag) in flags(type(planner)).items():
            found.setdefault(key, _option(key, kind, getattr(planner, key), flag.help))
        if section(planner):
            sections[section(planner)] = None
    if verb in planners.THEN:
        after = planners.THEN[verb]
        for key, (kind, flag) in flags(type(after)).items():
            found.setdefault(key, _option(key, kind, getattr(after, key), f"then make it smaller: {flag.help}"))
        sections[section(after)] = None
    return list(found.values()), tuple(sections)


def _value(flag: str, given: Sequence[str]) -> str | None:
    """What a flag is given, looked up before anything is parsed."""
    for index, word in enumerate(given):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag and index + 1 < len(given):
            return given[index + 1]
    return None


def _file(given: Sequence[str]) -> Mapping[str, Any]:
    """The configuration file that is named, if any."""
    name = _value("--config", given)
    return recipes.read(name) if name and not {"--help", "-h"} & set(given) else {}


def _option(key: str, hint: Any, default: Any, text: str) -> click.Option:
    """One flag: `--plan-only`, `--lr FLOAT`, `--corrupt [skip|fail]`."""
    names = [key, *([SHORT[key]] if key in SHORT else []), "--" + key.replace("_", "-")]
    kind = _plain(hint)
    settings: dict[str, Any] = {"help": text, "default": default}
    if default is inspect.Parameter.empty:
        settings["required"] = True
        del settings["default"]
    if kind is bool:
        return click.Option(names, is_flag=True, help=text)
    if typing.get_origin(kind) is Literal:
        settings["type"] = click.Choice(typing.get_args(kind))
    else:
        settings["type"] = {int: _Whole(), float: _Number()}.get(kind, str)
    return click.Option(names, show_default=default not in (None, inspect.Parameter.empty), **settings)


class _Whole(click.types.IntParamType):
    """A whole number: click makes 1 of the `1.5` and of the `true` that a file may say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return super().convert(value, param, ctx)  # type: ignore[arg-type]  # click's stubs leave text out
        return self.fail(f"'{value}' is not a valid integer", param, ctx)


class _Number(click.types.FloatParamType):
    """A number, and not the list or the `true` that a file may say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return super().convert(value, param, ctx)  # type: ignore[arg-type]
        return self.fail(f"'{value}' is not a valid number", param, ctx)


def _plain(hint: Any) -> Any:
    """`float | None` -> float; `str | Path` -> str."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _plain_values(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a file could say: no empty settings, tuples as lists."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in arguments.items()
        if value is not None and key not in _FLAG_ONLY
    }


def _configured(known: tuple[str, ...], sections: Sequence[str], others: Mapping[str, str]) -> Callable[..., None]:
    """A callback that reads the configuration file into click's default map, so that flags still win.

    `others` are settings that some method of the verb takes, by that method.
    """
    inner = (*sections, "recipe", "decoders")

    def read(context: click.Context, _option: click.Parameter, name: str | None) -> None:
        if name is None:
            return
        file = Path(name).name
        defaults: dict[str, Any] = {}
        for key, value in recipes.read(name).items():
            plain = str(key).replace("-", "_")
            if plain in _FLAG_ONLY:
                raise UsageError(f"`{key}` in `{file}` counts as a flag only", hint=f"write `--{plain}` instead")
            if plain not in known and plain in others:
                raise UsageError(
                    f"`{key}` in `{file}` is not for this method", hint=f"it is one of `--method {others[plain]}`"
                )
            if plain not in known:
                raise UsageError(f"`{file}` has an unknown key `{key}`", hint=nearest(plain, [*known]))
            if plain in inner and not isinstance(value, dict | None):
                raise UsageError(
                    f"`{key}` in `{file}` is no section of settings: {value!r}", hint=f"write `{key}: {{NAME: VALUE}}`"
                )
            if plain in inner or plain in _FILE_ONLY:
                context.meta[f"tailor.{plain}"] = value or {}
            elif value is not None:
                defaults[plain] = value
        context.default_map = {**(context.default_map or {}), **defaults}
        for parameter in context.command.params:
            if isinstance(parameter, click.Argument) and parameter.name in defaults:
                parameter.required = False
                parameter.default = defaults[parameter.name]

    return read
