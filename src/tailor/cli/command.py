"""A click command made from a verb's signature: what Python can pass, the command line can, under the same name.

click rather than jsonargparse or tyro: flags with hyphens, "did you mean", a configuration file as the default map, and
errors whose form is ours to set, without a parser of our own.
"""

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from tailor import recipes
from tailor.cli.options import HELP, INSPECTED, METAVAR, POSITIONAL, SHORT, SUMMARY
from tailor.errors import UsageError, nearest

_FILE_ONLY = ("recipe", "spt", "noah", "widths", "sls", "classifier")
_SECTIONS = ("recipe", "spt", "noah", "widths", "sls")
_INNER = ("report", *_FILE_ONLY)
"""Parameters of a verb that are no flags: the callback, and what only a configuration file can hold."""


def command(name: str, verb: Callable[..., Any], run: Callable[..., None]) -> click.Command:
    """The command `name`; `run(verb, arguments, as_json, debug)` is called with what was parsed."""
    signature = inspect.signature(verb)
    hints = typing.get_type_hints(verb)
    positional = POSITIONAL[name]
    parameters: list[click.Parameter] = []
    for key in positional:
        many = signature.parameters[key].kind is inspect.Parameter.VAR_POSITIONAL
        metavar = INSPECTED if name == "inspect" else METAVAR[key]
        parameters.append(click.Argument([key], nargs=-1 if many else 1, required=True, metavar=metavar))
    for key, parameter in signature.parameters.items():
        if key not in positional and key not in _INNER:
            parameters.append(_option(key, hints[key], parameter.default))
    parameters += [
        click.Option(
            ["--config"],
            metavar="FILE|NAME",
            is_eager=True,
            expose_value=False,
            callback=_configured(tuple(signature.parameters)),
            help="a YAML file (flags, and sections such as `recipe:`), or a bundled one: `isomorphic/deit-4.2g`",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="make the last line of stdout one JSON object"),
        click.Option(["--debug"], is_flag=True, help="show a traceback where something fails"),
    ]

    def callback(as_json: bool, debug: bool, **arguments: Any) -> None:
        context = click.get_current_context()
        for key in set(_FILE_ONLY) & signature.parameters.keys():
            arguments[key] = context.meta.get(f"tailor.{key}")
        run(name, verb, arguments, as_json, debug)

    text = inspect.cleandoc(verb.__doc__ or "")
    return click.Command(name, params=parameters, callback=callback, help=text, short_help=SUMMARY[name])


def _option(key: str, hint: Any, default: Any) -> click.Option:
    """One flag: `--plan-only`, `--lr FLOAT`, `--corrupt [skip|fail]`."""
    names = [key, *([SHORT[key]] if key in SHORT else []), "--" + key.replace("_", "-")]
    kind = _plain(hint)
    settings: dict[str, Any] = {"help": HELP[key], "default": default}
    if default is inspect.Parameter.empty:
        settings["required"] = True
        del settings["default"]
    if kind is bool:
        return click.Option(names, is_flag=True, help=HELP[key])
    if typing.get_origin(kind) is Literal:
        settings["type"] = click.Choice(typing.get_args(kind))
    else:
        settings["type"] = {int: int, float: float}.get(kind, str)
    return click.Option(names, show_default=default not in (None, inspect.Parameter.empty), **settings)


def _plain(hint: Any) -> Any:
    """`float | None` -> float; `str | Path` -> str."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _configured(known: tuple[str, ...]) -> Callable[..., None]:
    """A callback that reads the configuration file into click's default map, so that flags still win."""

    def read(context: click.Context, _option: click.Parameter, name: str | None) -> None:
        if name is None:
            return
        settings = recipes.read(name)
        names = [key for key in known if key not in ("report", "files")]
        defaults: dict[str, Any] = {}
        for key, value in settings.items():
            plain = str(key).replace("-", "_")
            if plain not in names:
                raise UsageError(f"`{Path(name).name}` has an unknown key `{key}`", hint=nearest(plain, names))
            if plain in _SECTIONS and not isinstance(value, dict | None):
                raise UsageError(
                    f"`{key}` in `{Path(name).name}` is no section of settings: {value!r}",
                    hint=f"write `{key}: {{NAME: VALUE}}`",
                )
            if plain in _FILE_ONLY:
                context.meta[f"tailor.{plain}"] = value or {}
            elif value is not None:
                defaults[plain] = value
        context.default_map = {**(context.default_map or {}), **defaults}
        for parameter in context.command.params:
            if isinstance(parameter, click.Argument) and parameter.name in defaults:
                parameter.required = False
                parameter.default = defaults[parameter.name]

    return read
