"""Settings as frozen data: read strictly, some of their fields flags; and tables whose rows load late.

A planner's or a recipe's fields are its flags, its section in a file and its help at once. Nothing here imports torch,
so that a command line can be understood, and refused, before anything heavy is loaded.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError

from tailor.errors import UsageError, nearest

STRICT = ConfigDict(extra="forbid", strict=True)
"""How every plan and every setting is read from JSON: no coercion, no unknown key."""

T = TypeVar("T", bound=Any)


@dataclass(frozen=True)
class Flag:
    """Marks a field as a flag of the command line: `Annotated[float, Flag("what it means")]`."""

    help: str


class Rows(Mapping[str, T]):
    """A literal table whose values are imported when they are asked for: rows are `name: "package.module.Name"`.

    Its names cost nothing, so that a wrong one can be told before torch is loaded.
    """

    def __init__(self, rows: Mapping[str, str]) -> None:
        self.rows = dict(rows)

    def __getitem__(self, name: str) -> T:
        module, _, attribute = self.rows[name].rpartition(".")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def flags(kind: type) -> dict[str, tuple[Any, Flag]]:
    """The fields of a settings class that are flags: their type and what they mean."""
    found: dict[str, tuple[Any, Flag]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated:
            plain, *marks = get_args(hint)
            for mark in marks:
                if isinstance(mark, Flag):
                    found[name] = (plain, mark)
    return found


def section(settings: Any) -> str:
    """The field that holds the settings which only a file can give, by its name; empty where there is none."""
    return next((f.name for f in fields(settings) if is_dataclass(getattr(settings, f.name))), "")


def configured(default: T, given: Mapping[str, Any], name: str, page: str, closed: tuple[str, ...] = ("kind",)) -> T:
    """`default`, a pydantic dataclass, with the settings that were given; lists count as tuples.

    `closed` are fields that no file sets, `page` is where the others are described. UsageError for an unknown key (with
    the nearest) or a wrong value.
    """
    known = [field.name for field in fields(default) if field.name not in closed]
    for key in given:
        if key not in known:
            raise UsageError(f"{name} has no setting `{key}`", hint=nearest(str(key), known))
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        return replace(default, **plain)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"`{'.'.join(map(str, first['loc']))}` of {name}: {first['msg'].lower()}, found: {first['input']!r}",
            hint=f"see {page} for its settings",
        ) from None
